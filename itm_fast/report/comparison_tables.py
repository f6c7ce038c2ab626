"""Tables that compare: runs with published results and with each other, misses with what φ and people say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

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
    most_relevant,
    query_groups,
    query_ncs,
    rsum_sample,
    sum_sample,
)
from itm_fast.report.table_parts import NONE, Cell, Row, Table, enough, plain, share
from itm_fast.runs.folder import Run
from itm_fast.runs.query_results import QueryResults

if TYPE_CHECKING:
    from itm_fast.report.published import PublishedRow

_REASONS: dict[str, Callable[[QueryResults], Tensor | None]] = {
    "positive’s φ": forgiven,
    "half positive’s φ": partial(forgiven, share=0.5),
    "most φ of others": partial(most_relevant, n=1),
    "10 of most φ": partial(most_relevant, n=10),
    "further annotations": annotated_misses,
}


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
        figures = [plain(found[direction].get(figure), 1) for direction in DIRECTIONS for figure in names]
        figures += [plain(found.get(total), 1) for total in sums]
        numbers = ", ".join(str(number) for number in sorted(notes.index(remark) + 1 for remark in remarks))
        return Row(name, (*map(Cell, figures), Cell(numbers or "this page", prose=True)), series)

    entries: list[tuple[tuple[float, float], tuple[str, Mapping[str, Any], int | None, list[str]]]] = []
    for one in published:
        share = "" if one.training_percent == 100 else f", {one.training_percent} % of the training data"
        remarks = [one.source, *(remark for remark in one.notes.split("; ") if remark)]
        order = one.rsum if one.rsum is not None else one.added_up.get("rsum", -1.0)
        firsts = one.i2t.get("R@1", 0.0) + one.t2i.get("R@1", 0.0)
        entries.append(((order, firsts), (f"{one.method}{share}", vars(one), None, remarks)))
    for series, run in enumerate(runs):
        entries.append(((float(run.report["rsum"]), 0.0), (run.name, run.report, series, [])))
    entries.sort(key=lambda entry: entry[0], reverse=True)  # where no rsum can be formed, behind all others, by R@1
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
        (one, groups), (other, _) = rsum_sample(first), rsum_sample(run)
        found.append(("rsum", one, other, groups))
        found += _ncs_samples(first, run, ks)
        rows += [_compared(run.name, series, *of) for of in found if enough(of[1], of[3])]
    return Table(
        f"Against {first.name}: points of difference, 95 % interval, p of a paired permutation test over images",
        ("run", "difference", "95 % interval", "p", "gained", "lost"),
        tuple(rows),
    )


def _ncs_samples(first: Run, run: Run, ks: Sequence[int]) -> Iterator[tuple[str, Floats, Floats, Integers]]:
    """NCS of every query in both runs, and nsum; nothing where one of them has not kept it."""
    for direction in DIRECTIONS:
        for k in ks:
            one, other = (query_ncs(r, direction, [k]) for r in (first, run))
            if one is not None and other is not None:
                yield f"NCS@{k}, {DIRECTION_NAMES[direction]}", one, other, query_groups(first, direction)
    samples = [_nsum_sample(r) for r in (first, run)]
    if samples[0] is not None and samples[1] is not None:
        yield "nsum", samples[0][0], samples[1][0], samples[0][1]


def _nsum_sample(run: Run) -> tuple[Floats, Integers] | None:
    i2t, t2i = (query_ncs(run, direction, RSUM_KS) for direction in DIRECTIONS)
    return None if i2t is None or t2i is None else sum_sample(run, i2t, t2i)


def _compared(name: str, series: int, figure: str, one: Floats, other: Floats, groups: Integers) -> Row:
    """A row of the comparison: how the second run differs from the first."""
    from itm_fast.runs.statistics import paired_test

    result = paired_test(other, one, groups=groups)
    low, high, difference = (f"{v:+.1f}".replace("-", "−") for v in (result.low, result.high, result.difference))
    changed = (NONE, NONE) if not figure.startswith("R@") else (str((other > one).sum()), str((other < one).sum()))
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
    rows = [(direction, series, run) for direction in DIRECTIONS for series, run in enumerate(runs)]
    counts = [_reasons(getattr(run, direction)) for direction, _, run in rows]
    names = [name for name in _REASONS if any(of_row.get(name) for of_row in counts)]
    made = []
    for (direction, series, run), found in zip(rows, counts, strict=True):
        ranks = getattr(run, direction).ranks
        n_queries, n_misses = int((ranks >= 0).sum()), int((ranks > 0).sum())
        cells = [Cell(str(n_queries)), Cell(str(n_misses), share(n_misses, n_queries))]
        cells += [
            Cell(str(found[name]), share(found[name], n_misses)) if name in found else Cell(NONE) for name in names
        ]
        made.append(Row(DIRECTION_NAMES[direction], tuple(cells), series, run.name if len(runs) > 1 else ""))
    return Table(
        "Misses at rank 1 in the whole gallery, and how many of them may be none",
        ("queries", "all", "misses", *names),
        tuple(made),
        (("", 1), ("", 2), *((("of these, the first retrieved has, or is among", len(names)),) if names else ())),
    )


def _reasons(results: QueryResults) -> dict[str, int]:
    """For each reason that can be known of a direction, how many misses may be none for it."""
    found = {name: reason(results) for name, reason in _REASONS.items()}
    return {name: int(mask.sum()) for name, mask in found.items() if mask is not None}
