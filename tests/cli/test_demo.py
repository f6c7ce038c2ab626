"""itm-fast demo in a tiny configuration: files, figures, agreement, errors."""

import json
import re
import sys

import pytest
import torch

from itm_fast.cli import console, demo, main
from itm_fast.data import CaptionTokens, PrecompDataset
from itm_fast.evaluation import evaluate, load_run
from itm_fast.models import load_model
from itm_fast.sources.trained_model import ModelScorer

TINY = {
    "n_train": 40,
    "n_test": 12,
    "max_regions": 5,
    "dim": 12,
    "embed_size": 8,
    "num_epochs": 2,
    "warmup_epochs": 1,
    "batch_size": 50,
    "repeats": 1,
}


def call(folder, *flags, **changed):
    numbers = {**TINY, **changed}
    pairs = [part for name, value in numbers.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return main.main(["demo", "--folder", str(folder), *pairs, *flags])


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr(demo, "print_json", printed.append)
        assert call(folder, "--json") == 0
    return folder, printed[0]


@pytest.mark.slow
def test_json_is_the_report_on_disk(done):
    folder, printed = done
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(printed))
    assert printed["data"]["n_images"]["test"] == 12
    assert printed["training"]["steps"] == 8
    assert len(printed["training"]["epoch_losses"]) == 2


@pytest.mark.slow
def test_the_saved_model_has_the_reported_recall(done):
    folder, printed = done
    scorer = ModelScorer(load_model(folder / "model"), PrecompDataset(folder / "data", "test"), tokenizer="split")
    report = evaluate(scorer)
    for direction in ("i2t", "t2i"):
        for k in (1, 5, 10):
            assert report[direction][f"R@{k}"] == pytest.approx(printed["retrieval"][direction][f"R@{k}"])


@pytest.mark.slow
def test_the_page_is_of_the_run_that_is_kept(done):
    folder, printed = done
    kept = load_run(folder / "run")
    assert kept.report["rsum"] == printed["retrieval"]["rsum"]
    assert kept.attention
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert kept.captions[int(kept.t2i.ranks.argmax())].split()[1] in page


def test_without_the_extra_the_page_is_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert call(tmp_path / "demo") == 0
    assert "left out, a report needs jinja2, which is not installed: pip install" in capsys.readouterr().out
    assert not (tmp_path / "demo" / "report.html").exists()
    assert (tmp_path / "demo" / "run" / "run.json").is_file()


@pytest.mark.slow
def test_stages_are_announced_and_the_last_line_is_the_address_of_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # the folder is given relative to it
    monkeypatch.setattr(console, "_SECONDS_BETWEEN_LINES", 0.0)
    assert call("demo") == 0
    printed = capsys.readouterr()
    said = [line for line in printed.err.splitlines() if " of 4: " in line]
    assert [line.partition(" of 4: ")[0] for line in said] == ["1", "2", "3", "4"]
    assert re.search(r"2 train: 100 %, loss \d+\.\d{4}, about 0 s left", printed.err)
    assert printed.out.splitlines()[-1].endswith(f" file://{tmp_path}/demo/report.html")


def test_durations_are_those_of_the_default_sizes():
    assert demo._duration(demo.Demo(), "data", "training").endswith("s on two cores")
    assert demo._duration(demo.Demo(seed=3), "data")
    assert demo._duration(demo.Demo(n_train=10**6), "data") == ""


@pytest.mark.slow
def test_comparison(done):
    comparison = done[1]["comparison"]
    assert (comparison["n_images"], comparison["n_captions"], comparison["dim"]) == (12, 60, 8)
    assert 0 < comparison["largest_difference"] < 1e-6
    assert comparison["recalls"]["fused"] == comparison["recalls"]["reference"]
    assert all(seconds > 0 for kind in ("score", "step") for seconds in comparison[f"{kind}_seconds"].values())


@pytest.mark.slow
def test_the_timed_steps_leave_the_model_alone(done):
    folder, _ = done
    model, dataset = load_model(folder / "model"), PrecompDataset(folder / "data", "train")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tokens = CaptionTokens.from_captions(dataset.captions, model.vocabulary, "split")
    demo._compare(demo.Demo(folder=folder, batch_size=50, repeats=1), model, dataset, tokens)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.slow
def test_text_and_a_second_run_into_the_same_folder(done, capsys):
    folder, _ = done
    capsys.readouterr()
    assert call(folder) == 0
    out = capsys.readouterr().out
    for fragment in (
        "40 training and 12 test images",
        "by chance",
        "12 x 60 scores",
        "are the same",
        "itm-fast evaluate",
    ):
        assert fragment in out
    markdown = (folder / "report.md").read_text()
    assert "| caption -> image |" in markdown
    assert "measured in this run" in markdown


@pytest.mark.slow
def test_the_command_it_suggests_runs(done, capsys):
    folder, printed = done
    capsys.readouterr()
    flags = ["--model", str(folder / "model"), "--data", str(folder / "data"), "--json"]
    assert main.main(["evaluate", *flags]) == 0
    assert json.loads(capsys.readouterr().out)["rsum"] == pytest.approx(printed["retrieval"]["rsum"])


def test_chance():
    chance = demo._chance(n_images=4, captions_per_image=5)
    assert chance["t2i"] == pytest.approx({"R@1": 25, "R@5": 100, "R@10": 100})
    assert chance["i2t"]["R@1"] == pytest.approx(25)
    assert chance["i2t"]["R@5"] == pytest.approx(100 * (1 - 15 * 14 * 13 * 12 * 11 / (20 * 19 * 18 * 17 * 16)))


@pytest.mark.parametrize("difference", [2e-4, float("nan")])
def test_scores_that_differ_fail(difference, capsys):
    assert demo._exit_code(difference) == 1
    assert "fused and reference scores differ" in capsys.readouterr().err
    assert demo._exit_code(1e-6) == 0


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"repeats": 0}, "repeats is 0; expected at least 1"),
        ({"n_train": 0}, "n_train is 0"),
        ({"batch_size": 201}, "batch_size is 201, but the training split has only 200 captions"),
        ({"num_epochs": 0}, "num_epochs is 0"),
        ({"embed_size": 0}, "embed_size must be an integer of at least 1"),
    ],
)
def test_bad_numbers_are_one_line(tmp_path, capsys, change, fragment):
    assert call(tmp_path / "demo", **change) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("itm-fast: error: ")
    assert fragment in error
