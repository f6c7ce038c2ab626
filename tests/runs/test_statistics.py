"""Intervals and paired tests against scipy, full enumeration, and simulated data whose truth is known."""

import itertools
import sys

import numpy as np
import pytest
import torch

from itm_fast.runs.statistics import bootstrap_interval, both_directions, paired_test, query_recall

scipy = pytest.importorskip("scipy", reason="needs scipy, extra [report]")


def clustered(rng, n_images, per_image=5):
    """Hits of captions whose difficulty is their image's: recall 50 % on average, the captions of an image alike."""
    images = np.repeat(np.arange(n_images), per_image)
    return 100.0 * (rng.random(len(images)) < rng.choice([0.05, 0.95], n_images)[images]), images


def test_interval_without_groups_is_that_of_scipy():
    values = np.random.default_rng(1).gamma(2, 10, 300)
    got = bootstrap_interval(values, confidence=0.9, seed=3)
    # scipy draws the same indices for one sample as for paired ones
    want = scipy.stats.bootstrap(
        (values,), np.mean, confidence_level=0.9, n_resamples=2000, method="percentile", batch=20,
        random_state=np.random.default_rng(3),
    ).confidence_interval  # fmt: skip
    assert got.estimate == pytest.approx(values.mean(), rel=1e-12)
    np.testing.assert_allclose((got.low, got.high), want, rtol=1e-12)


def test_clusters_of_unequal_size_are_drawn_whole():
    rng = np.random.default_rng(2)
    groups = rng.integers(0, 40, 200) * 7 - 3
    values = rng.normal(50, 10, 200) + 5 * groups
    labels = np.unique(groups)
    means = []
    for _ in range(4000):
        drawn = np.concatenate([values[groups == label] for label in rng.choice(labels, len(labels))])
        means.append(drawn.mean())
    got = bootstrap_interval(values, groups=groups, n_resamples=4000)
    width = got.high - got.low
    np.testing.assert_allclose((got.low, got.high), np.percentile(means, [2.5, 97.5]), atol=0.06 * width)


def test_coverage_needs_the_groups():
    rng = np.random.default_rng(4)
    held = {"groups": 0, "none": 0}
    for seed in range(150):
        values, images = clustered(rng, 120)
        for name, groups in (("groups", images), ("none", None)):
            interval = bootstrap_interval(values, groups=groups, n_resamples=300, seed=seed)
            held[name] += interval.low <= 50 <= interval.high
    assert 0.88 <= held["groups"] / 150 <= 0.99
    assert held["none"] / 150 < 0.8


def test_p_is_uniform_only_with_the_groups():
    rng = np.random.default_rng(5)
    found = {"groups": [], "none": []}
    for seed in range(150):
        (first, images), (second, _) = clustered(rng, 60), clustered(rng, 60)
        for name, groups in (("groups", images), ("none", None)):
            found[name].append(paired_test(first, second, groups=groups, n_resamples=300, seed=seed).p_value)
    assert 0.01 <= np.mean(np.array(found["groups"]) < 0.05) <= 0.11
    assert np.mean(np.array(found["none"]) < 0.05) > 0.2


@pytest.mark.parametrize("differences", [[3.0, 1.0, 2.0], [1, -1, 2, 0, 5], [0.1, 0.2, 0.3, -0.6, 0.1, 0.7, 0.7]])
def test_few_queries_try_every_sign(differences):
    d = np.array(differences, dtype=float)
    sums = [(d * signs).sum() for signs in itertools.product((1, -1), repeat=len(d))]
    want = np.mean(np.abs(sums) >= abs(d.sum()) - 1e-9)
    assert paired_test(d, np.zeros_like(d)).p_value == pytest.approx(want, abs=1e-12)
    exact = scipy.stats.permutation_test((d,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert exact.pvalue == pytest.approx(want, abs=1e-12)


def test_drawn_signs_come_near_every_sign():
    d = np.random.default_rng(6).normal(0.4, 1, 16)
    drawn, exact = (paired_test(d, 0 * d, n_resamples=n).p_value for n in (20_000, 2**16))
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000))


def test_equal_runs():
    values, images = clustered(np.random.default_rng(7), 50)
    result = paired_test(values, values, groups=images)
    assert (result.difference, result.low, result.high, result.p_value) == (0, 0, 0, 1)


def test_two_runs():
    rng = np.random.default_rng(8)
    values, images = clustered(rng, 300)
    better = np.where(rng.random(len(values)) < 0.2, 100.0, values)
    result = paired_test(better, values, groups=images, seed=1)
    assert result.difference == pytest.approx(better.mean() - values.mean(), rel=1e-12)
    assert 0 < result.low < result.difference < result.high
    assert result.p_value == 1 / 10_001
    back = paired_test(values, better, groups=images, seed=1)
    assert (back.difference, back.p_value) == (-result.difference, result.p_value)
    np.testing.assert_allclose((back.low, back.high), (-result.high, -result.low), rtol=1e-9)


