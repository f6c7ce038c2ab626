"""Hit rate, R-Precision, mAP@R and PMRP: eccv_caption beside ours, hand-made values, unreachable positives, errors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itm_fast.metrics import hit_rate_at_k, map_at_r, pmrp, positives_by_id, precision, query_positives, r_precision
from itm_fast.similarities.scorers import as_scorer
from itm_fast.similarities.selection import Part, select
from itm_fast.similarities.tiles import Tiles, everything

package = pytest.importorskip("eccv_caption._metrics", reason="the package eccv_caption is not installed")


def by_the_package(scores, lists, ks, extra=()):
    """eccv_caption's figures, percent, of full rankings: equal scores lower index first; `extra`: unreachable ones."""
    truth = {query: [*items, *(extra[query] if extra else [])] for query, items in enumerate(lists)}
    truth = {query: items for query, items in truth.items() if items}
    # padded with an item that is nobody's positive, as the package needs lists as long as R
    deep = [-1] * max(map(len, truth.values()), default=0)
    retrieved = {q: [*np.argsort(-scores[q], kind="stable").tolist(), *deep] for q in truth}
    found = package.compute_eccv_metrics(retrieved, truth)
    recalls = [package.compute_r_at_k(retrieved, truth, k) for k in ks]
    return [
        100 * found["eccv_map_at_r"],
        100 * package.compute_rprecision(retrieved, truth),
        *np.multiply(100, recalls),
    ]


def ours(sims, lists, ks, **options):
    recalls = hit_rate_at_k(sims, lists, ks, **options)
    return [map_at_r(sims, lists, **options), r_precision(sims, lists, **options), *recalls.tolist()]


