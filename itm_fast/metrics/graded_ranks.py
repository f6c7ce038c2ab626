"""nDCG, MAP, MRR and recall with graded or binary relevance: formulas over the places of what is relevant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from itm_fast.choices import Query
from itm_fast.metrics.counting import RankCounter
from itm_fast.metrics.judgements import FloatArray, Judgements, as_judgements
from itm_fast.metrics.query_positives import QueryPositives, numbered
from itm_fast.metrics.ranks import check_query
from itm_fast.metrics.recall import checked_ks
from itm_fast.metrics.set_ranks import SetRanks
from itm_fast.similarities.scorers import IntArray, Sims, TileScorer, as_float_tensor, as_scorer
from itm_fast.similarities.selection import select
from itm_fast.similarities.tiles import CHUNK_BYTES, Progress, Tiles, everything, tile_sims

Ties: TypeAlias = Literal["index", "trec"]
Relevant: TypeAlias = "Judgements | QueryPositives | Sequence[object]"


@dataclass(frozen=True, eq=False)
class JudgedRanks:
    """The figures of every query that something is relevant to, as fractions 0 to 1.

    Attributes:
        ks: the cut-offs.
        queries: (n,) int64, their numbers, ascending.
        ndcg: (n, len(ks)) float64, nDCG@k: gain grade, discount log2(rank + 1).
        recall: (n, len(ks)) float64, share of the relevant items among the first k.
        hits: (n, len(ks)) float64, 1 where one of the first k is relevant.
        average_precision: (n,) float64, over the whole list, divided by the number of relevant items.
        reciprocal_rank: (n,) float64, 1 / rank of the first relevant item; 0 where none was retrieved.
    """

    ks: tuple[int, ...]
    queries: IntArray
    ndcg: FloatArray
    recall: FloatArray
    hits: FloatArray
    average_precision: FloatArray
    reciprocal_rank: FloatArray

    def figures(self) -> dict[str, float | int | None]:
        """Means over the queries, percent: "nDCG@k", "R@k" (hits), "R_all@k" (recall), "MAP", "MRR"; "n_queries"."""
        n = len(self.queries)
        at_k = {"nDCG": self.ndcg, "R": self.hits, "R_all": self.recall}
        found: dict[str, float | int | None] = {
            f"{name}@{k}": 100 * float(values[:, column].mean()) if n else None
            for name, values in at_k.items()
            for column, k in enumerate(self.ks)
        }
        for name, values in (("MAP", self.average_precision), ("MRR", self.reciprocal_rank)):
            found[name] = 100 * float(values.mean()) if n else None
        return {**found, "n_queries": n}


@torch.no_grad()
def judged_ranks(
    sims: Sims,
    relevant: Relevant,
    ks: Sequence[int] = (1, 5, 10),
    *,
    query: Query = "image",
    ties: Ties = "index",
    item_ids: Sequence[str] | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    progress: Progress | None = None,
) -> JudgedRanks:
    """nDCG@k, recall@k, average precision and reciprocal rank of every query, in one streaming pass.

    nDCG@k = sum over ranks r = 1 ... k of grade / log2(r + 1), divided by that of the ideal list.

    Args:
        sims: (n_images, n_captions) similarities; or a pair of embeddings, or a tile scorer (``as_scorer``). What is
            -inf was not retrieved.
        relevant: for every query {item: grade} or a list of items (grade 1), or ``judgements_by_id``. Queries that
            nothing is relevant to are left out.
        ks: cut-offs, at least 1 each.
        query: "image" retrieves captions (i2t), "caption" images (t2i).
        ties: "index": equal scores by index, the lower first. "trec": as trec_eval: scores as float32, equal ones by
            id as text, the higher first.
        item_ids: (n_items,) distinct ids, as trec_eval would read them; needed for "trec".
        chunk_bytes: bound of a tile of scores, counted as 8 bytes each.
        progress: called with (pairs done, pairs in all).

    Returns:
        The figures of every query; ``.figures()`` are their means.

    Raises:
        ValueError: NaN in sims, sizes that do not fit, a cut-off below 1, ids that are missing or there twice.
        TypeError: unsupported types.

    Source: Järvelin and Kekäläinen, Cumulated gain-based evaluation of IR techniques, TOIS 2002; usnistgov/trec_eval
        (ndcg_cut, map, recip_rank, recall).

    Example:
        >>> judged_ranks(torch.tensor([[0.9, 0.2, 0.4]]), [{1: 1, 2: 2}], (1, 2)).ndcg.round(3)
        array([[0.  , 0.48]])
    """
    check_query(query)
    ks = checked_ks(ks)
    scorer = as_scorer(sims)
    n_queries, n_items = _sizes(scorer, query)
    judged = as_judgements(relevant, n_queries, n_items)
    if ties == "trec":
        scorer, judged = _in_trec_order(scorer, judged, query, item_ids, n_items)
    elif ties != "index":
        raise ValueError(f'ties is {ties!r}, expected "index" or "trec"')
    n_sims = tile_sims(chunk_bytes)
    sides = (judged.positives, None) if query == "image" else (None, judged.positives)
    counted = SetRanks(scorer, n_sims, *sides)
    Tiles(scorer, progress).collect(everything(scorer), n_sims, counted.collectors, ())
    counter = counted.counter(query)
    return of_places(counted_places(counter), counter.items.cpu().numpy(), judged, ks)


def counted_places(counter: RankCounter) -> IntArray:
    """(n_queries, slots) int64, 0-based rank of each of a counter's ``items``; -1 where none was retrieved."""
    ranks = counter.ranks()
    places: IntArray = ranks.positives.masked_fill(ranks.positives >= ranks.n_candidates[:, None], -1).numpy()
    return places