def test_seed_decides():
    values, images = clustered(np.random.default_rng(9), 80)
    once, again, other = (bootstrap_interval(values, groups=images, seed=seed) for seed in (1, 1, 2))
    assert once == again != other


def test_recall_of_ranks():
    ranks = torch.tensor([0, 4, 5, -1, 10])
    np.testing.assert_array_equal(query_recall(ranks, (1, 5, 10)), [300, 200, 100, np.nan, 0])
    np.testing.assert_array_equal(query_recall(ranks), [100, 0, 0, np.nan, 0])
    interval = bootstrap_interval(query_recall(ranks, (10,)), groups=torch.arange(5))
    assert interval.estimate == 75.0


def test_rsum_resamples_images_with_their_captions():
    rng = np.random.default_rng(10)
    n_images = 200
    owners = rng.permutation(np.repeat(np.arange(n_images), 5))
    hard = rng.random(n_images)
    i2t, t2i = 300 * (rng.random(n_images) < hard), 300 * (rng.random(5 * n_images) < hard[owners])
    values, groups = both_directions(i2t, t2i, owners)
    got = bootstrap_interval(values, groups=groups)
    assert got.estimate == pytest.approx(i2t.mean() + t2i.mean(), rel=1e-12)
    # With five captions each: the mean over images of the image's share of both directions.
    shares = i2t + np.bincount(owners, weights=t2i) / 5
    want = bootstrap_interval(shares)
    np.testing.assert_allclose((got.low, got.high), (want.low, want.high), rtol=1e-12)


def test_rsum_without_some_queries():
    i2t, t2i = np.array([100, np.nan, 0, np.nan]), np.array([100.0, 0, np.nan, 100])
    values, groups = both_directions(i2t, t2i, [0, 1, 1, 2])
    assert bootstrap_interval(values, groups=groups).estimate == pytest.approx(50 + 200 / 3)
    assert paired_test(values, 0 * values, groups=groups).difference == pytest.approx(50 + 200 / 3)


def test_all_queries_alike_is_a_point():
    assert bootstrap_interval([100.0] * 30) == bootstrap_interval([100.0] * 30, seed=1)


VALUES = [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("call", "fragment"),
    [
        (lambda: bootstrap_interval([VALUES]), "values has shape (1, 3)"),
        (lambda: bootstrap_interval([1, np.inf]), "infinity"),
        (lambda: bootstrap_interval([]), "there are 0 queries"),
        (lambda: bootstrap_interval([5.0, np.nan]), "there are 1 queries"),
        (lambda: bootstrap_interval(VALUES, groups=[1, 1, 1]), "there are 1 groups with queries"),
        (lambda: bootstrap_interval(VALUES, groups=[1, 1]), "groups has shape (2,), expected the image of each of"),
        (lambda: bootstrap_interval(VALUES, confidence=95), "confidence is 95"),
        (lambda: bootstrap_interval(VALUES, n_resamples=0), "n_resamples is 0"),
        (lambda: paired_test(VALUES, VALUES[:2]), "first has 3 queries, second has 2"),
        (lambda: paired_test(VALUES, [1, np.nan, 2]), "query 1 is NaN"),
        (lambda: paired_test(VALUES, VALUES, groups=[0]), "groups has shape (1,)"),
        (lambda: paired_test(VALUES, VALUES, confidence=0), "confidence is 0"),
        (lambda: query_recall([0.5]), "dtype float64"),
        (lambda: query_recall([1], ks=(0,)), "ks is (0,)"),
        (lambda: both_directions([1, 2], VALUES, [0, 1]), "caption_to_image has shape (2,)"),
        (lambda: both_directions([1, 2], VALUES, [0, 1, 2]), "caption_to_image[2] is 2"),
        (lambda: both_directions([np.nan], VALUES, [0, 0, 0]), "i2t has 0 queries"),
    ],
)
def test_bad_input(call, fragment):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the fragment is compared below
        call()
    assert fragment in str(caught.value)


def test_without_scipy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(ImportError, match=r"pip install 'itm-fast\[report\]'"):
        bootstrap_interval(VALUES)


def calls_of(function):
    """How many functions it calls, NumPy's included."""
    n_calls = 0

    def count(frame, event, argument):
        nonlocal n_calls
        n_calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return n_calls


@pytest.mark.parametrize("by_image", [True, False])
def test_no_loop_over_queries(by_image):
    """COCO 5K has 25,000 captions; 2,000 draws of them are some thousand calls, for 1.5 s."""
    values, images = clustered(np.random.default_rng(11), 5000)
    assert calls_of(lambda: bootstrap_interval(values, groups=images if by_image else None)) < 10_000
