"""A run that a signal stops: the step is done first, the checkpoint is of it, and going on changes nothing."""

import functools
import json
import os
import signal
import threading

import pytest
import torch

from itm_fast.config import TrainingConfig
from itm_fast.data import BatchPlan, CaptionTokens, Collator, PrecompDataset, Vocabulary, make_data
from itm_fast.models import SCAN, SCANConfig
from itm_fast.training import loop
from itm_fast.training.log import RunLog
from itm_fast.training.objective import Objective
from itm_fast.training.state import load_checkpoint
from itm_fast.training.stopping import HeldSignals

STOPS = ("SIGINT", "SIGTERM", "SIGHUP")


@pytest.fixture(autouse=True)
def handled():
    """The signals that arrive, by name: each raises, as the handlers of the commands do."""
    seen = []

    def on_signal(number, frame):
        seen.append(signal.Signals(number).name)
        raise KeyboardInterrupt

    before = {name: signal.signal(getattr(signal, name), on_signal) for name in STOPS}
    yield seen
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)


def send(name):
    os.kill(os.getpid(), getattr(signal, name))


@pytest.mark.parametrize("name", STOPS)
@pytest.mark.parametrize("depth", [1, 2])
def test_a_signal_waits_for_the_end(handled, name, depth):
    before = signal.getsignal(getattr(signal, name))
    done = []

    def held(depth):
        with HeldSignals() as here:
            if depth > 1:
                held(depth - 1)
            else:
                send(name)
                send(name)
            assert here.noted == getattr(signal, name)
            done.append((depth, list(handled)))

    with pytest.raises(KeyboardInterrupt):
        held(depth)
    assert done == [(number + 1, []) for number in range(depth)]
    assert handled == [name]
    assert signal.getsignal(getattr(signal, name)) == before


def test_without_a_signal_nothing_happens(handled):
    before = [signal.getsignal(getattr(signal, name)) for name in STOPS]
    with HeldSignals() as held:
        pass
    assert (held.noted, handled) == (0, [])
    assert [signal.getsignal(getattr(signal, name)) for name in STOPS] == before


def test_an_error_is_not_lost_to_a_signal(handled):
    def fail():
        with HeldSignals():
            send("SIGINT")
            raise ValueError("the loss is nan")

    with pytest.raises(ValueError, match="the loss is nan"):
        fail()
    assert handled == []


def test_ignored_signals_stay_ignored(handled):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it
    with HeldSignals() as held:
        send("SIGHUP")
    assert (held.noted, handled) == (0, [])
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_other_threads_have_no_signals(handled):
    found = []

    def work():
        with HeldSignals() as held:
            found.append(held.noted)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [0]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_data(folder, n_train=24, n_dev=1, n_test=1, max_regions=6, dim=12)
    dataset, vocabulary = PrecompDataset(folder, "train"), Vocabulary.load(folder / "vocab.json")
    return dataset, CaptionTokens.from_captions(dataset.captions, vocabulary), vocabulary


def sum_of_weights(model):
    return model.img_enc.fc.weight.detach().abs().sum().item()


def run(made, folder, *, resume=False, stop_in=None, rsum_of=sum_of_weights, **options):
    """Eight steps of a small SCAN with four validations, 2 to 8; `stop_in` is a validation, counted from 1."""
    dataset, tokens, vocabulary = made
    torch.manual_seed(0)
    model = SCAN(SCANConfig(img_dim=12, word_dim=8, embed_size=16), vocabulary)
    config = TrainingConfig(num_epochs=2, batch_size=30, learning_rate=1e-3, val_step=2, save_step=100, **options)
    plan = BatchPlan(Collator(dataset, tokens), config.batch_size, config.num_epochs)
    state = load_checkpoint(folder / "checkpoint.pt", {}) if resume else None
    n_validations = 0

    def validate():
        nonlocal n_validations
        n_validations += 1
        if n_validations == stop_in:
            send("SIGTERM")
        return {"rsum": rsum_of(model)}

    moments, notices = [], []
    log = RunLog(folder, from_step=state["step"] if state else 0, notice=notices.append)
    try:
        keywords = {"folder": folder, "log": log, "resume": state, "validate": validate, "watch": moments.append}
        return model, loop.train(model, plan, config, **keywords), moments
    finally:
        log.close()
        print("\n".join(notices))


