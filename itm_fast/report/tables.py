"""The tables of a run's figures: recall and NCS with intervals, figures under further annotations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from itm_fast.evaluation.figures import RSUM_KS
from itm_fast.report.chance import chance_recall
from itm_fast.report.queries import (
    DIRECTION_NAMES,
    DIRECTIONS,
    Direction,
    Floats,
    hits,
    query_groups,
    query_ncs,
    rsum_sample,
    sum_sample,
)
from itm_fast.report.table_parts import Cell, Row, Table, marked, plain, with_interval
from itm_fast.runs.folder import Run

_SETS = {
    "cxc": "CxC",
    "eccv": "ECCV Caption",
    "pmrp": "plausible matches",
    "originals": "originals only",
    "altered": "altered captions",
    "t2t": "CxC caption → caption",
    "i2i": "CxC image → image",
}
_KINDS = {"NCS": "nsum", "NCS(N)": "nsum(N)", "SR": "", "SR(N)": ""}  # figures at k, and their sum


def headline_table(runs: Sequence[Run]) -> Table:
    """Recall of all runs, with 95 % bootstrap intervals over images.

    Args:
        runs: the runs.

    Returns:
        The table.
    """
    ks: list[int] = runs[0].report["conditions"]["ks"]
    names = [*(f"R@{k}" for k in ks), "med. rank"]
    rows = []
    for series, run in enumerate(runs):
        cells = []
        for direction in DIRECTIONS:
            figures, groups = run.report[direction], query_groups(run, direction)
            for k in ks:
                cells.append(with_interval(figures[f"R@{k}"], hits(run, direction, [k]), groups))
            cells.append(Cell(plain(figures.get("medr"), 1)))
        cells.append(with_interval(run.report["rsum"], *rsum_sample(run)))
        rows.append(Row(run.name, tuple(cells), series))
    lowest_wins = {len(names) - 1, 2 * len(names) - 1}
    return Table(
        "Percent of queries with a positive among the first k; 95 % bootstrap intervals below",
        ("run", *names, *names, "rsum"),
        tuple(marked(rows, lowest_wins)),
        (("", 1), *((DIRECTION_NAMES[d], len(names)) for d in DIRECTIONS), ("", 1)),
        foot=_by_chance(runs[0], ks),
    )


def _by_chance(run: Run, ks: Sequence[int]) -> tuple[Row, ...]:
    """The figures of a random order as a row; none where they are not known."""
    figures = [chance_recall(run, d, [*ks, *RSUM_KS]) for d in DIRECTIONS]
    cells: list[Cell] = []
    for of_direction in figures:
        if of_direction is None:
            return ()
        cells += [*(Cell(plain(value, 1)) for value in of_direction[: len(ks)]), Cell("")]
    total = sum(sum(of_direction[len(ks) :]) for of_direction in figures if of_direction is not None)
    return (Row("by chance", (*cells, Cell(plain(total, 1)))),)


def relevance_table(runs: Sequence[Run]) -> Table | None:
    """NCS, and Semantic Recall where it was asked for, of the runs that have φ.

    Args:
        runs: the runs.

    Returns:
        The table, or None without φ.
    """
    ks: list[int] = runs[0].report["conditions"]["ks"]
    rows: list[Row] = []
    for kind, total in _KINDS.items():
        of_kind = []
        for series, run in enumerate(runs):
            if any(f"{kind}@{k}" in run.report[d] for d in DIRECTIONS for k in ks):
                of_kind.append(
                    Row(kind, _relevance_cells(run, kind, total, ks), series, run.name if len(runs) > 1 else "")
                )
        rows += marked(of_kind)
    if not rows:
        return None
    names = [f"k = {k}" for k in ks]
    return Table(
        "With relevance φ: NCS@k, percent of the most relevance that k items could have; (N): own captions or image "
        "left out"
        + ("; 95 % bootstrap intervals below" if any(cell.detail for row in rows for cell in row.cells) else "")
        + ("; SR@k, percent of the most relevant items" if any(row.heading == "SR" for row in rows) else ""),
        ("figure", *names, *names, "nsum"),
        tuple(rows),
        (("", 1), *((DIRECTION_NAMES[d], len(names)) for d in DIRECTIONS), ("", 1)),
    )


def _relevance_cells(run: Run, kind: str, total: str, ks: Sequence[int]) -> tuple[Cell, ...]:
    """A row of figures that read φ: NCS with intervals where the run has it of every query."""

    def of_queries(direction: Direction, of_ks: Sequence[int]) -> Floats | None:
        return query_ncs(run, direction, of_ks, own_left_out=kind == "NCS(N)") if kind.startswith("NCS") else None

    cells = [
        with_interval(run.report[d].get(f"{kind}@{k}"), of_queries(d, [k]), query_groups(run, d))
        for d in DIRECTIONS
        for k in ks
    ]
    i2t, t2i = (of_queries(d, RSUM_KS) for d in DIRECTIONS)
    if i2t is None or t2i is None:
        return (*cells, Cell(plain(run.report.get(total), 1)))
    return (*cells, with_interval(run.report.get(total), *sum_sample(run, i2t, t2i)))


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
            parts = (
                {title: section}
                if key in ("t2t", "i2i")
                else {f"{title}, {DIRECTION_NAMES[d]}": section[d] for d in DIRECTIONS if d in section}
            )
            found += [(series, run.name, part, figures) for part, figures in parts.items()]
    known = [*(f"R@{k}" for k in runs[0].report["conditions"]["ks"]), "mAP@R", "R-Precision", "PMRP", "PMRP@50"]
    names = [name for name in known if any(name in figures for *_, figures in found)]
    if not names:
        return None
    found.sort(key=lambda one: one[2])
    rows = [
        Row(part, tuple(Cell(plain(figures.get(name), 1)) for name in names), series, run_name if len(runs) > 1 else "")
        for series, run_name, part, figures in found
    ]
    return Table("Under further annotations", ("positives", *names), tuple(rows))
