"""The figures of one gallery from ranks or retrieved lists, as a report names them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from itm_fast.choices import Query
from itm_fast.metrics.counting import ALL_CANDIDATES, RankCounter, Ranks
from itm_fast.metrics.graded_ranks import counted_places, of_places
from itm_fast.metrics.judgements import Judgements
from itm_fast.metrics.precision import average_precision, hits_at, precision_at_r
from itm_fast.metrics.query_positives import QueryPositives
from itm_fast.metrics.recall import mean_rank, median_rank, recall_of_all, recall_of_ranks, rsum
from itm_fast.metrics.retrieved import TopK
from itm_fast.ops.ranking import NO_ITEM

RSUM_KS = (1, 5, 10)
SUMS = ("rsum", "nsum", "nsum(N)")
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


class UndefinedError(ValueError):
    """A figure looks beyond the candidates of a query, at items that all have the score -inf."""

    def __init__(self, figure: str, query: Query, number: int, n_candidates: int, k: int) -> None:
        super().__init__(
            f"{figure} is undefined: {query} {number} has {n_candidates} candidates (similarities above -inf), and what"
            f" comes after them has no order; score at least {k} candidates a query, or ask for smaller ks"
        )


def check_ranks(ranks: Ranks, k: int, query: Query) -> None:
    """Raise UndefinedError if R@k depends on the order of items at -inf, for a query some of whose positives are."""
    if len(ranks.n_candidates) and int(ranks.n_candidates.min()) < k:
        number = int(ranks.n_candidates.argmin())
        raise UndefinedError(f"R@{k}", query, number, int(ranks.n_candidates[number]), k)


def check_retrieved(top: TopK, depth: Tensor | int, figure: str, query: Query) -> None:
    """Raise UndefinedError if one of the first ``depth`` items of a list, for all or by query, has the score -inf."""
    masked = (top.values == -torch.inf) & (top.indices != NO_ITEM)
    depths = torch.as_tensor(depth).expand(len(masked)).clamp(max=masked.shape[1])
    short = (masked & (torch.arange(masked.shape[1]) < depths[:, None])).any(1)
    if short.any():
        number = int(short.int().argmax())
        raise UndefinedError(figure, query, number, int((~masked[number]).sum()), int(depths[number]))


def fewest_candidates(top: TopK) -> int:
    """The smallest number of listed items of a query that were candidates, and so are in order; else ALL_CANDIDATES."""
    masked = (top.values == -torch.inf) & (top.indices != NO_ITEM)
    return int((~masked).sum(1).min()) if masked.any() else ALL_CANDIDATES


def section(image: Ranks, caption: Ranks, ks: Sequence[int]) -> dict[str, Any]:
    """{"i2t", "t2i", "rsum"} of one gallery from the ranks of both directions; UndefinedError as ``check_ranks``.

    Without rsum where a query has fewer candidates than its largest cut-off: ``sum_note`` says so.
    """
    sides: tuple[tuple[Ranks, Query], ...] = ((image, "image"), (caption, "caption"))
    for ranks, query in sides:
        check_ranks(ranks, max(ks), query)
    figures: dict[str, Any] = {"i2t": rank_figures(image, ks), "t2i": rank_figures(caption, ks)}
    if not sum_note([(image, caption)]):
        recalls = (recall_of_ranks(_hit_at(ranks, ranks.best), RSUM_KS) for ranks in (image, caption))
        figures["rsum"] = rsum(*recalls)
    return figures


def sum_note(scopes: Iterable[tuple[Ranks, Ranks]]) -> list[str]:
    """Why rsum is left out of scopes, from the ranks of image and of caption queries of each; [] where it is not."""
    for sides in scopes:
        for ranks, query in zip(sides, ("image", "caption"), strict=True):
            if len(ranks.n_candidates) and int(ranks.n_candidates.min()) < max(RSUM_KS):
                number = int(ranks.n_candidates.argmin())
                return [left_out("rsum", query, number, int(ranks.n_candidates[number]), max(RSUM_KS))]
    return []


def left_out(figure: str, query: str, number: int, n_candidates: int, k: int) -> str:
    """The note of a figure that looks beyond the candidates of a query."""
    return (
        f"{figure} was left out: it needs {k} candidates a query, but {query} {number} has {n_candidates} "
        "(similarities above -inf)"
    )


def with_common_sums(scopes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Scopes, the whole gallery's and those of folds, without the sums that not all of them have."""
    odd = {name for scope in scopes for name in SUMS if name in scope and any(name not in one for one in scopes)}
    return [{name: value for name, value in scope.items() if name not in odd} for scope in scopes]


def rank_figures(ranks: Ranks, ks: Sequence[int]) -> dict[str, Any]:
    """The figures of one direction from its ranks; no medr and meanr where a best positive was no candidate."""
    undefined = ranks.best >= ranks.n_candidates
    known = not undefined.any()
    return {
        **named("R", ks, recall_of_ranks(_hit_at(ranks, ranks.best), ks)),
        **named("R_all", ks, recall_of_all(ranks, ks)),
        "medr": median_rank(ranks.best) if known else None,
        "meanr": mean_rank(ranks.best) if known else None,
        "optimistic": named("R", ks, recall_of_ranks(_hit_at(ranks, ranks.optimistic), ks)),
        "pessimistic": named("R", ks, recall_of_ranks(_hit_at(ranks, ranks.pessimistic), ks)),
        "n_queries": int((ranks.n_positives > 0).sum()),
        "n_tied": int((ranks.pessimistic > ranks.optimistic)[~undefined].sum()),
        "n_undefined": int(undefined.sum()),
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


def precision_of_ranks(ranks: Ranks, query: Query) -> dict[str, float]:
    """mAP@R and R-Precision, percent, from the ranks of all positives; n_positives is R."""
    short = ranks.n_candidates < ranks.n_positives
    if short.any():
        number = int(short.int().argmax())
        n_candidates, n_positives = int(ranks.n_candidates[number]), int(ranks.n_positives[number])
        raise UndefinedError("mAP@R", query, number, n_candidates, n_positives)
    asking = ranks.n_positives > 0
    places, n_relevant = ranks.positives[asking], ranks.n_positives[asking]
    found = (places >= 0) & (places < n_relevant[:, None])
    precision = torch.arange(1, places.shape[1] + 1) / (places + 1).clamp(min=1).double()
    return {
        "mAP@R": float(100 * ((precision * found).sum(1) / n_relevant).mean()),
        "R-Precision": float(100 * (found.sum(1) / n_relevant.double()).mean()),
    }


def judged_figures(counter: RankCounter, judged: Judgements, ks: Sequence[int]) -> dict[str, Any]:
    """nDCG@k, MAP and MRR of one direction, percent, from a counter that has seen every tile."""
    found = of_places(counted_places(counter), counter.items.cpu().numpy(), judged, ks).figures()
    return {name: value for name, value in found.items() if name.startswith(("nDCG", "MAP", "MRR"))}


def mean_figures(folds: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean of every figure over the folds; numbers of queries (the integers) are summed."""
    mean: dict[str, Any] = {}
    for key, first in folds[0].items():
        values = [fold[key] for fold in folds if key in fold]
        if len(values) < len(folds):
            continue  # a sum that is not defined in all
        if any(value is None for value in values):
            mean[key] = None
        elif isinstance(first, dict):
            mean[key] = mean_figures(values)
        else:
            mean[key] = sum(values) if isinstance(first, int) else sum(values) / len(values)
    return mean
