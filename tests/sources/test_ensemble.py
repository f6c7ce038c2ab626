"""Ensembles against dense means in float64: members of all kinds, normalisations, weights, what goes wrong."""

import numpy as np
import pytest
import torch

from itm_fast.evaluation import EnsembleScorer, RelevantPairs, evaluate, rerank, search_weights
from itm_fast.files.ids import Ids
from itm_fast.similarities.scorers import MatrixScorer
from itm_fast.sources.scales import Moments

OWN = np.arange(60) // 5 == np.arange(12)[:, None]


def made(seed, dtype=np.float32, signal=1.0, shape=(12, 60)):
    rng = np.random.default_rng(seed)
    sims = rng.standard_normal(shape)
    if shape == (12, 60):
        sims += signal * OWN
    return sims.astype(dtype)


def whole(ensemble):
    return ensemble(slice(0, ensemble.n_images), slice(0, ensemble.n_captions)).numpy()


def same_figures(report, expected):
    assert report["rsum"] == pytest.approx(expected["rsum"], abs=1e-9)
    for way in ("i2t", "t2i"):
        for name in ("R@1", "R@10", "medr", "meanr", "optimistic", "pessimistic"):
            assert report[way][name] == pytest.approx(expected[way][name])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("weights", [None, (0.2, 0.5, 0.3), (0.0, 0.75, 0.25)])
def test_mean_of_matrices(seed, levels, weights):
    members = [made(10 * seed + n, dtype) for n, dtype in enumerate((np.float32, np.float64, np.float16))]
    if levels:
        members = [np.round(member * levels) / levels for member in members]
    expected = sum(w * m.astype(np.float64) for w, m in zip(weights or (1 / 3,) * 3, members, strict=True))
    ensemble = EnsembleScorer(members, weights=weights)
    np.testing.assert_array_equal(whole(ensemble), expected)
    for options in ({}, {"folds": 3}):
        same_figures(evaluate(ensemble, chunk_bytes=8 * 100, **options), evaluate(expected, **options))


def test_mixed_members():
    rng = np.random.default_rng(0)
    images, captions = rng.standard_normal((12, 4)), torch.from_numpy(rng.standard_normal((60, 4)))
    matrix = made(1)

    class Tiles:
        n_images, n_captions = 12, 60

        def __call__(self, rows, columns):
            return torch.from_numpy(matrix[rows, columns] ** 3)

    ensemble = EnsembleScorer([matrix, (images, captions), Tiles()])
    expected = (matrix.astype(float) + images @ captions.numpy().T + (matrix**3).astype(float)) / 3
    np.testing.assert_allclose(whole(ensemble), expected, rtol=1e-13, atol=1e-13)
    rows, columns = np.array([0, 3, 3, 11]), np.array([7, 0, 59, 8])
    np.testing.assert_allclose(ensemble.score_pairs(rows, columns), expected[rows, columns], rtol=1e-13, atol=1e-13)
    same = rerank(matrix, ensemble, 12), rerank(matrix, expected, 12)
    assert same[0]["rsum"] == same[1]["rsum"]


def test_a_member_of_weight_0_has_no_part():
    infinite = np.full((12, 60), -np.inf)
    member = made(2)
    np.testing.assert_array_equal(whole(EnsembleScorer([infinite, member], weights=(0, 1))), member.astype(float))


def test_zscore():
    members = [made(3), 100 + 7 * made(4, np.float64)]
    expected = sum((m.astype(float) - m.astype(float).mean()) / m.astype(float).std() for m in members) / 2
    ensemble = EnsembleScorer(members, normalise="zscore", chunk_bytes=8 * 50)
    np.testing.assert_allclose(whole(ensemble), expected, rtol=1e-9, atol=1e-9)
    scaled = EnsembleScorer([members[0], members[1] * 1000 - 5], normalise="zscore")
    np.testing.assert_allclose(whole(scaled), expected, rtol=1e-9, atol=1e-9)
    assert ensemble.members[1].scale.std == pytest.approx(members[1].std(), rel=1e-12)
    assert ensemble.members[1].scale.minimum == members[1].min()


