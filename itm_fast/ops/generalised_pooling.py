"""Generalised pooling (GPO) of sets of vectors: public function, fake kernel, autograd."""

from typing import Any

import torch
from torch import Tensor

from itm_fast.ops import _library
from itm_fast.ops._checks import HALF_DTYPES
from itm_fast.ops._counts import Counts, counted
from itm_fast.ops._gradients import differentiable, once_only
from itm_fast.ops.batched import generalised_pooling as batched
from itm_fast.ops.batched import kernels

_library.load()


def generalised_pooling(vectors: Tensor, theta: Tensor, counts: Counts = None) -> Tensor:
    """One vector of each set: its channels' numbers in decreasing order, weighted by rank.

    pooled_d = sum_k theta_k x_(k),d with x_(k),d the k-th largest number of channel d. On the CPU by a sorting network
    over vectors of channels, nothing of the size of `vectors` is made but its gradient; on other devices by torch's
    sort, some sets at a time, sorted again for the gradients.

    Args:
        vectors: (n, max, dim) float32, float64, bfloat16 or float16; what lies beyond a count is never read.
        theta: (n, max), weights by rank, of the same dtype.
        counts: (n,) integers, 1 ... max, vectors of each set, as a list, array or tensor; or a boolean mask (n, max),
            True at vectors, padded on either side. None: all are valid.

    Returns:
        (n, dim), dtype of `vectors`, 16-bit ones summed in float32. Differentiable once in vectors and theta: theta_k
        goes back to the k-th largest number of each channel, equal numbers rank by their place. Deterministic.

    Raises:
        ValueError: Shapes or counts do not fit. On CUDA nobody waits for the device to look at counts: one out of range
            gives NaN, and its theta and vectors gradient 0.
        TypeError: A dtype is not supported, or they differ.

    Source:
        Chen et al., Learning the Best Pooling Strategy for Visual Semantic Embedding, CVPR 2021, equation 3.

    Example:
        >>> x = torch.tensor([[[1.0, 5.0], [3.0, 2.0]]])
        >>> generalised_pooling(x, torch.tensor([[0.75, 0.25]]), torch.tensor([2]))
        tensor([[2.5000, 4.2500]])
    """
    if vectors.ndim != 3:
        raise ValueError(f"vectors must have shape (n, max, dim), got {list(vectors.shape)}")
    vectors, counts = counted("counts", counts, "vectors", vectors)
    if counts is None:
        counts = torch.full((vectors.shape[0],), vectors.shape[1], device=vectors.device)
    dtype = vectors.dtype
    if vectors.device.type in kernels.COMPILED_ON and dtype in HALF_DTYPES:
        vectors, theta = vectors.float(), theta.float()
    pooled: Tensor = _pooled(vectors, theta, counts)
    return pooled.to(dtype)


@torch.library.register_fake("itm_fast::generalised_pooling")  # type: ignore[untyped-decorator]
def _fake(vectors: Tensor, _theta: Tensor, _counts: Tensor) -> Tensor:
    return vectors.new_empty(vectors.shape[0], vectors.shape[2])


@torch.library.register_fake("itm_fast::generalised_pooling_backward")  # type: ignore[untyped-decorator]
def _fake_backward(_grad: Tensor, vectors: Tensor, theta: Tensor, _counts: Tensor) -> tuple[Tensor, Tensor]:
    return vectors.new_empty(vectors.shape), theta.new_empty(theta.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    return *_gradients(grad, *ctx.saved_tensors), None


kernels.register("generalised_pooling", batched.forward, batched.backward)
_pooled = differentiable("generalised_pooling", _backward, _setup_context)
_gradients = once_only("generalised_pooling_backward")
