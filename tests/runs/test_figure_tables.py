"""Reports as data frames, CSV and LaTeX."""

import csv
import io
import json
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import itm_fast
from itm_fast.evaluation import evaluate, latex_table, rerank
from itm_fast.files.plain_tables import PlainTable, escaped
from itm_fast.runs.figure_tables import figure_table

RNG = np.random.default_rng(0)
SIMS = RNG.standard_normal((20, 100))
PHI = RNG.random((20, 100))


@pytest.fixture(scope="module")
def plain():
    return evaluate(SIMS)


@pytest.fixture(scope="module")
def folded():
    return evaluate(SIMS, PHI, folds=2, m=10)


def rows_of(table):
    return [dict(zip(table.names, row, strict=True)) for row in table.rows]


def test_every_figure_is_in_the_table(folded):
    found = {row["part"]: row for row in rows_of(figure_table({"": folded}))}
    assert list(found) == ["whole gallery", "fold 1", "fold 2", "mean of folds"]
    sections = [folded["full"], *folded["folds"], folded["fold_mean"]]
    for row, section in zip(found.values(), sections, strict=True):
        for way in ("i2t", "t2i"):
            figures = {name: value for name, value in section[way].items() if isinstance(value, (int, float))}
            for name in ("n_tied", "n_undefined"):  # said in words where they are not 0
                figures.pop(name)
            assert {name: row[f"{way} {name}"] for name in figures} == figures
            assert {f"{way} {name}" for name in figures} == {name for name in row if name.startswith(way)}
        assert [row[total] for total in ("rsum", "nsum", "nsum(N)")] == [
            section[total] for total in ("rsum", "nsum", "nsum(N)")
        ]


def test_what_a_protocol_adds_has_rows_or_columns_of_its_own():
    report = {
        **{"i2t": {"R@1": 1.0}, "t2i": {"R@1": 2.0}, "conditions": {"ks": [1]}},
        "t2t": {"R@1": 3.0, "self_score": None},
        "sits": {"spearman": 4.0, "std": 0.5, "query_column": "caption", "n_pairs": 7},
        "eccv": {"i2t": {"mAP@R": 5.0, "n_queries": 9}, "t2i": {"mAP@R": 6.0, "n_queries": 8}},
        "originals": {"t2i": {"R@1": 7.0}},
    }
    table = rows_of(figure_table({"": report}))
    assert [row["part"] for row in table] == ["whole gallery", "ECCV Caption", "originals only"]
    assert [row["t2i R@1"] for row in table] == [2.0, None, 7.0]
    assert (table[0]["t2t R@1"], table[0]["sits spearman"], table[0]["i2t mAP@R"]) == (3.0, 4.0, None)
    assert (table[1]["i2t mAP@R"], table[1]["t2i n_queries"]) == (5.0, 8)


def test_a_reranked_report_has_its_coarse_stage():
    report = rerank(SIMS, RNG.standard_normal(SIMS.shape), k=12)
    table = {row["part"]: row for row in rows_of(figure_table({"": report}))}
    assert table["coarse stage"]["t2i R@12"] == report["coarse"]["t2i"]["R@12"]
    assert table["whole gallery"]["t2i R@1"] == report["t2i"]["R@1"]
    assert "i2t medr" not in table["whole gallery"] or table["whole gallery"]["i2t medr"] is None


def test_csv_and_json_hold_the_figures_whole(plain):
    table = figure_table({"": plain})
    (row,) = csv.DictReader(io.StringIO(table.as_csv()))
    assert float(row["i2t meanr"]) == plain["i2t"]["meanr"]
    (row,) = json.loads(table.as_json())
    assert row["t2i R@1"] == plain["t2i"]["R@1"]
    assert row["part"] == "whole gallery"


def test_several_runs_have_their_names(plain, folded):
    table = rows_of(figure_table({"a": plain, "b": folded}))
    assert [(row["run"], row["part"]) for row in table][:2] == [("a", "whole gallery"), ("b", "whole gallery")]
    assert table[0]["i2t NCS@1"] is None


