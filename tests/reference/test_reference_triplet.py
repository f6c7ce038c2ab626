"""The hinge loss against the originals' golden values, and by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from itm_fast.reference import triplet_loss

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "losses.npz")
SIMS = torch.tensor([[0.5, 0.6, 0.1], [0.4, 0.5, 0.2], [0.0, 0.1, 0.5]], dtype=torch.float64)


@pytest.mark.parametrize(("kind", "max_violation"), [("max", True), ("sum", False)])
def test_golden_scores(kind, max_violation):
    sims = torch.from_numpy(GOLDEN["scores.scores"]).double().requires_grad_()
    loss = triplet_loss(sims, margin=float(GOLDEN["margin"]), max_violation=max_violation)
    loss.backward()
    assert loss.item() == pytest.approx(float(GOLDEN[f"scores.{kind}.loss"]), rel=1e-13)
    np.testing.assert_allclose(sims.grad, GOLDEN[f"scores.{kind}.dscores"], rtol=0, atol=1e-13)


@pytest.mark.parametrize(("kind", "max_violation"), [("max", True), ("sum", False)])
def test_golden_embeddings(kind, max_violation):
    images, captions = (torch.from_numpy(GOLDEN[name]).double().requires_grad_() for name in ("vse.im", "vse.s"))
    loss = triplet_loss(images @ captions.T, margin=0.2, max_violation=max_violation)
    loss.backward()
    assert loss.item() == pytest.approx(float(GOLDEN[f"vse.cosine.{kind}.loss"]), rel=1e-12)
    np.testing.assert_allclose(images.grad, GOLDEN[f"vse.cosine.{kind}.dim"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(captions.grad, GOLDEN[f"vse.cosine.{kind}.ds"], rtol=0, atol=1e-12)


def test_by_hand():
    # Over captions: 0.3 | 0.1 | none; over images: 0.1 | 0.3 | none.
    assert triplet_loss(SIMS).item() == pytest.approx(0.8)
    assert triplet_loss(SIMS, reduction="mean").item() == pytest.approx(0.8 / 3)
    assert triplet_loss(SIMS, margin=0.05).item() == pytest.approx(0.3)
    # One more pair of each query at a margin of 0.45: rows 0.55 0.05 | 0.35 0.15 | 0 0.05, columns alike.
    assert triplet_loss(SIMS, margin=0.45, max_violation=False).item() == pytest.approx(2 * 1.15)


def test_captions_of_one_image_are_no_negatives_of_each_other():
    image_ids = torch.tensor([7, 7, 8])
    assert triplet_loss(SIMS, image_ids=image_ids).item() == 0
    assert triplet_loss(SIMS, margin=0.45, image_ids=image_ids).item() == pytest.approx(
        0.05 + 0.15 + 0.05 + 0.05 + 0.15
    )


def test_empty_and_single_batches_have_no_negatives():
    for n in (0, 1):
        for max_violation in (True, False):
            assert triplet_loss(torch.ones(n, n), max_violation=max_violation, reduction="mean").item() == 0


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        ({"sims": torch.zeros(2, 3)}, r"square matrix .* got \(2, 3\)"),
        ({"reduction": "none"}, "'sum' or 'mean', got 'none'"),
        ({"image_ids": torch.tensor([1, 2])}, r"shape \(3,\).* got \(2,\)"),
    ],
)
def test_errors(arguments, fragment):
    with pytest.raises(ValueError, match=fragment):
        triplet_loss(**{"sims": SIMS, **arguments})