def lines(folder, kind):
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    changing = ("seconds", "pairs_per_second")
    return [{k: v for k, v in line.items() if k not in changing} for line in found if line["kind"] == kind]


def is_equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.fixture(scope="module")
def whole_run(made, tmp_path_factory):
    """Options -> the model, the result, and the lines of the log of a run that nothing stops."""

    @functools.cache
    def of(**options):
        folder = tmp_path_factory.mktemp("whole")
        model, result, _ = run(made, folder, **options)
        return model, result, (lines(folder, "train"), lines(folder, "validation"))

    return of


@pytest.mark.parametrize("accumulation_steps", [1, 3])
@pytest.mark.parametrize("name", STOPS)
@pytest.mark.parametrize("step", [1, 2, 5, 8])
def test_a_stop_within_a_step(made, whole_run, tmp_path, monkeypatch, capsys, handled, step, name, accumulation_steps):
    options = {"accumulation_steps": accumulation_steps, "log_step": 1}
    whole, wanted, expected = whole_run(**options)
    forward, seen = Objective.forward, []

    def stopping(self, batch):
        seen.append(batch)
        if len(seen) == step:
            send(name)
        return forward(self, batch)

    capsys.readouterr()
    folder = tmp_path / "a folder"
    folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(Objective, "forward", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(made, folder, **options)
    assert handled == [name]
    assert load_checkpoint(folder / "checkpoint.pt", {})["step"] == step
    said = f"stopped after step {step} of 8, whose checkpoint is kept; go on with: itm-fast train --resume '{folder}'\n"
    assert capsys.readouterr().out == said
    torch.rand(3)
    resumed, found, moments = run(made, folder, resume=True, **options)
    assert found.losses == wanted.losses[step:]
    assert (found.step, found.best) == (8, wanted.best)
    assert is_equal(whole, resumed)
    assert (lines(folder, "train"), lines(folder, "validation")) == expected
    assert [(moment.step, moment.first_step) for moment in moments] == [(n, step) for n in range(step, 9)]


@pytest.mark.parametrize("validation", [1, 2, 4])
def test_a_validation_that_was_broken_off_is_done_first(made, tmp_path, validation):
    whole, wanted, moments = run(made, tmp_path)
    expected = lines(tmp_path, "validation")
    assert [moment.validation["rsum"] if moment.validation else None for moment in moments] == [
        *[None] * 2,
        *[line["rsum"] for line in expected[:3] for _ in range(2)],
        expected[3]["rsum"],
    ]
    (tmp_path / "other").mkdir()
    with pytest.raises(KeyboardInterrupt):
        run(made, tmp_path / "other", stop_in=validation)
    state = load_checkpoint(tmp_path / "other" / "checkpoint.pt", {})
    assert (state["step"], state["validation_is_due"]) == (2 * validation, True)
    resumed, found, moments = run(made, tmp_path / "other", resume=True)
    assert moments[0].validation["rsum"] == expected[validation - 1]["rsum"]
    assert found.best == wanted.best
    assert is_equal(whole, resumed)
    assert lines(tmp_path / "other", "validation") == expected


def test_a_validation_that_was_broken_off_may_be_the_last(made, tmp_path, monkeypatch):
    """Of equal ones the second is not better, so that patience ends the run after it."""
    monkeypatch.setattr("itm_fast.training.loop.save_model", lambda model, folder, found: None)
    constant = {"rsum_of": lambda model: 1.0, "patience": 1}
    with pytest.raises(KeyboardInterrupt):
        run(made, tmp_path, stop_in=2, **constant)
    _, found, _ = run(made, tmp_path, resume=True, **constant)
    assert (found.step, found.losses, found.stopped_early, found.best) == (4, [], True, {"rsum": 1.0, "step": 2})


def test_a_stop_before_the_first_step_keeps_nothing(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop.Steps, "batches", lambda self: send("SIGINT"))
    with pytest.raises(KeyboardInterrupt):
        run(made, tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()
    assert "stopped" not in capsys.readouterr().out
