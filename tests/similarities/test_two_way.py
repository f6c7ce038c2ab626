"""Two matrices for the two directions: each metric reads its own, and what lies beyond the candidates is undefined."""

import numpy as np
import pytest
import torch

from itm_fast.evaluation import RelevantPairs, evaluate
from itm_fast.files.ids import Ids
from itm_fast.metrics import TwoWayScorer, hit_rate_at_k, map_at_r, ncs_at_k, recall_at_k, semantic_recall_at_k
from itm_fast.metrics.retrieval import ranks, topk
from itm_fast.similarities.scorers import as_scorer


def matrices(n_images=12, seed=0, per_image=5):
    rng = np.random.default_rng(seed)
    own = np.repeat(np.eye(n_images), per_image, axis=1)
    return [(rng.standard_normal(own.shape) + own).astype(np.float32) for _ in range(2)]


def candidates(sims, k):
    """All but the k best of a row at -inf."""
    masked = np.full_like(sims, -np.inf)
    best = np.argsort(-sims, axis=1, kind="stable")[:, :k]
    np.put_along_axis(masked, best, np.take_along_axis(sims, best, 1), 1)
    return masked


@pytest.mark.parametrize("options", [{}, {"folds": 3}, {"m": 4}, {"chunk_bytes": 200}])
def test_each_direction_is_that_of_its_matrix(options):
    first, second = matrices()
    phi = np.random.default_rng(3).random(first.shape)
    calls = []
    found = evaluate(TwoWayScorer(first, second), phi, progress=lambda *c: calls.append(c), **options)
    expected = evaluate(first, phi, **options), evaluate(second, phi, **options)
    assert found["i2t"] == expected[0]["i2t"]
    assert found["t2i"] == expected[1]["t2i"]
    assert found["i2t"] != expected[1]["i2t"]
    for fold, image, caption in zip(*(report.get("folds", []) for report in (found, *expected)), strict=True):
        assert (fold["i2t"], fold["t2i"]) == (image["i2t"], caption["t2i"])
    assert calls[-1] == (3 * first.size, 3 * first.size)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_one_matrix_twice_is_one_matrix():
    sims, _ = matrices(20)
    one, two = evaluate(sims, ks=(1, 3)).to_dict(), evaluate(TwoWayScorer(sims, sims), ks=(1, 3)).to_dict()
    del one["conditions"], two["conditions"]
    assert one == two


