"""The tables of a page: figures with intervals, runs against published ones and against each other, failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from itm_fast.errors import DataError
from itm_fast.evaluation.figures import RSUM_KS
from itm_fast.report.queries import (
    DIRECTION_NAMES,
    DIRECTIONS,
    Floats,
    Integers,
    annotated_misses,
    forgiven,
    hits,
    query_groups,
)
from itm_fast.runs.folder import Run

if TYPE_CHECKING:
    from itm_fast.report.published import PublishedRow

_SETS = {
    "cxc": "CxC",
    "eccv": "ECCV Caption",
    "pmrp": "plausible matches",
    "originals": "originals only",
    "t2t": "CxC caption → caption",
    "i2i": "CxC image → image",
}
_KINDS = {"NCS": "nsum", "NCS(N)": "nsum(N)", "SR": "", "SR(N)": ""}  # figures at k, and their sum
_SHARES = {"φ at least the positive’s": 1.0, "φ at least half of it": 0.5}


@dataclass(frozen=True)
class Cell:
    """A cell: its text, small print below it, whether it stands out, and whether it is prose and no figure."""

    text: str
    detail: str = ""
    strong: bool = False
    prose: bool = False


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
        notes: below, numbered from 1.
    """

    caption: str
    headings: tuple[str, ...]
    rows: tuple[Row, ...]
    groups: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()


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
                cells.append(Cell(f"{figures[f'R@{k}']:.1f}", _interval(hits(run, direction, [k]), groups)))
            cells.append(Cell(_plain(figures.get("medr"), 1)))
        cells.append(Cell(f"{run.report['rsum']:.1f}", _interval(*_rsum_sample(run))))
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
    rows: list[Row] = []
    for kind, total in _KINDS.items():
        of_kind = []
        for series, run in enumerate(runs):
            found = [run.report[d].get(f"{kind}@{k}") for d in DIRECTIONS for k in ks]
            if any(value is not None for value in found):
                cells = (*(Cell(_plain(value, 1)) for value in found), Cell(_plain(run.report.get(total), 1)))
                of_kind.append(Row(kind, cells, series, run.name if len(runs) > 1 else ""))
        rows += _marked(of_kind)
    if not rows:
        return None
    names = [f"k = {k}" for k in ks]
    return Table(
        "With relevance φ: NCS@k, percent of the most relevance that k items could have; (N): own captions or image "
        "left out" + ("; SR@k, percent of the most relevant items" if any(row.heading == "SR" for row in rows) else ""),
        ("figure", *names, *names, "nsum"),
        tuple(rows),
        (("", 1), *((DIRECTION_NAMES[d], len(names)) for d in DIRECTIONS), ("", 1)),
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
        Row(
            part, tuple(Cell(_plain(figures.get(name), 1)) for name in names), series, run_name if len(runs) > 1 else ""
        )
        for series, run_name, part, figures in found
    ]
    return Table("Under further annotations", ("positives", *names), tuple(rows))


def published_tables(runs: Sequence[Run]) -> list[Table]:
    """The runs among the published results of their protocol, by rsum; then results on less data and sums alone.

    Args:
        runs: the runs.

    Returns:
        Up to two tables; none where nothing was published that the protocol's figures can stand beside.
    """
    from itm_fast.report.published import published_results

    protocol = runs[0].report["conditions"].get("protocol")
    try:
        published = published_results(protocol) if protocol else ()
    except ValueError as error:
        raise DataError(f"run {runs[0].name!r}: report.json: conditions.protocol: {error}") from error
    full = [one for one in published if one.training_percent == 100 and one.i2t]
    made = []
    if full:
        made.append(_published_table(f"{protocol}: this page among published results, by rsum", full, runs))
    if others := [one for one in published if one not in full]:
        made.append(_published_table(f"{protocol}: trained on part of the data, or printed as sums alone", others, ()))
    return made


