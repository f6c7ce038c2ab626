"""Relevance judgements of a folder of MTEB or BEIR: text, as everywhere, and parquet and JSON of the same columns."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from itm_fast.data.readers.found_path import is_json, read_caption_json
from itm_fast.data.readers.parquet_rows import ParquetFile
from itm_fast.errors import DataError
from itm_fast.files.trec import read_qrels

_COLUMNS = ("query-id", "query_id", "qid"), ("corpus-id", "corpus_id", "docid"), ("score", "relevance", "label")
_EXPECTED = "expected TREC's `query iteration document grade`, or query-id, corpus-id and score as of BEIR"


class Judgement(NamedTuple):
    """How relevant a document is to a query."""

    query: str
    document: str
    grade: float
    """Above 0: relevant."""


def read_graded_pairs(path: Path) -> list[Judgement]:
    """Read relevance judgements.

    Args:
        path: text, as ``files.trec.read_qrels`` takes it; .parquet and .jsonl of query-id, corpus-id and score.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: a line or row is something else, or judges a pair again and otherwise.
    """
    rows = _of_parquet(path) if path.suffix == ".parquet" else _of_json(path) if is_json(path) else _of_text(path)
    found: list[Judgement] = []
    grades: dict[tuple[str, str], float] = {}
    for where, query, document, grade in rows:
        number = _number(grade)
        if query in (None, "") or document in (None, "") or number is None:
            raise DataError(f"{where}: {query!r:.40}, {document!r:.40}, {grade!r:.40}; {_EXPECTED}")
        judgement = Judgement(str(query), str(document), number)
        if grades.setdefault(judgement[:2], number) != number:
            raise DataError(f"{where}: query {query} and document {document} are judged again, and otherwise")
        found.append(judgement)
    if not found:
        raise DataError(f"{path}: no judgements; {_EXPECTED}")
    return found


def _of_text(path: Path) -> list[tuple[str, Any, Any, Any]]:
    return [
        (f"{path}", query, document, grade)
        for query, of_query in read_qrels(path).items()
        for document, grade in of_query.items()
    ]


def _of_parquet(path: Path) -> list[tuple[str, Any, Any, Any]]:
    file = ParquetFile(path)
    names = [next((name for name in known if name in file.columns), None) for known in _COLUMNS]
    if None in names:
        raise DataError(f"{path}: columns {', '.join(file.columns):.120}; {_EXPECTED}")
    query, document, grade = (str(name) for name in names)
    return [
        (f"{path}: row {number}", row[query], row[document], row[grade])
        for number, row in enumerate(file.rows([query, document, grade]))
    ]


def _of_json(path: Path) -> list[tuple[str, Any, Any, Any]]:
    rows, content = [], read_caption_json(path)
    if not isinstance(content, list):
        raise DataError(f"{path}: holds a {type(content).__name__}; {_EXPECTED}")
    for number, row in enumerate(content, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: {row!r:.60}; {_EXPECTED}")
        values = [next((row[name] for name in known if name in row), None) for known in _COLUMNS]
        rows.append((f"{path}:{number}", values[0], values[1], values[2]))
    return rows


def _number(value: Any) -> float | None:
    try:
        number = float(value) if isinstance(value, (int, float, str)) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