@pytest.mark.parametrize("metric", [recall_at_k, ncs_at_k, semantic_recall_at_k, hit_rate_at_k, map_at_r])
@pytest.mark.parametrize("query", ["image", "caption"])
def test_metrics(metric, query):
    first, second = matrices()
    phi = np.random.default_rng(3).random(first.shape)
    lists = [[c for c in range(60) if c // 5 == i or c == i] for i in range(12)]
    if query == "caption":
        lists = [[i for i in range(12) if c in lists[i]] for c in range(60)]
    rest, options = {
        recall_at_k: (((1, 5),), {}),
        ncs_at_k: ((phi, (1, 5)), {}),
        semantic_recall_at_k: ((phi, (1, 5)), {"m": 3}),
        hit_rate_at_k: ((lists, (1, 2, 3, 4, 6)), {}),
        map_at_r: ((lists,), {}),
    }[metric]
    found = metric(TwoWayScorer(first, second), *rest, query=query, **options)
    right, wrong = (first, second) if query == "image" else (second, first)
    assert np.array_equal(found, metric(right, *rest, query=query, **options))
    assert not np.array_equal(found, metric(wrong, *rest, query=query, **options))


def test_one_direction_functions_read_images_to_captions():
    first, second = matrices()
    assert torch.equal(topk(TwoWayScorer(first, second), 4).indices, topk(first, 4).indices)
    assert torch.equal(ranks(TwoWayScorer(first, second), 5).optimistic, ranks(first, 5).optimistic)


def test_positives_of_ids_in_another_order():
    first, second = matrices()
    pairs = {i: [c for c in range(60) if c % 12 == i] for i in range(12)}
    turned = {c: [c % 12] for c in range(60)}
    annotations = RelevantPairs(Ids(list(range(12)), list(range(60))), pairs, turned)
    order = np.random.default_rng(0).permutation(12)
    ids = Ids(order.tolist(), list(range(60)))
    options = {"protocol": "positives", "annotations": annotations}
    found = evaluate(TwoWayScorer(first[order], second[order]), ids=ids, **options)
    assert found["i2t"] == evaluate(first, **options)["i2t"]
    assert found["t2i"] == evaluate(second, **options)["t2i"]


def test_candidates_keep_recall_and_lose_mean_ranks():
    whole = matrices(30, seed=5)
    first, second = candidates(whole[0], 10), candidates(whole[1].T, 10).T
    report = evaluate(TwoWayScorer(first, second))
    for direction, sims in zip(("i2t", "t2i"), whole, strict=True):
        full = evaluate(sims)[direction]
        assert [report[direction][f"R@{k}"] for k in (1, 5, 10)] == [full[f"R@{k}"] for k in (1, 5, 10)]
        assert report[direction]["R_all@5"] == full["R_all@5"]
        missed = round((100 - full["R@10"]) / 100 * full["n_queries"])
        assert report[direction]["n_undefined"] == missed
        assert (report[direction]["medr"] is None) == (missed > 0)
        assert report[direction]["n_tied"] == 0
    assert report["t2i"]["n_undefined"] > 0
    assert "were no candidates (-inf), so that medr and meanr are not defined" in str(report)


def test_ranks_stay_defined_where_every_positive_is_a_candidate():
    sims, _ = matrices(6)
    own = np.repeat(np.eye(6, dtype=bool), 5, axis=1)
    report = evaluate(np.where(own, 1, -np.inf))
    assert report["i2t"]["meanr"] == report["t2i"]["medr"] == 1
    one_left = np.where(own, -np.inf, sims)  # the positives alone are last, in whatever order
    report = evaluate(one_left, ks=(1, 26))
    assert report["i2t"]["meanr"] == 26
    assert report["t2i"]["meanr"] == 6


@pytest.mark.parametrize("query", ["image", "caption"])
def test_a_cut_off_beyond_the_candidates(query):
    whole, _ = matrices(30, seed=5)
    cut = candidates(whole, 9) if query == "image" else candidates(whole.T, 9).T
    sides = (cut, whole) if query == "image" else (whole, cut)
    with pytest.raises(ValueError, match=rf"R@10 is undefined: {query} \d+ has 9 candidates"):
        evaluate(TwoWayScorer(*sides))


def test_folds_and_lists_beyond_the_candidates():
    whole = matrices(30, seed=5)
    cut = TwoWayScorer(candidates(whole[0], 12), candidates(whole[1].T, 12).T)
    with pytest.raises(ValueError, match=r"fold \d .*R@10 is undefined"):
        evaluate(cut, folds=3)
    with pytest.raises(ValueError, match=r"NCS\(N\)@10 is undefined: image 0 has 12 candidates .* at least 15"):
        evaluate(cut, np.ones(whole[0].shape))
    annotations = RelevantPairs(Ids(list(range(30)), list(range(150))), {0: list(range(40))}, {0: [0]})
    with pytest.raises(ValueError, match="mAP@R is undefined: image 0 has 12 candidates"):
        evaluate(cut, protocol="positives", annotations=annotations)


@pytest.mark.parametrize(
    ("call", "exception", "fragment"),
    [
        (lambda a, b: TwoWayScorer(a, b.T), ValueError, "captions_to_images looks transposed"),
        (lambda a, b: TwoWayScorer(a, b[:4]), ValueError, "images_to_captions is 12 x 60, but captions_to_images is 4"),
        (lambda a, b: TwoWayScorer(a, TwoWayScorer(a, b)), TypeError, "captions_to_images is a TwoWayScorer"),
        (lambda a, b: TwoWayScorer(a, b)(slice(0, 1), slice(0, 1)), TypeError, "whose pairs have two scores"),
        (lambda a, b: evaluate(TwoWayScorer(a, b), protocol="cxc"), ValueError, "needs embeddings"),
        (lambda a, b: evaluate(TwoWayScorer(a * [[np.nan]], b)), ValueError, "row (image) 0, column (caption) 0"),
        (lambda a, b: evaluate(TwoWayScorer(a.T, b.T)), ValueError, "looks transposed"),
        (lambda a, b: as_scorer(TwoWayScorer(a, b), n_images=3), ValueError, "n_images is 3, but sims has 12"),
    ],
)
def test_errors(call, exception, fragment):
    with pytest.raises(exception) as raised:
        call(*matrices())
    assert fragment in str(raised.value)