@pytest.mark.parametrize("levels", [None, 3])
def test_rank(levels):
    members = [made(5), np.exp(made(6))]
    if levels:
        members = [np.round(member * levels) / levels for member in members]
    ensemble = EnsembleScorer(members, normalise="rank", chunk_bytes=8 * 50)
    for member, ours in zip(members, ensemble.members, strict=True):
        share = ours.score(slice(0, 12), slice(0, 60)).numpy()
        below = (member.ravel() < member.ravel()[:, None]).mean(1).reshape(member.shape)
        up_to = (member.ravel() <= member.ravel()[:, None]).mean(1).reshape(member.shape)
        bins = ((member - member.min()) * (2**20 / np.ptp(member))).astype(int)
        others = (np.bincount(bins.ravel())[bins] - 1) / member.size  # in the same bin: the bound of the error
        others += 1e-12
        assert others.max() < 4 / member.size or levels
        assert np.all(share >= below - others)
        assert np.all(share <= up_to + others)
        order = np.argsort(member, axis=None, kind="stable")
        steps, values = np.diff(share.ravel()[order]), np.diff(member.ravel()[order])
        assert np.all(steps[values == 0] == 0)  # equal stays equal
        assert np.all(steps[values > 0] > 0)
    expected = sum(m.score(slice(0, 12), slice(0, 60)).numpy() for m in ensemble.members) / 2
    np.testing.assert_allclose(whole(ensemble), expected, rtol=1e-12)
    infinite = np.where(made(5) > 1, np.inf, np.where(made(5) < -1, -np.inf, made(5)))
    ends = EnsembleScorer([infinite, members[1]], normalise="rank").members[0].score(slice(0, 12), slice(0, 60)).numpy()
    assert np.all(ends[infinite == np.inf] == 1)
    assert np.all(ends[infinite == -np.inf] == 0)


def test_moments_of_far_values_in_tiles():
    values = torch.from_numpy(1e8 + made(7, np.float64))
    values[0, 0], values[5, 7] = torch.inf, -torch.inf
    moments = Moments()
    for start in range(0, 60, 7):
        columns = slice(start, min(start + 7, 60))
        moments.add(values[:, columns], slice(0, 12), columns)
    finite = values[values.isfinite()].numpy()
    scale = moments.scale()
    assert scale.n == 718
    assert scale.std == pytest.approx(finite.std(), rel=1e-7)
    assert scale.mean == pytest.approx(finite.mean(), rel=1e-15)
    assert (scale.minimum, scale.maximum) == (finite.min(), finite.max())


def test_the_scale_of_many_images_is_sampled():
    sims = made(8, shape=(700, 3))
    ensemble = EnsembleScorer([sims, sims])
    assert ensemble.members[0].scale.n == 768
    assert ensemble.members[0].scale.std == pytest.approx(sims.std(), rel=0.1)


def test_what_the_report_says():
    ensemble = EnsembleScorer([made(9), 50 * made(10)], weights=(0.4, 0.6), names=("cosines", "logits"))
    report = ensemble.annotated(evaluate(ensemble))
    assert [member["weight"] for member in report["members"]] == [0.4, 0.6]
    assert report["members"][1]["std"] == pytest.approx((50 * made(10)).astype(float).std(), rel=1e-6)
    text = str(report)
    assert "WARNING: the weighted similarities of logits are 7" in text
    assert "cosines" in text
    assert "each member scored all pairs once" in text
    normalised = EnsembleScorer([made(9), 50 * made(10)], normalise="zscore")
    text = str(normalised.annotated(evaluate(normalised)))
    assert "WARNING" not in text
    assert "2 times, 1 of them for zscore" in text


def test_ids_pick_from_every_member():
    members = [made(11), made(12)]
    pairs = RelevantPairs(Ids([1, 3], list(range(10, 30))), {3: [10, 12], 1: [29]}, {10: [3], 29: [1, 3]})
    ids = Ids(list(range(11, -1, -1)), list(range(60)))
    options = {"protocol": "positives", "annotations": pairs, "ids": ids, "ks": (1, 2)}
    for normalise in ("none", "zscore"):
        ensemble = EnsembleScorer(members, normalise=normalise, ids=[ids, ids])
        report, expected = evaluate(ensemble, **options), evaluate(whole(ensemble), **options)
        assert report["i2t"] == expected["i2t"]
        assert report["t2i"] == expected["t2i"]
        assert report["conditions"]["n_captions"] == 20


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("normalise", ["none", "zscore"])
def test_every_weight_has_the_rsum_of_its_ensemble(seed, normalise):
    members = [np.round(2 * made(20 + 3 * seed + n)) / 2 for n in range(3)]
    ensemble = EnsembleScorer(members, normalise=normalise)
    found = search_weights(ensemble, step=0.25, chunk_bytes=8 * 100)
    assert len(found.tried) == 15
    assert found.n_passes == 1
    for weights, rsum in found.tried:
        assert rsum == pytest.approx(evaluate(ensemble.with_weights(weights))["rsum"])
    assert found.rsum == max(rsum for _, rsum in found.tried)
    assert dict(found.tried)[found.weights] == found.rsum


