"""Runs and relevance judgements as trec_eval has them: text with a line a pair; read by what the lines hold."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from itm_fast.errors import DataError
from itm_fast.files.plain_text import read_lines, stream_lines

Qrels: TypeAlias = dict[str, dict[str, int]]

_BLANKS = re.compile(r"\s")
_RUN = "a run has six columns a line: query Q0 item rank score name"
_QRELS = "qrels have four columns a line, query iteration item grade, or three, query item grade"
_HEADINGS = ("query-id", "query_id", "qid", "query")  # of BEIR's and MTEB's .tsv


@dataclass(frozen=True, eq=False)
class TrecRun:
    """What was retrieved, query by query, in the order of the file.

    Attributes:
        name: the run's, as its last column has it.
        queries: ids of the queries, in the order of their first lines.
        items: ids of all items.
        owners: (n_lines,) int64, number of the query of each line.
        retrieved: (n_lines,) int64, number of its item.
        scores: (n_lines,) float64.
        notes: what is odd: scores that rise with the ranks of the file.
    """

    name: str
    queries: list[str]
    items: list[str]
    owners: npt.NDArray[np.int64]
    retrieved: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    notes: tuple[str, ...] = ()


def read_trec_run(path: str | Path) -> TrecRun:
    """Read a run: "query Q0 item rank score name" a line; the scores count, not the ranks, as with trec_eval.

    Args:
        path: text, also .gz. Memory goes with the lines, 40 bytes each beside the ids.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it holds something else, an item twice for a query, or no number as a score; with file and line.
    """
    path = Path(path)
    queries: dict[str, int] = {}
    items: dict[str, int] = {}
    owners, retrieved, numbers, scores, ranks = array("q"), array("q"), array("q"), array("d"), array("d")
    name = ""
    for number, cells in _rows(path):
        if len(cells) != 6:
            other = f"; these look like qrels: {_QRELS}" if len(cells) in (3, 4) else ""
            raise DataError(f"{path}:{number}: {len(cells)} columns, expected 6: {_RUN}{other}")
        owners.append(queries.setdefault(cells[0], len(queries)))
        retrieved.append(items.setdefault(cells[2], len(items)))
        ranks.append(float(cells[3]) if cells[3].isdecimal() else math.nan)
        scores.append(_score(path, number, cells[4]))
        numbers.append(number)
        name = cells[5]
    of_queries, of_items = (np.frombuffer(one, np.int64) for one in (owners, retrieved))
    notes = _rank_notes(of_queries, np.frombuffer(ranks), np.frombuffer(scores))
    run = TrecRun(name, list(queries), list(items), of_queries, of_items, np.frombuffer(scores), notes)
    _check_distinct(path, run, numbers)
    return run


def _check_distinct(path: Path, run: TrecRun, numbers: array[int]) -> None:
    """Refuse an item that is there twice for a query."""
    keys = run.owners * len(run.items) + run.retrieved
    order = np.argsort(keys, kind="stable")
    again = order[1:][keys[order[1:]] == keys[order[:-1]]]
    if len(again):
        line = int(again.min())
        query, item = run.queries[run.owners[line]], run.items[run.retrieved[line]]
        raise DataError(f"{path}:{numbers[line]}: item {item!r} is there twice for query {query!r}")


def _rank_notes(
    owners: npt.NDArray[np.int64], ranks: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]
) -> tuple[str, ...]:
    """Said where the scores of most queries rise with the ranks: by the one the first item is the last by the other."""
    scores = np.where(np.isfinite(scores), scores, math.nan)
    n_lines = np.bincount(owners)
    means = (np.bincount(owners, weights=of) / n_lines for of in (ranks, scores))
    apart = [of - mean[owners] for of, mean in zip((ranks, scores), means, strict=True)]
    together = np.bincount(owners, weights=apart[0] * apart[1])  # NaN where one is no number
    n_rising, n_falling = int((together > 0).sum()), int((together < 0).sum())
    if n_rising <= n_falling:
        return ()
    return (
        f"the scores of {n_rising} of {len(n_lines)} queries rise with the ranks of the file; the higher score comes "
        "first, as with trec_eval: if they are distances, negate them",
    )


def read_qrels(path: str | Path) -> Qrels:
    """Read qrels: "query iteration item grade" a line, or the three columns of BEIR's and MTEB's .tsv with a heading.

    Args:
        path: text, also .gz.

    Returns:
        {query: {item: grade}}; what is not above 0 is not relevant.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it holds something else, a pair twice, or no whole number as a grade; with file and line.
    """
    path = Path(path)
    qrels: Qrels = {}
    for number, cells in _rows(path):
        if number == 1 and cells[0].lower() in _HEADINGS:
            continue
        if len(cells) not in (3, 4):
            other = f"; it looks like a run: {_RUN}" if len(cells) == 6 else ""
            raise DataError(f"{path}:{number}: {len(cells)} columns, expected 3 or 4: {_QRELS}{other}")
        query, item, grade = cells[0], cells[-2], cells[-1]
        value = _whole(grade)
        if value is None:
            raise DataError(f"{path}:{number}: the grade is {grade!r:.40}, expected a whole number: {_QRELS}")
        of_query = qrels.setdefault(query, {})
        if item in of_query:
            raise DataError(f"{path}:{number}: item {item!r} is judged twice for query {query!r}")
        of_query[item] = value
    if not qrels:
        raise DataError(f"{path}: a heading and no judgements: {_QRELS}")
    return qrels


def trec_run_lines(
    queries: Sequence[object],
    items: Sequence[object],
    indices: npt.NDArray[np.int64],
    scores: npt.NDArray[np.floating],
    name: str,
) -> Iterator[str]:
    """The lines of a run, best item first; ranks begin at 1.

    Args:
        queries: (n_queries,) ids.
        items: (n_items,) ids.
        indices: (n_queries, k) items of every query, -1 where there is none.
        scores: (n_queries, k) float32 or float64, written so that they are read back to the last bit.
        name: of the run.
    """
    of_items = [trec_id(key) for key in items]
    tag = trec_id(name)
    for query, listed, of_query in zip(queries, indices.tolist(), scores, strict=True):
        start = f"{trec_id(query)} Q0"
        pairs = ((item, score) for item, score in zip(listed, of_query, strict=True) if item >= 0)
        for rank, (item, score) in enumerate(pairs, start=1):
            yield f"{start} {of_items[item]} {rank} {score!s} {tag}\n"  # a NumPy scalar as its shortest exact text


def qrels_lines(
    queries: Sequence[object],
    items: Sequence[object],
    pairs: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    grades: npt.NDArray[np.float64],
) -> Iterator[str]:
    """The lines of qrels.

    Args:
        queries: (n_queries,) ids.
        items: (n_items,) ids.
        pairs: (n,) queries and (n,) items, by number.
        grades: (n,) of each, whole numbers.
    """
    for query, item, grade in zip(*(side.tolist() for side in pairs), grades.tolist(), strict=True):
        yield f"{trec_id(queries[query])} 0 {trec_id(items[item])} {grade:.0f}\n"


def trec_id(key: object) -> str:
    """An id as a column of a run: blanks, which would end it, are written as %20 and the like.

    Example:
        >>> trec_id("a dog.jpg")
        'a%20dog.jpg'
    """
    return _BLANKS.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), str(key)) or "%00"


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The columns of every line that is not blank, and its number."""
    lines = (
        enumerate(read_lines(path, "pair", keep_blank=True), start=1) if path.suffix == ".gz" else stream_lines(path)
    )
    none = True
    for number, line in lines:
        cells = line.split()
        if "\0" in line:
            raise DataError(f"{path}:{number}: not text: it holds NUL characters")
        if none and line.lstrip()[:1] in ("{", "["):
            raise DataError(f"{path}: holds JSON, expected text: {_RUN}; {_QRELS}")
        if cells:
            none = False
            yield number, cells
    if none:
        raise DataError(f"{path}: empty; {_RUN}; {_QRELS}")


def _whole(text: str) -> int | None:
    """A whole number, also as a table with a gap writes it: 1.0."""
    try:
        return int(text.removesuffix(".0"))
    except ValueError:
        return None


def _score(path: Path, number: int, text: str) -> float:
    try:
        score = float(text)
    except ValueError as error:
        raise DataError(f"{path}:{number}: the score is {text!r:.40}, expected a number: {_RUN}") from error
    if math.isnan(score):
        raise DataError(f"{path}:{number}: the score is NaN, which has no rank")
    return score
