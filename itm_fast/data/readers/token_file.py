"""Images as the tokens that a backbone made of them before: a memory map of float16 in place of their pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from itm_fast.data.readers.images import ImageDataset
from itm_fast.errors import DataError
from itm_fast.files.reading import read_array
from itm_fast.indices import IndexLike, as_indices


class TokenDataset(ImageDataset):
    """A split of images whose tokens are read like regions.

    Args:
        images: The split.
        tokens_path: float16 (n_images, n_tokens, dim), .npy.

    Attributes:
        max_regions: Tokens of an image.
        dim: Numbers per token.

    Raises:
        DataError: The file of tokens is of something else.
    """

    def __init__(self, images: ImageDataset, tokens_path: Path) -> None:
        vars(self).update(vars(images))
        self._images, self.tokens_path = images, tokens_path
        self._tokens = read_array(tokens_path, mapped=True)
        if self._tokens.dtype != np.float16 or self._tokens.ndim != 3 or len(self._tokens) != self.n_images:
            raise DataError(
                f"{tokens_path}: {self._tokens.dtype} {self._tokens.shape}; expected float16 ({self.n_images}, "
                "n_tokens, dim), tokens of every image of the split"
            )

    @property
    def max_regions(self) -> int:
        """Tokens of an image."""
        return int(self._tokens.shape[1])

    @property
    def dim(self) -> int:
        """Numbers per token."""
        return int(self._tokens.shape[2])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._images, self.tokens_path)  # a memmap would be pickled as all its bytes

    def regions(self, image_indices: IndexLike, generator: torch.Generator | None = None) -> torch.Tensor:
        """Tokens of some images, float32 (n, n_tokens, dim); they do not vary while training.

        Raises:
            IndexError: An index is outside the split.
            TypeError: The indices are not integers.
            ValueError: The indices have more than one axis.
        """
        indices = as_indices(image_indices, self.n_images, "image_indices")
        return torch.from_numpy(self._tokens[indices].astype(np.float32))
