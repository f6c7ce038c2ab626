"""Models on a CUDA device by the commands: what they score is what they score on the CPU."""

import json

import numpy as np
import pytest
import torch
from small_models import small_model

from itm_fast.cli import main as cli
from itm_fast.data import Vocabulary, make_data
from itm_fast.models import MODELS, save_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

DIM = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set and an untrained model of each kind."""
    folder = tmp_path_factory.mktemp("models")
    make_data(folder / "data", n_train=20, n_dev=6, n_test=9, max_regions=4, dim=DIM)
    vocabulary = Vocabulary.load(folder / "data" / "vocab.json")
    for name in MODELS:
        save_model(small_model(name, vocabulary, DIM), folder / name)
    return folder


@pytest.fixture
def run(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)

    def call(*arguments):
        assert cli.main([*arguments, "--data", "data", "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return call


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.05), ("float16", 0.05)])
@pytest.mark.parametrize("name", MODELS)
def test_cuda_evaluates_like_the_cpu(run, tmp_path, name, precision, tolerance):
    sims = []
    for device, of in (("cpu", "float32"), ("cuda", precision)):
        run("evaluate", "--model", name, "--device", device, "--precision", of, "--save-results", f"{tmp_path}/s.npy")
        sims.append(np.load(tmp_path / "s.npy"))
    np.testing.assert_allclose(*sims, rtol=tolerance, atol=tolerance)


def test_cuda_auto_is_the_device_where_there_are_kernels(run):
    notes = run("evaluate", "--model", "scan", "--precision", "bfloat16")["conditions"]["notes"]
    assert any("on cuda" in note for note in notes)


@pytest.mark.parametrize("normalise", ["none", "zscore", "rank"])
def test_cuda_ensembles_and_reranks(run, tmp_path, normalise):
    sims = []
    for device in ("cpu", "cuda:0"):
        flags = ["--normalise", normalise, "--save-results", f"{tmp_path}/s.npy", "--device", device]
        run("ensemble", "vsepp", "scan", *flags)
        sims.append(np.load(tmp_path / "s.npy"))
    np.testing.assert_allclose(*sims, rtol=1e-3, atol=1e-3)
    found = [run("rerank", "--coarse", "vsepp", "--fine", "scan", "--k", "10", "--device", d) for d in ("cpu", "cuda")]
    assert found[0]["conditions"]["n_scored"] == found[1]["conditions"]["n_scored"]


def test_cuda_trains_and_goes_on(folder, tmp_path, capsys):
    sizes = ["--img-dim", str(DIM), "--word-dim", "8", "--embed-size", "16", "--batch-size", "20", "--trackers"]
    flags = ["scan", "--data-path", str(folder / "data"), *sizes, "--num-epochs", "1", "--device", "cuda"]
    assert cli.main(["train", *flags, "--dry-run", "--json"]) == 0
    tried = json.loads(capsys.readouterr().out)
    assert tried["device"] == "cuda"
    assert 0 < tried["peak_bytes"] < torch.cuda.get_device_properties(0).total_memory
    assert cli.main(["train", *flags, "--model-name", str(tmp_path / "run"), "--log-step", "1"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert losses[:2] == pytest.approx(tried["losses"], rel=1e-5)
    assert cli.main(["train", "--resume", str(tmp_path / "run"), "--num-epochs", "2"]) == 0


def test_cuda_a_device_too_many(folder, capsys):
    name = f"cuda:{torch.cuda.device_count()}"
    model = ["--model", str(folder / "vsepp"), "--data", str(folder / "data")]
    assert cli.main(["evaluate", *model, "--device", name]) == 2
    assert f"device is '{name}', but the CUDA devices of this machine end at" in capsys.readouterr().err
