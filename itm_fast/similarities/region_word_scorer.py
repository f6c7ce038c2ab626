"""Tiles of similarities between the regions of images and the words of captions, block by block."""

from __future__ import annotations

import copy
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from itm_fast.ops._counts import Counts, as_counts, moved_to_front
from itm_fast.ops.max_similarity import max_similarity
from itm_fast.similarities.scorers import Vectors, as_float_tensor, unit_vectors

_BLOCK_BYTES = 64 << 20  # of vectors of one side, as float32


class Similarity(Protocol):
    """``max_similarity``, ``cross_attention_similarity``, either with options, or a module such as CrossAttention."""

    def __call__(
        self, regions: Tensor, words: Tensor, word_counts: Tensor | None, region_counts: Tensor | None, /
    ) -> Tensor:
        """Regions (n, max_regions, dim), words (m, max_words, dim) -> sims (n, m)."""
        ...


class RegionWordScorer:
    """Similarities of per-token embeddings: nothing but a block of vectors and a tile is ever in memory at once."""

    def __init__(
        self,
        regions: Vectors,
        words: Vectors,
        word_counts: Counts = None,
        region_counts: Counts = None,
        *,
        similarity: Similarity = max_similarity,
    ) -> None:
        """Keep the embeddings without a copy, also memory-mapped ones; nothing is scored yet.

        Args:
            regions: (n_images, max_regions, dim) real numbers; half precision is widened block by block.
            words: (n_captions, max_words, dim) real numbers.
            word_counts: (n_captions,) integers, 1 ... max_words: words of each caption; what lies beyond is never
                scored. Or a boolean mask (n_captions, max_words), padded on either side. None: all are valid.
            region_counts: (n_images,) or (n_images, max_regions), likewise for the regions.
            similarity: of a block of images and a block of captions. ``functools.partial`` sets the options of an
                operator.

        Raises:
            ValueError: shapes or counts that do not fit.
            TypeError: counts that are no integers.

        Example:
            >>> from itm_fast import evaluate
            >>> regions, words = torch.eye(4).reshape(2, 2, 4), torch.eye(4).reshape(2, 2, 4)
            >>> evaluate(RegionWordScorer(regions, words), captions_per_image=1)["rsum"]
            600.0
        """
        for name, vectors, shape in (
            ("regions", regions, "(n_images, max_regions, dim)"),
            ("words", words, "(n_captions, max_words, dim)"),
        ):
            if vectors.ndim != 3:
                raise ValueError(f"{name} has shape {tuple(vectors.shape)}, expected {shape}")
        if regions.shape[2] != words.shape[2]:
            raise ValueError(f"regions has dim {regions.shape[2]}, but words has dim {words.shape[2]}")
        self.n_images, self.n_captions = int(regions.shape[0]), int(words.shape[0])
        self.regions, self.words, self.similarity = regions, words, similarity
        self._word_counts = _checked_counts("word_counts", word_counts, "words", words)
        self._region_counts = _checked_counts("region_counts", region_counts, "regions", regions)

    def normalised(self) -> RegionWordScorer:
        """The same with every region and word at length 1; padding of zeros stays so."""
        scorer = copy.copy(self)
        scorer.regions, scorer.words = unit_vectors(self.regions), unit_vectors(self.words)
        return scorer

    @property
    def padding(self) -> tuple[int, int]:
        """How many places of regions and of words lie beyond the counts."""
        places = [(self.regions, self._region_counts.counts), (self.words, self._word_counts.counts)]
        n_regions, n_words = (
            0 if counts is None else int(of.shape[0] * of.shape[1] - counts.sum()) for of, counts in places
        )
        return n_regions, n_words

    @torch.no_grad()
    def __call__(self, rows: slice, columns: slice, /) -> Tensor:
        """The similarities of a tile, in at least float32."""
        bands = []
        for images in _blocks(rows, self.regions):
            regions, region_counts = _part(self.regions, self._region_counts, images)
            tiles = []
            for captions in _blocks(columns, self.words):
                words, word_counts = _part(self.words, self._word_counts, captions)
                dtype = torch.promote_types(regions.dtype, words.dtype)
                words = words.to(regions.device, dtype)
                tiles.append(self.similarity(regions.to(dtype), words, word_counts, region_counts))
            bands.append(torch.cat(tiles, dim=1))
        return torch.cat(bands)


class _Checked(NamedTuple):
    """Vectors of each caption or image, int64 on the CPU, None for all; and where each row begins, None for 0."""

    counts: Tensor | None
    first: Tensor | None


def _checked_counts(name: str, counts: Counts, of: str, vectors: Vectors) -> _Checked:
    if isinstance(counts, Tensor):
        counts = counts.cpu()
    n, most = int(vectors.shape[0]), int(vectors.shape[1])
    normal, first = as_counts(name, counts, of, (n, most), torch.device("cpu"))
    if normal is not None and (wrong := ((normal < 1) | (normal > most)).nonzero()).numel():
        place = int(wrong[0])
        raise ValueError(f"{name}[{place}] is {int(normal[place])}, expected 1 ... {most}, the vectors that there are")
    return _Checked(normal, first)


def _blocks(items: slice, vectors: Vectors) -> list[slice]:
    """Parts of a slice whose vectors fit a block; one empty part of an empty slice."""
    step = max(1, _BLOCK_BYTES // max(1, 4 * int(vectors.shape[1]) * int(vectors.shape[2])))
    starts = range(items.start, max(items.stop, items.start + 1), step)
    return [slice(start, min(start + step, items.stop)) for start in starts]


def _part(vectors: Vectors, checked: _Checked, items: slice) -> tuple[Tensor, Tensor | None]:
    some = as_float_tensor(vectors[items])
    counts, first = (None if each is None else each[items].to(some.device) for each in checked)
    return moved_to_front(some, first), counts
