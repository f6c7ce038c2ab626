"""Some images and captions of a tile scorer, or of a pass over one, as if there were no others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from itm_fast.choices import Query
from itm_fast.similarities.scorers import Array, DotProductScorer, IntArray, MatrixScorer, TileScorer
from itm_fast.similarities.tiles import Collector
from itm_fast.similarities.two_way import TwoWayScorer

Order: TypeAlias = tuple[IntArray | None, IntArray | None]  # which images and which captions; None: all, as given


class Part:
    """Hands on the part of every tile that lies in some images and some captions, renumbered from 0."""

    def __init__(self, rows: IntArray | None, columns: IntArray | None, collectors: Sequence[Collector]) -> None:
        """Remember what to hand on.

        Args:
            rows: ascending numbers of images, or None for all.
            columns: ascending numbers of captions, or None for all.
            collectors: get what is left of each tile; at least one, all of one direction.
        """
        self._rows, self._columns, self._collectors = rows, columns, collectors

    @property
    def query(self) -> Query:
        """The direction of all its collectors."""
        return self._collectors[0].query

    def add(self, tile: Tensor, rows: slice, columns: slice) -> None:
        """Take the scores (n_rows, n_columns) of some images and captions."""
        tile, rows = _picked(tile, 0, rows, self._rows)
        tile, columns = _picked(tile, 1, columns, self._columns)
        if tile.numel():
            for collector in self._collectors:
                collector.add(tile, rows, columns)


def _picked(tile: Tensor, dim: int, given: slice, chosen: IntArray | None) -> tuple[Tensor, slice]:
    """The chosen ones among ``given`` along one axis, and their places among all that are chosen."""
    if chosen is None:
        return tile, given
    first, last = np.searchsorted(chosen, (given.start, given.stop)).tolist()
    places = chosen[first:last] - given.start
    if len(places) and places[-1] - places[0] + 1 == len(places):
        return tile.narrow(dim, int(places[0]), len(places)), slice(first, last)
    return tile.index_select(dim, torch.from_numpy(places).to(tile.device)), slice(first, last)


def select(scorer: TileScorer, rows: IntArray | None, columns: IntArray | None) -> TileScorer:
    """A scorer of some images and captions, in the order given.

    Args:
        scorer: the scorer of all.
        rows: (n,) numbers of images, or None for all in order.
        columns: (m,) numbers of captions, or None for all in order.

    Returns:
        A scorer of n x m pairs. Matrices and embeddings are picked from; a scorer with a method select(rows, columns)
        does it itself; of others the tile that spans the chosen ones is asked for.

    Raises:
        ValueError: a scorer that is neither matrix nor embeddings, and numbers that do not ascend.

    Example:
        >>> tile = select(MatrixScorer(torch.eye(3)), np.array([2, 0]), None)
        >>> tile(slice(0, 1), slice(0, 3))
        tensor([[0., 0., 1.]])
    """
    rows = None if rows is None or _all_in_order(rows, scorer.n_images) else rows
    columns = None if columns is None or _all_in_order(columns, scorer.n_captions) else columns
    if rows is None and columns is None:
        return scorer
    if isinstance(scorer, TwoWayScorer):
        sides = (scorer.images_to_captions, scorer.captions_to_images)
        return TwoWayScorer(*(select(side, rows, columns) for side in sides))
    if isinstance(scorer, DotProductScorer):
        images, captions = scorer.images, scorer.captions
        return DotProductScorer(
            images if rows is None else images[rows], captions if columns is None else captions[columns]
        )
    if isinstance(scorer, MatrixScorer):
        return _SelectedMatrix(scorer, rows, columns)
    own: Callable[[IntArray | None, IntArray | None], TileScorer] | None = getattr(scorer, "select", None)
    if own is not None:
        return own(rows, columns)
    for name, numbers in (("images", rows), ("captions", columns)):
        if numbers is not None and np.any(np.diff(numbers) <= 0):
            raise ValueError(
                f"the {name} of a callable can only be taken in its own order, but the ids ask for another one; pass "
                "embeddings or a matrix, or order the data set as the annotations are"
            )
    return _Selected(scorer, rows, columns)


def chosen(scorer: TileScorer) -> tuple[IntArray | None, IntArray | None]:
    """Which rows and columns of a matrix ``select`` has taken, None for all in order."""
    return (scorer.rows, scorer.columns) if isinstance(scorer, _SelectedMatrix) else (None, None)


def _all_in_order(numbers: IntArray, n: int) -> bool:
    return len(numbers) == n and bool(np.array_equal(numbers, np.arange(n)))


class _SelectedMatrix(MatrixScorer):
    """Tiles of the chosen rows and columns of a matrix."""

    rows: IntArray | None
    columns: IntArray | None

    def __init__(self, scorer: MatrixScorer, rows: IntArray | None, columns: IntArray | None) -> None:
        super().__init__(scorer.sims)
        if isinstance(scorer, _SelectedMatrix):  # a selection of a selection is one of the matrix
            rows, columns = _composed(scorer.rows, rows), _composed(scorer.columns, columns)
        self.rows, self.columns = rows, columns
        self.n_images = self.n_images if rows is None else len(rows)
        self.n_captions = self.n_captions if columns is None else len(columns)

    def __call__(self, rows: slice, columns: slice, /) -> Array:
        row_index = rows if self.rows is None else self.rows[rows]
        if self.columns is None:
            return self.sims[row_index, columns]
        column_index = self.columns[columns]
        if isinstance(self.sims, torch.Tensor) and self.sims.device.type != "cpu":
            return self.sims[row_index][:, column_index]
        # Row by row, and a row from its start to its end, as memory is read ahead; put in order is what was picked.
        numbers = range(rows.start, rows.stop) if self.rows is None else row_index.tolist()  # type: ignore[union-attr]
        ascending, places = np.sort(column_index), np.argsort(np.argsort(column_index))
        if isinstance(self.sims, torch.Tensor):
            picked, order = torch.from_numpy(ascending), torch.from_numpy(places)
            tile = self.sims.new_empty(len(numbers), len(picked))
            for place, number in enumerate(numbers):
                torch.index_select(self.sims[number].index_select(0, picked), 0, order, out=tile[place])
            return tile
        array = np.empty((len(numbers), len(column_index)), self.sims.dtype)
        for place, number in enumerate(numbers):
            self.sims[number].take(ascending).take(places, out=array[place], mode="clip")  # "raise" would buffer
        return array


def _composed(first: IntArray | None, then: IntArray | None) -> IntArray | None:
    if first is None or then is None:
        return first if then is None else then
    composed: IntArray = first[then]
    return composed


class _Selected:
    """Tiles of the chosen images and captions."""

    def __init__(self, scorer: TileScorer, rows: IntArray | None, columns: IntArray | None) -> None:
        self._scorer, self._rows, self._columns = scorer, rows, columns
        self.n_images = scorer.n_images if rows is None else len(rows)
        self.n_captions = scorer.n_captions if columns is None else len(columns)

    def __call__(self, rows: slice, columns: slice, /) -> Array:
        row_span, row_places = _span(rows, self._rows)
        column_span, column_places = _span(columns, self._columns)
        tile = self._scorer(row_span, column_span)
        for dim, places in enumerate((row_places, column_places)):
            if places is not None:
                tile = _taken(tile, places, dim)
        return tile


def _taken(tile: Array, places: IntArray, dim: int) -> Array:
    if isinstance(tile, torch.Tensor):
        return tile.index_select(dim, torch.from_numpy(places).to(tile.device))
    return tile.take(places, axis=dim)


def _span(given: slice, chosen: IntArray | None) -> tuple[slice, IntArray | None]:
    """The shortest slice that holds the chosen ones, and their places in it (None: all of it)."""
    if chosen is None:
        return given, None
    numbers = chosen[given]
    if not len(numbers):
        return slice(0, 0), None
    first, last = int(numbers.min()), int(numbers.max())
    places = numbers - first
    return slice(first, last + 1), None if _all_in_order(places, last + 1 - first) else places
