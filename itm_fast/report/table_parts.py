"""What the tables of a page are made of: cells, rows, and figures as text."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from itm_fast.files.plain_tables import PlainTable, Value
from itm_fast.report.queries import Floats, Integers

NONE = "–"  # in the place of a figure that is not there


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
        foot: rows that the others are to be read against.
    """

    caption: str
    headings: tuple[str, ...]
    rows: tuple[Row, ...]
    groups: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()
    foot: tuple[Row, ...] = ()

    def as_plain(self) -> PlainTable:
        r"""The table for a spreadsheet or a paper: figures as numbers, each kind of small print in a column of its own.

        Example:
            >>> cells = (Cell("81.8", "80.1–83.4"), Cell("–"))
            >>> Table("Recall", ("run", "R@1", "R@5"), (Row("vse_infty", cells),)).as_plain().as_csv()
            'run,R@1,"R@1, detail",R@5\nvse_infty,81.8,80.1–83.4,\n'
        """
        rows = (*self.rows, *self.foot)
        groups = [text for text, n_columns in self.groups for _ in range(n_columns)] or [""] * len(self.headings)
        columns = [(groups[0], self.headings[0])]
        values: list[list[Value]] = [[row.heading] for row in rows]
        if any(row.detail for row in rows):
            columns.append((groups[0], "of"))
            for row, made in zip(rows, values, strict=True):
                made.append(row.detail)
        for number, (group, name) in enumerate(zip(groups[1:], self.headings[1:], strict=True)):
            cells = [row.cells[number] for row in rows]
            columns.append((group, name))
            detailed = any(cell.detail for cell in cells)
            if detailed:
                columns.append((group, f"{name}, detail"))
            for cell, made in zip(cells, values, strict=True):
                made += [_number(cell.text), cell.detail or None] if detailed else [_number(cell.text)]
        digits = tuple(max(map(_decimals, column)) for column in zip(*values, strict=True)) if values else 1
        return PlainTable(tuple(columns), tuple(map(tuple, values)), digits)


def _number(text: str) -> Value:
    """What a cell says: a number where it is one, None for a dash."""
    if text in ("", NONE):
        return None
    figure = text.replace("−", "-")
    try:
        return float(figure) if "." in figure else int(figure)
    except ValueError:
        return text


def _decimals(value: Value) -> int:
    """How many decimals a cell shows."""
    return len(str(value).partition(".")[2]) if isinstance(value, float) else 0


def with_interval(value: object, values: Floats | None, groups: Integers) -> Cell:
    """A figure with the 95 % bootstrap interval of a mean below it.

    Args:
        value: the figure.
        values: (n,) what every query adds to it; None: not known.
        groups: (n,) the image of every query.

    Returns:
        A cell; without the interval where there are too few groups for one, or no figure.
    """
    from itm_fast.runs.statistics import bootstrap_interval

    text = plain(value, 1)
    if values is None or text == NONE or not enough(values, groups):
        return Cell(text)
    found = bootstrap_interval(values, groups=groups)
    return Cell(text, f"{found.low:.1f}–{found.high:.1f}")


def enough(values: Floats, groups: Integers) -> bool:
    """Whether queries are of two images at least, which a bootstrap needs."""
    return len(np.unique(groups[~np.isnan(values)])) > 1


def marked(rows: Sequence[Row], lowest_wins: Collection[int] = ()) -> list[Row]:
    """The rows with the best figure of each column strong, where there are several.

    Args:
        rows: of figures.
        lowest_wins: columns whose lowest figure is the best.
    """
    if len(rows) < 2:
        return list(rows)
    best = []
    for number, column in enumerate(zip(*(row.cells for row in rows), strict=True)):
        values = [float(cell.text) for cell in column if cell.text != NONE]
        best.append((min if number in lowest_wins else max)(values, default=None))
    return [
        replace(
            row,
            cells=tuple(
                replace(cell, strong=cell.text != NONE and float(cell.text) == wins)
                for cell, wins in zip(row.cells, best, strict=True)
            ),
        )
        for row in rows
    ]


def plain(value: object, digits: int) -> str:
    """A figure as text; a dash where there is none."""
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else NONE


def share(part: int, whole: int) -> str:
    """Percent of a whole as text; empty for an empty one."""
    return f"{100 * part / whole:.1f} %" if whole else ""
