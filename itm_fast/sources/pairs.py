"""Similarities of given pairs of an image and a caption, where the matrix of all is too dear."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from itm_fast.choices import Query
from itm_fast.similarities.scorers import (
    Array,
    DotProductScorer,
    IntArray,
    MatrixScorer,
    Sims,
    TileScorer,
    as_float_tensor,
    as_scorer,
)
from itm_fast.similarities.tiles import CHUNK_BYTES, Progress, Tiles, everything, tile_sims

_PAIRS_AT_A_TIME = 1 << 16


@runtime_checkable
class PairScorer(Protocol):
    """Whatever scores given pairs; ``ModelScorer`` and ``EnsembleScorer`` do."""

    @property
    def n_images(self) -> int:
        """Images there are."""
        ...

    @property
    def n_captions(self) -> int:
        """Captions there are."""
        ...

    def score_pairs(self, rows: IntArray, columns: IntArray, progress: Progress | None = None, /) -> Array:
        """(n,) similarities of the images ``rows`` (n,) with the captions ``columns`` (n,), sorted by image, distinct.

        Calls progress with (pairs done, pairs in all), if it is given.
        """
        ...


PairSims: TypeAlias = PairScorer | Sims | Callable[[IntArray, IntArray], Array]


def as_pair_scorer(sims: PairSims, n_images: int, n_captions: int) -> PairScorer:
    """The pair scorer of whatever a user may pass as a slow model.

    Args:
        sims: an object with ``score_pairs``; a function (rows (n,), columns (n,) int64) -> (n,) similarities; or, as
            in ``evaluate``, a matrix, a pair of embeddings, or a tile scorer, of which all tiles are asked for.
        n_images: images of the set.
        n_captions: captions of the set.

    Returns:
        An object with ``score_pairs``.

    Raises:
        TypeError: anything else.
        ValueError: other sizes.

    Example:
        >>> scorer = as_pair_scorer(lambda rows, columns: 10.0 * rows + columns, 2, 3)
        >>> scorer.score_pairs(np.array([0, 1]), np.array([2, 0]))
        tensor([ 2., 10.], dtype=torch.float64)
    """
    scorer: PairScorer
    if isinstance(sims, PairScorer):
        scorer = sims
    elif callable(sims) and not isinstance(sims, (TileScorer, Tensor)):
        scorer = _Called(sims, n_images, n_captions)  # type: ignore[arg-type]  # a callable of slices has sizes
    else:
        of = as_scorer(sims)
        if type(of) is MatrixScorer:
            scorer = _OfMatrix(of)
        else:
            scorer = _OfEmbeddings(of) if isinstance(of, DotProductScorer) else _OfTiles(of)
    if (scorer.n_images, scorer.n_captions) != (n_images, n_captions):
        raise ValueError(
            f"the fine scores are of {scorer.n_images} images x {scorer.n_captions} captions, but the coarse ones of "
            f"{n_images} x {n_captions}; both must be of the same set, in the same order"
        )
    return scorer


def n_scored(scorer: PairScorer, n_pairs: int) -> int:
    """Pairs that are really scored where ``n_pairs`` are wanted."""
    return scorer.n_images * scorer.n_captions if isinstance(scorer, _OfTiles) else n_pairs


class PairScores:
    """Collects the similarities of some pairs while the tiles go by."""

    def __init__(self, rows: IntArray, columns: IntArray, query: Query = "image") -> None:
        """Remember the pairs.

        Args:
            rows: (n,) images.
            columns: (n,) captions.
            query: the direction whose similarities are collected, where the two differ.
        """
        self.query: Query = query
        self._order = np.argsort(rows, kind="stable")
        self._rows, self._columns = rows[self._order], columns[self._order]
        self.scores = np.full(len(rows), np.nan)

    def add(self, tile: Tensor, rows: slice, columns: slice) -> None:
        """Take the scores (n_rows, n_columns) of some images and captions."""
        first, last = np.searchsorted(self._rows, (rows.start, rows.stop))
        here = np.flatnonzero((self._columns[first:last] >= columns.start) & (self._columns[first:last] < columns.stop))
        here += first
        inside = torch.from_numpy(np.stack([self._rows[here] - rows.start, self._columns[here] - columns.start]))
        row, column = inside.to(tile.device)
        self.scores[self._order[here]] = tile[row, column].cpu().double()


class _Called:
    """A function of pairs, called for some at a time."""

    def __init__(self, function: Callable[[IntArray, IntArray], Array], n_images: int, n_captions: int) -> None:
        self._function, self.n_images, self.n_captions = function, n_images, n_captions

    def score_pairs(self, rows: IntArray, columns: IntArray, progress: Progress | None = None, /) -> Tensor:
        parts = []
        for start in range(0, len(rows), _PAIRS_AT_A_TIME):
            some = slice(start, start + _PAIRS_AT_A_TIME)
            part = as_float_tensor(self._function(rows[some], columns[some])).cpu()
            if part.shape != (len(rows[some]),):
                raise ValueError(
                    f"the scorer of pairs returned shape {tuple(part.shape)} for {len(rows[some])} pairs, expected "
                    f"({len(rows[some])},)"
                )
            parts.append(part)
            if progress is not None:
                progress(min(some.stop, len(rows)), len(rows))
        return torch.cat(parts) if parts else torch.zeros(0)


class _OfMatrix(_Called):
    """Pairs of a matrix that exists already."""

    def __init__(self, scorer: MatrixScorer) -> None:
        super().__init__(self._picked, scorer.n_images, scorer.n_captions)
        self._sims = scorer.sims

    def _picked(self, rows: IntArray, columns: IntArray) -> Array:
        if isinstance(self._sims, Tensor):
            index = torch.from_numpy(np.stack([rows, columns])).to(self._sims.device)
            return self._sims[index[0], index[1]]
        return self._sims[rows, columns]


class _OfEmbeddings(_Called):
    """Dot products of pairs of embeddings."""

    def __init__(self, scorer: DotProductScorer) -> None:
        super().__init__(self._products, scorer.n_images, scorer.n_captions)
        self._images, self._captions = scorer.images, scorer.captions

    def _products(self, rows: IntArray, columns: IntArray) -> Tensor:
        images, captions = as_float_tensor(self._images[rows]), as_float_tensor(self._captions[columns])
        products: Tensor = torch.linalg.vecdot(images, captions.to(images))
        return products


class _OfTiles:
    """Pairs picked from the tiles of a scorer that knows nothing else: all pairs are scored."""

    def __init__(self, scorer: TileScorer) -> None:
        self._scorer = scorer
        self.n_images, self.n_captions = scorer.n_images, scorer.n_captions

    def score_pairs(self, rows: IntArray, columns: IntArray, progress: Progress | None = None, /) -> Tensor:
        pairs = PairScores(rows, columns)
        Tiles(self._scorer, progress, "fine").collect(everything(self._scorer), tile_sims(CHUNK_BYTES), [pairs], ())
        return torch.from_numpy(pairs.scores)
