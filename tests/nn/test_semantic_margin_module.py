"""SemanticMarginLoss: the weighted sum of the two operators, with a corpus that is asked for chosen pairs only."""

import copy

import pytest
import torch

from itm_fast import Cider, reference
from itm_fast.losses import SemanticMarginLoss, TripletLoss


class Corpus:
    """20 images with 5 captions each, phi at random; remembers what it was asked."""

    def __init__(self):
        self.phi = 10 * torch.rand(20, 100, generator=torch.Generator().manual_seed(1))
        self.asked = []
        self.caption_to_image = torch.arange(100) // 5

    def pairs(self, image_ids, caption_ids):
        self.asked.append(("pairs", len(image_ids)))
        return self.phi[image_ids, caption_ids]

    def relevance(self, image_ids, caption_ids):
        self.asked.append(("relevance", len(image_ids)))
        return self.phi[image_ids[:, None], caption_ids[None, :]]


CAPTION_IDS = torch.tensor([3, 4, 27, 60, 61, 62, 99, 10])
IMAGE_IDS = CAPTION_IDS // 5
SIMS = torch.rand(8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def loss_and_gradient(criterion, sims=SIMS):
    sims = sims.clone().requires_grad_()
    loss = criterion(sims, CAPTION_IDS, IMAGE_IDS)
    loss.backward()
    return loss.detach(), sims.grad


def expected(corpus, *, weight, triplet_weight, triplet, **sam):
    sims = SIMS.clone().requires_grad_()
    phi = corpus.phi[IMAGE_IDS[:, None], CAPTION_IDS[None, :]]
    loss = weight * reference.semantic_margin_loss(sims, phi, **sam)
    loss = loss + triplet_weight * reference.triplet_loss(sims, **triplet)
    loss.backward()
    return loss.detach(), sims.grad


@pytest.mark.parametrize(
    ("options", "weights", "sam", "triplet"),
    [
        ({}, (5.0, 3.0), {"image_ids": IMAGE_IDS}, {}),
        (
            {"weight": 2.0, "triplet_weight": 0.5, "margin": 0.4, "max_violation": False, "mask_same_image": False},
            (2.0, 0.5),
            {},
            {"margin": 0.4, "max_violation": False},
        ),
        (
            {"triplet_mask_same_image": True, "reduction": "mean", "temperature": 3.0, "sampling": "SN"},
            (5.0, 3.0),
            {"image_ids": IMAGE_IDS, "reduction": "mean", "temperature": 3.0, "sampling": "easiest"},
            {"image_ids": IMAGE_IDS, "reduction": "mean"},
        ),
        (
            {"variant": "released", "sampling": "soft", "margin_max": 0.5, "margin_min": -0.1},
            (5.0, 3.0),
            {"variant": "released", "sampling": "soft", "margin_max": 0.5, "margin_min": -0.1},
            {},
        ),
        (
            {"sampling": "all", "t2i_margin": "column", "margin_max": None},
            (5.0, 3.0),
            {"image_ids": IMAGE_IDS, "sampling": "all", "t2i_margin": "column", "margin_max": None},
            {},
        ),
        (
            {"variant": "literal", "sampling": "random", "seed": 5},
            (5.0, 3.0),
            {
                "image_ids": IMAGE_IDS,
                "variant": "literal",
                "sampling": "random",
                "generator": torch.Generator().manual_seed(5),
            },
            {},
        ),
    ],
    ids=["default", "weights", "masked_mean", "released", "all", "random"],
)
def test_is_the_weighted_sum_of_both(options, weights, sam, triplet):
    corpus = Corpus()
    loss, gradient = loss_and_gradient(SemanticMarginLoss(corpus, **options))
    want, want_gradient = expected(corpus, weight=weights[0], triplet_weight=weights[1], triplet=triplet, **sam)
    torch.testing.assert_close(loss, want)
    torch.testing.assert_close(gradient, want_gradient)
    assert corpus.asked == ([("relevance", 8)] if options.get("sampling") == "all" else [("pairs", 24)])


def test_without_the_triplet():
    corpus = Corpus()
    dropped = loss_and_gradient(SemanticMarginLoss(corpus, triplet_weight=0, weight=1.0))
    want = expected(corpus, weight=1.0, triplet_weight=0.0, triplet={}, image_ids=IMAGE_IDS)
    torch.testing.assert_close(dropped, want)
    not_finite = SIMS.clone()
    not_finite[0, 1] = float("nan")  # two captions of one image: masked for SAM, not for the triplet
    assert SemanticMarginLoss(corpus, triplet_weight=0)(not_finite, CAPTION_IDS).isfinite()
    assert SemanticMarginLoss(corpus)(not_finite, CAPTION_IDS).isnan()


def test_a_resumed_run_draws_what_the_first_would_have_drawn(tmp_path):
    def draws(criterion, n=4):
        return [criterion(SIMS, CAPTION_IDS).item() for _ in range(n)]

    criterion = SemanticMarginLoss(Corpus(), sampling="random", seed=3)
    assert draws(copy.deepcopy(criterion)) == draws(criterion)
    torch.save(criterion.state_dict(), tmp_path / "state.pt")
    torch.rand(7)  # the global generator plays no part
    rest = draws(criterion)
    resumed = SemanticMarginLoss(Corpus(), sampling="random", seed=4)
    assert draws(resumed) != rest
    resumed.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert draws(resumed) == rest
    assert len(set(rest)) > 1


def test_a_corpus_of_captions():
    captions = [["a dog runs", "a brown dog"], ["a red bus", "the red bus stops"], ["two cats", "cats sleep"]]
    corpus = Cider().fit(captions).encode(captions)
    ids, sims = torch.tensor([1, 2, 5]), torch.rand(3, 3)
    loss = SemanticMarginLoss(corpus, weight=1.0, triplet_weight=0.0, temperature=2.0)(sims, ids)
    phi = corpus.relevance(ids // 2, ids)
    torch.testing.assert_close(loss, reference.semantic_margin_loss(sims, phi, temperature=2.0))
    others = Cider().fit(captions).encode(captions, ["a dog", "a bus", "a cat"])
    with pytest.raises(ValueError, match="belong to no image"):
        SemanticMarginLoss(others)(sims, torch.arange(3))
    assert SemanticMarginLoss(others)(sims, torch.arange(3), torch.arange(3)).isfinite()


def test_prints_what_it_computes():
    text = repr(SemanticMarginLoss(Corpus(), sampling="random", temperature=6.0, triplet_weight=0))
    assert "fixed, random, temperature=6.0, weight=5.0, triplet_weight=0, margin=0.2" in text


def test_the_triplet_is_exported_too():
    torch.testing.assert_close(TripletLoss(0.3)(SIMS), reference.triplet_loss(SIMS, margin=0.3))


@pytest.mark.parametrize(
    ("options", "error", "fragment"),
    [
        ({"sampling": "soft"}, ValueError, "'SN' for variant 'fixed', got 'soft'"),
        ({"t2i_margin": "column", "variant": "literal"}, ValueError, "t2i_margin 'column'"),
        ({"temperature": 0}, ValueError, "temperature must be a finite number above 0"),
        ({"margin_max": "1"}, TypeError, "margin_max must be a number"),
        ({"weight": None}, TypeError, "weight must be a number"),
        ({"triplet_weight": float("inf")}, ValueError, "triplet_weight must be a finite number"),
        ({"margin": "0.2"}, TypeError, "margin must be a number"),
        ({"reduction": "max"}, ValueError, "reduction must be one of"),
    ],
)
def test_bad_options_are_named_at_once(options, error, fragment):
    with pytest.raises(error, match=fragment):
        SemanticMarginLoss(Corpus(), **options)


def test_a_matrix_is_no_corpus():
    with pytest.raises(TypeError, match=r"relevance must be a corpus, .*, got Tensor; a matrix is for itm_fast\."):
        SemanticMarginLoss(torch.rand(3, 6))


@pytest.mark.parametrize(
    ("arguments", "error", "fragment"),
    [
        ((SIMS[:3], CAPTION_IDS, IMAGE_IDS), ValueError, "sims must be a square matrix"),
        ((SIMS, CAPTION_IDS, IMAGE_IDS[:3]), ValueError, r"image_ids must have shape \(8,\)"),
        ((SIMS, CAPTION_IDS.int(), IMAGE_IDS), TypeError, "caption_ids must be int64"),
        ((SIMS, CAPTION_IDS + 10**6), ValueError, r"caption_ids holds 10\d+, expected 0 \.\.\. \d+"),
    ],
)
def test_bad_batches_are_named(arguments, error, fragment):
    with pytest.raises(error, match=fragment):
        SemanticMarginLoss(Corpus())(*arguments)
