"""The training loop: it learns, it is deterministic, and its schedule is the one asked for."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from itm_fast import Cider, reference
from itm_fast.config import TrainingConfig
from itm_fast.data import BatchPlan, CaptionTokens, Collator, PrecompDataset, Vocabulary, make_data
from itm_fast.errors import DataError
from itm_fast.losses import SemanticMarginLoss
from itm_fast.models import SCAN, SCANConfig, load_model
from itm_fast.training import loop, objective
from itm_fast.training.log import RunLog
from itm_fast.training.state import load_checkpoint


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_data(folder, n_train=24, n_dev=1, n_test=1, max_regions=6, dim=12)
    dataset, vocabulary = PrecompDataset(folder, "train"), Vocabulary.load(folder / "vocab.json")
    return dataset, CaptionTokens.from_captions(dataset.captions, vocabulary, "split"), vocabulary


def run(made, *, max_violation=True, margin=None, keywords=None, **options):
    """A small SCAN trained; the options are TrainingConfig's, the keywords those of `train`."""
    dataset, tokens, vocabulary = made
    torch.manual_seed(0)
    model = SCAN(SCANConfig(img_dim=12, word_dim=8, embed_size=16, max_violation=max_violation), vocabulary)
    config = TrainingConfig(**{"num_epochs": 2, "batch_size": 30, "learning_rate": 1e-3, **options})
    plan = BatchPlan(Collator(dataset, tokens), config.batch_size, config.num_epochs, seed=config.seed)
    keywords = dict(keywords or {})
    if keywords.pop("go_on", False):
        keywords["resume"] = load_checkpoint(keywords["folder"] / "checkpoint.pt", keywords.get("settings", {}))
    return model, loop.train(model, plan, config, margin=margin, **keywords).losses


@pytest.mark.learning
def test_the_loss_falls(made):
    _, losses = run(made, max_violation=False, num_epochs=15, learning_rate=5e-3)
    assert len(losses) == 15 * 4
    assert np.mean(losses[-4:]) < 0.5 * np.mean(losses[:4])


def semantic_margin(made, **options):
    captions = made[0].captions
    references = [captions[i : i + 5] for i in range(0, len(captions), 5)]
    corpus = Cider().fit(references).encode(references)
    return SemanticMarginLoss(corpus, temperature=10.0, sampling="random", triplet_weight=0.0, **options)


@pytest.mark.learning
@pytest.mark.parametrize("triplet_weight", [0.0, 1.0])
def test_trains_with_the_semantic_margin(made, triplet_weight):
    options = {"num_epochs": 15, "learning_rate": 5e-3, "keywords": {"triplet_weight": triplet_weight}}
    _, losses = run(made, margin=semantic_margin(made), max_violation=False, **options)
    assert np.mean(losses[-4:]) < 0.5 * np.mean(losses[:4])
    _, triplet = run(made, max_violation=False, num_epochs=1)
    _, margin = run(made, margin=semantic_margin(made), keywords={"triplet_weight": 0.0}, num_epochs=1)
    # the first step's loss is the sum of its parts
    assert losses[0] == pytest.approx(margin[0] + triplet_weight * triplet[0], rel=1e-5)


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
    model, _ = run(made, max_violation=max_violation, num_epochs=3, vse_mean_warmup_epochs=warmup_epochs)
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
    run(made, keywords={"progress": lambda *done: seen.append(done)})
    assert seen == [(step, 8) for step in range(1, 9)]


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"batch_size": 121}, "batch_size is 121, but the training split has only 120 captions"),
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
        ({"batch_size": 1}, "batch_size is 1; expected at least 2: a pair's negatives"),
        ({"seed": -1}, "seed is -1; expected at least 0"),
        ({"num_epochs": 0}, "num_epochs is 0"),
        ({"lr_update": 0}, "lr_update is 0"),
    ],
)
def test_errors(made, options, fragment):
    with pytest.raises(ValueError, match=fragment):
        run(made, **options)


def rsums(*values):
    """A validation that finds these values, one after the other."""
    left = iter(values)
    return lambda: {"rsum": next(left)}


@pytest.mark.parametrize("sam", [False, True])
@pytest.mark.parametrize("killed_after", [1, 3, 5])
def test_a_resumed_run_is_the_uninterrupted_one(made, tmp_path, monkeypatch, sam, killed_after):
    def margin():
        return semantic_margin(made) if sam else None

    options = {"num_epochs": 2, "save_step": 1, "accumulation_steps": 2}
    whole, losses = run(made, margin=margin(), **options)

    def stop(done, total):
        if done == killed_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(made, margin=margin(), keywords={"folder": tmp_path, "progress": stop}, **options)
    torch.rand(5)
    resumed, rest = run(made, margin=margin(), keywords={"folder": tmp_path, "go_on": True}, **options)
    assert rest == losses[killed_after:]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_resumed_run_must_be_the_same_run(made, tmp_path):
    run(made, keywords={"folder": tmp_path, "settings": {"batch_size": 30}})
    with pytest.raises(DataError, match="batch_size was 30, but now is 60; a run is resumed with the flags"):
        run(made, keywords={"folder": tmp_path, "settings": {"batch_size": 60}, "go_on": True})


