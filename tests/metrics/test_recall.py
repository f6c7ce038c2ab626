"""Recall, median and mean rank: golden outputs of the originals, hand-made values, errors."""

from pathlib import Path

import numpy as np
import pytest
import torch

from itm_fast.metrics import mean_rank, median_rank, ranks, recall_at_k, rsum

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "recall.npz")
DIRECTIONS = [("i2t", "image"), ("t2i", "caption")]


@pytest.mark.all_backends
@pytest.mark.parametrize(("direction", "query"), DIRECTIONS)
def test_golden_without_ties(direction, query):
    sims = GOLDEN["plain.sims"]
    best = ranks(sims, query=query).best
    np.testing.assert_array_equal(best, GOLDEN[f"plain.{direction}.ranks"])
    found = [*recall_at_k(sims, (1, 5, 10), query=query).tolist(), median_rank(best), mean_rank(best)]
    np.testing.assert_allclose(found, GOLDEN[f"plain.{direction}.metrics"], rtol=1e-12)


@pytest.mark.all_backends
@pytest.mark.parametrize("kind", ["ties", "allequal"])
@pytest.mark.parametrize(("direction", "query"), DIRECTIONS)
def test_golden_under_ties_lies_in_the_bounds(kind, direction, query):
    # The originals count positives equal to the best among the items that may come first; we do not.
    found = ranks(GOLDEN[f"{kind}.sims"], query=query)
    golden = torch.from_numpy(GOLDEN[f"{kind}.{direction}.ranks"])
    assert (found.optimistic <= golden).all()
    assert (golden <= found.pessimistic + found.n_positives - 1).all()
    assert (found.optimistic <= found.best).all()
    assert (found.best <= found.pessimistic).all()


@pytest.mark.all_backends
@pytest.mark.parametrize(("direction", "query"), DIRECTIONS)
def test_golden_embeddings(direction, query):
    embeddings = GOLDEN["vsepp.images5"][::5], GOLDEN["vsepp.captions"]
    best = ranks(embeddings, query=query).best
    np.testing.assert_array_equal(best, GOLDEN[f"vsepp.{direction}.ranks"])
    found = [*recall_at_k(embeddings, (1, 5, 10), query=query).tolist(), median_rank(best), mean_rank(best)]
    np.testing.assert_allclose(found, GOLDEN[f"vsepp.{direction}.metrics"], rtol=1e-12)


@pytest.mark.all_backends
def test_any_and_all():
    # Image 0 finds its captions 0, 1 at ranks 0 and 2; image 1 finds 2, 3 at ranks 1 and 2.
    sims = torch.tensor([[0.9, 0.3, 0.4, 0.2], [0.8, 0.1, 0.7, 0.6]])
    assert recall_at_k(sims, (1, 2, 3, 9), captions_per_image=2).tolist() == [50, 100, 100, 100]
    assert recall_at_k(sims, (1, 2, 3, 9), positives="all", captions_per_image=2).tolist() == [25, 50, 100, 100]
    for positives in ("any", "all"):
        t2i = recall_at_k(sims, (1, 2), query="caption", positives=positives, captions_per_image=2)
        assert t2i.tolist() == [100, 100]


def test_all_of_five_is_at_most_20_percent_at_1():
    assert recall_at_k(np.eye(4).repeat(5, axis=1), (1, 5), positives="all").tolist() == pytest.approx([20, 100])


def test_images_without_captions_are_gallery_only():
    sims = np.array([[0.5, 0.4], [0.9, 0.8], [0.1, 0.7]])
    kept = {"caption_to_image": [0, 2]}
    assert recall_at_k(sims, (1,), **kept).tolist() == [100]
    assert recall_at_k(sims, (1, 2), query="caption", **kept).tolist() == [0, 100]
    assert ranks(sims, **kept).best.tolist() == [0, -1, 0]


def test_no_query_is_nan():
    assert torch.isnan(recall_at_k(np.zeros((0, 0)), (1,))).all()
    assert np.isnan(median_rank([]))
    assert np.isnan(mean_rank([-1]))


@pytest.mark.all_backends
def test_median_and_mean_rank():
    assert median_rank([0, 1, 2, 3]) == 2.0  # floor(1.5) + 1
    assert median_rank(torch.tensor([4, -1, 0, 4])) == 5.0
    assert mean_rank([0, 1, -1]) == 1.5
    assert rsum([10.0, 20.0, 30.0], torch.tensor([1.0, 2.0, 3.0])) == 66.0


@pytest.mark.parametrize(
    ("call", "exception", "fragment"),
    [
        (lambda sims: recall_at_k(sims, ()), ValueError, "ks is empty"),
        (lambda sims: recall_at_k(sims, (0,)), ValueError, "ks holds 0"),
        (lambda sims: recall_at_k(sims, (1.5,)), TypeError, "ks holds 1.5"),
        (lambda sims: recall_at_k(sims, (True,)), TypeError, "ks holds True"),
        (lambda sims: recall_at_k(sims, (1,), positives="best"), ValueError, "positives is 'best'"),
        (lambda sims: recall_at_k(sims, (1,), query="i2t"), ValueError, "query is 'i2t'"),
        (lambda sims: recall_at_k(sims, (1,), remove_gt=True), ValueError, "no positives to find"),
        (lambda sims: recall_at_k(sims, (1,), remove_gt=True), ValueError, "semantic_recall_at_k"),
    ],
)
def test_errors(call, exception, fragment):
    with pytest.raises(exception) as raised:
        call(np.zeros((2, 10)))
    assert fragment in str(raised.value)