def test_latex_has_directions_as_groups(plain):
    figures = [f"{plain[way][name]:.1f}" for way in ("i2t", "t2i") for name in ("R@1", "R@5", "R@10")]
    assert plain.to_latex("VSE_∞ & Co").splitlines() == [
        r"% \usepackage{booktabs}",
        r"\begin{tabular}{lrrrrrrr}",
        r"\toprule",
        r" & \multicolumn{3}{c}{I2T} & \multicolumn{3}{c}{T2I} &  \\",
        r"\cmidrule(lr){2-4} \cmidrule(lr){5-7}",
        r" & R@1 & R@5 & R@10 & R@1 & R@5 & R@10 & rsum \\",
        r"\midrule",
        rf"VSE\_∞ \& Co & {' & '.join(figures)} & {plain['rsum']:.1f} \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_latex_leaves_single_folds_out(folded):
    lines = folded.to_latex().splitlines()
    assert [line.partition(" &")[0] for line in lines[7:9]] == ["whole gallery", "mean of folds"]
    assert r"R@10 & NCS@1 & NCS@5 & NCS@10 & R@1" in lines[5]
    assert lines[5].endswith(r"rsum & nsum \\")
    assert "textbf" not in folded.to_latex()
    assert folded.to_latex("SAM").splitlines()[7].startswith("SAM, whole gallery & ")


def test_the_best_of_several_reports_is_bold():
    def made(r1, rsum):
        return {"i2t": {"R@1": r1}, "t2i": {"R@1": 30.0}, "rsum": rsum, "conditions": {"ks": [1]}}

    lines = latex_table({"a": made(50.04, 80.0), "b": made(40.0, 90.0), "c": made(50.01, 0.0)}).splitlines()[7:10]
    assert lines == [
        r"a & \textbf{50.0} & \textbf{30.0} & 80.0 \\",
        r"b & 40.0 & \textbf{30.0} & \textbf{90.0} \\",
        r"c & \textbf{50.0} & \textbf{30.0} & 0.0 \\",
    ]
    assert itm_fast.runs.latex_table is latex_table


def test_what_compares_stands_together(folded):
    heads = [line.partition(" &")[0] for line in latex_table({"a": folded, "b": folded}).splitlines()[7:11]]
    assert heads == ["a, whole gallery", "b, whole gallery", "a, mean of folds", "b, mean of folds"]


def test_the_best_is_sought_among_equals():
    """1K figures are never compared with 5K figures."""
    table = PlainTable((("", ""), ("", "x")), (("a", 1.0), ("b", 9.0), ("a, 1K", 7.0), ("b, 1K", 8.0)))
    lines = table.as_latex(["5K", "5K", "1K", "1K"]).splitlines()[5:9]
    assert [r"\textbf" in line for line in lines] == [False, True, False, True]


def test_values_that_are_none():
    table = PlainTable((("", "name"), ("", "x")), (("a", None), ("b", math.nan), ("c", 3)))
    assert table.as_csv() == "name,x\na,\nb,\nc,3\n"
    assert json.loads(table.as_json()) == [{"name": "a", "x": None}, {"name": "b", "x": None}, {"name": "c", "x": 3}]
    assert table.as_latex(["", "", ""]).splitlines()[5:8] == [r"a & -- \\", r"b & -- \\", r"c & 3 \\"]
    with pytest.raises(ValueError, match=r"rows\[1\] has 1 values, but there are 2 columns"):
        PlainTable(table.columns, (("a", 1.0), ("b",)))


def test_every_special_character_is_escaped():
    assert escaped("a&b%c$d#e_f{g}h~i^j<k>l\\m") == (
        r"a\&b\%c\$d\#e\_f\{g\}h\textasciitilde{}i\textasciicircum{}j\textless{}k\textgreater{}l\textbackslash{}m"
    )


def test_to_pandas_gives_the_table(folded, monkeypatch):
    """Through a stand-in that says what it was given; the test below asks pandas itself where it is installed."""
    given = {}
    frame = SimpleNamespace(from_records=lambda rows, columns, index: given.update(rows=rows, names=columns, by=index))
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=frame))
    folded.to_pandas()
    table = figure_table({"": folded})
    assert given == {"rows": table.rows, "names": table.names, "by": "part"}


def test_pandas(folded):
    pandas = pytest.importorskip("pandas")
    frame = folded.to_pandas()
    assert frame.loc["fold 2", "t2i R@5"] == folded["folds"][1]["t2i"]["R@5"]
    assert frame["rsum"].dtype == np.float64
    both = pandas.concat({"a": frame, "b": frame})
    assert both.loc[("b", "whole gallery"), "nsum"] == folded["full"]["nsum"]


def test_without_pandas(plain, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"Report\.to_pandas needs pandas.*: pip install pandas"):
        plain.to_pandas()