def test_of_settings_that_stand_together_the_one_that_differs_is_named(made, tmp_path):
    together = {"settings": {"sam": json.dumps({"sam": False, "sam_weight": 5.0})}, "folder": tmp_path}
    run(made, num_epochs=1, keywords=together)
    other = {"sam": json.dumps({"sam": False, "sam_weight": 3.0, "younger": 1})}
    with pytest.raises(DataError, match=r"pt: sam_weight was 5\.0, but now is 3\.0; a run"):
        run(made, keywords={**together, "settings": other, "go_on": True})


def test_settings_that_are_no_json_are_a_damaged_checkpoint(made, tmp_path):
    run(made, num_epochs=1, keywords={"folder": tmp_path, "settings": {"sam": "{"}})
    with pytest.raises(DataError, match=r"checkpoint\.pt: its settings are no JSON"):
        run(made, keywords={"folder": tmp_path, "go_on": True})


def test_a_resumed_run_decays_by_its_own_flag(made, tmp_path):
    decayed = []
    for decay in (0.0, 0.5):
        run(made, num_epochs=1, keywords={"folder": tmp_path})
        model, _ = run(made, optim="adamw", weight_decay=decay, keywords={"folder": tmp_path, "go_on": True})
        decayed.append(sum(float(weight.detach().abs().sum()) for weight in model.parameters()))
    assert decayed[1] < decayed[0]


def test_an_older_run_did_not_know_every_setting(made, tmp_path):
    run(made, num_epochs=1, keywords={"folder": tmp_path, "settings": {"batch_size": 30}})
    settings = {"batch_size": 30, "younger": "than that"}
    _, losses = run(made, keywords={"folder": tmp_path, "settings": settings, "go_on": True})
    assert len(losses) == 4


@pytest.mark.parametrize("content", [b"", b"half a file", b"PK\x03\x04 and no more"])
def test_a_damaged_checkpoint(made, tmp_path, content):
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(DataError, match=r"checkpoint\.pt: not a training state"):
        run(made, keywords={"folder": tmp_path, "go_on": True})


def test_nothing_to_resume_from(made, tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing to resume from"):
        run(made, keywords={"folder": tmp_path, "go_on": True})


def test_a_disk_that_fills_leaves_the_last_checkpoint(made, tmp_path, monkeypatch):
    run(made, num_epochs=1, keywords={"folder": tmp_path})
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full(state, path):
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:783] . PytorchStreamWriter failed writing file\nmore")

    monkeypatch.setattr("itm_fast.training.state.torch.save", full)
    with pytest.raises(OSError, match=r"checkpoint\.pt: could not be written, the last checkpoint stays: .*failed"):
        run(made, keywords={"folder": tmp_path})
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_loss_that_is_no_number_stops_the_run(made, tmp_path, monkeypatch):
    forward = objective.Objective.forward
    seen = []

    def diverging(self, batch):
        seen.append(batch.caption_ids.tolist())
        return forward(self, batch) * (float("nan") if len(seen) == 6 else 1)

    monkeypatch.setattr(objective.Objective, "forward", diverging)
    with pytest.raises(loop.DivergedError, match=r"step 6: the loss is nan; the last checkpoint") as raised:
        run(made, save_step=2, keywords={"folder": tmp_path})
    assert str(raised.value).endswith(", ".join(map(str, seen[5])))
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]
    assert state["step"] == 4
    assert all(value.isfinite().all() for value in state["model"].values())


def test_gradients_that_are_no_numbers_stop_the_run(made, monkeypatch):
    monkeypatch.setattr(SCAN, "encode_images", lambda self, images, counts: _scaled_gradient(self.img_enc(images)))
    with pytest.raises(loop.DivergedError, match=r"step 1: the norm of the gradients is (nan|inf)"):
        run(made)


def _scaled_gradient(x):
    x.register_hook(lambda gradient: gradient * float("inf"))
    return x


def test_the_best_model_is_kept_and_patience_ends_the_run(made, tmp_path):
    dataset, tokens, vocabulary = made
    torch.manual_seed(0)
    model = SCAN(SCANConfig(img_dim=12, word_dim=8, embed_size=16), vocabulary)
    config = TrainingConfig(num_epochs=4, batch_size=30, val_step=2, patience=3, learning_rate=1e-3)
    weights, found = [], rsums(1.0, 5.0, 4.0, 5.0, 3.0, 9.0)

    def validate():
        assert not model.training
        weights.append(model.img_enc.fc.weight.detach().clone())
        return found()

    plan = BatchPlan(Collator(dataset, tokens), 30, 4)
    result = loop.train(model, plan, config, validate=validate, folder=tmp_path)
    assert (result.best, result.stopped_early, result.step) == ({"rsum": 5.0, "step": 4}, True, 10)
    torch.testing.assert_close(load_model(tmp_path / "best").img_enc.fc.weight, weights[1], rtol=0, atol=0)
    assert model.training


