"""The training loop: it learns, it is deterministic, and its schedule is the one asked for."""

import numpy as np
import pytest
import torch

from itm_fast import Cider
from itm_fast.data import CaptionTokens, PrecompDataset, Vocabulary, make_data
from itm_fast.losses import SemanticMarginLoss
from itm_fast.models import SCAN, SCANConfig
from itm_fast.training import loop


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_data(folder, n_train=24, n_dev=1, n_test=1, max_regions=6, dim=12)
    dataset, vocabulary = PrecompDataset(folder, "train"), Vocabulary.load(folder / "vocab.json")
    return dataset, CaptionTokens.from_captions(dataset.captions, vocabulary, "split"), vocabulary


def run(made, *, max_violation=True, **options):
    dataset, tokens, vocabulary = made
    torch.manual_seed(0)
    model = SCAN(SCANConfig(img_dim=12, word_dim=8, embed_size=16, max_violation=max_violation), vocabulary)
    return model, loop.train(
        model, dataset, tokens, **{"num_epochs": 2, "batch_size": 30, "learning_rate": 1e-3, **options}
    )


def test_the_loss_falls(made):
    _, losses = run(made, max_violation=False, num_epochs=15, learning_rate=5e-3)
    assert len(losses) == 15 * 4
    assert np.mean(losses[-4:]) < 0.5 * np.mean(losses[:4])


@pytest.mark.parametrize("warmup_epochs", [0, 2])
def test_trains_with_the_semantic_margin(made, warmup_epochs):
    captions = made[0].captions
    references = [captions[i : i + 5] for i in range(0, len(captions), 5)]
    corpus = Cider().fit(references).encode(references)
    criterion = SemanticMarginLoss(corpus, temperature=10.0, sampling="random", max_violation=warmup_epochs > 0)
    options = {"num_epochs": 15, "learning_rate": 5e-3, "warmup_epochs": warmup_epochs}
    model, losses = run(made, criterion=criterion, **options)
    assert np.mean(losses[-4:]) < (0.7 if warmup_epochs else 0.5) * np.mean(losses[:4])
    assert criterion.max_violation == (warmup_epochs > 0)
    assert losses != run(made, **options)[1]
    assert model.loss.max_violation


def test_a_seed_fixes_everything(made):
    first, losses = run(made, seed=3)
    torch.rand(7)  # the global generator plays no part in the order
    again, same = run(made, seed=3)
    assert losses == same
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert run(made, seed=4)[1] != losses


def test_the_learning_rate_falls_to_a_tenth(made, monkeypatch):
    rates = []

    class Adam(torch.optim.Adam):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "Adam", Adam)
    run(made, num_epochs=5, lr_update=2)
    assert rates[::4] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5])


@pytest.mark.parametrize(
    ("max_violation", "warmup_epochs", "expected"),
    [(True, 2, [False, False, True]), (True, 5, [False] * 3), (True, 0, [True] * 3), (False, 2, [False] * 3)],
)
def test_warm_up_counts_all_negatives(made, monkeypatch, max_violation, warmup_epochs, expected):
    seen = []
    monkeypatch.setattr(
        "itm_fast.nn.losses.triplet.TripletLoss.forward",
        lambda self, sims, image_ids=None: seen.append(self.max_violation) or sims.sum(),
    )
    model, _ = run(made, max_violation=max_violation, num_epochs=3, warmup_epochs=warmup_epochs)
    assert seen[::4] == expected
    assert model.loss.max_violation == max_violation


def test_captions_of_one_image_are_known_to_the_loss(made, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "itm_fast.nn.losses.triplet.TripletLoss.forward",
        lambda self, sims, image_ids: seen.append(image_ids) or sims.sum(),
    )
    run(made, num_epochs=1)
    assert sorted(torch.cat(seen).tolist()) == sorted([*range(24)] * 5)


@pytest.fixture
def gradient_norms(monkeypatch):
    """The norm of all gradients together at each step."""
    norms = []

    class Adam(torch.optim.Adam):
        def step(self, closure=None):
            gradients = [parameter.grad.flatten() for parameter in self.param_groups[0]["params"]]
            norms.append(torch.cat(gradients).norm().item())
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "Adam", Adam)
    return norms


def test_gradients_are_clipped_together(made, gradient_norms):
    run(made, grad_clip=0.01)
    assert gradient_norms == pytest.approx([0.01] * 8, rel=1e-3)


def test_gradients_are_those_of_one_step(made, gradient_norms):
    run(made, batch_size=120, learning_rate=0.0, grad_clip=1e9)  # the same pairs in each of the two steps
    assert gradient_norms[1] == pytest.approx(gradient_norms[0], rel=1e-4)


def test_progress(made):
    seen = []
    run(made, progress=lambda *done: seen.append(done))
    assert seen == [(step, 8) for step in range(1, 9)]


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"batch_size": 121}, "batch_size is 121, but the training split has only 120 captions"),
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
        ({"num_epochs": 0}, "num_epochs is 0"),
        ({"lr_update": 0}, "lr_update is 0"),
    ],
)
def test_errors(made, options, fragment):
    with pytest.raises(ValueError, match=fragment):
        run(made, **options)
