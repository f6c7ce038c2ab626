"""Sizes, orientation, maps and ids that do not fit, named; and COCO's 25,010 captions cut to five an image."""

import numpy as np
import pytest
import torch

from itm_fast.evaluation import Ids, RelevantPairs, evaluate
from itm_fast.evaluation.plan import NO_SELF, Request
from itm_fast.evaluation.plans import make_plan
from itm_fast.metrics import TwoWayScorer
from itm_fast.metrics.positives import first_five
from itm_fast.similarities.scorers import as_scorer

COUNTS = np.full(5000, 5)
COUNTS[[7, 1234, 4999]] = 6, 7, 6
COUNTS[3000:3006] += 1
ALL = np.repeat(np.arange(5000), COUNTS)  # 25,010 captions


def plan(scorer, protocol, **options):
    known = {"captions_per_image": None, "caption_to_image": None, "folds": None, "annotations": None, "ids": None}
    return make_plan(scorer, Request((1, 5), protocol=protocol, self_score=NO_SELF, query_column=0, **known | options))


@pytest.mark.parametrize("protocol", ["coco-1k", "coco-5k"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_all_captions_of_coco_are_cut_to_the_first_five(protocol, shuffled):
    assert len(ALL) == 25010
    order = np.random.default_rng(0).permutation(25010) if shuffled else np.arange(25010)
    captions = np.stack([ALL, np.arange(25010)], axis=1)[order].astype(np.float32)
    scorer = as_scorer((np.eye(2, dtype=np.float32)[np.zeros(5000, int)], captions))
    found = plan(scorer, protocol, caption_to_image=ALL[order])
    assert (found.scorer.n_images, found.scorer.n_captions, found.folds, found.moved) == (5000, 25000, 5, True)
    assert found.notes == ["10 captions beyond the first five of an image were left out"]
    kept = found.scorer.captions
    np.testing.assert_array_equal(kept[:, 0], np.arange(25000) // 5)
    places = {(int(i), int(n)): place for place, (i, n) in enumerate(captions)}
    of_image = [places[int(i), int(n)] for i, n in kept[7 * 5 : 8 * 5]]
    assert of_image == sorted(np.flatnonzero(ALL[order] == 7))[:5]
    two_ways = plan(TwoWayScorer(scorer, scorer), protocol, caption_to_image=ALL[order]).scorer
    assert torch.equal(
        two_ways.captions_to_images(slice(0, 2), slice(30, 40)), found.scorer(slice(0, 2), slice(30, 40))
    )


def test_a_map_of_the_right_size_moves_nothing():
    scorer = as_scorer(lambda rows, columns: 1 / 0, 5000, 25000)
    found = plan(scorer, "coco-5k", caption_to_image=np.arange(25000) // 5)
    assert found.scorer is scorer
    assert not found.moved


def nothing(n_images, n_captions):
    """Similarities whose sizes alone may be looked at."""
    return as_scorer(lambda rows, columns: 1 / 0, n_images, n_captions)


def of_ids(images, captions, sims=None):
    pairs = RelevantPairs(Ids([1, 2], ["a", "b", "c"]), {1: ["a"], 2: ["c"]}, {"a": [1]})
    sims = np.zeros((2, 3)) if sims is None else sims
    return evaluate(sims, protocol="positives", annotations=pairs, ids=Ids(images, captions))


@pytest.mark.parametrize(
    ("call", "fragment"),
    [
        # the wrong orientation, by what else is known
        (lambda: evaluate(nothing(25000, 5000)), "sims is 25000 x 5000: it looks transposed"),
        (lambda: evaluate(nothing(25000, 5000), protocol="coco-5k"), "given 25000 x 5000: it looks transposed"),
        (lambda: evaluate(nothing(5000, 1000), protocol="flickr30k-1k"), "given 5000 x 1000: it looks transposed"),
        (lambda: evaluate(nothing(9, 3), captions_per_image=3), "sims is 9 x 3: it looks transposed"),
        (lambda: evaluate(nothing(7, 3), caption_to_image=[0, 0, 1, 1, 1, 2, 2]), "sims looks transposed"),
        (lambda: of_ids([1, 2], ["a", "b", "c"], np.zeros((3, 2))), "image_ids has 2 ids, but sims has 3 images; sims"),
        (lambda: evaluate((np.zeros((15, 4)), np.zeros((3, 4)))), "sims is 15 x 3: it looks transposed"),
        # a square matrix is no more than suspicious, and only if nothing explains it
        (lambda: evaluate(np.zeros((5, 5))), "every image may be repeated once a caption"),
        # numbers of captions
        (lambda: evaluate(nothing(5000, 25010)), "pass caption_to_image for a varying number of captions"),
        (lambda: evaluate(nothing(5000, 25010), protocol="coco-5k"), "25,010 are all captions of the split"),
        (
            lambda: evaluate(nothing(5000, 25010), protocol="coco-5k", caption_to_image=np.arange(25010) % 4999),
            "caption_to_image gives image 4999 0 captions, expected at least five",
        ),
        (
            lambda: evaluate(nothing(1000, 5001), protocol="flickr30k-1k", caption_to_image=np.arange(5001) // 6),
            "protocol flickr30k-1k expects 1000 images x 5000 captions, given 1000 x 5001",
        ),
        (
            lambda: evaluate(nothing(3, 4), caption_to_image=[0, 1, 2, 3]),
            "caption_to_image[3] is 3, but sims has n_images",
        ),
        (lambda: evaluate(nothing(3, 4), caption_to_image=[0, 1, -1, 2]), "caption_to_image[2] is -1"),
        # ids
        (lambda: of_ids([1, 1], ["a", "b", "c"]), "image_ids: 1 is there twice, at 0 and 1"),
        (lambda: of_ids([1, 2], ["a", "c", "c"]), "caption_ids: 'c' is there twice, at 1 and 2"),
        (lambda: of_ids([1, 3], ["a", "b", "c"]), "1 of its 2 images are not among the ids given, such as 2"),
        (lambda: of_ids(["x", "y"], ["a", "b", "c"]), "the ids given are like 'x'"),
        (lambda: of_ids([1, 2], ["a", "b"]), "caption_ids has 2 ids, but sims has 3 captions"),
        # numbers
        (
            lambda: evaluate(np.where(np.arange(20).reshape(2, 10) == 12, np.nan, 0)),
            "row (image) 1, column (caption) 2",
        ),
        (lambda: evaluate((np.zeros((2, 4)), np.zeros((10, 5)))), "images has dim 4, but captions has dim 5"),
        (lambda: evaluate(np.zeros((2, 10, 3))), "sims has shape (2, 10, 3), expected (n_images, n_captions)"),
    ],
)
def test_errors(call, fragment):
    with pytest.raises(ValueError) as raised:  # noqa: PT011, the fragments are the match
        call()
    assert fragment in str(raised.value)


def test_a_square_matrix_is_fine_if_the_rule_says_so():
    assert evaluate(np.eye(5), captions_per_image=1)["rsum"] == 600
    assert evaluate(np.eye(5), caption_to_image=np.arange(5))["rsum"] == 600


@pytest.mark.parametrize("dtype", [bool, complex, object, "U3"])
def test_types_that_are_no_numbers(dtype):
    with pytest.raises(TypeError, match="real numbers"):
        evaluate(np.zeros((2, 10)).astype(dtype))


def test_first_five_keeps_the_order_of_the_file():
    assert first_five(np.array([0] * 6 + [1] * 5), 2).tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"captions_per_image": 5.0}, r"captions_per_image is 5\.0, expected an integer"),
        ({"captions_per_image": "5"}, "captions_per_image is '5', expected an integer"),
        ({"captions_per_image": True}, "captions_per_image is True, expected an integer"),
        ({"folds": 2.0}, r"folds is 2\.0, expected an integer"),
        ({"folds": True}, "folds is True, expected an integer"),
        ({"ks": 5}, r"ks is 5, expected cut-offs such as \(1, 5, 10\)"),
    ],
)
def test_numbers_that_are_no_integers(options, message):
    with pytest.raises(TypeError, match=message):
        evaluate(np.eye(4).repeat(5, 1), **options)


def test_integers_of_every_kind():
    sims = np.eye(4).repeat(5, 1)
    expected = evaluate(sims, captions_per_image=5, folds=2, ks=(1, 2))["rsum"]
    options = {"captions_per_image": np.uint8(5), "folds": torch.tensor(2), "ks": np.array([1, 2])}
    assert evaluate(sims, **options)["rsum"] == expected


@pytest.mark.parametrize("as_pair", [False, True])
def test_masked_and_sparse_arrays_are_refused(as_pair):
    sims = np.eye(4).repeat(5, 1)
    name = "captions" if as_pair else "sims"
    masked, sparse = np.ma.masked_equal(sims, 0), torch.from_numpy(sims).to_sparse()
    for odd, message in ((masked, "is a masked array"), (sparse, r"layout torch\.sparse_coo, expected a dense one")):
        with pytest.raises(TypeError, match=f"{name} is a.*{message.removeprefix('is a')}"):
            evaluate((sims[:, ::5], odd.T) if as_pair else odd)
