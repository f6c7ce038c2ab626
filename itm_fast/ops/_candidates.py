"""Given pairs: which captions of each image, or images of each caption, are to be scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from itm_fast.choices import CandidatesOf
from itm_fast.ops import _checks, _library
from itm_fast.ops._counts import may_be_read
from itm_fast.ops._ragged import Batches, take, to_device, widest

LISTED_ON = ("cuda",)
"""Devices beside `PACKED_ON` whose kernels of similarities run `on_tensor_cores`, and take lists of candidates."""

_GATHERED_BYTES = 256 << 20  # of vectors of one list at a time, where kernels take no lists
_MOST_VECTORS = 128  # of a group: csrc/cuda/similarity.h, kTileVectors
_ALL_AT_ONCE = 1 << 22  # similarities of a list's owner with all others, up to which gradients are those of all pairs


class Candidates(NamedTuple):
    """Lists of candidates as the operators take them.

    Attributes:
        indices: (n_lists, k) int64 on the device of the vectors; -1: none.
        of_captions: whether the lists are those of the captions, and hold images.
    """

    indices: Tensor
    of_captions: bool


def as_candidates(
    candidates: Tensor | None,
    candidates_of: CandidatesOf,
    batches: Batches,
    names: tuple[str, str] = ("n_images", "n_captions"),
) -> Candidates | None:
    """Candidates as the operators take them; None for all pairs. Their values are looked at by the operator.

    Raises:
        ValueError: Shape or device do not fit; the message shows what does.
        TypeError: They are no integers.
    """
    _checks.check_choice("candidates_of", candidates_of, CandidatesOf)
    if candidates is None:
        return None
    of_captions = candidates_of == "captions"
    expected = f"({names[of_captions]}, k)"
    if not isinstance(candidates, Tensor):
        raise TypeError(f"candidates must be an int64 tensor {expected}, got {type(candidates).__name__}")
    if candidates.dtype != torch.int64:
        raise TypeError(f"candidates must be int64, got {candidates.dtype}")
    n_lists = batches.shape[of_captions]
    if candidates.ndim != 2 or candidates.shape[0] != n_lists:
        other = batches.shape[not of_captions]
        turned = candidates.ndim == 2 and candidates.shape[0] == other and names == ("n_images", "n_captions")
        hint = f'; lists of {"images" if of_captions else "captions"} want candidates_of="{_other(candidates_of)}"'
        raise ValueError(
            f"candidates must have shape {expected} with {names[of_captions]} = {n_lists}, got "
            f"{tuple(candidates.shape)}{hint if turned else ''}"
        )
    if candidates.device != batches.regions.device:
        raise ValueError(
            f"candidates must be on the device of the vectors, {batches.regions.device}, got {candidates.device}"
        )
    return Candidates(candidates, of_captions)


def _other(candidates_of: CandidatesOf) -> CandidatesOf:
    return "images" if candidates_of == "captions" else "captions"


def check_values(candidates: Candidates, batches: Batches) -> None:
    """Raises ValueError for an index that is neither -1 nor a group; reads them on the host."""
    indices = candidates.indices
    wrong = _outside(candidates, batches).nonzero()
    if len(wrong):
        row, column = wrong[0].tolist()
        n_others = batches.shape[not candidates.of_captions]
        raise ValueError(
            f"candidates[{row}, {column}] is {int(indices[row, column])}; expected -1 for none, or 0 to {n_others - 1}"
        )


def _outside(candidates: Candidates, batches: Batches) -> Tensor:
    return (candidates.indices < -1) | (candidates.indices >= batches.shape[not candidates.of_captions])


class Members:
    """Lists of candidates as places of groups, which may all be taken, and what becomes of those that are none.

    Attributes:
        places: (n_lists, k) int64, in range: 0 where there is none.
        missing: (n_lists, k) bool, where there is none, or an index out of range.
        outside: (n_lists, k) bool, where an index is out of range.

    Raises:
        ValueError: An index on the CPU is neither -1 nor a group. On a device nobody waits to look at them.
    """

    def __init__(self, candidates: Candidates, batches: Batches) -> None:
        """See above."""
        if may_be_read(candidates.indices):
            check_values(candidates, batches)
        self._none, self.outside = candidates.indices < 0, _outside(candidates, batches)
        self.missing = self._none | self.outside
        self.places = candidates.indices.masked_fill(self.missing, 0)

    def finished(self, scores: Tensor) -> Tensor:
        """Scores (n_lists, k) of the places: -inf where there is none, NaN where an index is out of range."""
        return scores.masked_fill(self._none, -torch.inf).masked_fill(self.outside, torch.nan)

    def cotangents(self, grad: Tensor) -> Tensor:
        """Gradients (n_lists, k) of the scores of the places, from those of what `finished` returned."""
        return grad.masked_fill(self.missing, 0)


def are_padded(batches: Batches, _: Candidates) -> bool:
    """Whether neither batch is packed."""
    return batches.regions.ndim == batches.words.ndim == 3


def on_tensor_cores(vectors: Tensor) -> bool:
    """Whether a device's kernels multiply these vectors on tensor cores (csrc/cuda/ops/similarity.cpp: streams)."""
    device = vectors.device
    if device.type not in LISTED_ON or vectors.dtype == torch.float64:
        return False
    return device.type != "cuda" or (_library.no_cuda is None and torch.cuda.get_device_properties(device).major >= 8)