def drawn(rng, n_queries, n_items, signal, values=None):
    """Scores and positives; with signal, positives are higher; with values, ties."""
    lists = [
        rng.choice(n_items, rng.integers(0, min(n_items, 9) + 1), replace=False).tolist() for _ in range(n_queries)
    ]
    scores = rng.standard_normal((n_queries, n_items))
    for query, items in enumerate(lists):
        scores[query, items] += signal
    return (scores if values is None else np.round(scores * values) / values), lists


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_equal_to_the_package(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    n_queries, n_items = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 40))
    scores, lists = drawn(
        rng, n_queries, n_items, data.draw(st.sampled_from([0, 2.0])), data.draw(st.sampled_from([None, 1]))
    )
    lists[0] = lists[0] or [0]
    expected = by_the_package(scores, lists, (1, 3))
    chunk_bytes = data.draw(st.integers(8, 2000))
    np.testing.assert_allclose(ours(scores, lists, (1, 3), chunk_bytes=chunk_bytes), expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours(scores.T, lists, (1, 3), query="caption"), expected, rtol=0, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_unreachable_positives_stay_in_r(seed):
    rng = np.random.default_rng(seed)
    scores, lists = drawn(rng, 6, 20, 1.0)
    extra = [[1000 + i for i in range(rng.integers(0, 4))] for _ in lists]
    lists[0] = [1]
    extra[1], lists[1] = [1000], []  # nothing of it is in the gallery: a query that always misses
    by_id = {
        f"q{q}": [*items, *more] for q, (items, more) in enumerate(zip(lists, extra, strict=True)) if items or more
    }
    truth = positives_by_id(by_id, [f"q{q}" for q in range(6)], range(20))
    expected = by_the_package(scores, lists, (1, 5), extra)
    np.testing.assert_allclose(ours(scores, truth, (1, 5)), expected, rtol=0, atol=1e-9)
    assert 1 in truth.queries
    assert truth.n_relevant[1] == 1


def test_by_hand():
    # Positives at ranks 0 and 2 of R = 3: AP = (1/1 + 2/3) / 3, R-Precision 2/3.
    sims = torch.tensor([[0.9, 0.8, 0.7, 0.1, 0.0]])
    assert map_at_r(sims, [[0, 2, 4]]) == pytest.approx(100 * (1 + 2 / 3) / 3)
    assert r_precision(sims, [[0, 2, 4]]) == pytest.approx(200 / 3)
    assert r_precision(sims, [[0, 2, 4]], max_r=2) == 50
    assert hit_rate_at_k(sims, [[1, 3]], (1, 2, 99)).tolist() == [0, 100, 100]  # one in the first k is as good as all
    assert r_precision(sims, [[1, 1, 3, 3]]) == 50  # a set


def test_pmrp_is_the_mean_over_the_rules():
    sims = np.random.default_rng(0).standard_normal((6, 9))
    rules = [query_positives([[q % 3, q + 3][:n] for q in range(6)], 6, 9) for n in (1, 2)]
    assert pmrp(sims, rules) == pytest.approx(sum(r_precision(sims, rule) for rule in rules) / 2)
    assert pmrp(sims, rules[1:], max_r=1) == r_precision(sims, rules[1], max_r=1)


def test_queries_in_several_passes(monkeypatch):
    scores, lists = drawn(np.random.default_rng(3), 30, 50, 1.0)
    expected = ours(scores, lists, (1, 5))
    monkeypatch.setattr(precision, "_STATE_BYTES", 12 * 9 * 7)  # seven queries a pass
    calls = []
    options = {"progress": lambda *at: calls.append(at), "chunk_bytes": 800}
    assert map_at_r(scores, lists, **options) == pytest.approx(expected[0], rel=1e-12)
    n_queries = sum(map(bool, lists))
    assert calls[-1] == (n_queries * 50, n_queries * 50)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    calls.clear()
    found = ours(scores.T.copy(), lists, (1, 5), query="caption", **options)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_no_query_is_nan():
    assert np.isnan(map_at_r(np.zeros((2, 3)), [[], []]))
    assert torch.isnan(hit_rate_at_k(np.zeros((0, 3)), [], (1, 2))).all()


def test_embeddings_and_callables_are_as_the_matrix():
    rng = np.random.default_rng(5)
    images, captions = (rng.integers(-4, 5, (n, 6)).astype(np.float32) for n in (12, 30))
    sims = images @ captions.T
    lists = [[] if q % 3 else [q, 2 * q] for q in range(12)]
    expected = ours(sims, lists, (1, 5))
    for source in (
        (images, captions),
        as_scorer(lambda rows, columns: sims[rows, columns], 12, 30),
        torch.tensor(sims),
    ):
        assert ours(source, lists, (1, 5)) == expected


def test_large_r():
    scores = np.random.default_rng(6).standard_normal((7, 600))
    lists = [range(q, 600, 2) for q in range(7)]
    np.testing.assert_allclose(ours(scores, lists, (1, 10)), by_the_package(scores, lists, (1, 10)), atol=1e-9)


class Seen:
    def __init__(self, shape):
        self.seen = torch.full(shape, torch.nan, dtype=torch.float64)

    def add(self, tile, rows, columns):
        assert torch.isnan(self.seen[rows, columns]).all()
        self.seen[rows, columns] = tile


@pytest.mark.parametrize("rows", [None, [0, 1, 2], [3, 9, 10, 19], []])
@pytest.mark.parametrize("columns", [None, [5, 6, 7, 8], [0, 29]])
def test_a_part_of_a_pass(rows, columns):
    sims = torch.rand(20, 30, dtype=torch.float64)
    chosen = [None if x is None else np.array(x, np.int64) for x in (rows, columns)]
    expected = sims[range(20) if rows is None else rows][:, range(30) if columns is None else columns]
    seen = Seen(expected.shape)
    Tiles(as_scorer(sims)).collect(everything(as_scorer(sims)), 37, [Part(*chosen, [seen])], ())
    assert torch.equal(seen.seen, expected)


@pytest.mark.parametrize("rows", [None, [4, 2, 9], [1, 2, 3], list(range(10))])
@pytest.mark.parametrize("columns", [None, [0, 3, 4, 11], [4, 11, 0, 7, 3]])
def test_select(rows, columns):
    images, captions = torch.randn(10, 4), torch.randn(12, 4)
    sims = images @ captions.T
    expected = sims[range(10) if rows is None else rows][:, range(12) if columns is None else columns]
    chosen = [None if x is None else np.array(x) for x in (rows, columns)]
    sources = [sims, sims.numpy(), (images, captions)]
    if rows != [4, 2, 9] and columns != [4, 11, 0, 7, 3]:  # a callable keeps its order
        sources.append(lambda r, c: sims[r, c])
    for source in sources:
        part = select(as_scorer(source, 10, 12), *chosen)
        assert (part.n_images, part.n_captions) == expected.shape
        tile = torch.as_tensor(part(slice(1, 3), slice(0, 4)))
        torch.testing.assert_close(tile, expected[1:3, 0:4])
        again = select(part, np.array([1]), np.array([0, 3]))
        torch.testing.assert_close(torch.as_tensor(again(slice(0, 1), slice(0, 2))), expected[1:2, [0, 3]])


def test_positives_in_whatever_holds_numbers():
    sims = torch.rand(2, 4)
    expected = map_at_r(sims, [[0, 2], [3]])
    for kind in (set, tuple, np.array, torch.tensor):
        assert map_at_r(sims, [kind([0, 2]), kind([3])]) == expected


@pytest.mark.parametrize(
    ("call", "exception", "fragment"),
    [
        (lambda s: map_at_r(s, [[0]]), ValueError, "positives has 1 lists, expected one a query: 2"),
        (lambda s: map_at_r(s, [[0], [3]]), ValueError, "positives[1] holds 3 ... 3, expected 0 ... 2"),
        (lambda s: map_at_r(s, [[0], [-1]]), ValueError, "positives[1] holds -1"),
        (lambda s: map_at_r(s, [[0], [0.5]]), TypeError, "positives[1] has dtype float64"),
        (lambda s: map_at_r(s, [0, 1]), TypeError, "positives[0] has dtype int64 and 0 axes, expected (n,) integers"),
        (
            lambda s: map_at_r(s, {0: [0], 1: [0]}),
            TypeError,
            "positives is a dict, expected a list of positives a query",
        ),
        (
            lambda s: map_at_r(np.ones((2, 3)), np.array([[1, 0, 0], [0, 1, 1]])),
            ValueError,
            "positives is a matrix of 0 and 1, expected the numbers of each query's positives",
        ),
        (lambda s: positives_by_id({5: "78"}, [5], [7, 8]), TypeError, "positives[5] is '78', expected a list of ids"),
        (lambda s: map_at_r(s, [[0], [1]], query="i2t"), ValueError, "query is 'i2t'"),
        (lambda s: map_at_r(s * np.nan, [[0], [1]]), ValueError, "sims is NaN at row (image) 0"),
        (lambda s: r_precision(s, [[0], [1]], max_r=0), ValueError, "max_r is 0"),
        (lambda s: hit_rate_at_k(s, [[0], [1]], (0,)), ValueError, "ks holds 0"),
        (lambda s: pmrp(s, []), ValueError, "plausible_matches is empty"),
        (lambda s: map_at_r(s, query_positives([[0]] * 3, 3, 2)), ValueError, "is query the right one?"),
        (lambda s: positives_by_id({1: [1]}, [1, 1], [1]), ValueError, "query_ids: 1 is there twice, at 0 and 1"),
        (lambda s: positives_by_id({9: [1]}, [1], [1]), ValueError, "lack, such as 9"),
        (lambda s: positives_by_id({1: [7]}, [1], [1]), ValueError, "no positive, such as 7, is among the 1 ids"),
        (lambda s: select(as_scorer(lambda r, c: s, 2, 3), np.array([1, 0]), None), ValueError, "in its own order"),
    ],
)
def test_errors(call, exception, fragment):
    with pytest.raises(exception) as raised:
        call(np.zeros((2, 3)))
    assert fragment in str(raised.value)


def test_repeats_count_once_and_lists_have_no_order():
    listed = query_positives([[4, 2, 4, 2], [], [0]], 3, 5)
    by_id = positives_by_id({"a": [40, 20, 40, 99, 99], "c": [0]}, ["a", "b", "c"], [0, 10, 20, 30, 40])
    for found in (listed, by_id):
        assert found.items.tolist() == [2, 4, 0]
        assert found.offsets.tolist() == [0, 2, 2, 3]
    assert listed.n_relevant.tolist() == [2, 0, 1]
    assert by_id.n_relevant.tolist() == [3, 0, 1]
