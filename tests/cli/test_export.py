"""--export of every command that prints a table: files of each format, and the format alone, to stdout."""

import csv
import io
import json

import numpy as np
import pytest

from itm_fast.cli import main as cli
from itm_fast.cli.completion import all_flags
from itm_fast.report.table_parts import Cell, Row, Table

COMMANDS = {
    "evaluate": ["--sims", "sims.npy"],
    "rerank": ["--coarse", "sims.npy", "--fine", "fine.npy", "--k", "10"],
    "ensemble": ["sims.npy", "fine.npy"],
    "correlate": ["sits.csv"],
    "bench": ["triplet", "--n-images", "8", "--repeats", "1"],
    "report": ["run", "run"],
}
# The first column, and what names some other one.
HEADS = {"correlate": ("relevance", "Pearson's r all"), "bench": ("call", "median ms"), "report": ("run", "i2t R@1")}
# What is written beside the table.
FURTHER = {"ensemble": ["members"], "report": ["recall", "comparison", "misses"]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "sims.npy", rng.standard_normal((10, 50)))
    np.save(tmp_path / "fine.npy", rng.standard_normal((10, 50)))
    lines = ["caption,image,agg_score,sampling_method"]
    lines += [f"x:{i},{i // 5}.jpg,{i % 5},{'c2i_original' if i % 3 else 'c2i_intrasim'}" for i in range(50)]
    (tmp_path / "sits.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, command, *flags):
    if command == "report":
        pytest.importorskip("jinja2")
        assert cli.main(["evaluate", "--sims", "sims.npy", "--run", "run"]) == 0
    capsys.readouterr()
    code = cli.main([command, *COMMANDS[command], *flags])
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


def test_every_command_with_a_table_has_the_flag():
    named = {name for name, flags in all_flags().items() if "export" in {flag.name for flag in flags}}
    assert named == set(COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_files_and_formats(command, folder, capsys):
    first, other = HEADS.get(command, ("part", "i2t R@1"))
    printed = run(capsys, command, "--export", "table.csv")
    assert printed
    rows = list(csv.DictReader(io.StringIO((folder / "table.csv").read_text(encoding="utf-8"))))
    assert next(iter(rows[0])) == first
    assert float(rows[0][other] or "nan") is not None
    out = run(capsys, command, "--export", "json")
    assert [list(row) for row in json.loads(out)] == [list(row) for row in rows]
    out = run(capsys, command, "--export", "latex")
    assert out.startswith("% \\usepackage{booktabs}\n\\begin{tabular}")
    run(capsys, command, "--export", "table.tex")
    if command != "bench":  # whose figures are never the same
        assert (folder / "table.tex").read_text(encoding="utf-8") == out
    left = {path.name for path in folder.iterdir()} - {"run", "report.html", "sims.npy", "fine.npy", "sits.csv"}
    names = ["table", *(f"table.{name}" for name in FURTHER.get(command, ()))]
    assert left == {f"{name}.{kind}" for name in names for kind in ("csv", "tex")}


def test_figures_are_those_of_the_report(folder, capsys):
    report = json.loads(run(capsys, "evaluate", "--json", "--export", "table.json"))
    (row,) = json.loads((folder / "table.json").read_text())
    assert row["i2t R@5"] == report["i2t"]["R@5"]
    assert row["rsum"] == report["rsum"]


def test_members_of_an_ensemble_are_beside_its_figures(folder, capsys):
    report = json.loads(run(capsys, "ensemble", "--json", "--export", "table.json"))
    rows = json.loads((folder / "table.members.json").read_text())
    assert [{"name": row.pop("member"), **row} for row in rows] == report["members"]
    assert [member["name"] for member in report["members"]] == ["sims.npy", "fine.npy"]


def test_tables_of_a_page_are_beside_its_figures(folder, capsys):
    run(capsys, "report", "--export", "table.json")
    recall, comparison, misses = (
        json.loads((folder / f"table.{name}.json").read_text()) for name in ("recall", "comparison", "misses")
    )
    figures = json.loads((folder / "table.json").read_text())
    assert recall[0]["image → caption R@1"] == round(figures[0]["i2t R@1"], 1)
    assert "–" in recall[0]["image → caption R@1, detail"]
    assert recall[-1]["run"] == "by chance"
    assert {row["of"]: row["difference"] for row in comparison}["rsum"] == 0.0
    assert {row["p"] for row in comparison} == {1.0}
    i2t, t2i = (round(n - n * figures[0][name] / 100) for n, name in ((10, "i2t R@1"), (50, "t2i R@1")))
    assert [row["misses"] for row in misses] == [i2t, i2t, t2i, t2i]


def test_latex_keeps_the_decimals_that_a_page_shows():
    rows = (Row("a", (Cell("+1.5", strong=True), Cell("0.034"))), Row("b", (Cell("−0.2"), Cell("< 0.001"))))
    plain = Table("Compared", ("run", "difference", "p"), rows).as_plain()
    assert plain.rows == (("a", 1.5, 0.034), ("b", -0.2, "< 0.001"))
    assert plain.as_latex().splitlines()[-4:-2] == [r"a & 1.5 & 0.034 \\", r"b & -0.2 & \textless{} 0.001 \\"]


def test_runs_of_one_name_are_told_apart(folder, capsys):
    rows = json.loads(run(capsys, "report", "--export", "json"))
    assert [(row["run"], row["part"]) for row in rows] == [("run", "whole gallery"), ("run (2)", "whole gallery")]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("flags", "fragment"),
    [
        (
            ["--export", "table.txt"],
            "--export is table.txt; expected a file called .csv, .json, .tex",
        ),
        (["--export", "latx"], "--export is latx; perhaps you meant latex; expected"),
        (["--export", "nowhere/table.csv"], "nowhere: no such folder to write table.csv into"),
        (["--export", "csv", "--json"], "--json and --export csv both print: give --export a file"),
    ],
)
def test_bad_names_are_told_before_any_work(command, flags, fragment, folder, capsys, monkeypatch):
    for module in ("itm_fast.evaluation", "itm_fast.report", "itm_fast.benchmark"):
        for name in ("evaluate", "rerank", "write_page", "run_bench"):
            monkeypatch.setattr(f"{module}.{name}", lambda *_, **__: pytest.fail("work was done"), raising=False)
    (folder / "run").mkdir()
    assert cli.main([command, *COMMANDS[command], *flags]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert fragment in err
    assert err.count("\n") == 1
