"""Two processes under gloo are one with the whole batch: parameters, validation, the command line."""

import contextlib
import io
import json
import shutil
import socket

import numpy as np
import pytest
import torch
from forked_commands import PRELOADED_DISTRIBUTED, forked_commands

from itm_fast.cli import main as cli
from itm_fast.data import make_data
from itm_fast.training.distributed import SyncedBatchNorm1d, World, joined_world, synchronise_batch_norms

DIM, R = 12, 5


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_data(folder, n_train=40, n_dev=6, n_test=2, max_regions=R, dim=DIM)
    return folder


@pytest.fixture(scope="module")
def fewer(data, tmp_path_factory):
    """The same captions; image i has 1 + i % 5 regions, so that the processes' batches are not equally wide."""
    folder = tmp_path_factory.mktemp("fewer")
    shutil.copytree(data, folder, dirs_exist_ok=True)
    for path in folder.glob("*_ims.npy"):
        features = np.load(path)
        np.save(path, features * (np.arange(R) <= np.arange(len(features))[:, None] % R)[..., None])
    return folder


@pytest.fixture(scope="module")
def forked():
    with forked_commands(*PRELOADED_DISTRIBUTED) as run:
        yield run


def start(forked, data, folder, n_processes, *flags):
    """`itm-fast train`, alone (here) or by torchrun's environment; returns what the first process printed."""
    arguments = ["train", *flags, "--data-path", str(data), "--tokenizer", "split", "--model-name", str(folder)]
    arguments += ["--json", "--trackers", "--num-epochs", "5"]  # at SCAN's learning rate
    if n_processes > 1:
        codes, printed, errors = processes_of(forked, n_processes, arguments, folder)
        assert codes == [0] * n_processes, errors
        assert not any(printed[1:])
        return json.loads(printed[0])
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert cli.main(arguments) == 0
    return json.loads(out.getvalue())


def processes_of(forked, n_processes, arguments, folder, first=""):
    """Exit codes, output and errors of a command that torchrun's environment starts so many times."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(n_processes)}
    ranks = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(n_processes)]
    here = folder.with_name(f"{folder.name}-printed") / "here"
    here.mkdir(parents=True, exist_ok=True)
    codes, _ = forked(arguments, here, environments=ranks, first=first)
    printed, errors = ([(here.parent / f"{of}{rank}").read_text() for rank in range(n_processes)] for of in STREAMS)
    return codes, printed, errors


STREAMS = ("stdout", "stderr")
SAM = ["--sam", "--sam-sampling", "random", "--img-dim", str(DIM), "--word-dim", "8", "--embed-size", "16"]


SCAN = ["scan", "--bi-gru", "--max-violation"]
CVSE = ["cvse", "--dropout-rate", "0", "--n-regions", str(R), "--n-concepts", "20", "--input-channel", "8"]


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (SCAN, "data"),
        (["vse_infty", "--max-violation", "--optim", "adamw", "--weight-decay", "1e-2"], "data"),
        (CVSE, "data"),
        (SCAN, "fewer"),
        (CVSE, "fewer"),
    ],
    ids=["scan", "vse_infty", "cvse", "scan, fewer regions", "cvse, fewer regions"],
)
def test_two_processes_are_one(request, forked, tmp_path, model, kind):
    data = request.getfixturevalue(kind)
    flags = [*model, *SAM, "--batch-size", "50", "--vse-mean-warmup-epochs", "2"]
    one, two = (start(forked, data, tmp_path / str(n), n, *flags) for n in (1, 2))
    assert one["steps"] == two["steps"] == 20
    states = [_state(tmp_path / str(n) / "checkpoint.pt") for n in (1, 2)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=0, atol=1e-5, msg=name)
    assert two["last_loss"] == pytest.approx(one["last_loss"], rel=1e-4)
    assert two["best"] == one["best"]


STOPPED = """
import os, signal
from itm_fast.training.objective import Objective

forward, steps = Objective.forward, []

def stopping(self, batch):
    steps.append(batch)
    if len(steps) == 3 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)
    return forward(self, batch)

Objective.forward = stopping
"""


def test_a_signal_to_one_process_stops_both_after_the_same_step(forked, data, tmp_path):
    """The first writes the checkpoint, the command that it prints begins with torchrun; going on changes nothing."""
    flags = [*SCAN, *SAM, "--batch-size", "50", "--val-step", "3", "--save-step", "100"]
    whole = start(forked, data, tmp_path / "whole", 2, *flags)
    stopped = tmp_path / "stopped"
    arguments = ["train", *flags, "--data-path", str(data), "--model-name", str(stopped), "--num-epochs", "5"]
    codes, _, errors = processes_of(forked, 2, [*arguments, "--trackers"], stopped, first=STOPPED)
    assert codes == [130, 143], errors
    command = f"torchrun --nproc-per-node 2 -m itm_fast train --resume {stopped}"
    assert f"stopped after step 3 of 20, whose checkpoint is kept; go on with: {command}\n" in errors[0]
    assert "go on with" not in errors[1]
    state = torch.load(stopped / "checkpoint.pt", weights_only=True)["state"]
    assert (state["step"], state["validation_is_due"]) == (3, True)
    codes, printed, errors = processes_of(forked, 2, ["train", "--resume", str(stopped), "--json"], stopped)
    assert codes == [0, 0], errors
    assert json.loads(printed[0])["best"] == whole["best"]
    one, other = (_state(folder / "checkpoint.pt") for folder in (tmp_path / "whole", stopped))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def _state(path):
    """The model's tensors, without the biases that a BatchNorm or a softmax removes.

    Their gradient is 0 but for rounding, which Adam makes steps of full size of.
    """
    state = torch.load(path, weights_only=True)["state"]["model"]
    bias = state.pop("img_enc.mlp.layers.0.bias", None)
    if bias is not None:
        # of what the BatchNorm has seen of the bias only the mean of the last steps: the weights' part is compared
        del state["img_enc.mlp.bns.0.running_mean"]
    for name in [name for name in state if name.endswith("embedding_3.0.bias")]:  # CVSE's
        del state[name]
        for number in (1, 2):
            module = name.replace("3.0.bias", str(number))
            is_normalised = f"{module}.1.running_mean" in state
            is_by_region = number == 1 and "self_atten" in name  # whose channels see other sums of the bias
            if is_normalised and not is_by_region:
                del state[f"{module}.0.bias"], state[f"{module}.1.running_mean"]
    return state


def test_a_world_of_one_needs_no_environment(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined_world(torch.device("cpu")) as world:
        assert world == World(0, 1, 0)
        assert world.is_first


def test_half_an_environment_is_said(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with (
        pytest.raises(ValueError, match="WORLD_SIZE is set but LOCAL_RANK is not; start with torchrun"),
        joined_world(torch.device("cpu")),
    ):
        pass


def test_alone_a_synchronised_batch_norm_is_a_batch_norm():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 4))
    names = list(model.state_dict())
    x = torch.randn(6, 4)
    expected = model(x)
    model[0].reset_running_stats()
    synchronise_batch_norms(model)
    assert isinstance(model[0], SyncedBatchNorm1d)
    assert list(model.state_dict()) == names
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
