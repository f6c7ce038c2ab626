"""Pixels through a tower, and its tokens through what reads regions."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn


class Tower(Protocol):
    """What makes tokens of pixels: `GridTower`, `PatchTower`."""

    dim: int

    def __call__(self, images: Tensor, /) -> Tensor:
        """RGB from 0 to 255, (n, 3, size, size) -> tokens (n, n_tokens, dim)."""
        ...

    def train_stages(self, n_fixed: int) -> None:
        """Fix everything (4), all but the last stage (3), ... or nothing (0)."""
        ...


class PixelEncoder(nn.Module):
    """A tower, whose tokens stand where regions would, and the encoder of regions behind it.

    State dict: `tower.*`, `head.*`: that of the tower, and that of the model's own encoder of regions.
    """

    def __init__(self, tower: nn.Module, head: nn.Module) -> None:
        """Put together.

        Args:
            tower: Makes tokens of pixels, as `Tower` has it.
            head: Makes what the model needs of regions as wide as the tower's tokens.
        """
        super().__init__()
        self.tower, self.head = tower, head

    def forward(self, images: Tensor, *region_counts: Tensor | None) -> Any:
        """Pixels (n, 3, size, size), or the tower's tokens of them, (n, n_tokens, dim) -> what the head makes."""
        return self.head(self.tower(images) if images.ndim == 4 else images, *region_counts)
