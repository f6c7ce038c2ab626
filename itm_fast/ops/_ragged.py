"""Groups of vectors as people have them, made what the operators take: padded with counts, packed, or a list."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from itm_fast.ops import _checks
from itm_fast.ops._counts import Counts, counted

PACKED_ON = ("cpu", "meta")
"""Devices whose kernels read packed vectors where they lie, and walk lists of candidates."""

_PADDED_BYTES = 256 << 20  # of packed vectors that are padded at a time where kernels take nothing else


class Packed(NamedTuple):
    """Groups of vectors one after another without padding, as flash attention has them (`cu_seqlens`).

    Attributes:
        vectors: (total, dim), those of the first group, of the second, and so on.
        offsets: (n + 1,) integers: group g has rows offsets[g] ... offsets[g + 1] - 1; from 0 to total. On the CPU
            beside vectors on another device nobody waits to read them.

    Example:
        >>> Packed(torch.randn(7, 64), torch.tensor([0, 4, 7])).vectors.shape  # two groups, of 4 and of 3 vectors
        torch.Size([7, 64])
    """

    vectors: Tensor
    offsets: Tensor


Groups: TypeAlias = Tensor | Packed | Sequence[Tensor]
"""(n, max, dim) with counts or a mask beside it; packed; or a list of n matrices (n_i, dim)."""


class Batches(NamedTuple):
    """Two batches as the operators take them: (n, max, dim) with counts (n,) or None for all, or (total, dim) with.

    Counts are on the device of the vectors, but those of (total, dim) on the CPU where kernels take nothing packed.
    """

    regions: Tensor
    words: Tensor
    word_counts: Tensor | None
    region_counts: Tensor | None

    @property
    def shape(self) -> tuple[int, int]:
        """Images and captions there are."""
        return n_groups(self.regions, self.region_counts), n_groups(self.words, self.word_counts)


class Names(NamedTuple):
    """What one side is called in messages."""

    vectors: str
    counts: str
    shape: str


REGIONS = Names("regions", "region_counts", "(n_images, max_regions, dim)")
WORDS = Names("words", "word_counts", "(n_captions, max_words, dim)")


def as_batches(
    regions: Groups,
    words: Groups,
    word_counts: Counts,
    region_counts: Counts,
    names: tuple[Names, Names] = (REGIONS, WORDS),
) -> Batches:
    """Both sides of a similarity in whatever form they come.

    Raises:
        ValueError: Shapes, devices, counts or offsets do not fit; the message names the argument, and the right form.
        TypeError: A dtype is not supported, or the two differ.
    """
    sides = [
        _unlisted(name, given, counts)
        for name, given, counts in zip(names, (regions, words), (region_counts, word_counts), strict=True)
    ]
    (regions, of_regions), (words, of_words) = sides
    if isinstance(regions, Tensor) and isinstance(words, Tensor):
        regions, words = _checks.autocast(regions, words)
    shapes = [name.shape if packed is None else "(total, dim)" for name, (_, packed) in zip(names, sides, strict=True)]
    _checks.check_vectors(regions, words, (names[0].vectors, names[1].vectors), (shapes[0], shapes[1]))
    if of_regions is None:
        regions, of_regions = counted(names[0].counts, region_counts, names[0].vectors, regions)
    else:
        of_regions = where_read(regions, of_regions)
    if of_words is None:
        words, of_words = counted(names[1].counts, word_counts, names[1].vectors, words)
    else:
        of_words = where_read(words, of_words)
    return Batches(regions, words, of_words, of_regions)


def where_read(vectors: Tensor, counts: Tensor) -> Tensor:
    """Counts of packed vectors where they are read: with them by kernels, else on the CPU, for which a device waits."""
    return counts if vectors.device.type in PACKED_ON else counts.cpu()


def packed_words(words: Groups, word_counts: Counts) -> tuple[Tensor, Counts]:
    """Words (total, dim) of an operator that takes them packed, and their counts, on the CPU or with them."""
    vectors, counts = _unlisted(WORDS, words, word_counts)
    return vectors, word_counts if counts is None else counts


def packed_regions(regions: Groups) -> tuple[Tensor, Tensor | None]:
    """Regions as they are, or (total, dim) and their counts where they are packed or listed."""
    vectors, counts = _unlisted(REGIONS, regions, None)
    return vectors, None if counts is None else where_read(vectors, counts)


def _unlisted(name: Names, given: Groups, counts: Counts) -> tuple[Tensor, Tensor | None]:
    """Vectors, and the counts of those that are packed or listed, where nobody waits for them."""
    if isinstance(given, Tensor) or not isinstance(given, (list, tuple)):
        return given, None  # type: ignore[return-value]  # whatever it is, the checks name it
    if counts is not None:
        raise ValueError(
            f"{name.vectors} are {'Packed' if isinstance(given, Packed) else 'a list'}, which says how many there are: "
            f"leave {name.counts} out"
        )
    vectors, counts = (given.vectors, _counts_of(name, given)) if isinstance(given, Packed) else _joined(name, given)
    return vectors, counts.to(vectors.device) if vectors.device.type in PACKED_ON else counts


def _counts_of(name: Names, packed: Packed) -> Tensor:
    vectors, offsets = packed
    form = f"{name.vectors}=Packed(vectors (total, dim), offsets (n + 1,))"
    if not isinstance(vectors, Tensor) or not isinstance(offsets, Tensor):
        raise TypeError(f"{form} takes two tensors, got {type(vectors).__name__} and {type(offsets).__name__}")
    if vectors.ndim != 2:
        raise ValueError(f"{form} got vectors of shape {tuple(vectors.shape)}; padded vectors are given as they are")
    if offsets.ndim != 1 or not len(offsets) or offsets.is_floating_point() or offsets.dtype == torch.bool:
        raise ValueError(f"{form} got offsets of shape {tuple(offsets.shape)} and {offsets.dtype}; expected integers")
    if offsets.device.type == "cpu" and not torch.compiler.is_compiling():  # the operator sees the rest
        ends = int(offsets[0]), int(offsets[-1])
        if ends != (0, len(vectors)):
            raise ValueError(
                f"{form} got offsets from {ends[0]} to {ends[1]}; expected 0 to {len(vectors)}, the vectors there are. "
                f"Of counts: Packed(vectors, torch.nn.functional.pad(counts.cumsum(0), (1, 0)))"
            )
    return offsets.to(torch.int64).diff()


def _joined(name: Names, matrices: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    if not matrices:
        raise ValueError(f"{name.vectors} is an empty list, which has no dim; expected matrices (n_i, dim)")
    for place, matrix in enumerate(matrices):
        if not isinstance(matrix, Tensor):
            raise TypeError(f"{name.vectors}[{place}] must be a torch.Tensor (n_i, dim), got {type(matrix).__name__}")
        fits = matrix.ndim == 2 and matrix.shape[1:] == matrices[0].shape[1:]
        if not fits or matrix.dtype != matrices[0].dtype or matrix.device != matrices[0].device:
            first = matrices[0]
            raise ValueError(
                f"{name.vectors}[{place}] has shape {tuple(matrix.shape)}, {matrix.dtype}, {matrix.device}; a list is "
                f"of matrices (n_i, dim) alike, and {name.vectors}[0] has {tuple(first.shape)}, {first.dtype}, "
                f"{first.device}"
            )
    return torch.cat(list(matrices)), torch.tensor([matrix.shape[0] for matrix in matrices])


def n_groups(vectors: Tensor, counts: Tensor | None) -> int:
    """Groups of a batch in either form."""
    return vectors.shape[0] if vectors.ndim == 3 or counts is None else counts.shape[0]


def widest(vectors: Tensor, counts: Tensor | None) -> int:
    """Vectors that a group of a batch has at most."""
    if vectors.ndim == 3 or counts is None:
        return vectors.shape[-2]
    return int(counts.max()) if len(counts) else 1


def to_device(counts: Tensor, vectors: Tensor) -> Tensor:
    """Counts on the device of the vectors; nobody waits for what it has still to do."""
    return counts.to(vectors.device, non_blocking=True)


def take(vectors: Tensor, counts: Tensor | None, groups: Tensor, most: int) -> tuple[Tensor, Tensor | None]:
    """Some groups (n,) of a batch in either form, as a padded one; of packed ones wide enough for `most` vectors."""
    if vectors.ndim == 3:
        return vectors[groups], None if counts is None else counts[groups]
    assert counts is not None
    counts, groups = to_device(counts, vectors), to_device(groups, vectors)
    sizes, place = counts[groups], torch.arange(most, device=vectors.device)
    missing = place >= sizes[:, None]
    rows = ((counts.cumsum(0) - counts)[groups][:, None] + place).masked_fill_(missing, 0)
    return vectors[rows].masked_fill(missing[..., None], 0), sizes


def in_padded_runs(score: Callable[[Batches], Tensor], batches: Batches) -> Tensor:
    """Scores (n_images, n_captions) by an operator of padded batches, of packed ones some groups at a time."""
    if batches.regions.ndim == 3 and batches.words.ndim == 3:
        return score(batches)
    bands = []
    for regions, region_counts in padded_runs(batches.regions, batches.region_counts):
        runs = padded_runs(batches.words, batches.word_counts)
        tiles = [score(Batches(regions, words, word_counts, region_counts)) for words, word_counts in runs]
        bands.append(torch.cat(tiles, dim=1))
    return torch.cat(bands)


def padded(vectors: Tensor, counts: Tensor | None, *, within: int | None = None) -> tuple[Tensor, Tensor | None]:
    """A batch in either form as a padded one, in one piece.

    One that padding would make more than `within` times as large stays packed.
    """
    if vectors.ndim == 3 or counts is None:
        return vectors, counts
    widths = _widths(vectors, counts)
    most = max(widths, default=1)
    if within is not None and most * len(widths) > within * len(vectors):
        return vectors, counts
    return take(vectors, counts, torch.arange(len(widths), device=vectors.device), most)


def _widths(vectors: Tensor, counts: Tensor) -> list[int]:
    widths: list[int] = counts.tolist()
    if min(widths, default=1) < 1 or sum(widths) != len(vectors):
        raise ValueError(f"counts of packed vectors must be at least 1 and sum to {len(vectors)}, got {widths}")
    return widths


def padded_runs(vectors: Tensor, counts: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """A batch as it is, or one that is packed in padded parts; one part of an empty one."""
    if vectors.ndim == 3:
        yield vectors, counts
        return
    assert counts is not None
    widths = _widths(vectors, counts)
    room = max(1, _PADDED_BYTES // max(1, vectors.shape[1] * vectors.element_size()))
    sizes, first, most = to_device(counts, vectors), 0, 1
    for place, width in enumerate(widths):
        if place > first and max(most, width) * (place + 1 - first) > room:
            yield take(vectors, sizes, torch.arange(first, place, device=vectors.device), most)
            first, most = place, 1
        most = max(most, width)
    yield take(vectors, sizes, torch.arange(first, len(widths), device=vectors.device), most)
