"""One pass over the tiles of a similarity matrix, each handed to whatever collects from it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from itm_fast.choices import Query
from itm_fast.ops.ranking import has_kernels, has_nan
from itm_fast.similarities.scorers import Array, IntArray, TileScorer, as_float_tensor
from itm_fast.similarities.two_way import TwoWayScorer, of_query

Progress: TypeAlias = Callable[[int, int], None]

CHUNK_BYTES = 64 << 20
_BYTES_PER_SIM = 8  # float64, or float32 and one temporary of the scorer
# Tall tiles: what a product of embeddings prepares for a tile's captions serves many images.
_TILE_COLUMNS = 2048


class Collector(Protocol):
    """Whatever collects from tiles."""

    @property
    def query(self) -> Query:
        """The direction whose similarities it collects, where the two differ."""
        ...

    def add(self, tile: Tensor, rows: slice, columns: slice, /) -> None:
        """Take the scores (n_rows, n_columns) of some images and captions."""
        ...


class TurningCollector(Collector, Protocol):
    """Whatever also collects from tiles of which the turned one is meant."""

    def add_turned(self, tile: Tensor, rows: slice, columns: slice, /) -> None:
        """Take scores (n_rows, n_columns) that are those of the ``columns`` as images and the ``rows`` as captions."""
        ...


class Tiles:
    """Checked tiles of a scorer, and how far the pass has come."""

    def __init__(
        self,
        scorer: TileScorer,
        progress: Progress | None = None,
        what: str = "sims",
        captions: IntArray | None = None,
    ) -> None:
        """Nothing is scored yet.

        Args:
            scorer: similarities, or relevance, by tile.
            progress: called with (pairs done, pairs in all), first with (0, pairs in all).
            what: the name of the argument in errors.
            captions: what errors call the columns, if they are a selection.
        """
        self._captions = captions
        self.scorer, self._progress, self.what = scorer, progress, what
        self._done, self._total = 0, n_pairs(scorer)
        if progress is not None:
            progress(0, self._total)

    def score(self, rows: slice, columns: slice) -> Tensor:
        """One tile, float32 or float64, without NaN; where the scorer left it, if there are kernels for it there."""
        scored: Array = self.scorer(rows, columns)
        expected = (rows.stop - rows.start, columns.stop - columns.start)
        if tuple(scored.shape) != expected:
            raise ValueError(
                f"the tile scorer returned shape {tuple(scored.shape)} for rows {rows.start}:{rows.stop} and columns "
                f"{columns.start}:{columns.stop}, expected {expected}"
            )
        tile = as_float_tensor(scored)
        if not has_kernels(tile.device):
            tile = tile.cpu()
        if has_nan(tile):
            first = torch.nonzero(torch.isnan(tile))[0].tolist()
            row, column = rows.start + first[0], columns.start + first[1]
            column = column if self._captions is None else int(self._captions[column])
            raise ValueError(f"{self.what} is NaN at row (image) {row}, column (caption) {column}; NaN has no rank")
        return tile

    def dtype(self) -> torch.dtype:
        """float32 or float64: the type in which the tiles are compared."""
        if isinstance(self.scorer, TwoWayScorer):
            return torch.promote_types(*(tiles.dtype() for tiles in self._directions().values()))
        return self.score(slice(0, min(1, self.scorer.n_images)), slice(0, min(1, self.scorer.n_captions))).dtype

    def collect(
        self,
        bounds: tuple[IntArray, IntArray],
        n_sims: int,
        everywhere: Iterable[Collector],
        in_folds: Iterable[Collector],
    ) -> None:
        """Score every pair once; where the two directions differ, once for each that somebody collects.

        Args:
            bounds: first row and column of each fold and the end of the last, as ``Positives.fold_bounds`` has them.
            n_sims: bound of one tile, in pairs.
            everywhere: get every tile.
            in_folds: get the tiles inside one fold; no tile lies across a border.
        """
        everywhere, in_folds = list(everywhere), list(in_folds)
        if isinstance(self.scorer, TwoWayScorer):
            for query, tiles in self._directions().items():
                theirs = [[one for one in some if one.query == query] for some in (everywhere, in_folds)]
                if any(theirs):
                    tiles.collect(bounds, n_sims, *theirs)
                self._done += tiles._total
                if self._progress is not None:
                    self._progress(self._done, self._total)
            return
        for rows, columns, inside in _grid(*bounds, n_sims):
            tile = self.score(rows, columns)
            for collector in (*everywhere, *(in_folds if inside else ())):
                collector.add(tile, rows, columns)
            self._done += tile.numel()
            if self._progress is not None:
                self._progress(self._done, self._total)

    def collect_symmetric(self, n_sims: int, collectors: Iterable[TurningCollector]) -> None:
        """Score every pair of a symmetric matrix once, and hand its tile on for both of its places.

        Args:
            n_sims: bound of one tile, in pairs.
            collectors: get every tile on and above the diagonal, and those below it as what these are turned.
        """
        collectors, side = list(collectors), max(1, math.isqrt(n_sims))
        steps = [columns for _, columns in _steps(np.array([0, self.scorer.n_images]), side)]
        for place, rows in enumerate(steps):
            for columns in steps[place:]:
                tile = self.score(rows, columns)
                for collector in collectors:
                    collector.add(tile, rows, columns)
                    if columns is not rows:
                        collector.add_turned(tile, rows, columns)
                self._done += tile.numel() * (1 + (columns is not rows))
                if self._progress is not None:
                    self._progress(self._done, self._total)

    def _directions(self) -> dict[Query, Tiles]:
        """The tiles of either direction; their progress is a part of that of both."""

        def report(done: int, _: int) -> None:
            if self._progress is not None and done:
                self._progress(self._done + done, self._total)

        queries: tuple[Query, Query] = ("image", "caption")
        what = f"{self.what} of {{}} queries"
        return {q: Tiles(of_query(self.scorer, q), report, what.format(q), self._captions) for q in queries}


def n_pairs(scorer: TileScorer) -> int:
    """Pairs that a pass for both directions scores."""
    return (1 + isinstance(scorer, TwoWayScorer)) * scorer.n_images * scorer.n_captions


def everything(scorer: TileScorer) -> tuple[IntArray, IntArray]:
    """The bounds of a single fold that holds all images and captions."""
    return np.array([0, scorer.n_images]), np.array([0, scorer.n_captions])


def tile_sims(chunk_bytes: int) -> int:
    """Similarities of a tile; ValueError unless there is room for one."""
    if chunk_bytes < _BYTES_PER_SIM:
        raise ValueError(f"chunk_bytes is {chunk_bytes}, expected at least {_BYTES_PER_SIM}")
    return chunk_bytes // _BYTES_PER_SIM


def _grid(row_bounds: IntArray, column_bounds: IntArray, n_sims: int) -> Iterator[tuple[slice, slice, bool]]:
    """Tiles of at most n_sims pairs that cover the matrix, never across a fold's border; and if inside a fold."""
    height = max(1, math.isqrt(n_sims), n_sims // _TILE_COLUMNS)
    for row_fold, rows in _steps(row_bounds, height):
        width = max(1, n_sims // (rows.stop - rows.start))
        for column_fold, columns in _steps(column_bounds, width):
            yield rows, columns, row_fold == column_fold


def _steps(bounds: IntArray, step: int) -> Iterator[tuple[int, slice]]:
    for fold, (start, stop) in enumerate(itertools.pairwise(bounds.tolist())):
        for first in range(start, stop, step):
            yield fold, slice(first, min(first + step, stop))