def of_places(places: IntArray, items: IntArray, judged: Judgements, ks: Sequence[int]) -> JudgedRanks:
    """The figures from where the relevant items are.

    Args:
        places: (n_queries, slots) int64, 0-based rank of each, in any order; -1 where it was not retrieved.
        items: (n_queries, slots) int64, which items these are; -1 where there is none.
        judged: what is relevant.
        ks: cut-offs.
    """
    queries = judged.positives.queries
    places, items, best = places[queries], items[queries], judged.best_grades[queries]
    grades = judged.grades_of(items, queries)
    found = places >= 0
    n_relevant = judged.positives.n_relevant[queries]
    gains = np.where(found, grades / np.log2(places + 2.0, where=found, out=np.ones(places.shape)), 0.0)
    ideal = np.cumsum(best / np.log2(np.arange(best.shape[1]) + 2.0), axis=1)
    first = np.where(found, places, np.iinfo(np.int64).max).min(1, initial=np.iinfo(np.int64).max)
    ordered = np.sort(np.where(found, places, np.iinfo(np.int64).max - 1), axis=1)
    precision = np.where(ordered < np.iinfo(np.int64).max - 1, (np.arange(ordered.shape[1]) + 1) / (ordered + 1.0), 0.0)

    def at_k(values: FloatArray) -> FloatArray:
        return np.stack([np.where(found & (places < k), values, 0.0).sum(1) for k in ks], axis=1)

    best_at_k = np.stack([ideal[:, min(k, ideal.shape[1]) - 1] for k in ks], axis=1) if len(queries) else 1.0
    n_found = at_k(np.ones(places.shape))
    return JudgedRanks(
        tuple(ks),
        queries,
        at_k(gains) / best_at_k,
        n_found / n_relevant[:, None],
        (n_found > 0).astype(np.float64),
        precision.sum(1) / n_relevant,
        np.where(found.any(1), 1.0 / (first + 1.0), 0.0),
    )


def _sizes(scorer: TileScorer, query: Query) -> tuple[int, int]:
    sizes = (scorer.n_images, scorer.n_captions)
    return sizes if query == "image" else sizes[::-1]


def _in_trec_order(
    scorer: TileScorer, judged: Judgements, query: Query, item_ids: Sequence[str] | None, n_items: int
) -> tuple[TileScorer, Judgements]:
    """The gallery in descending order of its ids, so that the lower index is trec_eval's choice; and scores as its."""
    if item_ids is None or len(item_ids) != n_items:
        given = "missing" if item_ids is None else f"{len(item_ids)} ids"
        raise ValueError(f'item_ids: {given}, but ties="trec" orders equal scores by id: expected {n_items} ids')
    numbered(item_ids, "item_ids")
    order = trec_order(item_ids)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    truth = judged.positives
    items, owners = place[truth.items], truth.owners()
    ascending = np.lexsort((items, owners))
    moved = QueryPositives(items[ascending], truth.offsets, truth.n_unreachable, truth.n_items)
    chosen = select(scorer, None, order) if query == "image" else select(scorer, order, None)
    return SingleScores(chosen), Judgements(moved, judged.grades[ascending], judged.best_grades)


def trec_order(item_ids: Sequence[str]) -> IntArray:
    """(n,) int64, the items by id, the higher first, as trec_eval compares texts: by their bytes.

    Example:
        >>> trec_order(["10", "9", "a"])
        array([2, 1, 0])
    """
    coded = [str(key).encode() for key in item_ids]
    return np.array(sorted(range(len(coded)), key=coded.__getitem__, reverse=True), dtype=np.int64)


class SingleScores:
    """Tiles as float32, in which trec_eval compares."""

    def __init__(self, scorer: TileScorer) -> None:
        """Keep the scorer."""
        self._scorer = scorer
        self.n_images, self.n_captions = scorer.n_images, scorer.n_captions

    def __call__(self, rows: slice, columns: slice, /) -> Tensor:
        """A tile."""
        return as_float_tensor(self._scorer(rows, columns)).float()
