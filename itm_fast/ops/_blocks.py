"""Similarities of all pairs in plain torch, a block of images and captions at a time."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_CAPTIONS_AT_A_TIME = 32
_BLOCK_ELEMENTS = 1 << 18  # affinities at a time, about ten temporaries of this size: what a cache holds
_KEPT_ELEMENTS = 1 << 22  # above it the backward pass makes the affinities again: they outgrow all else


def valid_counts(name: str, counts: Tensor | None, vectors: Tensor) -> Tensor:
    """Vectors of each group (n_groups,) int64; all of them for None. Reads the counts on the host.

    Raises:
        ValueError: A count is outside 1 ... `vectors.shape[1]`.
    """
    n_groups, most, _ = vectors.shape
    if counts is None:
        return torch.full((n_groups,), most, device=vectors.device)
    wrong = ((counts < 1) | (counts > most)).nonzero()
    if len(wrong):
        group = int(wrong[0])
        raise ValueError(f"{name}[{group}] is {int(counts[group])}; expected 1 to {most}")
    return counts


def check_counts(name: str, counts: Tensor | None, vectors: Tensor) -> None:
    """Raises for a count of padded vectors that is out of range, where looking at it makes nobody wait.

    Raises:
        ValueError: A count on the CPU is outside 1 ... `vectors.shape[1]`.
    """
    if vectors.ndim == 3 and counts is not None and counts.device.type == "cpu" and not torch.compiler.is_compiling():
        valid_counts(name, counts, vectors)


def padding(counts: Tensor, most: int) -> Tensor:
    """(n_groups, most), True beyond each group's count."""
    return torch.arange(most, device=counts.device) >= counts[:, None]


def sims_in_blocks(
    sims_of: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    regions: Tensor,
    region_counts: Tensor,
    words: Tensor,
    word_counts: Tensor,
) -> Tensor:
    """(n_images, n_captions) sims; where blocks are many, only their inputs are kept for the backward pass.

    Args:
        sims_of: A block's regions, region_counts, words (cut to its longest caption) and word_counts -> its sims.
        regions: (n_images, max_regions, width), at least one region.
        region_counts: (n_images,) as `valid_counts` returns them.
        words: (n_captions, max_words, width), at least one word.
        word_counts: (n_captions,) likewise.
    """
    n_images, max_regions, _ = regions.shape
    order = word_counts.argsort()  # captions of about one length together: the padding would be most of the work
    recomputed = torch.is_grad_enabled() and n_images * max_regions * words.shape[0] * words.shape[1] > _KEPT_ELEMENTS
    columns = [regions[:, 0, :0]]  # nothing, but differentiable where there is no block
    for first in range(0, len(order), _CAPTIONS_AT_A_TIME):
        group = order[first : first + _CAPTIONS_AT_A_TIME]
        counts = word_counts[group]
        captions = words[group, : int(counts.max())]
        rows = max(1, _BLOCK_ELEMENTS // (max_regions * len(group) * captions.shape[1]))
        sims = [regions.new_empty(0, len(group))]
        for start in range(0, n_images, rows):
            images = slice(start, start + rows)
            block = (regions[images], region_counts[images], captions, counts)
            sims.append(checkpoint(sims_of, *block, use_reentrant=False) if recomputed else sims_of(*block))
        columns.append(torch.cat(sims))
    return torch.cat(columns, dim=1)[:, order.argsort()]
