"""Ranks of positives in lists of candidates, where whatever is in no list comes after it."""

from __future__ import annotations

import torch
from torch import Tensor

from itm_fast.metrics.counting import ALL_CANDIDATES, Ranks
from itm_fast.metrics.retrieved import TopK
from itm_fast.ops.ranking import NO_ITEM

_COMPARED = 1 << 24  # pairs of a candidate and a positive at a time


def in_order(items: Tensor, scores: Tensor) -> TopK:
    """Lists sorted anew: higher score first, then lower index; places that nothing has taken stay last.

    Args:
        items: (n, k) int64, NO_ITEM where a list is shorter.
        scores: (n, k) float, -inf there.

    Returns:
        The lists.

    Example:
        >>> in_order(torch.tensor([[7, 4, 9]]), torch.tensor([[0.5, 0.5, 0.8]])).indices
        tensor([[9, 4, 7]])
    """
    items, order = items.sort(dim=1)
    scores, order = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
    return TopK(scores, items.gather(1, order))


def ranks_in_lists(lists: TopK, positives: Tensor, n_unreachable: Tensor | None = None) -> Ranks:
    """0-based ranks of the positives of every query in its list.

    They are those in the whole gallery with -inf outside of the lists, as far as the lists reach: a positive that is
    not in its query's list has no rank, but counts in ``n_positives``; the best of a query with none in its list has
    the rank k, the length of the lists.

    Args:
        lists: of n queries, best first, equal scores in ascending order of their items; NO_ITEM in places that nothing
            has taken.
        positives: (n, slots) int64, items, -1 where a query has fewer.
        n_unreachable: (n,) int64, positives outside of the gallery, which count as well.

    Returns:
        The ranks.

    Example:
        >>> lists = TopK(torch.tensor([[0.9, 0.8, 0.8]]), torch.tensor([[4, 2, 7]]))
        >>> found = ranks_in_lists(lists, torch.tensor([[1, 7]]))
        >>> found.best, found.optimistic, found.pessimistic, found.positives
        (tensor([2]), tensor([1]), tensor([2]), tensor([[ 2, -1]]))
    """
    n_positives = (positives >= 0).sum(1)
    if n_unreachable is not None:
        n_positives = n_positives + n_unreachable
    step = max(1, _COMPARED // max(1, lists.indices.shape[1] * positives.shape[1]))
    parts = [
        _ranks(
            TopK(lists.values[start : start + step], lists.indices[start : start + step]),
            positives[start : start + step],
        )
        for start in range(0, max(1, len(positives)), step)
    ]
    optimistic, pessimistic, best, places = (torch.cat(part) for part in zip(*parts, strict=True))
    none = n_positives == 0
    return Ranks(
        optimistic=optimistic.masked_fill(none, -1),
        pessimistic=pessimistic.masked_fill(none, -1),
        best=best.masked_fill(none, -1),
        positives=places,
        n_positives=n_positives,
        n_candidates=torch.full_like(n_positives, ALL_CANDIDATES),
    )


def _ranks(lists: TopK, positives: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    k = lists.indices.shape[1]
    same = lists.indices[:, :, None] == positives[:, None, :]  # (n, k, slots)
    is_positive = same.any(2)
    found = is_positive.any(1)
    # First where true; k where nowhere.
    places = torch.where(same.any(1), same.int().argmax(1), k)
    best = torch.where(found, is_positive.int().argmax(1), k)
    score = lists.values.gather(1, best.clamp(max=max(0, k - 1))[:, None])
    taken = lists.indices != NO_ITEM
    above = ((lists.values > score) & taken).sum(1)
    at_least = ((lists.values >= score) & taken & ~is_positive).sum(1)
    places = places.sort(1).values
    return (
        torch.where(found, above, k),
        torch.where(found, at_least, k),
        best,
        places.masked_fill(places == k, -1),
    )
