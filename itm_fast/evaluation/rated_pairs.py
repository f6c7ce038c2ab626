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
from itm_fast.files.text import read_text


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
        columns: the names of the first two columns; agg_score and sampling_method follow.

    Returns:
        All its rows.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: another header, a row that does not fit; with file and line.

    Source: google-research-datasets/Crisscrossed-Captions, data/{sts,sis,sits}_{val,test}.csv.
    """
    path = Path(path)
    expected = (*columns, "agg_score", "sampling_method")
    rows = _rows(path)
    header = next(rows, [])
    if tuple(header) != expected:
        raise DataError(f"{path}: begins with {','.join(header)!r:.80}, expected the columns {','.join(expected)}")
    left, right, scores, methods = [], [], [], []
    for number, row in enumerate(rows, start=2):
        score = _number(row[2]) if len(row) == len(expected) else math.nan
        if not math.isfinite(score):
            raise DataError(
                f"{path}:{number}: {','.join(row)!r:.80}, expected {_a(columns[0])}, {_a(columns[1])}, a number and a "
                "method"
            )
        left.append(row[0])
        right.append(row[1])
        scores.append(score)
        methods.append(row[3])
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
