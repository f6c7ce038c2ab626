"""Tiles of similarities between the regions of images and the words of captions, block by block."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from itm_fast.ops.max_similarity import max_similarity
from itm_fast.similarities.scorers import Vectors, as_float_tensor, unit_vectors

_BLOCK_BYTES = 64 << 20  # of vectors of one side, as float32
Counts = Tensor | npt.ArrayLike | None


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
                scored. None: all are valid.
            region_counts: (n_images,) integers, likewise for the regions.
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
        self._word_counts = _checked_counts("word_counts", word_counts, "captions", words)
        self._region_counts = _checked_counts("region_counts", region_counts, "images", regions)

    def normalised(self) -> RegionWordScorer:
        """The same with every region and word at length 1; padding of zeros stays so."""
        return RegionWordScorer(
            unit_vectors(self.regions),
            unit_vectors(self.words),
            self._word_counts,
            self._region_counts,
            similarity=self.similarity,
        )

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


def _checked_counts(name: str, counts: Counts, of: str, vectors: Vectors) -> Tensor | None:
    if counts is None:
        return None
    array = counts.cpu().numpy() if isinstance(counts, Tensor) else np.asarray(counts)
    n, most = int(vectors.shape[0]), int(vectors.shape[1])
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {array.dtype}, expected integers")
    if array.shape != (n,):
        raise ValueError(f"{name} has shape {array.shape}, expected ({n},), one count for each of the {of}")
    outside = (array < 1) | (array > most)
    if outside.any():
        place = int(np.argmax(outside))
        raise ValueError(f"{name}[{place}] is {array[place]}, expected 1 ... {most}, the vectors that there are")
    return torch.from_numpy(array.astype(np.int64))


def _blocks(items: slice, vectors: Vectors) -> list[slice]:
    """Parts of a slice whose vectors fit a block; one empty part of an empty slice."""
    step = max(1, _BLOCK_BYTES // max(1, 4 * int(vectors.shape[1]) * int(vectors.shape[2])))
    starts = range(items.start, max(items.stop, items.start + 1), step)
    return [slice(start, min(start + step, items.stop)) for start in starts]


def _part(vectors: Vectors, counts: Tensor | None, items: slice) -> tuple[Tensor, Tensor | None]:
    some = as_float_tensor(vectors[items])
    return some, None if counts is None else counts[items].to(some.device)
