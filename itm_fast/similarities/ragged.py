"""Items of many vectors each, as token-level models make them: flat arrays, and their late interaction tile by tile."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from itm_fast.ops._ragged import Packed
from itm_fast.ops.max_similarity import max_similarity
from itm_fast.similarities.scorers import Array, IntArray, UnitVectors, Vectors, as_float_tensor, unit_vectors

_BLOCK_BYTES = 64 << 20  # of vectors of one side, as float32


class RaggedVectors:
    """Vectors of items that have many each, one after the other; also memory-mapped.

    Attributes:
        vectors: (total, dim), of all items.
        counts: (n,) int64, vectors of each item, at least 1.
        dim: numbers a vector.
    """

    def __init__(self, vectors: Vectors, offsets: IntArray) -> None:
        """Keep ``vectors``, any real dtype, without a copy.

        Args:
            vectors: (total, dim).
            offsets: (n + 1,) int64: item i has rows offsets[i] ... offsets[i + 1] - 1; from 0 to total.

        Raises:
            ValueError: they do not fit each other, or an item has no vectors.

        Example:
            >>> RaggedVectors(torch.eye(3), np.array([0, 1, 3])).counts
            array([1, 2])
        """
        if vectors.ndim != 2:
            raise ValueError(f"vectors has shape {tuple(vectors.shape)}, expected (total, dim)")
        if offsets.ndim != 1 or not len(offsets) or offsets[0] != 0 or offsets[-1] != len(vectors):
            raise ValueError(f"offsets must be (n + 1,) integers from 0 to {len(vectors)}, the vectors there are")
        self.vectors, self.counts = vectors, np.diff(offsets.astype(np.int64))
        self._starts: IntArray = offsets[:-1].astype(np.int64)
        empty = np.flatnonzero(offsets[1:] <= offsets[:-1])  # differences of any int64 could overflow
        if len(empty):
            raise ValueError(f"offsets: item {empty[0]} has no vectors, expected at least one of each")
        self.dim = int(vectors.shape[1])

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def dtype(self) -> str:
        """Of the vectors as they are stored."""
        stored = self.vectors.vectors if isinstance(self.vectors, UnitVectors) else self.vectors
        return str(stored.dtype).removeprefix("torch.")

    def __getitem__(self, items: slice | IntArray, /) -> RaggedVectors:
        """Some items, in the order given; no vector is read."""
        some = copy.copy(self)
        some.counts, some._starts = self.counts[items], self._starts[items]
        return some

    def normalised(self) -> RaggedVectors:
        """The same at length 1, which are made when they are read."""
        unit = copy.copy(self)
        unit.vectors = unit_vectors(self.vectors)
        return unit

    def packed(self) -> Packed:
        """All vectors, read now: float16, which kernels read as it is, float32 or float64."""
        offsets = np.concatenate([[0], np.cumsum(self.counts)])
        ends = self._starts + self.counts
        cuts = np.flatnonzero(ends[:-1] != self._starts[1:]) + 1  # where the next item does not follow in the array
        runs = zip(self._starts[[0, *cuts]], ends[[*(cuts - 1), -1]], strict=True) if len(self) else [(0, 0)]
        parts = [_as_tensor(self.vectors[int(first) : int(last)]) for first, last in runs]
        return Packed(parts[0] if len(parts) == 1 else torch.cat(parts), torch.from_numpy(offsets))


class PackedSimilarity(Protocol):
    """``max_similarity``, or such a function with options."""

    def __call__(self, regions: Packed, words: Packed, /) -> Tensor:
        """Regions of n images, words of m captions -> sims (n, m)."""
        ...


class RaggedScorer:
    """Late interaction of ragged sets: nothing but a block of vectors of either side and a tile is in memory."""

    def __init__(
        self, regions: RaggedVectors, words: RaggedVectors, *, similarity: PackedSimilarity = max_similarity
    ) -> None:
        """Keep the vectors without a copy; nothing is scored yet.

        Args:
            regions: vectors of the images.
            words: vectors of the captions, in the same space.
            similarity: of a block of images and a block of captions; ``functools.partial`` sets options.

        Raises:
            ValueError: the two have different dimensions.

        Example:
            >>> regions = RaggedVectors(torch.eye(3), np.array([0, 1, 3]))
            >>> RaggedScorer(regions, regions)(slice(0, 2), slice(0, 2))
            tensor([[1., 0.],
                    [0., 2.]])
        """
        if regions.dim != words.dim:
            raise ValueError(f"regions has dim {regions.dim}, but words has dim {words.dim}")
        self.regions, self.words, self.similarity = regions, words, similarity

    @property
    def n_images(self) -> int:
        """Images there are."""
        return len(self.regions)

    @property
    def n_captions(self) -> int:
        """Captions there are."""
        return len(self.words)

    def normalised(self) -> RaggedScorer:
        """The same with every vector at length 1."""
        return RaggedScorer(self.regions.normalised(), self.words.normalised(), similarity=self.similarity)

    def select(self, rows: IntArray | None, columns: IntArray | None) -> RaggedScorer:
        """Some images and captions, in the order given; None: all."""
        regions = self.regions if rows is None else self.regions[rows]
        words = self.words if columns is None else self.words[columns]
        return RaggedScorer(regions, words, similarity=self.similarity)

    @torch.no_grad()
    def __call__(self, rows: slice, columns: slice, /) -> Tensor:
        """The similarities of a tile, in at least float32."""
        bands = []
        for regions in _blocks(self.regions[rows]):
            tiles = []
            for words in _blocks(self.words[columns]):
                dtype = torch.promote_types(regions.vectors.dtype, words.vectors.dtype)
                tiles.append(self.similarity(_as(dtype, regions), _as(dtype, words)))
            bands.append(torch.cat(tiles, dim=1))
        return torch.cat(bands)


def _blocks(ragged: RaggedVectors) -> Iterator[Packed]:
    """Items that follow each other, as many at a time as fit a block; one empty block of no items."""
    room = max(1, _BLOCK_BYTES // (4 * max(1, ragged.dim)))
    ends, first = np.cumsum(ragged.counts), 0
    while first < len(ragged) or not first:
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + room, side="right")))
        yield ragged[first:last].packed()
        first = last


def _as(dtype: torch.dtype, packed: Packed) -> Packed:
    return Packed(packed.vectors.to(dtype), packed.offsets)


def _as_tensor(vectors: Array) -> Tensor:
    if isinstance(vectors, np.ndarray) and vectors.dtype == np.float16:
        return torch.from_numpy(np.array(vectors))
    if isinstance(vectors, Tensor) and vectors.dtype == torch.float16:
        return vectors.detach()
    return as_float_tensor(vectors)