def lists_are_streamed(batches: Batches, candidates: Candidates) -> bool:
    """Whether a device's kernels of late interaction take the lists as they are (csrc/cuda/ops/largest.cpp).

    They may prepare all the others, which is more than gathering where there are fewer pairs than these.
    """
    if not are_padded(batches, candidates) or candidates.indices.numel() < batches.shape[not candidates.of_captions]:
        return False
    return on_tensor_cores(batches.regions)


def lists_fit_tiles(batches: Batches, candidates: Candidates) -> bool:
    """Whether the tiles of a device's attention have room for them, too (csrc/cuda/ops/tiles.cpp)."""
    if max(batches.regions.shape[1], batches.words.shape[1]) > _MOST_VECTORS:
        return False
    return lists_are_streamed(batches, candidates)


class _Part(NamedTuple):
    """The owner of a list and some of its members, in their order."""

    owner: int
    members: Tensor  # places
    batches: Batches


def _parts(places: Tensor, batches: Batches, of_captions: bool) -> Iterator[_Part]:
    """List by list, a bounded part of each gathered at a time."""
    sides = [(batches.regions, batches.region_counts), (batches.words, batches.word_counts)]
    (ours, our_counts), (theirs, their_counts) = sides[::-1] if of_captions else sides
    our_most, most = widest(ours, our_counts), widest(theirs, their_counts)
    our_counts, their_counts = (None if n is None else to_device(n, ours) for n in (our_counts, their_counts))
    step = max(1, _GATHERED_BYTES // max(1, most * theirs.shape[-1] * theirs.element_size()))
    for owner, list_ in enumerate(places):
        own = take(ours, our_counts, torch.arange(owner, owner + 1, device=places.device), our_most)
        for some in torch.split(list_, step):
            others = take(theirs, their_counts, some, most)
            (regions, region_counts), (words, word_counts) = (others, own) if of_captions else (own, others)
            yield _Part(owner, some, Batches(regions, words, word_counts, region_counts))


def gathered(score: Callable[[Batches], Tensor], batches: Batches, candidates: Candidates) -> Tensor:
    """Scores of candidates by an operator of all pairs."""
    indices, of_captions = candidates
    members = Members(candidates, batches)
    if not indices.numel() or not batches.shape[not of_captions]:
        dtype = torch.float64 if batches.regions.dtype == torch.float64 else torch.float32
        return members.finished(batches.regions.new_zeros(indices.shape, dtype=dtype))
    scores = [score(part.batches).flatten() for part in _parts(members.places, batches, of_captions)]
    return members.finished(torch.cat(scores).view(indices.shape))


def gradients_of_given(
    of_all: Callable[[Tensor, Batches], tuple[Tensor, Tensor]],
    grad: Tensor,
    batches: Batches,
    candidates: Candidates,
    needed: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:
    """Gradients of padded regions and words by an operator of all pairs: of all at once, or list by list.

    Args:
        of_all: Gradients of regions and words, by that of scores (n_images, n_captions).
        grad: In the shape of the candidates.
        batches: As in `gathered`.
        candidates: As in `gathered`.
        needed: Of regions and of words; what is not needed is returned without numbers.
    """
    indices, of_captions = candidates
    regions, words = batches.regions, batches.words
    n_others = batches.shape[not of_captions]
    members = Members(candidates, batches)
    cotangents = members.cotangents(grad)
    if n_others * regions.shape[1] * words.shape[1] <= _ALL_AT_ONCE:
        of_pairs = cotangents.new_zeros(len(indices), n_others)
        if n_others:
            owners = torch.arange(len(indices), device=indices.device)[:, None].expand_as(indices)
            of_pairs.index_put_((owners, members.places), cotangents, accumulate=True)
        return of_all(of_pairs.T if of_captions else of_pairs, batches)
    wide = torch.promote_types(regions.dtype, torch.float32)
    sides = zip((regions, words), needed, strict=True)
    sums = [vectors.new_zeros(vectors.shape if need else (0,), dtype=wide) for vectors, need in sides]
    done = 0
    for owner, places, some in _parts(members.places, batches, of_captions):
        cotangent, done = cotangents.flatten()[done : done + len(places)], done + len(places)
        found = of_all(cotangent[:, None] if of_captions else cotangent[None], some)
        if needed[of_captions]:
            sums[of_captions][owner] += found[of_captions][0]
        if needed[not of_captions]:  # sorted first, on a device: sums have an order
            sums[not of_captions].index_put_((places,), found[not of_captions].to(wide), accumulate=True)
    return sums[0].to(regions.dtype), sums[1].to(words.dtype)
