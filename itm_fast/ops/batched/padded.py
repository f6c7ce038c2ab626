"""Padded batches on a device: what is missing is masked, and what a count says is never looked at by the host."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Sizes(NamedTuple):
    """How many vectors groups have; of some of them, in any shape (...)."""

    missing: Tensor  # (..., max) bool, True beyond the counts
    counts: Tensor  # (...) floating, as divisors; NaN where one is not 1 ... max
    shares: Tensor  # (...) floating, 1 / counts, for gradients; 0 there

    def part(self, groups: slice | Tensor) -> Sizes:
        """Those of a run of groups, or of given numbers in their shape."""
        return Sizes(*(x[groups] for x in self))


class Padded:
    """Groups of vectors (n, max, dim), zeros beyond their counts.

    Attributes:
        vectors: (n, max, dim).
        sizes: Of the n groups.

    Raises:
        ValueError: There are groups without room for a vector.
    """

    def __init__(self, name: str, vectors: Tensor, counts: Tensor | None) -> None:
        """See above; counts None: all vectors are there."""
        n, most, _ = vectors.shape
        if most == 0:
            raise ValueError(f"{name} must have rows, got {tuple(vectors.shape)}")
        if counts is None:
            counts = torch.full((n,), most, device=vectors.device)
        counts = counts.to(vectors.device, non_blocking=True)
        missing = torch.arange(most, device=vectors.device) >= counts.clamp(min=1)[:, None]
        self.vectors = vectors.masked_fill(missing[..., None], 0)
        fits = (counts >= 1) & (counts <= most)
        divisors = counts.to(torch.promote_types(vectors.dtype, torch.float32)).masked_fill_(~fits, torch.nan)
        self.sizes = Sizes(missing, divisors, (1 / divisors).masked_fill_(~fits, 0))

    def sums(self, needed: bool) -> Tensor:
        """Zeros for a gradient of `vectors` to be summed in; without numbers where it is not needed."""
        shape = self.vectors.shape if needed else (0,)
        return self.vectors.new_zeros(shape, dtype=torch.promote_types(self.vectors.dtype, torch.float32))

    def moved_back(self, gradient: Tensor) -> Tensor:
        """A gradient of `vectors` as one of what was given: its type, and 0 beyond the counts."""
        return gradient.masked_fill_(self.sizes.missing[..., None], 0).to(self.vectors.dtype)
