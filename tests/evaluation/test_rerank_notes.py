"""What re-ranking says of fine scores that do not fit the coarse ones."""

import numpy as np
import pytest
import torch

from itm_fast.evaluation import rerank
from itm_fast.similarities.scorers import as_scorer


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, as_scorer])
def test_fine_scores_of_other_images_are_noticed(kind):
    """Each image with its captions in another place: recall rises, by positives alone."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((40, 16))
    captions = images.repeat(5, 0) + rng.standard_normal((200, 16))
    coarse = images @ captions.T
    fine = (images + 0.3 * rng.standard_normal(images.shape)) @ captions.T
    order = rng.permutation(40)
    moved = np.ascontiguousarray(fine[order][:, (5 * order[:, None] + np.arange(5)).ravel()])
    moved[1, 0] = np.nan  # no candidate, so that nobody asks for it
    coarse[1, 0] = coarse.min() - 1

    def said(fine):
        notes = rerank(coarse, kind(fine), 20)["conditions"]["notes"]
        return [note for note in notes if "coarse agrees with fine no more than" in note]

    assert (len(said(moved)), said(fine)) == (1, [])


def test_fine_scores_that_lose_what_was_found_are_noticed():
    rng = np.random.default_rng(0)
    coarse = np.eye(20).repeat(5, 1) + 0.2 * rng.random((20, 100))

    def said(fine):
        return [note for note in rerank(coarse, fine, 10)["conditions"]["notes"] if "WARNING" in note]

    assert said(coarse) == said(rng.random(coarse.shape) + coarse) == []
    for fine in (-coarse, coarse[rng.permutation(20)]):
        (note,) = said(fine)
        assert note.startswith("WARNING: re-ranking lowers R@1 of both directions, from 100.0 to ")
