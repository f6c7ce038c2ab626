"""Generalised pooling by torch's sort, some sets at a time, sorted again for the gradients."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from itm_fast.ops.batched.products import wide

BLOCK_NUMBERS = 1 << 24  # that are sorted at a time; places take eight bytes each


def forward(vectors: Tensor, theta: Tensor, counts: Tensor) -> Tensor:
    """Pooled (n, dim)."""
    pooled = vectors.new_empty(len(vectors), vectors.shape[2])
    missing, weights = _weights(vectors, theta, counts)
    for sets in _blocks(vectors):
        ordered, _ = _ordered(vectors[sets], missing[sets])
        pooled[sets] = torch.einsum("nk,nkd->nd", weights[sets], ordered)
    return pooled


def backward(grad: Tensor, vectors: Tensor, theta: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of vectors and theta."""
    of_vectors = torch.empty_like(vectors, memory_format=torch.contiguous_format)
    of_theta = torch.empty_like(theta, memory_format=torch.contiguous_format)
    missing, weights = _weights(vectors, theta, counts)
    for sets in _blocks(vectors):
        ordered, places = _ordered(vectors[sets], missing[sets])
        cotangent = grad[sets].to(weights.dtype)
        of_theta[sets] = torch.einsum("nd,nkd->nk", cotangent, ordered).masked_fill_(missing[sets], 0)
        of_ordered = weights[sets].nan_to_num(0)[..., None] * cotangent[:, None]
        of_vectors[sets] = torch.zeros_like(of_ordered).scatter_(1, places, of_ordered)
    return of_vectors, of_theta


def _weights(vectors: Tensor, theta: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """What is missing (n, max), and weights by rank; NaN where a count is not 1 ... max."""
    size, most, _ = vectors.shape
    if theta.shape != (size, most) or counts.shape != (size,):
        raise ValueError(
            f"theta must have shape {(size, most)}, got {list(theta.shape)}, and counts must have shape ({size},), got "
            f"{list(counts.shape)}"
        )
    if theta.dtype != vectors.dtype:
        raise TypeError(f"vectors and theta must have the same dtype, got {vectors.dtype} and {theta.dtype}")
    counts = counts.to(vectors.device, non_blocking=True)
    missing = torch.arange(most, device=vectors.device) >= counts[:, None]
    fits = (counts >= 1) & (counts <= most)
    weights = theta.to(wide(vectors.dtype)).masked_fill(missing, 0).masked_fill_(~fits[:, None], torch.nan)
    return missing, weights


def _blocks(vectors: Tensor) -> Iterator[slice]:
    step = max(1, BLOCK_NUMBERS // max(1, vectors.shape[1] * vectors.shape[2]))
    return (slice(first, first + step) for first in range(0, len(vectors), step))


def _ordered(vectors: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of each channel in decreasing order, 0 for what is missing, in `wide`; and where they come from."""
    ordered, places = vectors.masked_fill(missing[..., None], -torch.inf).sort(dim=1, descending=True, stable=True)
    return ordered.to(wide(vectors.dtype)).masked_fill_(missing[..., None], 0), places
