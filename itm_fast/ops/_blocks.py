"""Similarities of all pairs in plain torch, a block of images and captions at a time."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from itm_fast.ops._counts import may_be_read

_CAPTIONS_AT_A_TIME = 32
_BLOCK_ELEMENTS = 1 << 18  # affinities at a time, about ten temporaries of this size: what a cache holds
_DEVICE_ELEMENTS = 1 << 22  # likewise on a device, which has to be kept busy by a block
_KEPT_ELEMENTS = 1 << 22  # above it the backward pass makes the affinities again: they outgrow all else


def valid_counts(name: str, counts: Tensor | None, vectors: Tensor) -> Tensor:
    """Vectors of each group (n_groups,) int64; all of them for None.

    On a device nobody waits to look at them: a group whose count is out of range has none, count 0.

    Raises:
        ValueError: A count on the CPU is outside 1 ... `vectors.shape[1]`.
    """
    n_groups, most, _ = vectors.shape
    if counts is None:
        return torch.full((n_groups,), most, device=vectors.device)
    out_of_range = (counts < 1) | (counts > most)
    if not may_be_read(counts):
        return counts.masked_fill(out_of_range, 0)
    wrong = out_of_range.nonzero()
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
        sims_of: A block's regions, region_counts, words (on the CPU cut to its longest caption) and word_counts -> its
            sims.
        regions: (n_images, max_regions, width), at least one region.
        region_counts: (n_images,) as `valid_counts` returns them. Of a group that has none all sims are NaN.
        words: (n_captions, max_words, width), at least one word.
        word_counts: (n_captions,) likewise.
    """
    n_images, max_regions, _ = regions.shape
    recomputed = torch.is_grad_enabled() and n_images * max_regions * words.shape[0] * words.shape[1] > _KEPT_ELEMENTS
    columns = [regions[:, 0, :0]]  # nothing, but differentiable where there is no block
    order, groups = _caption_blocks(word_counts, max_regions * words.shape[1])
    most = _BLOCK_ELEMENTS if may_be_read(words) else _DEVICE_ELEMENTS
    for group in groups:
        counts = word_counts[group]
        captions = words[group, : int(counts.max()) if may_be_read(words) else None]
        rows = max(1, most // (max_regions * captions.shape[0] * captions.shape[1]))
        sims = [regions.new_empty(0, len(captions))]
        for start in range(0, n_images, rows):
            images = slice(start, start + rows)
            block = (regions[images], region_counts[images], captions, counts)
            sims.append(checkpoint(sims_of, *block, use_reentrant=False) if recomputed else sims_of(*block))
        columns.append(torch.cat(sims))
    every = torch.cat(columns, dim=1)
    if order is not None:
        return every[:, order.argsort()]
    return every.masked_fill((region_counts == 0)[:, None] | (word_counts == 0), torch.nan)


def _caption_blocks(word_counts: Tensor, of_caption: int) -> tuple[Tensor | None, list[Tensor] | list[slice]]:
    """Captions whose affinities with one image, `of_caption` each, are in memory at a time.

    Returns:
        On the CPU the captions in the order of their lengths, for which the padding would be most of the work; on a
        device, where nobody waits for lengths, None. And the blocks, in this order.
    """
    if may_be_read(word_counts):
        order = word_counts.argsort()
        return order, list(torch.split(order, _CAPTIONS_AT_A_TIME)) if len(order) else []
    step = max(1, _DEVICE_ELEMENTS // of_caption)
    return None, [slice(first, first + step) for first in range(0, len(word_counts), step)]
