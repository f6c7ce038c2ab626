"""Region features to embeddings: one linear map, optionally weight-normalised, and unit length."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

PrecompEncType = Literal["basic", "weight_norm"]


def l2_normalise(x: Tensor) -> Tensor:
    """X / (|x| + 1e-8) along the last axis: SCAN's epsilon is added after the root."""
    normalised: Tensor = x / (torch.linalg.vector_norm(x, dim=-1, keepdim=True) + 1e-8)
    return normalised


class RegionEncoder(nn.Module):
    """Linear map of precomputed region features.

    State dict: `fc.weight` (embed_size, img_dim) and `fc.bias`; with weight_norm `fc.weight_g` () and `fc.weight_v`
    instead of the weight, one scalar gain for the whole matrix.

    Source:
        kuanghuei/SCAN, model.py, EncoderImagePrecomp and EncoderImageWeightNormPrecomp.
    """

    def __init__(
        self, img_dim: int, embed_size: int, *, precomp_enc_type: PrecompEncType = "basic", no_imgnorm: bool = False
    ) -> None:
        """Initialise as SCAN does.

        Args:
            img_dim: Numbers per region feature.
            embed_size: Numbers per embedding.
            precomp_enc_type: "basic" or "weight_norm".
            no_imgnorm: Leave the embeddings at their own length.

        Raises:
            ValueError: `precomp_enc_type` is unknown.
        """
        super().__init__()
        if precomp_enc_type not in get_args(PrecompEncType):
            raise ValueError(f"precomp_enc_type must be 'basic' or 'weight_norm', got {precomp_enc_type!r}")
        self.no_imgnorm = no_imgnorm
        self.fc: nn.Module = nn.Linear(img_dim, embed_size)
        if precomp_enc_type == "weight_norm":
            self.fc = WeightNormLinear(img_dim, embed_size)
        else:
            bound = math.sqrt(6.0) / math.sqrt(img_dim + embed_size)
            nn.init.uniform_(self.fc.weight, -bound, bound)
            nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(n, max_regions, img_dim) -> regions (n, max_regions, embed_size)."""
        regions: Tensor = self.fc(images)
        return regions if self.no_imgnorm else l2_normalise(regions)


class WeightNormLinear(nn.Module):
    """Linear map g V / |V| x + b with one scalar gain g, |V| over the whole matrix."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        linear = nn.Linear(in_features, out_features)
        self.weight_g = nn.Parameter(linear.weight.detach().norm())
        self.weight_v = nn.Parameter(linear.weight.detach().clone())
        self.bias = nn.Parameter(linear.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return nn.functional.linear(x, self.weight_v * (self.weight_g / self.weight_v.norm()), self.bias)
