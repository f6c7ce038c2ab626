"""The figures of one gallery from ranks or retrieved lists, as a report names them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from itm_fast.metrics.counting import Ranks
from itm_fast.metrics.precision import average_precision, hits_at, precision_at_r
from itm_fast.metrics.query_positives import QueryPositives
from itm_fast.metrics.recall import mean_rank, median_rank, recall_of_all, recall_of_ranks, rsum

RSUM_KS = (1, 5, 10)
_NEVER = torch.iinfo(torch.int64).max


def named(name: str, ks: Iterable[int], scores: Tensor) -> dict[str, float]:
    """Scores at cut-offs as a report names them: "NCS@5".

    Args:
        name: the metric's.
        ks: cut-offs.
        scores: (len(ks),) numbers.

    Returns:
        {f"{name}@{k}": score}.
    """
    return {f"{name}@{k}": score for k, score in zip(ks, scores.tolist(), strict=True)}


def section(image: Ranks, caption: Ranks, ks: Sequence[int]) -> dict[str, Any]:
    """{"i2t", "t2i", "rsum"} of one gallery from the ranks of both directions."""
    recalls = (recall_of_ranks(_hit_at(ranks, ranks.best), RSUM_KS) for ranks in (image, caption))
    return {"i2t": rank_figures(image, ks), "t2i": rank_figures(caption, ks), "rsum": rsum(*recalls)}


def rank_figures(ranks: Ranks, ks: Sequence[int]) -> dict[str, Any]:
    """The figures of one direction from its ranks."""
    return {
        **named("R", ks, recall_of_ranks(_hit_at(ranks, ranks.best), ks)),
        **named("R_all", ks, recall_of_all(ranks, ks)),
        "medr": median_rank(ranks.best),
        "meanr": mean_rank(ranks.best),
        "optimistic": named("R", ks, recall_of_ranks(_hit_at(ranks, ranks.optimistic), ks)),
        "pessimistic": named("R", ks, recall_of_ranks(_hit_at(ranks, ranks.pessimistic), ks)),
        "n_queries": int((ranks.n_positives > 0).sum()),
        "n_tied": int((ranks.pessimistic > ranks.optimistic).sum()),
    }


def _hit_at(ranks: Ranks, best: Tensor) -> Tensor:
    """Ranks for recall: a query whose positives are all outside the gallery misses, however large k is."""
    missed = (ranks.n_positives > 0) & (ranks.positives < 0).all(1)
    return best.masked_fill(missed, _NEVER)


def precision_figures(hits: Tensor, truth: QueryPositives, ks: Sequence[int]) -> dict[str, Any]:
    """The figures of one direction that look at the first R: mAP@R, R-Precision, and R@k.

    Args:
        hits: (n, k) bool of the n queries that have positives, k at least the largest R and the largest cut-off, or all
            there is.
        truth: the positives of all queries.
        ks: cut-offs.

    Returns:
        Percent, and numbers of queries, of positives, and of those that are not in the gallery.
    """
    n_relevant = torch.from_numpy(truth.n_relevant[truth.queries])
    return {
        "mAP@R": float(100 * average_precision(hits, n_relevant).mean()),
        "R-Precision": float(100 * precision_at_r(hits, n_relevant).mean()),
        **named("R", ks, 100 * hits_at(hits, ks).mean(0)),
        "n_queries": len(n_relevant),
        "n_positives": int(n_relevant.sum()),
        "n_unreachable": int(truth.n_unreachable.sum()),
    }


def precision_of_ranks(ranks: Ranks) -> dict[str, float]:
    """mAP@R and R-Precision, percent, from the ranks of all positives; n_positives is R."""
    asking = ranks.n_positives > 0
    places, n_relevant = ranks.positives[asking], ranks.n_positives[asking]
    found = (places >= 0) & (places < n_relevant[:, None])
    precision = torch.arange(1, places.shape[1] + 1) / (places + 1).clamp(min=1).double()
    return {
        "mAP@R": float(100 * ((precision * found).sum(1) / n_relevant).mean()),
        "R-Precision": float(100 * (found.sum(1) / n_relevant.double()).mean()),
    }


def mean_figures(folds: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean of every figure over the folds; numbers of queries (the integers) are summed."""
    mean: dict[str, Any] = {}
    for key, first in folds[0].items():
        values = [fold[key] for fold in folds]
        if isinstance(first, dict):
            mean[key] = mean_figures(values)
        else:
            mean[key] = sum(values) if isinstance(first, int) else sum(values) / len(values)
    return mean
