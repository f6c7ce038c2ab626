"""Tables of figures as CSV, LaTeX or JSON; what stands in them is the caller's."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

Value: TypeAlias = str | int | float | None

_SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}
_NONE = "--"


@dataclass(frozen=True)
class PlainTable:
    r"""A table whose first column names its rows.

    Attributes:
        columns: (group, name) of each column; group "" stands alone.
        rows: values, as many as there are columns; None where there is no figure.
        digits: decimals of floats in LaTeX, of all columns or one a column; CSV and JSON hold them whole.

    Raises:
        ValueError: a row is longer or shorter than the columns.

    Example:
        >>> table = PlainTable((("", "model"), ("i2t", "R@1"), ("i2t", "R@5")), (("vse_infty", 81.75, None),))
        >>> table.as_csv()
        'model,i2t R@1,i2t R@5\nvse_infty,81.75,\n'
    """

    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Value, ...], ...]
    digits: int | tuple[int, ...] = 1

    def __post_init__(self) -> None:
        """Check that the rows fit."""
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"rows[{number}] has {len(row)} values, but there are {len(self.columns)} columns")

    @property
    def names(self) -> list[str]:
        """The columns, each in one piece: "i2t R@1"."""
        return [f"{group} {name}".strip() for group, name in self.columns]

    def as_csv(self) -> str:
        """A line of names, then a line a row; what is missing is empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.names)
        writer.writerows([_finite(value) for value in row] for row in self.rows)
        return text.getvalue()

    def as_json(self) -> str:
        """A list of one object a row; NaN and infinity, which JSON has not, are null."""
        rows = [dict(zip(self.names, map(_finite, row), strict=True)) for row in self.rows]
        return json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def as_latex(self, rivals: Sequence[str] = ()) -> str:
        """A tabular in the style of the package booktabs, with groups of columns as papers have them.

        Args:
            rivals: one a row: the largest figure of each column is bold among rows of the same; () has none bold.
        """
        cells = [[self._cell(value, column) for column, value in enumerate(row)] for row in self.rows]
        for rival in dict.fromkeys(rivals):
            mine = [number for number, one in enumerate(rivals) if one == rival]
            for column in range(1, len(self.columns)):
                values = [self.rows[number][column] for number in mine]
                figures = [value for value in values if isinstance(value, float) and math.isfinite(value)]
                best = self._cell(max(figures, default=None), column)
                for number in mine:
                    if len(mine) > 1 and figures and cells[number][column] == best:
                        cells[number][column] = f"\\textbf{{{best}}}"
        lines = [
            "% \\usepackage{booktabs}",
            f"\\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}",
            "\\toprule",
            *self._group_lines(),
            _line(escaped(name) for _, name in self.columns),
            "\\midrule",
            *map(_line, cells),
            "\\bottomrule",
            "\\end{tabular}",
        ]
        return "\n".join(lines) + "\n"

    def _group_lines(self) -> list[str]:
        """The groups above the columns, each over a line of its own width; none without groups."""
        cells, rules, first = [], [], 1
        for group, members in groupby(group for group, _ in self.columns):
            last = first + len(list(members)) - 1
            if group:
                cells.append(f"\\multicolumn{{{last - first + 1}}}{{c}}{{{escaped(group)}}}")
                rules.append(f"\\cmidrule(lr){{{first}-{last}}}")
            else:
                cells += [""] * (last - first + 1)
            first = last + 1
        return [_line(cells), " ".join(rules)] if rules else []

    def _cell(self, value: Value, column: int) -> str:
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            return _NONE
        digits = self.digits if isinstance(self.digits, int) else self.digits[column]
        return f"{value:.{digits}f}" if isinstance(value, float) else escaped(str(value))


def escaped(text: str) -> str:
    r"""Text as LaTeX prints it.

    Example:
        >>> print(escaped("vse_infty, 100 %"))
        vse\_infty, 100 \%
    """
    return re.sub(r"[&%$#_{}\\~^<>]", lambda found: _SPECIAL[found[0]], text)


def _line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _finite(value: Value) -> Value:
    return None if isinstance(value, float) and not math.isfinite(value) else value