def test_the_search_finds_the_only_good_weights():
    # Each alone prefers a wrong caption for half of the images; only near 3 : 7 does the right one win everywhere.
    first, second = np.zeros((12, 60)), np.zeros((12, 60))
    first[OWN], second[OWN] = 1.0, 1.0
    first[:6, 59], second[:6, 59] = 3.2, 0.0  # wins if w1 * 3.2 > 1: w1 > 0.31
    first[6:, 0], second[6:, 0] = 0.0, 1.4  # wins if w2 * 1.4 > 1: w1 < 0.29
    found = search_weights(EnsembleScorer([first, second]), step=0.1)
    assert found.weights == pytest.approx((0.3, 0.7))
    assert found.rsum == pytest.approx(600)


def test_equally_good_weights_are_the_most_equal():
    found = search_weights(EnsembleScorer([OWN * 1.0, OWN * 1.0]), step=0.1)
    assert found.weights == (0.5, 0.5)


def test_many_members_are_searched_one_by_one():
    rng = np.random.default_rng(0)
    members = [made(40), *(10 * rng.standard_normal((12, 60)) for _ in range(4)), made(41)]
    found = search_weights(EnsembleScorer(members), step=0.1)
    equal = dict(found.tried)[(1 / 6,) * 6]
    assert found.rsum > equal
    assert found.n_passes >= 2
    assert sum(found.weights) == pytest.approx(1)
    assert found.weights[0] + found.weights[5] > 0.7
    assert found.rsum == pytest.approx(evaluate(EnsembleScorer(members, weights=found.weights))["rsum"])


def with_nan(row, column):
    sims = made(13)
    sims[row, column] = np.nan
    return sims


A, B = made(14), made(15)
TURNED = Ids(list(range(12)), [1, 0, *range(2, 60)])
PLAIN = Ids(list(range(12)), list(range(60)))
OTHER = Ids([*range(11), 99], list(range(60)))


@pytest.mark.parametrize(
    ("call", "error", "fragment"),
    [
        (lambda: EnsembleScorer([A]), ValueError, "at least two members, given 1"),
        (lambda: EnsembleScorer([A, B[:, :55]]), ValueError, "member 1 is of 12 images x 60 captions, but member 2 of"),
        (lambda: EnsembleScorer([A, B.T]), ValueError, "one of them looks transposed"),
        (lambda: EnsembleScorer([A, "b.npy"]), TypeError, "is a str"),
        (lambda: EnsembleScorer([A, B], weights=(0.5, 0.6)), ValueError, r"weights sum to 1.1, expected 1"),
        (lambda: EnsembleScorer([A, B], weights=(-0.5, 1.5)), ValueError, r"weights\[0\] is -0.5"),
        (lambda: EnsembleScorer([A, B], weights=(np.nan, 1)), ValueError, r"weights\[0\] is nan"),
        (lambda: EnsembleScorer([A, B], weights=(1,)), ValueError, "weights has 1 numbers"),
        (lambda: EnsembleScorer([A, B], names=("a",)), ValueError, "names has 1 entries"),
        (lambda: EnsembleScorer([A, B], normalise="minmax"), ValueError, "normalise is 'minmax'"),
        (lambda: EnsembleScorer([A, 0 * B], normalise="zscore"), ValueError, "member 2: its finite similarities are"),
        (lambda: EnsembleScorer([A, B * -np.inf], normalise="rank"), ValueError, "member 2"),
        (lambda: EnsembleScorer([A, B], ids=[PLAIN, TURNED]), ValueError, "the same ids in another order"),
        (lambda: EnsembleScorer([A, B], ids=[PLAIN, OTHER]), ValueError, "first at 11: 11 and 99"),
        (lambda: EnsembleScorer([A, B], ids=[None, Ids([1])]), ValueError, "image_ids of member 2 has 1 ids"),
        (lambda: EnsembleScorer([A, with_nan(3, 7)], names="ab"), ValueError, "b is NaN at row .image. 3, column .* 7"),
        (
            lambda: evaluate(EnsembleScorer([A, MatrixScorer(with_nan(3, 7))], names=["a", "slow"], normalise="none")),
            ValueError,
            "slow is NaN at row",
        ),
        (lambda: search_weights(EnsembleScorer([A, B]), step=0.3), ValueError, "step is 0.3"),
        (lambda: search_weights(EnsembleScorer([A, B]), step=0), ValueError, "step is 0"),
        (lambda: search_weights(EnsembleScorer([A.T, B.T])), ValueError, "looks transposed"),
        (
            lambda: EnsembleScorer([np.full((12, 60), np.inf), np.full((12, 60), -np.inf)]) and _opposite(),
            ValueError,
            "sims is NaN",
        ),
    ],
)
def test_errors(call, error, fragment):
    with pytest.raises(error, match=fragment):
        call()


def _opposite():
    return evaluate(EnsembleScorer([np.where(OWN, np.inf, 0), np.where(OWN, -np.inf, 0)]))
