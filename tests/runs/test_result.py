"""The report as mapping, table and file."""

import json
import re

import numpy as np
import pytest

from itm_fast.evaluation import Report, evaluate


@pytest.fixture
def report() -> Report:
    sims = np.random.default_rng(0).standard_normal((20, 100))
    return evaluate(sims, folds=5)


def test_mapping(report):
    assert {"i2t", "t2i", "rsum", "full", "fold_mean", "folds", "headline", "conditions"} == set(report)
    assert len(report) == 8
    conditions = report["conditions"]
    assert (conditions["n_images"], conditions["n_captions"], conditions["folds"]) == (20, 100, 5)
    assert conditions["dtype"] == "float64"
    assert conditions["seconds"] > 0


def test_to_dict_is_a_copy(report):
    copy = report.to_dict()
    assert copy == dict(report)
    copy["i2t"]["R@1"] = -1
    assert report["i2t"]["R@1"] != -1


def test_to_json(report, tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")
    report.to_json(path)
    assert json.loads(path.read_text()) == report.to_dict()
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


def test_a_failed_write_leaves_the_old_file(report, tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    path.write_text("old")
    monkeypatch.setattr(json, "dumps", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report.to_json(path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


def test_to_json_needs_a_folder(report, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        report.to_json(tmp_path / "missing" / "report.json")


def test_table(report):
    lines = str(report).splitlines()
    assert lines[0] == f"retrieval: mean of 5 folds, rsum {report['rsum']:.1f}"
    assert lines[1].split() == ["R@1", "R@5", "R@10", "medr", "meanr", "R_all@1", "R_all@5", "R_all@10", "rsum"]
    row = next(line for line in lines if line.startswith("mean of folds t2i"))
    assert float(row.split()[4]) == pytest.approx(report["t2i"]["R@1"], abs=0.05)
    assert sum(line.startswith("fold ") for line in lines) == 10
    assert "at least one positive among the first k" in str(report)
    assert "ties" not in str(report)
    assert "20 images x 100 captions" in lines[-1]
    assert "rsum=" in repr(report)
    assert re.fullmatch(r"Report\(rsum=[\d.]+, i2t R@1=\d+\.\d, t2i R@1=\d+\.\d\)", repr(report))
