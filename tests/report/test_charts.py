"""Curves and bars: their numbers by counting, their SVG as part of a page."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
import torch
from small_runs import make_run

from itm_fast.report.charts import rank_figures, recall_figures, relevance_figures, semantic_recall_figures
from itm_fast.report.plots import Line, bars, curves, legend_line, round_numbers
from itm_fast.report.queries import rank_bins, recall_curve

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'itm-fast[report]'")


def with_ranks(ranks):
    run = make_run("ranks", 0.5, relevance=False)
    return replace(run, t2i=replace(run.t2i, ranks=torch.tensor(ranks + [-1] * (150 - len(ranks)))))


def test_recall_over_k_is_counted():
    run = make_run("run", 1.2, relevance=False)
    for direction in ("i2t", "t2i"):
        ranks = getattr(run, direction).ranks.tolist()
        ks, shares = recall_curve(run, direction)
        assert ks[0] == 1
        assert ks == sorted(set(ks))
        assert ks[-1] >= max(ranks) + 1
        assert shares == pytest.approx([100 * sum(rank < k for rank in ranks) / len(ranks) for k in ks])
        assert shares[-1] == 100


def test_recall_goes_as_far_as_it_is_asked():
    run = with_ranks([0, 4])
    ks, shares = recall_curve(run, "t2i", 30)
    assert (ks[-1], shares[-1]) == (30, 100)
    assert set(round_numbers(30)) <= set(ks)


def test_round_numbers():
    assert round_numbers(1) == [1]
    assert round_numbers(9.5) == [1, 2, 3, 5, 7]
    assert round_numbers(200) == [1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200]


def paths(svg, series):
    """The paths of a run's curve: (points of the line, places of the markers)."""
    root = ET.fromstring(svg)
    group = next(
        one
        for one in root.iter("{http://www.w3.org/2000/svg}g")
        if "-line2d" in one.get("id", "")
        and any(f"var(--series-{series})" in part.get("style", "") for part in one.iter() if part.get("d"))
    )
    line = next(part for part in group if part.get("d"))
    uses = [float(part.get("x")) for part in group.iter("{http://www.w3.org/2000/svg}use")]
    return [float(point.split()[0]) for point in re.findall(r"[ML] ([-\d. ]+)", line.get("d"))], uses


def test_curves_of_a_panel_end_alike_and_are_marked_alike(runs):
    slower = replace(runs[0], t2i=replace(runs[0].t2i, ranks=runs[0].t2i.ranks.clamp(max=20)))
    quick = replace(runs[1], t2i=replace(runs[1].t2i, ranks=runs[1].t2i.ranks.clamp(max=0)))
    for figures in (recall_figures([slower, quick]), relevance_figures(runs), semantic_recall_figures(runs)):
        for svg in figures:
            (first, marks), (second, others) = (paths(svg, series) for series in (0, 1))
            assert first[-1] == pytest.approx(second[-1])
            assert marks == pytest.approx(others)
            assert len(marks) >= 5
            assert min(first) - 1e-3 <= min(marks) <= max(marks) <= max(first) + 1e-3


def test_the_recall_axis_reaches_the_largest_cut_off():
    run = with_ranks([0, 4])
    report = run.report | {"conditions": run.report["conditions"] | {"ks": [1, 100]}}
    far, near = (paths(recall_figures([one])[1], 0)[1] for one in (replace(run, report=report), run))
    assert len(far) == len(round_numbers(100))
    assert len(near) == len(round_numbers(10))


def test_a_legend_draws_the_lines_of_the_figures():
    lines = [legend_line(series) for series in range(6)]
    assert len(set(lines)) == 6
    for series, line in enumerate(lines):
        ET.fromstring(line)
        assert f"var(--series-{series})" in line
        assert "<circle" in line
    assert "stroke-dasharray" not in lines[0]
    assert "stroke-dasharray" in legend_line(0, faint=True)
    assert "<circle" not in legend_line(0, faint=True)


def test_queries_alone_are_counted():
    run = with_ranks([0, 4])
    assert recall_curve(run, "t2i")[1][0] == 50
    assert rank_bins([run], "t2i") == (["1", "2", "3–5"], [[50, 0, 50]])


def test_no_query_at_all():
    run = with_ranks([])
    assert recall_curve(run, "t2i") == ([1.0], [0.0])
    assert rank_bins([run], "t2i")[1] == [[0.0]]
    assert len(rank_figures([run])) == 2


@pytest.mark.parametrize("largest", [0, 1, 2, 4, 5, 29])
def test_ranks_fall_into_the_bin_that_names_them(largest):
    ranks = list(range(largest + 1))
    names, (shares,) = rank_bins([with_ranks(ranks)], "t2i")
    for name, share in zip(names, shares, strict=True):
        first, _, last = name.partition("–")
        inside = [rank for rank in ranks if int(first) <= rank + 1 <= int(last or first)]
        assert share == pytest.approx(100 * len(inside) / len(ranks))
    assert sum(shares) == pytest.approx(100)


def test_semantic_recall_has_a_panel_a_direction_and_k(runs):
    panels = semantic_recall_figures(runs)
    n_ks = len(runs[0].curves["semantic_recall"]["k"])
    assert len(panels) == 2 * n_ks
    assert all("var(--series-0)" in panel and "var(--series-1)" in panel for panel in panels)
    assert semantic_recall_figures([replace(runs[0], curves={})]) == []


def test_svg_takes_its_colours_and_type_from_the_page(runs):
    for svg in recall_figures(runs) + rank_figures(runs):
        ET.fromstring(svg)
        assert "#0103" not in svg.lower()
        assert "#0102" not in svg.lower()
        assert "currentColor" in svg
        assert "font-family" not in svg
        assert "<style" not in svg
        assert "<text" in svg


def test_the_curve_is_where_its_numbers_are():
    def heights(y):
        svg = ET.fromstring(curves("t", "x", "y", [Line([1, 2], y, 3)]))
        path = next(
            p for p in svg.iter() if "var(--series-3)" in p.get("style", "") and "stroke-dasharray" in p.get("style")
        )
        return [float(part.split()[1]) for part in path.get("d").replace("M", "").split("L")]

    low, high = heights([0, 100])
    assert heights([50, 25]) == pytest.approx([(low + high) / 2, low + (high - low) / 4], abs=1e-3)
    assert high < low  # the y axis of SVG points down


def test_a_bar_of_every_run_in_every_bin():
    svg = bars("t", "x", "y", ["1", "2–5"], [[20, 80], [50, 50]])
    assert svg.count("fill: var(--series-0)") == svg.count("fill: var(--series-1)") == 2


def test_the_same_run_gives_the_same_svg(runs):
    assert recall_figures(runs) == recall_figures(runs)