def _published_table(caption: str, published: Sequence[PublishedRow], runs: Sequence[Run]) -> Table:
    names = ("R@1", "R@5", "R@10")
    sums = ("rsum", "nsum") if any(one.nsum is not None for one in published) else ("rsum",)
    notes: list[str] = []  # numbered as the rows first refer to them

    def row(name: str, found: Mapping[str, Any], series: int | None, remarks: Sequence[str]) -> Row:
        notes.extend(remark for remark in remarks if remark not in notes)
        figures = [_plain(found[direction].get(figure), 1) for direction in DIRECTIONS for figure in names]
        figures += [_plain(found.get(total), 1) for total in sums]
        numbers = ", ".join(str(number) for number in sorted(notes.index(remark) + 1 for remark in remarks))
        return Row(name, (*map(Cell, figures), Cell(numbers or "this page", prose=True)), series)

    entries: list[tuple[float, tuple[str, Mapping[str, Any], int | None, list[str]]]] = []
    for one in published:
        share = "" if one.training_percent == 100 else f", {one.training_percent} % of the training data"
        remarks = [one.source, *(remark for remark in one.notes.split("; ") if remark)]
        order = one.rsum if one.rsum is not None else one.added_up.get("rsum", -1.0)
        entries.append((order, (f"{one.method}{share}", vars(one), None, remarks)))
    for series, run in enumerate(runs):
        entries.append((float(run.report["rsum"]), (run.name, run.report, series, [])))
    entries.sort(key=lambda entry: -entry[0])
    return Table(
        caption,
        ("method", *names, *names, *sums, "source, notes"),
        tuple(row(*entry) for _, entry in entries),
        (("", 1), *((DIRECTION_NAMES[d], len(names)) for d in DIRECTIONS), ("", len(sums) + 1)),
        tuple(notes),
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
    ks: list[int] = runs[0].report["conditions"]["ks"]
    first = runs[0]
    rows = []
    for series, run in enumerate(runs[1:], start=1):
        found: list[tuple[str, Floats, Floats, Integers]] = []
        for direction in DIRECTIONS:
            for k in ks:
                one, other = (hits(r, direction, [k]) for r in (first, run))
                found.append((f"R@{k}, {DIRECTION_NAMES[direction]}", one, other, query_groups(first, direction)))
        (one, groups), (other, _) = _rsum_sample(first), _rsum_sample(run)
        found.append(("rsum", one, other, groups))
        rows += [_compared(run.name, series, *of) for of in found if _enough(of[1], of[3])]
    return Table(
        f"Against {first.name}: points of difference, 95 % interval, p of a paired permutation test over images",
        ("run", "difference", "95 % interval", "p", "gained", "lost"),
        tuple(rows),
    )


def _compared(name: str, series: int, figure: str, one: Floats, other: Floats, groups: Integers) -> Row:
    """A row of the comparison: how the second run differs from the first."""
    from itm_fast.runs.statistics import paired_test

    result = paired_test(other, one, groups=groups)
    low, high, difference = (f"{v:+.1f}".replace("-", "−") for v in (result.low, result.high, result.difference))
    changed = ("–", "–") if figure == "rsum" else (str((other > one).sum()), str((other < one).sum()))
    p = "< 0.001" if result.p_value < 0.001 else f"{result.p_value:.3f}"
    cells = (Cell(difference, strong=result.p_value < 0.05), Cell(f"{low} … {high}"), Cell(p), *map(Cell, changed))
    return Row(name, cells, series, figure)


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
            counts = {name: forgiven(results, share) for name, share in _SHARES.items()}
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


def _interval(values: Floats, groups: Integers) -> str:
    """The 95 % interval of a mean; empty where there are too few groups for one."""
    from itm_fast.runs.statistics import bootstrap_interval

    if not _enough(values, groups):
        return ""
    interval = bootstrap_interval(values, groups=groups)
    return f"{interval.low:.1f}–{interval.high:.1f}"


def _enough(values: Floats, groups: Integers) -> bool:
    return len(np.unique(groups[~np.isnan(values)])) > 1


def _rsum_sample(run: Run) -> tuple[Floats, Integers]:
    """Values of all queries whose mean is rsum, and their images; empty where a direction has no query."""
    from itm_fast.runs.statistics import both_directions

    i2t, t2i = (hits(run, d, RSUM_KS) for d in DIRECTIONS)
    if np.isnan(i2t).all() or np.isnan(t2i).all():
        return np.zeros(0), np.zeros(0, dtype=np.int64)
    return both_directions(i2t, t2i, run.caption_to_image.clamp(min=0).numpy())  # captions of no image: no queries


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
