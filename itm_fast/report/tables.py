"""The tables of a page: figures with intervals, runs against published ones and against each other, failures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from itm_fast.evaluation.run import Run
from itm_fast.report.queries import (
    DIRECTION_NAMES,
    DIRECTIONS,
    Floats,
    Integers,
    annotated_misses,
    forgiven,
    headline_ranks,
    hits,
    query_groups,
)

_SETS = {
    "cxc": "CxC",
    "eccv": "ECCV Caption",
    "pmrp": "plausible matches",
    "originals": "originals only",
    "t2t": "CxC caption → caption",
    "i2i": "CxC image → image",
}
_SHARES = {1.0: "φ at least the positive’s", 0.5: "φ at least half of it"}


@dataclass(frozen=True)
class Cell:
    """A cell: its text, small print below it, and whether it stands out."""

    text: str
    detail: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Row:
    """A row: its heading with small print, the number of its run (None: no run of the page), and its cells."""

    heading: str
    cells: tuple[Cell, ...]
    series: int | None = None
    detail: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: what it shows.
        headings: of the columns, the first over the rows' headings.
        rows: its rows.
        groups: headings above the headings: (text, how many columns); empty for none.
    """

    caption: str
    headings: tuple[str, ...]
    rows: tuple[Row, ...]
    groups: tuple[tuple[str, int], ...] = ()


def headline_table(runs: Sequence[Run]) -> Table:
    """Recall of all runs, with 95 % bootstrap intervals over images.

    Args:
        runs: the runs.

    Returns:
        The table.
    """
    from itm_fast.evaluation.statistics import bootstrap_interval

    ks: list[int] = runs[0].report["conditions"]["ks"]
    names = [*(f"R@{k}" for k in ks), "med. rank"]
    rows = []
    for series, run in enumerate(runs):
        cells = []
        for direction in DIRECTIONS:
            figures, groups = run.report[direction], query_groups(run, direction)
            for k in ks:
                values = hits(run, direction, k)
                interval = bootstrap_interval(values, groups=groups) if len(values) else None
                detail = "" if interval is None else f"{interval.low:.1f}–{interval.high:.1f}"
                cells.append(Cell(f"{figures[f'R@{k}']:.1f}", detail))
            cells.append(Cell(_plain(figures.get("medr"), 1)))
        values, groups = _rsum_values(run, ks)
        interval = bootstrap_interval(values, groups=groups) if len(values) and ks == [1, 5, 10] else None
        cells.append(Cell(f"{run.report['rsum']:.1f}", "" if interval is None else f"{interval.low:.1f}–{interval.high:.1f}"))
        rows.append(Row(run.name, tuple(cells), series))
    lowest_wins = {len(names) - 1, 2 * len(names) - 1}
    return Table(
        "Percent of queries with a positive among the first k; 95 % bootstrap intervals below",
        ("run", *names, *names, "rsum"),
        tuple(_marked(rows, lowest_wins)),
        (("", 1), *((DIRECTION_NAMES[d], len(names)) for d in DIRECTIONS), ("", 1)),
    )


def relevance_table(runs: Sequence[Run]) -> Table | None:
    """NCS, and Semantic Recall where it was asked for, of the runs that have φ.

    Args:
        runs: the runs.

    Returns:
        The table, or None without φ.
    """
    ks: list[int] = runs[0].report["conditions"]["ks"]
    known = [f"{kind}@{k}" for kind in ("NCS", "NCS(N)", "SR", "SR(N)") for k in ks]
    with_relevance = [(series, run) for series, run in enumerate(runs) if "nsum" in run.report]
    names = [name for name in known if any(name in run.report["i2t"] for _, run in with_relevance)]
    if not names:
        return None
    rows = []
    for series, run in with_relevance:
        cells = [Cell(_plain(run.report[d].get(name), 1)) for d in DIRECTIONS for name in names]
        rows.append(Row(run.name, (*cells, *(Cell(_plain(run.report.get(s), 1)) for s in ("nsum", "nsum(N)"))), series))
    return Table(
        "Normalised Cumulative Semantic score: percent of the most relevance that k items could have",
        ("run", *names, *names, "nsum", "nsum(N)"),
        tuple(_marked(rows)),
        (("", 1), *((DIRECTION_NAMES[d], len(names)) for d in DIRECTIONS), ("", 2)),
    )


