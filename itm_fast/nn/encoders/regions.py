"""Region features to embeddings: a linear map, optionally weight-normalised or beside an MLP, or of their mean."""

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from itm_fast.nn.linear import TileLinear
from itm_fast.ops import _checks
from itm_fast.ops._counts import Counts, counted
from itm_fast.shown import named_options

PrecompEncType = Literal["basic", "weight_norm"]


def l2_normalise(x: Tensor) -> Tensor:
    """X / (|x| + 1e-8) along the last axis: SCAN's epsilon is added after the root."""
    normalised: Tensor = x / (torch.linalg.vector_norm(x, dim=-1, keepdim=True) + 1e-8)
    return normalised


def mean_of_regions(regions: Tensor, region_counts: Tensor | None) -> Tensor:
    """(n, max_regions, dim), zeros beyond region_counts (n,); None: all are there -> (n, dim)."""
    return regions.mean(1) if region_counts is None else regions.sum(1) / region_counts[:, None]


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
        _checks.check_choice("precomp_enc_type", precomp_enc_type, PrecompEncType)
        self.no_imgnorm = no_imgnorm
        self.fc = (WeightNormLinear if precomp_enc_type == "weight_norm" else initialised_linear)(img_dim, embed_size)

    def forward(self, images: Tensor) -> Tensor:
        """(n, max_regions, img_dim) -> regions (n, max_regions, embed_size)."""
        regions: Tensor = self.fc(images)
        return regions if self.no_imgnorm else l2_normalise(regions)

    def extra_repr(self) -> str:
        """The options that its layers do not show, for print(model)."""
        return named_options(self, "no_imgnorm")


class MeanRegionEncoder(nn.Module):
    """Linear map of the mean of an image's regions; one region is VSE++'s vector an image.

    State dict: `fc.weight` (embed_size, img_dim), `fc.bias`.

    Source:
        fartashf/vsepp, model.py, EncoderImagePrecomp.
    """

    def __init__(self, img_dim: int, embed_size: int, *, no_imgnorm: bool = False, use_abs: bool = False) -> None:
        """Initialise as VSE++ does.

        Args:
            img_dim: Numbers per feature.
            embed_size: Numbers per embedding.
            no_imgnorm: Leave the embeddings at their own length.
            use_abs: Take absolute values at the end, for order embeddings.
        """
        super().__init__()
        self.no_imgnorm, self.use_abs = no_imgnorm, use_abs
        self.fc = initialised_linear(img_dim, embed_size)

    def forward(self, images: Tensor, region_counts: Counts = None) -> Tensor:
        """(n, max_regions, img_dim), zeros beyond region_counts (n,) or a mask; None: all are there -> embeddings."""
        images, region_counts = counted("region_counts", region_counts, "images", images)
        embeddings: Tensor = self.fc(mean_of_regions(images, region_counts))
        if not self.no_imgnorm:
            embeddings = nn.functional.normalize(embeddings, dim=1)
        return torch.abs(embeddings) if self.use_abs else embeddings

    def extra_repr(self) -> str:
        """The options that its layers do not show, for print(model)."""
        return named_options(self, "no_imgnorm", "use_abs")


class _MLP(nn.Module):
    """Two linear maps; `bns.1` is in the original's state dict and never used."""

    def __init__(self, img_dim: int, embed_size: int) -> None:
        super().__init__()
        widths = (img_dim, embed_size // 2, embed_size)
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(widths))
        self.bns = nn.ModuleList(nn.BatchNorm1d(width) for width in widths[1:])
        self.bns[1].requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_regions, img_dim) -> (n, n_regions, embed_size)."""
        hidden = self.layers[0](x)
        hidden = self.bns[0](hidden.flatten(0, 1)).view_as(hidden).relu()  # over all rows, dropped regions too
        mapped: Tensor = self.layers[1](hidden)
        return mapped


class MLPRegionEncoder(nn.Module):
    """Linear map plus a two-layer perceptron with batch normalisation.

    State dict: `fc.*` (embed_size, img_dim), `mlp.layers.{0,1}.*`, `mlp.bns.{0,1}.*`.

    Source:
        Chen et al., CVPR 2021; woodfrog/vse_infty, lib/encoders.py, EncoderImageAggr.
    """

    def __init__(self, img_dim: int, embed_size: int) -> None:
        """Initialise as VSE-infinity does.

        Args:
            img_dim: Numbers per region feature.
            embed_size: Numbers per embedding, even.
        """
        super().__init__()
        self.fc = initialised_linear(img_dim, embed_size)
        self.mlp = _MLP(img_dim, embed_size)

    def forward(self, images: Tensor) -> Tensor:
        """(n, n_regions, img_dim) -> regions (n, n_regions, embed_size) of whatever length."""
        regions: Tensor = self.fc(images) + self.mlp(images)
        return regions


def initialised_linear(in_features: int, out_features: int) -> TileLinear:
    """A linear map with weights from U(-b, b), b^2 = 6 / (in + out), and zero bias, as all of SCAN's family have it."""
    linear = TileLinear(in_features, out_features)
    bound = math.sqrt(6.0) / math.sqrt(in_features + out_features)
    nn.init.uniform_(linear.weight, -bound, bound)
    nn.init.zeros_(linear.bias)
    return linear


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

    def extra_repr(self) -> str:
        """The sizes, for print(model)."""
        out_features, in_features = self.weight_v.shape
        return f"in_features={in_features}, out_features={out_features}"
