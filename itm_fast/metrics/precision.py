"""Hit rate, R-Precision, mAP@R and PMRP with any number of positives a query: formulas over the retrieved lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from itm_fast.choices import Query
from itm_fast.metrics.query_positives import ListsOfItems, QueryPositives, query_positives
from itm_fast.metrics.ranks import check_query
from itm_fast.metrics.recall import checked_ks
from itm_fast.metrics.retrieved import TopKeeper
from itm_fast.ops.ranking import NO_ITEM
from itm_fast.similarities.scorers import IntArray, Sims, TileScorer, as_scorer
from itm_fast.similarities.selection import select
from itm_fast.similarities.tiles import CHUNK_BYTES, Progress, Tiles, everything, tile_sims

_STATE_BYTES = 128 << 20  # of the lists kept at a time; queries beyond that are retrieved in another pass of their own
_MASK_BYTES = 64 << 20


def hit_rate_at_k(
    sims: Sims,
    positives: ListsOfItems,
    ks: Sequence[int],
    *,
    query: Query = "image",
    chunk_bytes: int = CHUNK_BYTES,
    progress: Progress | None = None,
) -> Tensor:
    """Recall@k of the field with any positives: 1 if one of them is among the first k, mean over the queries.

    Args:
        sims: (n_images, n_captions) similarities; or a pair of embeddings, or a tile scorer (``as_scorer``).
        positives: the positives of every query (``positives_by_id``), or a list of item numbers a query. Queries
            without a positive are left out; positives outside the gallery are never hit.
        ks: cut-offs, at least 1 each.
        query: "image" retrieves captions (i2t), "caption" images (t2i).
        chunk_bytes: bound of a tile of scores, counted as 8 bytes each.
        progress: called with (pairs done, pairs in all).

    Returns:
        (len(ks),) float64, percent; NaN without queries. Equal scores: lower index first.

    Raises:
        ValueError: NaN in sims, sizes that do not fit, a cut-off below 1, an unknown query.
        TypeError: unsupported types.

    Source: naver-ai/eccv-caption (cxc_recalls, eccv_recalls).

    Example:
        >>> sims = torch.tensor([[0.9, 0.2, 0.4], [0.8, 0.1, 0.7]])
        >>> hit_rate_at_k(sims, [[1], [0, 2]], (1, 2, 3))
        tensor([ 50.,  50., 100.], dtype=torch.float64)
    """
    ks = checked_ks(ks)
    found = _per_query(sims, positives, query, max(ks), lambda hits, _: hits_at(hits, ks), chunk_bytes, progress)
    return 100.0 * found.mean(0) if len(found) else torch.full((len(ks),), torch.nan, dtype=torch.float64)


def map_at_r(
    sims: Sims,
    positives: ListsOfItems,
    *,
    query: Query = "image",
    chunk_bytes: int = CHUNK_BYTES,
    progress: Progress | None = None,
) -> float:
    """mAP@R = 100 mean((1 / R) sum over r = 1 ... R of [item r is positive] · (positives among the first r) / r).

    R is the number of positives of the query, also of those outside the gallery.

    Args:
        sims: as in ``hit_rate_at_k``.
        positives: likewise.
        query: "image" (i2t) or "caption" (t2i).
        chunk_bytes: bound of a tile of scores, counted as 8 bytes each.
        progress: called with (pairs done, pairs in all).

    Returns:
        Percent; NaN without queries. Equal scores: lower index first.

    Raises:
        ValueError: NaN in sims, sizes that do not fit, an unknown query.
        TypeError: unsupported types.

    Source: Musgrave et al., A Metric Learning Reality Check, ECCV 2020; Chun et al., ECCV Caption, ECCV 2022.

    Example:
        >>> map_at_r(torch.tensor([[0.9, 0.2, 0.4]]), [[1, 2]])
        25.0
    """
    return _mean(_per_query(sims, positives, query, None, average_precision, chunk_bytes, progress))


def r_precision(
    sims: Sims,
    positives: ListsOfItems,
    *,
    query: Query = "image",
    max_r: int | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    progress: Progress | None = None,
) -> float:
    """R-Precision = 100 mean((positives among the first R) / R), R as in ``map_at_r``.

    Args:
        sims: as in ``hit_rate_at_k``.
        positives: likewise.
        query: "image" (i2t) or "caption" (t2i).
        max_r: look at the first min(R, max_r) items, and divide by that number.
        chunk_bytes: bound of a tile of scores, counted as 8 bytes each.
        progress: called with (pairs done, pairs in all).

    Returns:
        Percent; NaN without queries. Equal scores: lower index first.

    Raises:
        ValueError: NaN in sims, sizes that do not fit, an unknown query, max_r below 1.
        TypeError: unsupported types.

    Source: Chun et al., ECCV Caption, ECCV 2022; naver-ai/eccv-caption.

    Example:
        >>> r_precision(torch.tensor([[0.9, 0.2, 0.4]]), [[1, 2]])
        50.0
    """
    if max_r is not None and max_r < 1:
        raise ValueError(f"max_r is {max_r}, expected at least 1")

    def formula(hits: Tensor, n_relevant: Tensor) -> Tensor:
        return precision_at_r(hits, n_relevant if max_r is None else n_relevant.clamp(max=max_r))

    return _mean(_per_query(sims, positives, query, max_r, formula, chunk_bytes, progress))


def pmrp(
    sims: Sims,
    plausible_matches: Sequence[QueryPositives],
    *,
    query: Query = "image",
    max_r: int | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    progress: Progress | None = None,
) -> float:
    """Plausible-Match R-Precision: R-Precision with plausible matches as positives, mean over the match rules.

    Args:
        sims: as in ``hit_rate_at_k``.
        plausible_matches: one ground truth a rule. PCME takes three (label vectors at Hamming distance 0, 1 and 2 at
            most), eccv_caption one.
        query: "image" (i2t) or "caption" (t2i).
        max_r: 50 for the "modified" PMRP of the ECCV Caption paper.
        chunk_bytes: bound of a tile of scores, counted as 8 bytes each.
        progress: called with (pairs done, pairs in all), once a ground truth.

    Returns:
        Percent; NaN without queries.

    Raises:
        ValueError: as ``r_precision``; no ground truth.
        TypeError: unsupported types.

    Source: Chun et al., Probabilistic Embeddings for Cross-Modal Retrieval, CVPR 2021; naver-ai/eccv-caption (pmrp).

    Example:
        >>> matches = query_positives([[0, 1], [1, 2]], 2, 3)
        >>> pmrp(torch.tensor([[0.9, 0.2, 0.4], [0.1, 0.2, 0.3]]), [matches])
        75.0
    """
    if not plausible_matches:
        raise ValueError("plausible_matches is empty, expected one ground truth a rule")
    options = {"query": query, "max_r": max_r, "chunk_bytes": chunk_bytes, "progress": progress}
    found = [r_precision(sims, matches, **options) for matches in plausible_matches]  # type: ignore[arg-type]
    return sum(found) / len(found)


def hits_of_lists(positives: QueryPositives, queries: IntArray, retrieved: Tensor) -> Tensor:
    """Which retrieved items are positives: (n, k) bool.

    Args:
        positives: of all queries.
        queries: (n,) the queries of the lists.
        retrieved: (n, k) int64, NO_ITEM where there is none.
    """
    step = max(1, _MASK_BYTES // max(1, positives.n_items))
    missing = retrieved == NO_ITEM
    items = retrieved.masked_fill(missing, 0)
    found = [
        positives.mask(queries[start : start + step]).gather(1, items[start : start + step])
        for start in range(0, len(queries), step)
    ]
    hits = torch.cat(found) if found and positives.n_items else torch.zeros(retrieved.shape, dtype=torch.bool)
    return hits & ~missing


def hits_at(hits: Tensor, ks: Sequence[int]) -> Tensor:
    """(n_queries, len(ks)) float64: 1 where one of the first k is a positive."""
    return torch.stack([hits[:, :k].any(1) for k in ks], dim=1).double()


def precision_at_r(hits: Tensor, n_relevant: Tensor) -> Tensor:
    """(n_queries,) float64: share of positives among the first R.

    Args:
        hits: (n_queries, k) bool, in order of retrieval; k is the largest R, or all there is.
        n_relevant: (n_queries,) int64, R, at least 1.
    """
    within = torch.arange(hits.shape[1]) < n_relevant[:, None]
    return (hits & within).sum(1).double() / n_relevant


def average_precision(hits: Tensor, n_relevant: Tensor) -> Tensor:
    """(n_queries,) float64: average precision over the first R, divided by R; arguments as ``precision_at_r``."""
    within = hits & (torch.arange(hits.shape[1]) < n_relevant[:, None])
    precision = within.cumsum(1).double() / torch.arange(1, hits.shape[1] + 1)
    return (precision * within).sum(1) / n_relevant


@torch.no_grad()
def _per_query(
    sims: Sims,
    positives: ListsOfItems,
    query: Query,
    depth: int | None,
    formula: Callable[[Tensor, Tensor], Tensor],
    chunk_bytes: int,
    progress: Progress | None,
) -> Tensor:
    """The formula of every query that has a positive, float64, of lists as deep as given, or as the largest R."""
    check_query(query)
    scorer = as_scorer(sims)
    sizes = (scorer.n_images, scorer.n_captions)
    n_queries, n_items = sizes if query == "image" else sizes[::-1]
    truth = query_positives(positives, n_queries, n_items)
    queries, n_relevant = truth.queries, truth.n_relevant
    k = min(int(n_relevant.max(initial=0)) if depth is None else depth, n_items)
    step = max(1, _STATE_BYTES // (12 * max(1, k)))
    scores = []
    for start in range(0, len(queries), step):
        some = queries[start : start + step]
        hits = _hits_of_some(scorer, truth, query, some, k, chunk_bytes, _part(progress, start, step, len(queries)))
        scores.append(formula(hits, torch.from_numpy(n_relevant[some])))
    return torch.cat(scores) if scores else torch.zeros(0, dtype=torch.float64)


def _hits_of_some(
    scorer: TileScorer,
    truth: QueryPositives,
    query: Query,
    queries: IntArray,
    k: int,
    chunk_bytes: int,
    progress: Progress | None,
) -> Tensor:
    part = select(scorer, queries, None) if query == "image" else select(scorer, None, queries)
    tiles = Tiles(part, progress)
    keeper = TopKeeper(query, len(queries), k, tiles.dtype())
    tiles.collect(everything(part), tile_sims(chunk_bytes), (keeper,), ())
    return hits_of_lists(truth, queries, keeper.topk().indices)


def _part(progress: Progress | None, start: int, step: int, n_queries: int) -> Progress | None:
    """Progress of one of several passes over equally many items, as a part of all."""
    if progress is None or step >= n_queries:
        return progress

    def scaled(done: int, total: int) -> None:
        per_query = total // max(1, min(step, n_queries - start))
        progress(start * per_query + done, n_queries * per_query)

    return scaled


def _mean(scores: Tensor) -> float:
    return float(100.0 * scores.mean())
