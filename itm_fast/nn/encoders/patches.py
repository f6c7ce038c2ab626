"""Images to the patches of a vision transformer, or of another network of transformers that reads pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from itm_fast.errors import DataError
from itm_fast.nn.encoders.transformer import load_transformer, made_transformer
from itm_fast.ops import _checks
from itm_fast.shown import named_options

TowerTokens: TypeAlias = Literal["all", "patches", "class first", "class alone"]


class PatchTower(nn.Module):
    """A vision transformer's last hidden states: a token a patch, and what comes before the patches.

    State dict: `transformer.*` as transformers has it. Made with random weights; `load_pretrained` reads others.
    """

    def __init__(self, backbone_config: Mapping[str, Any], *, tokens: TowerTokens = "all") -> None:
        """Initialise as transformers does.

        Args:
            backbone_config: {"architecture": options as config.json has them, "size": side of its images in pixels,
                "mean", "deviation": three numbers each, of pixels from 0 to 1}, as `vision_architecture` reads it.
            tokens: "all"; the "patches" without what is before them, a class token, registers; the class token and then
                the patches ("class first"), without registers; or it and nothing else ("class alone").

        Raises:
            ValueError: The options are those of no encoder of images, or of one without a class token.
            ImportError: transformers is not installed.
        """
        super().__init__()
        _checks.check_choice("tokens", tokens, TowerTokens)
        self.tokens = tokens
        self.size, self.mean, self.deviation = _pixels(backbone_config)
        architecture = backbone_config["architecture"]
        self.transformer: Any = made_transformer(architecture, "backbone_config", "images", 'image_encoder "patches"')
        options = self.transformer.config
        if not hasattr(options, "num_channels"):
            raise ValueError(f"backbone_config: {options.model_type} is no encoder of images; expected one such as vit")
        width = getattr(options, "hidden_size", None)
        self.dim = int(options.hidden_sizes[-1] if width is None else width)
        if tokens.startswith("class"):
            self.tokens = "all"
            n_tokens = self.n_tokens()
            if n_before(n_tokens) == 0:
                raise ValueError(
                    f'class_token is "apart", but the {n_tokens} tokens of a {options.model_type} are patches, without '
                    'a class token; expected "kept"'
                )
            self.tokens = tokens

    def forward(self, images: Tensor) -> Tensor:
        """RGB from 0 to 255, (n, 3, size, size) -> tokens (n, n_tokens, dim)."""
        mean, deviation = (images.new_tensor(x).view(3, 1, 1) for x in (self.mean, self.deviation))
        states: Tensor = self.transformer(pixel_values=(images / 255 - mean) / deviation).last_hidden_state
        if states.ndim == 4:  # (n, dim, height, width) of a convolutional network
            return states.flatten(2).transpose(1, 2)
        if self.tokens == "all":
            return states
        first, patches = states[:, :1], states[:, n_before(states.shape[1]) :]
        if self.tokens == "patches":
            return patches
        return first if self.tokens == "class alone" else torch.cat([first, patches], 1)

    def n_tokens(self) -> int:
        """Tokens of an image: one is tried out."""
        was_training = self.training
        with torch.no_grad():
            weight = next(self.parameters())
            count = self.eval()(weight.new_zeros(1, 3, self.size, self.size)).shape[1]
        self.train(was_training)
        return int(count)

    def train_stages(self, n_fixed: int) -> None:
        """Fix all of it (4), or nothing: all layers train at once."""
        self.requires_grad_(n_fixed < 4)

    def load_pretrained(self, folder: Path) -> None:
        """Reads the transformer's weights.

        Args:
            folder: As transformers' save_pretrained leaves it, of the transformer or of CLIP or SigLIP as a whole.

        Raises:
            DataError: There are no weights, or those of another architecture; or it takes no images of this size.
        """
        load_transformer(self.transformer, folder, "image")
        blank, was_training = next(self.parameters()).new_zeros(1, 3, self.size, self.size), self.training
        try:
            with torch.no_grad():
                self.transformer.eval()(pixel_values=blank)
        except ValueError as error:
            raise DataError(
                f"{folder}: its preprocessor_config.json makes images of {self.size} pixels, which its config.json "
                f"does not take: {error}"
            ) from error
        self.transformer.train(was_training)

    def extra_repr(self) -> str:
        """The options that its layers do not show, for print(model)."""
        return named_options(self, "tokens", "size")


def n_before(n_tokens: int) -> int:
    """Tokens before the patches, whose number is a square: a class token, registers, none.

    Example:
        >>> [n_before(n) for n in (197, 261, 196, 49)]  # ViT, DINOv2 with registers, SigLIP, Swin
        [1, 5, 0, 0]
    """
    return n_tokens - math.isqrt(n_tokens) ** 2


def _pixels(config: Mapping[str, Any]) -> tuple[int, list[float], list[float]]:
    size, mean, deviation = (config.get(name) for name in ("size", "mean", "deviation"))
    if not isinstance(config.get("architecture"), Mapping) or not isinstance(size, int) or size < 1:
        raise ValueError(
            'backbone_config: expected {"architecture": {...}, "size": pixels, "mean": [r, g, b], "deviation": '
            f"[r, g, b]}}, got {dict(config)!r:.80}"
        )
    numbers = []
    for name, found in (("mean", mean), ("deviation", deviation)):
        if not isinstance(found, list | tuple) or len(found) != 3:
            raise ValueError(f"backbone_config: {name} is {found!r:.60}; expected three numbers")
        numbers.append([_checks.check_finite(name, x, positive=name == "deviation") for x in found])
    return size, numbers[0], numbers[1]
