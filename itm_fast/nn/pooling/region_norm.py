"""Batch normalisation with a channel a region, where images may have fewer regions."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from itm_fast.ops._blocks import padding


def alone(x: Tensor) -> Tensor:
    """The sum over all processes of one process."""
    return x


def normalise_regions(
    norm: nn.BatchNorm1d, x: Tensor, region_counts: Tensor, summed: Callable[[Tensor], Tensor] = alone
) -> Tensor:
    """What `norm` makes of x (n, n_regions, dim), a channel being a region: its statistics are those of what is there.

    In training running statistics follow, but for channels that no image of the batch has.

    Args:
        norm: Of n_regions channels.
        x: (n, n_regions, dim) floating.
        region_counts: (n,) int64, 1 ... n_regions.
        summed: Sum over all processes that have a part of the batch.

    Returns:
        (n, n_regions, dim), to be read up to the counts only.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    if norm.training:
        there = ~padding(region_counts, x.shape[1])[..., None]
        n_here = (there.sum((0, 2)) * x.shape[2]).to(x.dtype)
        sums, n_all = summed(torch.cat([(x * there).sum((0, 2)), n_here])).chunk(2)
        n = n_all.detach().clamp(min=1)
        mean = sums / n
        variance = summed(((x - mean[:, None]).square() * there).sum((0, 2))) / n
        _follow(norm, mean.detach(), variance.detach() * n / (n - 1).clamp(min=1), n_all > 0)
    scale = norm.weight * (variance + norm.eps).rsqrt()
    return (x - mean[:, None]) * scale[:, None] + norm.bias[:, None]


@torch.no_grad()
def _follow(norm: nn.BatchNorm1d, mean: Tensor, variance: Tensor, is_there: Tensor) -> None:
    momentum = cast(float, norm.momentum)
    for running, of_batch in ((norm.running_mean, mean), (norm.running_var, variance)):
        kept = cast(Tensor, running)
        kept.copy_(torch.where(is_there, kept.lerp(of_batch.to(kept), momentum), kept))
    cast(Tensor, norm.num_batches_tracked).add_(1)
