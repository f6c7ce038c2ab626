"""Files for other tools, field for field beside those that MTEB 2.26.24 and CLIP_benchmark 1.6.2 wrote themselves."""

import json
from pathlib import Path

import numpy as np
import pytest

from itm_fast.cli import main as cli
from itm_fast.evaluation import RelevantPairs, RunKeeper, evaluate
from itm_fast.files.ids import Ids
from itm_fast.runs.clip_benchmark import clip_benchmark_result
from itm_fast.runs.mteb import mteb_results, mteb_scores

WRITTEN = Path(__file__).parents[1] / "golden" / "exchange"
SIMS = str(WRITTEN / "sims.npy")


@pytest.fixture(scope="module")
def kept():
    keep = RunKeeper(1, 1000)
    report = evaluate(np.load(SIMS), captions_per_image=3, keep=keep)
    return keep.lists, report


@pytest.mark.parametrize("way", ["i2t", "t2i"])
def test_mteb(kept, way):
    ours, theirs = mteb_results(*kept, "MSCOCO")[way], json.loads((WRITTEN / f"{way}.mteb.json").read_text())
    assert list(ours) == list(theirs)
    for name in ("task_name", "mteb_version", "kg_co2_emissions", "date", "evaluation_phases"):
        assert ours[name] == theirs[name]
    (our_scores,), (their_scores,) = ours["scores"]["test"], theirs["scores"]["test"]
    assert list(our_scores) == list(their_scores)
    for name, value in their_scores.items():
        if name.startswith("nauc") and np.isnan(our_scores[name]):  # theirs is 0 / 0 with rounding errors at times
            assert name.startswith(("nauc_precision_at_100", "nauc_recall_at_100"))  # the whole gallery, or near it
        elif isinstance(value, float):
            # Confidence is of float32 scores there too, summed in another order.
            assert our_scores[name] == pytest.approx(value, abs=1.5e-6, nan_ok=True), name
        else:
            assert our_scores[name] == value


def test_clip_benchmark(kept):
    ours, theirs = (
        clip_benchmark_result(kept[1], "ViT-B-32", "mscoco_captions"),
        json.loads((WRITTEN / "clip_benchmark.json").read_text()),
    )
    assert list(ours) == list(theirs)
    assert list(ours["metrics"]) == list(theirs["metrics"])
    for name, value in theirs["metrics"].items():
        assert ours["metrics"][name] == pytest.approx(value, abs=1e-7)
    assert {name: type(value) for name, value in ours.items()} == {name: type(value) for name, value in theirs.items()}
    assert ours["task"] == theirs["task"]


def test_grades_and_missing_candidates_in_mteb():
    """One query by hand: grades 2 and 1 at the ranks 2 and 3, one more relevant that was no candidate."""
    pairs = RelevantPairs(Ids(["a"], ["w", "x", "y", "z"]), {"a": {"x": 2, "y": 1, "z": 1}}, {"x": ["a"]})
    keep = RunKeeper(1, 1000)
    sims = np.array([[0.9, 0.8, 0.7, -np.inf]])
    evaluate(sims, protocol="positives", annotations=pairs, ks=(1, 3), keep=keep)
    scores = mteb_scores(keep.lists, "image")
    ideal = 2 + 1 / np.log2(3) + 0.5
    assert scores["ndcg_at_1000"] == pytest.approx((2 / np.log2(3) + 0.5) / ideal, abs=1e-5)
    assert scores["map_at_5"] == pytest.approx((1 / 2 + 2 / 3) / 3, abs=1e-5)
    assert scores["precision_at_10"] == 0.2
    assert np.isnan(scores["nauc_mrr_at_5_max"])


def run(capsys, *argv):
    capsys.readouterr()
    code = cli.main([str(argument) for argument in argv])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def test_files_of_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = ["evaluate", "--sims", SIMS, "--captions-per-image", "3"]
    report = json.loads(run(capsys, *base, "--json", "--export", "mine.trec"))
    for way in ("i2t", "t2i"):
        files = ["--trec-run", f"mine.{way}.trec", "--qrels", f"mine.{way}.qrels", "--json"]
        read = json.loads(run(capsys, "evaluate", *files))["trec"]
        for name in ("R@1", "R@5", "R_all@10"):
            assert read[name] == pytest.approx(report[way][name])
    assert (tmp_path / "mine.t2i.trec").read_text().startswith("caption0 Q0 image")
    run(capsys, *base, "--export", "mine.mteb.json")
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["mine.i2t.mteb.json", "mine.t2i.mteb.json"]
    run(capsys, *base, "--export", "mine.clip-benchmark.json")
    printed = json.loads(run(capsys, *base, "--export", "clip-benchmark"))
    assert printed == json.loads((tmp_path / "mine.clip-benchmark.json").read_text())
    assert len(json.loads(run(capsys, *base, "--export", "mteb"))) == 2
    run(capsys, *base, "--export", "cut.trec", "--trec-depth", "2")
    assert len((tmp_path / "cut.i2t.trec").read_text().splitlines()) == 80


def test_reranked_and_mixed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    same = ["--captions-per-image", "3", "--export", "some.trec"]
    run(capsys, "rerank", "--coarse", SIMS, "--fine", SIMS, "--k", "10", *same)
    reranked = (tmp_path / "some.i2t.trec").read_text().splitlines()
    run(capsys, "evaluate", "--sims", SIMS, *same, "--trec-depth", "10")
    plain = (tmp_path / "some.i2t.trec").read_text().splitlines()
    run(capsys, "ensemble", SIMS, SIMS, *same, "--trec-depth", "10")
    mixed = (tmp_path / "some.i2t.trec").read_text().splitlines()
    ranked = [[line.split()[:4] for line in lines] for lines in (reranked, plain, mixed)]
    assert ranked[0] == ranked[1] == ranked[2]


@pytest.mark.parametrize(
    ("flags", "fragment"),
    [
        (["--export", "trac"], "perhaps"),
        (["--export", "mteb", "--json"], "both print"),
        (["--export", "a.trec", "--trec-depth", "0"], "expected at least 1"),
        (["--export", "nowhere/a.trec"], "no such folder"),
    ],
)
def test_faults(capsys, flags, fragment):
    assert cli.main(["evaluate", "--sims", SIMS, "--captions-per-image", "3", *flags]) == 2
    assert fragment in capsys.readouterr().err


def test_commands_without_evaluation_figures_refuse(capsys):
    assert cli.main(["bench", "triplet", "--n-images", "8", "--export", "mteb"]) == 2
    assert "--export is mteb" in capsys.readouterr().err
