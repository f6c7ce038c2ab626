"""Matrix products of 16-bit operands with float32 results, and sums over packed captions."""

from __future__ import annotations

import torch
from torch import Tensor

from itm_fast.ops import _library

FUSED_ON = ("cuda",)
"""Devices that have kernels of ours for parts of the batched products."""

ALIGNMENT = 16  # bytes

_LARGEST_SCALED = 1024.0  # of a float16 operand: 2^6 below overflow, and as far above underflow as that allows


def wide(dtype: torch.dtype) -> torch.dtype:
    """What is summed in: at least float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def has_half_tensor_cores(device: torch.device) -> bool:
    """Whether a CUDA device multiplies both 16-bit types on tensor cores."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


def has_tile_kernels(device: torch.device) -> bool:
    """Whether kernels of ours that multiply on tensor cores run there."""
    if device.type not in FUSED_ON:
        return False
    return device.type != "cuda" or (_library.no_cuda is None and has_half_tensor_cores(device))


def aligned(x: Tensor) -> Tensor:
    """Contiguous, from a multiple of `ALIGNMENT` bytes on, as kernels of ours read it."""
    x = x.contiguous()
    return x.clone() if x.storage_offset() * x.element_size() % ALIGNMENT else x


def product(a: Tensor, b: Tensor) -> Tensor:
    """A b of matrices or batches of them, in their own type on tensor cores, summed and returned in `wide`."""
    to = wide(a.dtype)
    if a.dtype == to:
        return a @ b
    if a.device.type == "cuda" and has_half_tensor_cores(a.device):
        return torch.mm(a, b, out_dtype=to) if a.ndim == 2 else torch.bmm(a, b, out_dtype=to)
    return a.to(to) @ b.to(to)


def gradient_product(a: Tensor, b: Tensor) -> Tensor:
    """`product` of a gradient (in `wide`) rounded to the type of b; brought into the range of float16 where that is."""
    operand, scale = rounded(a, b.dtype)
    return product(operand, b) if scale is None else product(operand, b).div_(scale)


def rounded(gradient: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """A gradient (in `wide`) as an operand of a type; of float16, what it was multiplied with to be in its range."""
    if dtype != torch.float16:
        return gradient.to(dtype), None
    largest = gradient.abs().nan_to_num_(0).amax()
    _, exponent = torch.frexp(_LARGEST_SCALED / largest.clamp(min=torch.finfo(gradient.dtype).tiny))
    scale = torch.ldexp(gradient.new_ones(()), exponent.clamp(max=100) - 1)
    return (gradient * scale).to(dtype), scale


class Captions:
    """Words of captions one after another (n_words, ...), by counts (n_captions,) that nobody reads on the host.

    Attributes:
        of_words: (n_words,) int64, the caption of each word.
        first: (n_captions,) int64, place of each caption's first word.
        counts: (n_captions,) int64.
        fit: () bool: all counts are at least 1 and they sum to n_words. Where they don't, everything else is in range,
            and means nothing.

    Raises:
        ValueError: There are words, but no captions, or captions, but no words.
    """

    def __init__(self, counts: Tensor, n_words: int) -> None:
        """See above."""
        n_captions = len(counts)
        if bool(n_captions) != bool(n_words):
            raise ValueError(f"word_counts are those of {n_captions} captions, but there are {n_words} words")
        ends = counts.clamp(min=0).cumsum(0)
        self.fit = (counts >= 1).all() & (counts.sum() == n_words)
        within = ends.clamp(max=n_words)
        self.counts = within.diff(prepend=within.new_zeros(1))
        self.first = within - self.counts
        places = torch.arange(n_words, device=counts.device)
        self.of_words = torch.searchsorted(within, places, right=True).clamp(max=max(0, n_captions - 1))

    def sums(self, x: Tensor) -> Tensor:
        """(n_words, ...) -> (n_captions, ...), each caption's in the order of its words."""
        return torch.segment_reduce(x, "sum", lengths=self.counts, axis=0, unsafe=True)

    def spread(self, x: Tensor) -> Tensor:
        """(n_captions, ...) -> (n_words, ...)."""
        return x.index_select(0, self.of_words)
