"""VSRN's image encoder: regions reason over their relations, then a GRU gathers them."""

from typing import Literal

import torch
from torch import Tensor, nn

from itm_fast.nn.encoders.regions import initialised_linear
from itm_fast.ops import _checks
from itm_fast.ops._blocks import padding
from itm_fast.ops._counts import Counts, counted_in_place
from itm_fast.shown import named_options

DataName = Literal["coco_precomp", "f30k_precomp"]


class RsGCN(nn.Module):
    """Residual graph convolution over regions: v + BN(W R g(v)), R = theta(v) phi(v)^T / n_regions, no softmax.

    State dict: `g`, `theta`, `phi`, `W.0` (dim, dim, 1) with bias, `W.1.*` BatchNorm1d, 0 at first: the identity.

    Source:
        Li et al., Visual Semantic Reasoning for Image-Text Matching, ICCV 2019, equations 2-4; KunpengLi1994/VSRN.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.g, self.theta, self.phi = (nn.Conv1d(dim, dim, 1) for _ in range(3))
        norm = nn.BatchNorm1d(dim)
        nn.init.zeros_(norm.weight)
        nn.init.zeros_(norm.bias)
        self.W = nn.Sequential(nn.Conv1d(dim, dim, 1), norm)

    def forward(self, v: Tensor, region_counts: Tensor | None = None) -> Tensor:
        """(n, dim, max_regions), zeros beyond region_counts (n,); None: all are there -> the same shape."""
        rows = v.transpose(1, 2)
        n = v.shape[2] if region_counts is None else region_counts[:, None, None]
        relations = _of_rows(self.theta, rows) @ _of_rows(self.phi, rows).transpose(1, 2) / n  # (n, max, max)
        there = None if region_counts is None else ~padding(region_counts, v.shape[2])  # (n, max_regions)
        if there is not None:
            relations = relations * there[:, None]
        convolution, norm = self.W
        gathered = _of_rows(convolution, relations @ _of_rows(self.g, rows))
        if there is None:
            added = norm(gathered.flatten(0, 1)).view_as(gathered)
        else:
            normed = norm(gathered[there])  # the norm is of what is there
            added = normed.new_zeros(*there.shape, normed.shape[1])
            added[there] = normed
        residual: Tensor = added.transpose(1, 2) + v
        return residual


def _of_rows(convolution: nn.Module, rows: Tensor) -> Tensor:
    """A convolution of one tap over rows (n, max_regions, dim): as the product that it is, half the time on a CPU."""
    assert isinstance(convolution, nn.Conv1d)
    return nn.functional.linear(rows, convolution.weight[..., 0], convolution.bias)


class ReasoningRegionEncoder(nn.Module):
    """Linear map, four graph convolutions over the regions, a GRU's last state: one embedding an image.

    State dict: `fc`, `img_rnn`, `Rs_GCN_1` ... `Rs_GCN_4`, and `bn` for "f30k_precomp".

    Source:
        KunpengLi1994/VSRN, model.py, EncoderImagePrecompAttn.
    """

    def __init__(self, img_dim: int, embed_size: int, *, data_name: DataName = "f30k_precomp") -> None:
        """Initialise as VSRN does.

        Args:
            img_dim: Numbers per region feature.
            embed_size: Numbers per embedding.
            data_name: The original does not treat its data sets alike: "coco_precomp" normalises what the linear map
                makes, "f30k_precomp" ends in a BatchNorm.

        Raises:
            ValueError: `data_name` is unknown.
        """
        super().__init__()
        _checks.check_choice("data_name", data_name, DataName)
        self.data_name = data_name
        self.fc = initialised_linear(img_dim, embed_size)
        self.img_rnn = nn.GRU(embed_size, embed_size, 1, batch_first=True)
        for number in range(1, 5):
            setattr(self, f"Rs_GCN_{number}", RsGCN(embed_size))
        if data_name == "f30k_precomp":
            self.bn = nn.BatchNorm1d(embed_size)

    def forward(self, images: Tensor, region_counts: Counts = None) -> tuple[Tensor, Tensor]:
        """(n, max_regions, img_dim) -> embeddings (n, embed_size) of unit length, regions (n, max_regions, embed_size).

        The regions are what VSRN's captioning head reads. Images are zeros beyond region_counts (n,), or where a mask
        (n, max_regions) says so, and so are the regions; None: all are there.
        """
        region_counts = counted_in_place("region_counts", region_counts, "images", images)
        regions = self.fc(images)
        if region_counts is not None:
            regions = regions.masked_fill(padding(region_counts, images.shape[1])[..., None], 0)
        if self.data_name == "coco_precomp":
            regions = _normalise_channels(regions)
        v = regions.transpose(1, 2)
        for number in range(1, 5):
            v = getattr(self, f"Rs_GCN_{number}")(v, region_counts)
        regions = _normalise_channels(v.transpose(1, 2))
        states, last = self.img_rnn(regions)
        embeddings = last[0] if region_counts is None else state_after(states, region_counts)
        if self.data_name == "f30k_precomp":
            embeddings = self.bn(embeddings)
        return embeddings / torch.linalg.vector_norm(embeddings, dim=1, keepdim=True), regions

    def extra_repr(self) -> str:
        """The options that its layers do not show, for print(model)."""
        return named_options(self, "data_name")


def state_after(states: Tensor, counts: Tensor) -> Tensor:
    """States (n, max, dim) of a GRU that reads forwards -> (n, dim), each after its count (n,) of steps."""
    return states[torch.arange(len(states), device=states.device), counts - 1]


def _normalise_channels(regions: Tensor) -> Tensor:
    """Every channel at unit length over the regions, without epsilon: the original's "l2norm" takes axis 1."""
    normalised: Tensor = regions / torch.linalg.vector_norm(regions, dim=1, keepdim=True)
    return normalised
