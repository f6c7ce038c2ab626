"""More than one process: torchrun's environment, and gathering with gradients so that negatives come from all of them.

Every process makes the loss of the whole batch; it encodes its share of the pairs and scores all images against its own
captions. A gather adds the gradients of all processes on its way back, and DistributedDataParallel takes their mean, so
that the result is the gradient of one process with the whole batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn


@dataclass(frozen=True)
class World:
    """Which process this is, of how many."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0


@contextmanager
def joined_world(device: torch.device) -> Iterator[World]:
    """The world that torchrun describes in the environment, joined while the context lasts; alone without it.

    Args:
        device: Where training runs: NCCL joins CUDA devices, gloo the others.

    Raises:
        ValueError: The environment is incomplete.
    """
    if "WORLD_SIZE" not in os.environ:
        yield World()
        return
    try:
        world = World(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    except KeyError as error:
        raise ValueError(f"WORLD_SIZE is set but {error.args[0]} is not; start with torchrun") from error
    if world.size == 1:
        yield world
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield world
    finally:
        distributed.destroy_process_group()


class _Gather(torch.autograd.Function):
    """Concatenation of what all processes hold; backwards, the sum over processes of this one's part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total.chunk(distributed.get_world_size())[distributed.get_rank()]


class _Sum(torch.autograd.Function):
    """Sum over all processes, forwards and backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total


def gather_rows(x: Tensor) -> Tensor:
    """The rows of all processes in the order of their ranks; equal shapes everywhere; differentiable."""
    if not _several():
        return x
    gathered: Tensor = _Gather.apply(x)  # type: ignore[no-untyped-call]
    return gathered


def gather_columns(x: Tensor) -> Tensor:
    """The columns of all processes in the order of their ranks; equal shapes everywhere; differentiable."""
    return gather_rows(x.T).T if _several() else x


def gather_images(images: Tensor, region_counts: Tensor) -> tuple[Tensor, Tensor]:
    """The images of all processes, (n, ...), and their counts (n,), in the order of the ranks; differentiable.

    Where images are regions (n, max_regions, dim), each process may have another largest number of them: zeros fill up.
    """
    if not _several():
        return images, region_counts
    if images.ndim == 3:
        most = region_counts.new_tensor([images.shape[1]])
        distributed.all_reduce(most, distributed.ReduceOp.MAX)
        images = nn.functional.pad(images, (0, 0, 0, int(most) - images.shape[1]))
    return gather_rows(images), gather_rows(region_counts)


class SyncedBatchNorm1d(nn.BatchNorm1d):
    """BatchNorm1d whose statistics are those of all processes' rows; torch's own SyncBatchNorm refuses the CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """(n, channels) or (n, channels, length), as many rows and entries as there are here -> the same shape."""
        if not (self.training and _several()):
            return super().forward(input)
        axes = [axis for axis in range(input.ndim) if axis != 1]
        shape = [1, -1] + [1] * (input.ndim - 2)
        n_here = input.new_full((input.shape[1],), input.numel() / input.shape[1])
        sums, count = self.summed(torch.cat([input.sum(axes), n_here])).chunk(2)
        count = count.detach()
        mean = sums / count
        centred = input - mean.view(shape)
        variance = self.summed((centred * centred).sum(axes)) / count
        self._follow(mean.detach(), variance.detach() * count / (count - 1))
        scaled = centred * torch.rsqrt(variance + self.eps).view(shape)
        return scaled * self.weight.view(shape) + self.bias.view(shape)

    def summed(self, x: Tensor) -> Tensor:
        """The sum over all processes; differentiable."""
        total: Tensor = _Sum.apply(x) if _several() else x  # type: ignore[no-untyped-call]
        return total

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)


def synchronise_batch_norms(model: nn.Module) -> None:
    """Turn every BatchNorm1d of a model into one with the statistics of all processes; names and values stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm1d:
            module.__class__ = SyncedBatchNorm1d


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
