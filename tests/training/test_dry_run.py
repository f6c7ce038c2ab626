"""`itm-fast train --dry-run`: what it says is what the run would be, and it leaves nothing behind."""

import json

import pytest

from itm_fast.cli import main as cli
from itm_fast.data import PrecompDataset, make_data
from itm_fast.models import load_model

DIM = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_data(folder, n_train=30, n_dev=40, n_test=6, max_regions=5, dim=DIM)
    return folder


@pytest.fixture
def run(data, tmp_path, monkeypatch, capsys):
    """Runs `itm-fast train` in an empty folder; what it printed, of a dry run as read from JSON."""
    monkeypatch.chdir(tmp_path)

    def call(*flags, code=0):
        assert cli.main(["train", *flags]) == code
        printed = capsys.readouterr()
        return printed.err if code else json.loads(printed.out) if "--json" in flags else printed.out

    return call


@pytest.fixture
def flags(data):
    sizes = ["--img-dim", str(DIM), "--word-dim", "8", "--embed-size", "16", "--batch-size", "30", "--num-epochs", "2"]
    return ["--data-path", str(data), *sizes, "--trackers", "--log-step", "1", "--model-name", "run"]


def losses_of(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"]


@pytest.mark.parametrize("model", [["scan"], ["vsepp", "--sam"], ["scan", "--size-augment", "--workers", "1"]])
def test_it_says_what_the_run_would_be(run, flags, data, tmp_path, model):
    if "--size-augment" in model:
        model = ["vse_infty", *model[1:]]
    tried = run(*model, *flags, "--dry-run", "--json")
    assert list(tmp_path.iterdir()) == []
    run(*model, *flags)
    assert tried["losses"] == losses_of(tmp_path / "run")[:2]
    found = load_model(tmp_path / "run" / "best")
    assert tried["n_parameters"] == sum(parameter.numel() for parameter in found.parameters())
    assert tried["n_words"] == len(found.vocabulary)
    assert tried["tokenizer"] == found.vocabulary.tokenizer == "split"
    splits = {split: PrecompDataset(data, split) for split in ("train", "dev")}
    assert tried["n_captions"] == {split: dataset.n_captions for split, dataset in splits.items()}
    assert tried["shapes"]["regions"] == [30, 5, DIM]
    assert tried["shapes"]["tokens"][0] == 30
    assert tried["shapes"]["encoded captions"] == [
        30,
        *([tried["shapes"]["tokens"][1]] if model == ["scan"] else []),
        16,
    ]
    assert tried["shapes"]["similarities"] == [30, 30]
    assert (tried["steps_per_epoch"], tried["num_epochs"]) == (5, 2)
    assert tried["epoch_seconds"] == 5 * tried["step_seconds"] > 0
    assert tried["validation_seconds"] > 0
    assert tried["peak_bytes"] > 2**20
    # The weights and two moments of each; a file has a little more.
    size = (tmp_path / "run" / "checkpoint.pt").stat().st_size
    assert 0.5 * size < tried["checkpoint_bytes"] < size


def test_as_text(run, flags, tmp_path):
    said = run("scan", *flags, "--dry-run")
    assert said.startswith("dry run of scan: 2 steps and a batch of the validation; nothing is kept\n  runs on ")
    for fragment in (
        "cpu, float32",
        "train 30 images, 150 captions; dev 40 images, 200 captions",
        "30 x 5 x 12",
        "a checkpoint takes 0.",
        "an epoch of 5 steps about ",
        "all 2 about ",
    ):
        assert fragment in said
    assert list(tmp_path.iterdir()) == []


def test_of_a_run_that_goes_on(run, flags, tmp_path):
    run("scan", *flags, "--num-epochs", "1")
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert "run: all 5 steps are done; --num-epochs goes on" in run("--resume", "run", "--dry-run", code=2)
    tried = run("--resume", "run", "--num-epochs", "2", "--dry-run", "--json")
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == files
    run("--resume", "run", "--num-epochs", "2")
    assert tried["losses"] == losses_of(tmp_path / "run")[5:7]


def test_what_the_run_would_refuse(run, flags, tmp_path):
    assert "give --img-dim 12" in run("scan", *flags, "--img-dim", "13", "--dry-run", code=2)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").touch()
    assert "run holds a run already" in run("scan", *flags, "--dry-run", code=2)
