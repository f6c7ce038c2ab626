"""Candidates of a fast model for every query of both directions, with the scores of a slow one; no figures here."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from itm_fast.indices import distinct_numbers
from itm_fast.metrics.list_ranks import in_order
from itm_fast.metrics.ranks import BothTopK, stream_topk
from itm_fast.metrics.retrieved import TopK
from itm_fast.ops.ranking import NO_ITEM
from itm_fast.similarities.scorers import IntArray, TileScorer, as_float_tensor
from itm_fast.similarities.tiles import Progress
from itm_fast.sources.pairs import PairScorer, n_scored

Bounds: TypeAlias = tuple[IntArray, IntArray]
Lists: TypeAlias = tuple[TopK, TopK]


@dataclass(frozen=True, eq=False)
class Candidates:
    """The lists of one direction of one gallery.

    Attributes:
        queries: which queries of the whole set they are of.
        items: (n, k) int64, numbers of the whole set, by the coarse score; NO_ITEM beyond a smaller gallery.
        coarse: (n, k) float64, the coarse scores, best first.
        fine: (n, k) float64, the fine scores.
    """

    queries: slice
    items: Tensor
    coarse: Tensor
    fine: Tensor

    def lists(self, alpha: float, beta: float) -> TopK:
        """By alpha · coarse + beta · fine; a factor of 0 leaves its scores out, infinite ones too.

        Raises:
            ValueError: a sum that is NaN, of infinities.
        """
        final = torch.zeros_like(self.coarse)
        for factor, scores in ((alpha, self.coarse), (beta, self.fine)):
            if factor:
                final += factor * scores
        missing = self.items == NO_ITEM
        if bool(torch.isnan(final).masked_fill(missing, False).any()):
            raise ValueError("alpha · coarse + beta · fine is NaN: infinite scores of the two stages cancel out")
        return in_order(self.items, final.masked_fill(missing, -torch.inf))


@dataclass(frozen=True, eq=False)
class BothCandidates:
    """The lists of both directions of one gallery."""

    image: Candidates
    caption: Candidates

    def lists(self, alpha: float, beta: float) -> Lists:
        """Of image and of caption queries, by alpha · coarse + beta · fine."""
        return self.image.lists(alpha, beta), self.caption.lists(alpha, beta)

    def coarse_lists(self) -> Lists:
        """Likewise, as the fast model has them."""
        return TopK(self.image.coarse, self.image.items), TopK(self.caption.coarse, self.caption.items)


@dataclass(frozen=True, eq=False)
class Scored:
    """The candidates of all galleries, and what they cost.

    Attributes:
        galleries: the whole set, or one entry a fold.
        n_pairs: distinct pairs of all lists.
        n_scored: pairs that the fine stage scored for them.
        seconds_coarse: of the coarse stage.
        seconds_fine: of the fine stage.
    """

    galleries: tuple[BothCandidates, ...]
    n_pairs: int
    n_scored: int
    seconds_coarse: float
    seconds_fine: float


@torch.no_grad()
def score_candidates(
    coarse: TileScorer,
    fine: PairScorer,
    k: int,
    bounds: Bounds | None,
    selection: tuple[IntArray | None, IntArray | None],
    *,
    chunk_bytes: int,
    progress: Progress | None = None,
) -> Scored:
    """The k best of the coarse scores for every query, and the fine scores of these pairs, each scored once.

    Args:
        coarse: similarities by tile.
        fine: similarities by pair.
        k: candidates of a query, at most.
        bounds: of folds, each with candidates from its own gallery; None: the whole gallery.
        selection: which images and captions of ``fine`` those of ``coarse`` are; None: all in order.
        chunk_bytes: bound of one tile of coarse scores.
        progress: called with (pairs done, pairs in all), first of the coarse stage, then of the fine.

    Raises:
        ValueError: NaN in the scores of either stage.
    """
    started = time.perf_counter()
    whole, of_folds = stream_topk(coarse, k, bounds, chunk_bytes=chunk_bytes, progress=progress, what="coarse")
    tops: Sequence[BothTopK] = of_folds if bounds is not None else (whole,)
    cuts = (np.array([0, coarse.n_images]), np.array([0, coarse.n_captions])) if bounds is None else bounds
    slices = (list(itertools.starmap(slice, itertools.pairwise(cut.tolist()))) for cut in cuts)
    queries = list(zip(*slices, strict=True))
    seconds_coarse = time.perf_counter() - started

    lists = [
        (of_queries[way], top[way], way)
        for top, of_queries in zip(((top.image, top.caption) for top in tops), queries, strict=True)
        for way in (0, 1)
    ]
    keys = [_keys(at, top.indices, way, coarse.n_captions) for at, top, way in lists]
    distinct = distinct_numbers(np.concatenate([key[key >= 0] for key in keys]))
    scores = _fine_scores(fine, distinct, coarse.n_captions, selection, progress)
    scored = [
        Candidates(at, top.indices, top.values.double(), scores[torch.from_numpy(np.searchsorted(distinct, key))])
        for (at, top, _), key in zip(lists, keys, strict=True)
    ]
    return Scored(
        tuple(BothCandidates(image, caption) for image, caption in zip(scored[::2], scored[1::2], strict=True)),
        len(distinct),
        n_scored(fine, len(distinct)),
        seconds_coarse,
        time.perf_counter() - started - seconds_coarse,
    )


def _keys(queries: slice, items: Tensor, way: int, n_captions: int) -> IntArray:
    """Row · n_captions + column of every candidate, (n, k); -1 where there is none."""
    ours, theirs = np.arange(queries.start, queries.stop)[:, None], items.numpy()
    taken = theirs != NO_ITEM
    theirs = np.where(taken, theirs, 0)
    rows, columns = (ours, theirs) if way == 0 else (theirs, ours)
    keys: IntArray = np.where(taken, rows * n_captions + columns, -1)
    return keys


def _fine_scores(
    fine: PairScorer,
    distinct: IntArray,
    n_captions: int,
    selection: tuple[IntArray | None, IntArray | None],
    progress: Progress | None,
) -> Tensor:
    """(n,) float64 fine scores of pairs given as row · n_captions + column."""
    rows, columns = (
        places if chosen is None else chosen[places]
        for places, chosen in zip(np.divmod(distinct, n_captions), selection, strict=True)
    )
    order = np.lexsort((columns, rows))  # a selection may have another order than the fine scores
    rows, columns = rows[order], columns[order]
    found = as_float_tensor(fine.score_pairs(rows, columns, progress)).cpu().double()
    if found.shape != (len(distinct),):
        raise ValueError(
            f"score_pairs returned shape {tuple(found.shape)} for {len(distinct)} pairs, expected ({len(distinct)},)"
        )
    bad = torch.isnan(found)
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise ValueError(
            f"fine is NaN at row (image) {rows[first]}, column (caption) {columns[first]}; NaN has no rank"
        )
    scores = torch.empty_like(found)
    scores[torch.from_numpy(order)] = found
    return scores