def annotation_table(runs: Sequence[Run]) -> Table | None:
    """Figures under further annotations or other galleries: CxC, ECCV Caption, plausible matches, originals.

    Args:
        runs: the runs.

    Returns:
        The table, or None if the protocol has none.
    """
    found: list[tuple[int, str, str, dict[str, Any]]] = []
    for key, title in _SETS.items():
        for series, run in enumerate(runs):
            section = run.report.get(key)
            if not isinstance(section, dict):
                continue
            parts = {title: section} if key in ("t2t", "i2i") else {
                f"{title}, {DIRECTION_NAMES[d]}": section[d] for d in DIRECTIONS if d in section
            }
            found += [(series, run.name, part, figures) for part, figures in parts.items()]
    known = [*(f"R@{k}" for k in runs[0].report["conditions"]["ks"]), "mAP@R", "R-Precision", "PMRP", "PMRP@50"]
    names = [name for name in known if any(name in figures for *_, figures in found)]
    if not names:
        return None
    found.sort(key=lambda one: one[2])
    rows = [
        Row(part, tuple(Cell(_plain(figures.get(name), 1)) for name in names), series, run_name if len(runs) > 1 else "")
        for series, run_name, part, figures in found
    ]
    return Table("Under further annotations", ("positives", *names), tuple(rows))


def published_table(runs: Sequence[Run]) -> Table | None:
    """The runs among the published results of their protocol, by rsum.

    Args:
        runs: the runs.

    Returns:
        The table, or None where nothing was published that the protocol's figures can stand beside.
    """
    from itm_fast.report.published import published_results

    protocol = runs[0].report["conditions"].get("protocol")
    published = published_results(protocol) if protocol else ()
    if not published:
        return None
    names = ("R@1", "R@5", "R@10")
    has_ncs = any("nsum" in run.report for run in runs) and any(row.nsum is not None for row in published)
    rows: list[tuple[float, Row]] = []

    def add(heading: str, detail: str, by_direction: Sequence[Any], rsum: Any, nsum: Any, where: str, run: int | None) -> None:
        figures = [Cell(_plain(of.get(name), 1)) for of in by_direction for name in names]
        sums = [Cell(_plain(rsum, 1)), *([Cell(_plain(nsum, 1))] if has_ncs else [])]
        order = rsum if isinstance(rsum, (int, float)) else -1.0
        rows.append((order, Row(heading, (*figures, *sums, Cell(where)), run, detail)))

    for one in published:
        add(one.method, one.notes or "", (one.i2t, one.t2i), one.rsum, one.nsum, one.source, None)
    for series, run in enumerate(runs):
        report = run.report
        by_direction = [report[d] for d in DIRECTIONS]
        add(run.name, "", by_direction, report["rsum"], report.get("nsum"), "this page", series)
    rows.sort(key=lambda row: -row[0])
    last = ("rsum", "nsum", "source") if has_ncs else ("rsum", "source")
    return Table(
        f"Beside published results of {protocol}, by rsum",
        ("method", *names, *names, *last),
        tuple(row for _, row in rows),
        (("", 1), *((DIRECTION_NAMES[d], len(names)) for d in DIRECTIONS), ("", len(last))),
    )


