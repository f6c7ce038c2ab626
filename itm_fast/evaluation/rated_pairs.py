"""Crisscrossed Captions' files of rated pairs: STS, SIS and SITS have the same layout."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from itm_fast.errors import DataError
from itm_fast.files.plain_text import read_text

_BEST = 5.0  # the raters' scale


@dataclass(frozen=True, eq=False)
class RatedPairs:
    """Rated pairs, in file order.

    Attributes:
        left: (n,) names in the first column.
        right: (n,) names in the second column.
        scores: (n,) float64, mean of the raters, 0 ... 5.
        methods: (n,) how each pair was sampled.
    """

    left: list[str]
    right: list[str]
    scores: npt.NDArray[np.float64]
    methods: list[str]


def read_rated_pairs(path: str | Path, columns: Sequence[str]) -> RatedPairs:
    """Read a file of Crisscrossed Captions.

    Args:
        path: .csv or .csv.gz.
        columns: the names of the two columns that are compared; agg_score and sampling_method are beside them. By its
            header the order of all may be another, and there may be more.

    Returns:
        All its rows.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: another header, a row that does not fit, a score that is not 0 ... 5, a pair that is there twice;
            with file and line. No rows.

    Source: google-research-datasets/Crisscrossed-Captions, data/{sts,sis,sits}_{val,test}.csv.
    """
    path = Path(path)
    expected = (*columns, "agg_score", "sampling_method")
    rows = _rows(path)
    header = next(rows, [])
    if any(header.count(name) != 1 for name in expected):
        raise DataError(f"{path}: begins with {','.join(header)!r:.80}, expected the columns {','.join(expected)}")
    places = [header.index(name) for name in expected]
    left, right, scores, methods = [], [], [], []
    lines: dict[tuple[str, str], int] = {}
    for number, row in enumerate(rows, start=2):
        cells = [row[place] for place in places] if len(row) == len(header) else []
        score = _number(cells[2]) if cells else math.nan
        if not 0 <= score <= _BEST:
            raise DataError(
                f"{path}:{number}: {','.join(row)!r:.80}, expected {_a(columns[0])}, {_a(columns[1])}, a number "
                "0 ... 5 and a method"
            )
        first = lines.setdefault((cells[0], cells[1]), number)
        if first != number:
            raise DataError(f"{path}:{number}: {cells[0]}, {cells[1]} is line {first} again; expected every pair once")
        left.append(cells[0])
        right.append(cells[1])
        scores.append(score)
        methods.append(cells[3])
    if not scores:
        raise DataError(f"{path}: a header and no rated pairs")
    return RatedPairs(left, right, np.array(scores, dtype=np.float64), methods)


def _rows(path: Path) -> Iterator[list[str]]:
    """The rows of a CSV file."""
    rows = csv.reader(io.StringIO(read_text(path).replace("\r\n", "\n")))
    try:
        yield from rows
    except csv.Error as error:  # a carriage return alone, a field without end
        raise DataError(f"{path}:{rows.line_num}: not CSV: {error}") from error


def _a(column: str) -> str:
    return f"{'an' if column[0] in 'aeiou' else 'a'} {column.rstrip('12')}"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
