"""Ranks in lists against counting in dense rows with -inf outside of the lists."""

import numpy as np
import pytest
import torch

from itm_fast.metrics.list_ranks import in_order, ranks_in_lists
from itm_fast.metrics.retrieved import TopK
from itm_fast.ops.ranking import NO_ITEM

N_ITEMS = 20


def made(seed, levels):
    """Lists of six queries, some shorter than the others, and their positives."""
    rng = np.random.default_rng(seed)
    items = np.stack([rng.permutation(N_ITEMS)[:7] for _ in range(6)])
    scores = rng.integers(0, levels, items.shape).astype(float)
    items[1, 5:], scores[1, 5:] = NO_ITEM, -np.inf
    positives = np.full((6, 4), -1)
    for query in range(5):  # the last query has none
        own = np.sort(rng.permutation(N_ITEMS)[: rng.integers(1, 5)])
        positives[query, : len(own)] = own
    return items, scores, positives


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("levels", [2, 4, 1000])
def test_against_counting(seed, levels, monkeypatch):
    monkeypatch.setattr("itm_fast.metrics.list_ranks._COMPARED", 60)  # two queries at a time
    items, scores, positives = made(seed, levels)
    lists = in_order(torch.from_numpy(items), torch.from_numpy(scores))
    found = ranks_in_lists(lists, torch.from_numpy(positives))
    for query in range(6):
        row = np.full(N_ITEMS, -np.inf)
        taken = items[query] != NO_ITEM
        row[items[query][taken]] = scores[query][taken]
        order = np.argsort(-row, kind="stable").tolist()
        own = positives[query][positives[query] >= 0]
        listed = [p for p in own if np.isfinite(row[p])]
        assert found.n_positives[query] == len(own)
        places = sorted(order.index(p) for p in listed)
        assert found.positives[query].tolist() == places + [-1] * (4 - len(places))
        if not len(own):
            expected = [-1, -1, -1]
        elif not listed:
            expected = [7, 7, 7]
        else:
            best = row[own].max()
            others = np.delete(row, own)
            expected = [places[0], (row > best).sum(), (others >= best).sum()]
        assert [found.best[query], found.optimistic[query], found.pessimistic[query]] == expected
        item = order[places[0]] if listed else -1
        assert (found.best_item[query], found.best_score[query]) == (item, row[item] if listed else -np.inf)


def test_order():
    lists = in_order(
        torch.tensor([[NO_ITEM, 9, 3, 5, NO_ITEM]]), torch.tensor([[-torch.inf, -torch.inf, 1.0, 1.0, -torch.inf]])
    )
    assert lists.indices.tolist() == [[3, 5, 9, NO_ITEM, NO_ITEM]]


def test_positives_outside_of_the_gallery_count():
    lists = TopK(torch.tensor([[0.5], [0.5]]), torch.tensor([[3], [4]]))
    found = ranks_in_lists(lists, torch.tensor([[3], [-1]]), torch.tensor([1, 2]))
    assert found.n_positives.tolist() == [2, 2]
    assert found.best.tolist() == [0, 1]


def test_no_positives_at_all():
    found = ranks_in_lists(TopK(torch.ones(2, 3), torch.arange(6).view(2, 3)), torch.zeros(2, 0, dtype=torch.int64))
    assert found.best.tolist() == [-1, -1]
    assert found.positives.shape == (2, 0)
