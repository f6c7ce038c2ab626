"""itm-fast report: from evaluate's run folders to a page, and the lines of its errors."""

import json
import shutil
import sys

import numpy as np
import pytest

from itm_fast.cli import main as cli

for package in ("jinja2", "matplotlib", "scipy"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'itm-fast[report]'")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two runs of one set, one of another, as evaluate --run leaves them."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    for name, n in (("first", 10), ("second", 10), ("other", 12)):
        owners = np.arange(5 * n) // 5 == np.arange(n)[:, None]
        np.save(folder / f"{name}.npy", owners + rng.standard_normal((n, 5 * n)))
        assert cli.main(["evaluate", "--sims", str(folder / f"{name}.npy"), "--run", str(folder / name), "--json"]) == 0
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch, capsys):
    for name in ("first", "second", "other"):
        shutil.copytree(made / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    return tmp_path


def report(capsys, *argv):
    code = cli.main(["report", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_one_run(folder, capsys):
    code, out, err = report(capsys, "first")
    assert (code, err) == (0, "")
    assert out.startswith("report.html: ")
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_two_runs_as_json(folder, capsys):
    code, out, err = report(capsys, "first", "second", "--output", "page.html", "--title", "Mine & yours", "--json")
    assert (code, err) == (0, "")
    written = json.loads(out)
    assert written["bytes"] == (folder / "page.html").stat().st_size
    assert len(written["runs"]) == 2
    assert "<h1>Mine &amp; yours</h1>" in (folder / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("has_browser", [True, False])
def test_open(folder, capsys, monkeypatch, has_browser):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or has_browser)
    code, out, err = report(capsys, "first", "--output", "my page.html", "--open", "--json")
    address = (folder / "my page.html").as_uri()
    assert (code, opened, list(json.loads(out))) == (0, [address], ["page", "bytes", "runs"])
    assert err == ("" if has_browser else f"no browser could be started here: open {address} in one\n")


def test_nothing_is_opened_unless_asked_or_where_there_is_no_page(folder, capsys, monkeypatch):
    monkeypatch.setattr("webbrowser.open", lambda address: pytest.fail(f"opened {address}"))
    assert report(capsys, "first")[0] == 0
    assert report(capsys, "missing", "--open")[0] == 2


def test_errors_are_one_line_and_leave_the_page_alone(folder, capsys):
    (folder / "empty").mkdir()
    (folder / "report.html").write_text("old")
    shutil.copytree("first", "cut")
    (folder / "cut" / "queries.safetensors").write_bytes((folder / "cut" / "queries.safetensors").read_bytes()[:-7])
    shutil.copytree("first", "foreign")
    (folder / "foreign" / "run.json").write_text('{"format": "other"}')
    cases = [
        (["missing"], "missing"),
        (["empty"], "run.json: no such file"),
        (["cut"], "queries.safetensors: not the file that run.json was written with"),
        (["foreign"], "format is 'other'"),
        (["first", "other"], "can not share a page: 10 and 12 images"),
        (["first", "--output", "nowhere/page.html"], "nowhere: no such folder to write page.html into"),
        (["first", "--output", "empty"], "empty: is a folder"),
        (["first", "--examples", "-1"], "examples is -1"),
        (["first", "--boxes", "boxes.npy"], "images_folder is not given"),
        ([], "no run given"),
    ]
    for argv, fragment in cases:
        code, out, err = report(capsys, *argv)
        assert (code, out) == (2, ""), argv
        assert fragment in err, argv
        assert err.count("\n") == 1, argv
    assert (folder / "report.html").read_text() == "old"
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("package", ["jinja2", "matplotlib", "scipy"])
def test_a_missing_package_is_one_line(folder, capsys, monkeypatch, package):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    code, out, err = report(capsys, "first")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert package in err
    assert "pip install 'itm-fast[report]'" in err
    assert not (folder / "report.html").exists()
