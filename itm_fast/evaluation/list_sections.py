"""The figures of a report from lists of candidates: what they can tell, and what a protocol asks for beyond that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from itm_fast.choices import Query
from itm_fast.evaluation.beside_recall import (
    AlteredFirst,
    Correlation,
    PartRanks,
    PlausibleMatches,
    RankedSets,
    RetrievedSets,
)
from itm_fast.evaluation.figures import RSUM_KS, precision_figures, precision_of_ranks, section
from itm_fast.evaluation.plan import Plan
from itm_fast.metrics.counting import Ranks
from itm_fast.metrics.list_ranks import ranks_in_lists
from itm_fast.metrics.positives import Positives
from itm_fast.metrics.precision import hits_of_lists
from itm_fast.metrics.query_positives import QueryPositives
from itm_fast.metrics.retrieved import TopK
from itm_fast.sources.candidates import BothCandidates, Lists

_WAYS = ("i2t", "t2i")
_NEED_ALL: dict[type[Any], str] = {
    PlausibleMatches: "PMRP",
    Correlation: "the correlation with human scores",
    PartRanks: "recall among the originals alone",
    AlteredFirst: "the share of queries whose first result is an altered one",
}


def list_section(plan: Plan, gallery: BothCandidates, lists: Lists, ks: Sequence[int], k: int) -> dict[str, Any]:
    """{"i2t", "t2i", "rsum"} of a gallery, of what lists of k can tell: no median or mean rank, rsum from k = 10.

    Args:
        plan: whose positives.
        gallery: whose queries.
        lists: of these, in order.
        ks: cut-offs, at most k.
        k: length of the lists, or more where the gallery is smaller.
    """
    if not isinstance(plan.positives, Positives):
        image, caption = plan.positives
        figures = _of_sets(image, caption, lists, ks, k)
        queries: tuple[Query, Query] = ("image", "caption")
        for way, query, truth, of_way in zip(_WAYS, queries, plan.positives, lists, strict=True):
            if plan.judged is not None and _is_deep(of_way, truth):
                figures[way] |= precision_of_ranks(_ranks(of_way, truth), query)
            figures[way]["n_pairs"] = truth.n_pairs
        return figures
    captions = torch.from_numpy(plan.positives.padded()[gallery.image.queries])
    owners = torch.from_numpy(plan.positives.caption_to_image[gallery.caption.queries])[:, None]
    return _figures(ranks_in_lists(lists[0], captions), ranks_in_lists(lists[1], owners), ks, k)


def _of_sets(image: QueryPositives, caption: QueryPositives, lists: Lists, ks: Sequence[int], k: int) -> dict[str, Any]:
    return _figures(_ranks(lists[0], image), _ranks(lists[1], caption), ks, k)


def _ranks(lists: TopK, truth: QueryPositives) -> Ranks:
    return ranks_in_lists(lists, torch.from_numpy(truth.padded()), torch.from_numpy(truth.n_unreachable))


def _figures(image: Ranks, caption: Ranks, ks: Sequence[int], k: int) -> dict[str, Any]:
    """What lists of k can tell."""
    figures = section(image, caption, ks)
    for way in _WAYS:
        for name in ("medr", "meanr"):
            del figures[way][name]
    if k < max(RSUM_KS):
        del figures["rsum"]
    return figures


def _is_deep(lists: TopK, truth: QueryPositives) -> bool:
    """Whether the lists reach as far as the largest R."""
    return lists.indices.shape[1] >= min(int(truth.n_relevant.max(initial=0)), truth.n_items)


def extra_sections(plan: Plan, lists: Lists, ks: Sequence[int], k: int) -> tuple[dict[str, Any], list[str]]:
    """What else a protocol reports of the whole gallery, as far as lists of k tell; and, in words, what they do not."""
    sections: dict[str, Any] = {}
    left_out = []
    for extra in plan.extras:
        if isinstance(extra, RankedSets):
            sections[extra.name] = _of_sets(extra.image, extra.caption, lists, ks, k)
        elif isinstance(extra, RetrievedSets):
            truths = (extra.image, extra.caption)
            if not all(_is_deep(*one) for one in zip(lists, truths, strict=True)):
                largest = max(int(truth.n_relevant.max(initial=0)) for truth in truths)
                left_out.append(f"Left out: {extra.name}'s mAP@R and R-Precision, which need k of at least {largest}.")
                continue
            sections[extra.name] = {
                way: precision_figures(
                    hits_of_lists(truth, truth.queries, of_way.indices[torch.from_numpy(truth.queries)]), truth, ks
                )
                for way, truth, of_way in zip(_WAYS, truths, lists, strict=True)
            }
        else:
            left_out.append(f"Left out: {_NEED_ALL[type(extra)]}, which lists of {k} cannot tell.")
    return sections, left_out
