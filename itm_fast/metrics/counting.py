"""Ranks by counting: how many items come before the positives of a query; knows no scorers or files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from itm_fast.choices import Query
from itm_fast.ops.ranking import count_ranks_
from itm_fast.similarities.scorers import DotProductScorer, MatrixScorer
from itm_fast.similarities.selection import select
from itm_fast.similarities.tiles import Tiles

# A tile of few queries wastes little (it scores all their positives with all of them), yet fills the units of a GEMM.
_POSITIVE_QUERIES, _POSITIVE_ITEMS = 256, 2048
_FEW_RUNS = 8
_MAX_GAP = 8  # columns between two positives that are cheaper scored along than split into two tiles

ALL_CANDIDATES = torch.iinfo(torch.int64).max


@dataclass(frozen=True, eq=False)
class Ranks:
    """0-based ranks of the positives of every query of one direction.

    Queries without a positive (images without captions) hold -1 throughout and are left out of every metric.

    Attributes:
        optimistic: (n_queries,) int64, items scored above the best positive.
        pessimistic: (n_queries,) int64, non-positives scored at least as high as the best positive.
        best: (n_queries,) int64, rank of the first positive when equal scores are taken lower index first.
        positives: (n_queries, most positives of a query) int64, rank of every positive under that same order,
            ascending; -1 where a query has fewer.
        n_positives: (n_queries,) int64.
        n_candidates: (n_queries,) int64, items scored above -inf, where a positive is not among them: it shares the
            last places with others that were no candidates, and its rank says nothing. Elsewhere ALL_CANDIDATES.
        best_item: (n_queries,) int64, the positive whose rank is ``best``; -1 where none is in the gallery.
        best_score: (n_queries,) float, its score; -inf where there is none.
    """

    optimistic: Tensor
    pessimistic: Tensor
    best: Tensor
    positives: Tensor
    n_positives: Tensor
    n_candidates: Tensor
    best_item: Tensor
    best_score: Tensor

    def subset(self, queries: slice) -> Ranks:
        """The ranks of some queries."""
        return Ranks(
            self.optimistic[queries],
            self.pessimistic[queries],
            self.best[queries],
            self.positives[queries],
            self.n_positives[queries],
            self.n_candidates[queries],
            self.best_item[queries],
            self.best_score[queries],
        )


class RankCounter:
    """Counts, for one direction, the non-positives that come before each positive, as tiles arrive.

    "Item x comes before positive p" means score(x) > score(p), or equal and of lower index. A positive that is scored
    again in a tile, perhaps with another rounding, never counts against another positive or itself.
    """

    def __init__(self, query: Query, scores: Tensor, index: Tensor) -> None:
        """Start at zero.

        Args:
            query: the direction: whether the rows (images) or the columns (captions) of the tiles are the queries.
            scores: (n_queries, most positives) float, scores of the positives; anything where ``index`` is -1. Tiles
                are counted on their device.
            index: (n_queries, most positives) int64, their gallery indices, ascending, -1 where missing.
        """
        index = index.to(scores.device)
        missing = index < 0
        # Missing slots are last in every row and no score is below -inf, so a stable sort leaves them last.
        ordered = torch.sort(scores.masked_fill(missing, -torch.inf), dim=1, descending=True, stable=True)
        self.query = query
        self._scores, self._index = ordered.values.contiguous(), index.gather(1, ordered.indices).contiguous()
        self._n_positives = (~missing).sum(1)
        self._n_above, self._n_at_least = torch.zeros_like(self._n_positives), torch.zeros_like(self._n_positives)
        self._n_before = torch.zeros_like(self._index)
        self._n_masked = ((self._scores == -torch.inf) & (self._index >= 0)).sum(1)  # positives that are no candidates
        self._counts_candidates = bool(self._n_masked.any())
        self._n_others, self._n_candidates = -self._n_masked, torch.zeros_like(self._n_positives)

    @property
    def items(self) -> Tensor:
        """(n_queries, most positives) int64, the positives in the order of ``Ranks.positives``; -1 where missing."""
        return self._index

    def add(self, tile: Tensor, rows: slice, columns: slice) -> None:
        """Count the scores (n_rows, n_columns) of some images and captions, without NaN."""
        self._count(tile, rows, columns, self.query == "image")

    def add_turned(self, tile: Tensor, rows: slice, columns: slice) -> None:
        """Likewise, of a tile that is to be read turned: its columns are images and its rows captions."""
        self._count(tile, rows, columns, self.query == "caption")

    def _count(self, tile: Tensor, rows: slice, columns: slice, rows_ask: bool) -> None:
        queries, items = (rows, columns) if rows_ask else (columns, rows)
        count_ranks_(
            tile.to(self._scores),
            queries.start,
            items.start,
            rows_ask,
            scores=self._scores,
            index=self._index,
            n_positives=self._n_positives,
            n_above=self._n_above,
            n_at_least=self._n_at_least,
            n_before=self._n_before,
        )
        if self._counts_candidates:
            per_query = (tile > -torch.inf).sum(int(rows_ask)).to(self._n_candidates)
            seen = slice(queries.start, queries.stop)
            self._n_candidates[seen] += per_query
            self._n_others[seen] += items.stop - items.start - per_query

    def ranks(self) -> Ranks:
        """The ranks once every tile has been added, on the CPU."""
        n_before, n_positives = self._n_before.cpu(), self._n_positives.cpu()
        slots = torch.arange(n_before.shape[1])
        missing = slots >= n_positives[:, None]
        positives = (n_before + slots).masked_fill(missing, -1)  # slot j: j other positives come first
        empty, none = n_positives == 0, torch.full_like(n_positives, -1)
        # Where every item at -inf is a positive, their places are known all the same.
        defined = (self._n_masked == 0) | (self._n_others <= 0)
        return Ranks(
            optimistic=self._n_above.cpu().masked_fill(empty, -1),
            pessimistic=self._n_at_least.cpu().masked_fill(empty, -1),
            best=positives[:, 0] if len(slots) else none,
            positives=positives,
            n_positives=n_positives,
            n_candidates=self._n_candidates.masked_fill(defined, ALL_CANDIDATES).cpu(),
            best_item=self._index[:, 0].cpu() if len(slots) else none,
            best_score=self._scores[:, 0].cpu() if len(slots) else self._scores.new_full(none.shape, -torch.inf).cpu(),
        )


def positive_scores(tiles: Tiles, index: Tensor, n_sims: int) -> Tensor:
    """Scores of the positives of image queries, read from tiles that hold little else.

    Args:
        tiles: the similarities.
        index: (n_images, slots) int64, captions of every image, ascending, -1 where missing.
        n_sims: bound of one tile, in pairs.

    Returns:
        (n_images, slots) float32 or float64, on the device of the tiles; 0 where missing.
    """
    n_queries, n_slots = index.shape
    step = max(1, min(_POSITIVE_QUERIES, math.isqrt(n_sims)))
    scores = None
    for start in range(0, n_queries, step):
        ours = index[start : start + step]
        items, width = torch.unique(ours[ours >= 0]), max(1, min(_POSITIVE_ITEMS, n_sims // step))
        # Of embeddings and matrices scattered columns cost no more than a run; a call for each would.
        scattered = int((items.diff() > _MAX_GAP).sum()) >= _FEW_RUNS
        gathered = scattered and isinstance(tiles.scorer, (MatrixScorer, DotProductScorer))
        for some in torch.split(items, width) if gathered else _runs(items, width):
            first, last = int(some[0]), int(some[-1])
            queries, columns = slice(start, start + len(ours)), some.numpy()
            if gathered:
                picked = Tiles(select(tiles.scorer, None, columns), what=tiles.what, captions=columns)
                tile = picked.score(queries, slice(0, len(some)))
            else:
                tile = tiles.score(queries, slice(first, last + 1))
            scores = tile.new_zeros(n_queries, n_slots) if scores is None else scores
            rows, slots = ((ours >= first) & (ours <= last)).nonzero(as_tuple=True)
            wanted = ours[rows, slots]
            places = torch.searchsorted(some, wanted) if gathered else wanted - first
            scores[start + rows, slots] = tile[rows, places].to(scores)
    return torch.zeros(n_queries, n_slots) if scores is None else scores


def _runs(items: Tensor, max_columns: int) -> Iterator[Tensor]:
    """Split ascending items where a gap is wide or the span would exceed max_columns."""
    gaps = (items.diff() > _MAX_GAP).nonzero().flatten() + 1
    for run in torch.tensor_split(items, gaps.tolist()):
        while len(run):
            length = int(torch.searchsorted(run, run[0] + max_columns))
            yield run[:length]
            run = run[length:]