def test_the_log_has_steps_and_validations(made, tmp_path):
    log = RunLog(tmp_path)
    run(made, log_step=3, accumulation_steps=2, keywords={"log": log, "validate": rsums(1.0, 2.0)})
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    found = [(line["kind"], line["step"]) for line in lines]
    assert found == [("train", 3), ("train", 4), ("validation", 4), ("train", 6), ("train", 8), ("validation", 8)]
    assert [line["gradient_norm"] is None for line in lines if line["kind"] == "train"] == [True, False, False, False]
    assert lines[0].keys() > {"epoch", "loss", "learning_rate", "gradient_norm", "pairs_per_second", "seconds"}
    assert lines[-1]["rsum"] == 2.0


def test_a_log_forgets_what_came_after_the_checkpoint(tmp_path):
    log = RunLog(tmp_path)
    for step in range(1, 5):
        log.write("train", step, {"loss": 1.0})
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # killed while writing
    log = RunLog(tmp_path, from_step=2)
    log.write("train", 3, {"loss": 2.0})
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 1.0), (3, 2.0)]


def test_tensorboard_has_the_numbers(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed (pip install 'itm-fast[train]')")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(tmp_path, trackers=("tensorboard",))
    log.write("train", 3, {"loss": 0.5, "gradient_norm": None})
    log.write("validation", 3, {"rsum": 1.0, "i2t": {"R@1": 2.0}, "is_best": True})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["train/loss", "validation/i2t/R@1", "validation/rsum"]
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(3, 0.5)]


def test_a_tracker_that_is_not_installed_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    notices = []
    log = RunLog(tmp_path, trackers=("wandb",), notice=notices.append)
    log.write("train", 1, {"loss": 0.5})
    log.close()
    assert len(notices) == 1
    assert "wandb is not installed" in notices[0]
    assert "pip install wandb" in notices[0]


def test_trackers_get_the_numbers_and_are_closed(tmp_path, monkeypatch):
    calls = []
    run = SimpleNamespace(log=lambda scalars, step: calls.append((step, scalars)), finish=lambda: calls.append("end"))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **options: run))
    log = RunLog(tmp_path, trackers=("wandb",))
    log.write("train", 1, {"loss": 0.5})
    log.close()
    assert calls == [(1, {"train/loss": 0.5}), "end"]


def test_a_collapse_is_recognised(made, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_COLLAPSED_STEPS", 4)
    monkeypatch.setattr(SCAN, "similarity", lambda self, images, words, counts: 0 * images.sum() + torch.zeros(30, 30))
    notices = []
    log = RunLog(tmp_path, notice=notices.append)
    run(made, num_epochs=1, log_step=1, keywords={"log": log})
    log.close()
    assert len(notices) == 1
    assert "2 x margin = 0.4 a pair for 4 steps" in notices[0]


@pytest.mark.learning
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_learns_too(made, precision):
    _, losses = run(made, max_violation=False, num_epochs=15, learning_rate=5e-3, precision=precision)
    assert np.mean(losses[-4:]) < 0.5 * np.mean(losses[:4])


def test_accumulated_gradients_are_those_of_the_mean(made, gradient_norms):
    run(made, num_epochs=1, learning_rate=0.0, grad_clip=0)
    run(made, num_epochs=1, learning_rate=0.0, grad_clip=0, accumulation_steps=4)
    assert len(gradient_norms) == 5
    assert 0 < gradient_norms[4] < np.mean(gradient_norms[:4])


@pytest.mark.learning
def test_the_fused_operator_gives_the_loss_curve_of_the_reference(made, monkeypatch):
    """200 steps, to 1e-4 of the loss; hard negatives from the start, so that the choice of them must agree too."""

    def by_reference(self, images, captions, word_counts):
        return reference.cross_attention_similarity(images, captions, word_counts)

    options = {"num_epochs": 50, "vse_mean_warmup_epochs": 25, "learning_rate": 2e-4}
    _, fused = run(made, **options)
    monkeypatch.setattr(SCAN, "similarity", by_reference)
    _, plain = run(made, **options)
    assert len(fused) == 200
    np.testing.assert_allclose(fused, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.compiled
def test_compiled_encoders_give_the_same_losses(made):
    _, plain = run(made)
    model, compiled = run(made, compile=True)
    assert model.img_enc._compiled_call_impl is not None
    np.testing.assert_allclose(compiled, plain, rtol=1e-5)