def comparison_table(runs: Sequence[Run]) -> Table | None:
    """Each further run against the first: difference, its interval, p of a paired test, hits gained and lost.

    Args:
        runs: the runs.

    Returns:
        The table, or None for a single run.
    """
    if len(runs) < 2:
        return None
    from itm_fast.evaluation.statistics import paired_test

    ks: list[int] = runs[0].report["conditions"]["ks"]
    first = runs[0]
    rows = []
    for series, run in enumerate(runs[1:], start=1):

        def add(figure: str, values_of: Callable[[Run], Floats], groups: Integers, counted: bool) -> None:
            one, other = values_of(first), values_of(run)  # noqa: B023  (called at once)
            if not len(one):
                return
            result = paired_test(other, one, groups=groups)
            changed = (Cell(str(int((other > one).sum()))), Cell(str(int((other < one).sum()))))
            cells = (
                Cell(f"{result.difference:+.1f}".replace("-", "−"), strong=result.p_value < 0.05),
                Cell(f"{result.low:+.1f} … {result.high:+.1f}".replace("-", "−")),
                Cell("< 0.001" if result.p_value < 0.001 else f"{result.p_value:.3f}"),
                *(changed if counted else (Cell("–"), Cell("–"))),
            )
            rows.append(Row(run.name, cells, series, figure))  # noqa: B023

        for direction in DIRECTIONS:
            for k in ks:
                groups = query_groups(first, direction)
                add(f"R@{k}, {DIRECTION_NAMES[direction]}", lambda r, d=direction, k=k: hits(r, d, k), groups, True)  # type: ignore[misc]
        if ks == [1, 5, 10]:
            add("rsum", lambda r: _rsum_values(r, ks)[0], _rsum_values(first, ks)[1], False)
    return Table(
        f"Against {first.name}: points of difference, 95 % interval, p of a paired permutation test over images",
        ("run", "difference", "95 % interval", "p", "gained", "lost"),
        tuple(rows),
    )


def failure_table(runs: Sequence[Run]) -> Table:
    """How many queries miss at rank 1, and how many of those misses found something that is not wrong.

    Args:
        runs: the runs.

    Returns:
        The table.
    """
    found: list[tuple[Row, dict[str, int]]] = []
    names: list[str] = []
    for direction in DIRECTIONS:
        for series, run in enumerate(runs):
            results = getattr(run, direction)
            n_queries, n_misses = int((results.ranks >= 0).sum()), int((results.ranks > 0).sum())
            counts = {"φ at least the positive’s": forgiven(results), "φ at least half of it": forgiven(results, 0.5)}
            counts["further annotations"] = annotated_misses(results)
            found_here = {name: int(mask.sum()) for name, mask in counts.items() if mask is not None}
            names += [name for name in found_here if name not in names]
            total = (Cell(str(n_queries)), Cell(str(n_misses), _share(n_misses, n_queries)))
            row = Row(DIRECTION_NAMES[direction], total, series, run.name if len(runs) > 1 else "")
            found.append((row, {**found_here, "": n_misses}))
    rows = tuple(
        Row(
            row.heading,
            (*row.cells, *(Cell(str(n[name]), _share(n[name], n[""])) if name in n else Cell("–") for name in names)),
            row.series,
            row.detail,
        )
        for row, n in found
    )
    return Table(
        "Misses at rank 1 in the whole gallery, and how many of them retrieved an unannotated positive first",
        ("queries", "all", "misses", *names),
        rows,
        (("", 1), ("", 2), *((("of these, retrieved first", len(names)),) if names else ())),
    )


def _rsum_values(run: Run, ks: Sequence[int]) -> tuple[Floats, Integers]:
    """Values whose mean is the rsum, and their groups: every query's hits, weighted by the queries of its direction."""
    values = {d: np.sum([hits(run, d, k) for k in ks], axis=0) for d in DIRECTIONS}
    if not all(len(of) for of in values.values()):
        return np.zeros(0), np.zeros(0, dtype=np.int64)
    total = sum(len(of) for of in values.values())
    weighted = np.concatenate([of * (total / len(of)) for of in values.values()])
    return weighted, np.concatenate([query_groups(run, d) for d in DIRECTIONS])


def _marked(rows: Sequence[Row], lowest_wins: set[int] | None = None) -> list[Row]:
    """The rows with the best figure of each column strong, where there are several."""
    if len(rows) < 2:
        return list(rows)
    columns = list(zip(*(row.cells for row in rows), strict=True))
    best = []
    for number, column in enumerate(columns):
        values = [float(cell.text) for cell in column if cell.text != "–"]
        best.append((min if number in (lowest_wins or ()) else max)(values, default=None))
    return [
        Row(
            row.heading,
            tuple(
                Cell(cell.text, cell.detail, cell.text != "–" and float(cell.text) == wins)
                for cell, wins in zip(row.cells, best, strict=True)
            ),
            row.series,
            row.detail,
        )
        for row in rows
    ]


def _plain(value: Any, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else "–"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""
