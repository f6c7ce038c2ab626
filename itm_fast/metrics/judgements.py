"""Graded relevance of items to queries, as qrels have it: from lists or from ids; no similarities here."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from itm_fast.metrics.query_positives import QueryPositives, numbered, positives_by_id, query_positives
from itm_fast.similarities.scorers import IntArray

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Judgements:
    """How relevant some items are to every query of one direction; what is not judged is not relevant.

    Attributes:
        positives: the items of a grade above 0.
        grades: (n_pairs,) float64, the grade of each of ``positives.items``.
        best_grades: (n_queries, most of a query) float64, grades of all positives of each query, in the gallery or not,
            highest first, then zeros: those of the ideal list.
    """

    positives: QueryPositives
    grades: FloatArray
    best_grades: FloatArray

    def grades_of(self, items: IntArray, queries: IntArray) -> FloatArray:
        """Grades of items of some queries, (n, slots) float64; 0 of what is not relevant.

        Args:
            items: (n, slots) int64, items of each query in any order, -1 where there is none.
            queries: (n,) int64, these queries.
        """
        n = max(1, self.positives.n_items)
        keys = self.positives.owners() * n + self.positives.items  # ascending
        wanted = queries[:, None] * n + items
        if not len(keys):
            return np.zeros(items.shape)
        places = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        return np.where((items >= 0) & (keys[places] == wanted), self.grades[places], 0.0)


def as_judgements(relevant: Judgements | QueryPositives | Sequence[object], n_queries: int, n_items: int) -> Judgements:
    """Judgements from whatever says what is relevant.

    Args:
        relevant: for each of n_queries queries {item: grade}, or a list of items, of grade 1; or positives; or
            judgements. Grades of 0 and below are those of items that are not relevant.
        n_queries: queries.
        n_items: items of the gallery.

    Raises:
        ValueError: not one entry a query, an item outside 0 ... n_items - 1, a grade that is not finite.
        TypeError: items that are no integers.

    Example:
        >>> as_judgements([{2: 3, 0: 1}, {1: 0}], 2, 3).best_grades
        array([[3., 1.],
               [0., 0.]])
    """
    if isinstance(relevant, Judgements):
        query_positives(relevant.positives, n_queries, n_items)  # checks the sizes
        return relevant
    if isinstance(relevant, QueryPositives):
        return _of_lists(query_positives(relevant, n_queries, n_items), {})
    graded = {query: items for query, items in enumerate(relevant) if isinstance(items, Mapping)}
    lists = [
        list(_above_zero(entry, f"relevant[{query}]")) if isinstance(entry, Mapping) else entry
        for query, entry in enumerate(relevant)
    ]
    return _of_lists(query_positives(lists, n_queries, n_items), graded)  # type: ignore[arg-type]  # it checks


def judgements_by_id(
    qrels: Mapping[Hashable, Mapping[Hashable, float]],
    query_ids: Sequence[Hashable],
    item_ids: Sequence[Hashable],
    *,
    source: str = "qrels",
) -> Judgements:
    """Judgements from ids, as files of qrels have them.

    Args:
        qrels: id of a query -> {id of an item: grade}. A relevant item that is not in the gallery stays in the ideal
            list and in the number of relevant items, as with trec_eval.
        query_ids: (n_queries,) distinct ids, in the order of the queries.
        item_ids: (n_items,) distinct ids of the gallery, likewise.
        source: what errors call ``qrels``.

    Raises:
        ValueError: repeated ids, a judged query that is not among query_ids, nothing relevant in the gallery, a grade
            that is not finite.

    Example:
        >>> judgements_by_id({"q": {"b": 2, "x": 1}}, ["q"], ["a", "b"]).best_grades
        array([[2., 1.]])
    """
    relevant = {query: _above_zero(of, f"{source}[{query!r}]") for query, of in qrels.items()}
    positives = positives_by_id({query: list(of) for query, of in relevant.items()}, query_ids, item_ids, source=source)
    query_at, item_at = numbered(query_ids, "query_ids"), numbered(item_ids, "item_ids")
    graded = {
        query_at[query]: {item_at.get(item, -1 - number): grade for number, (item, grade) in enumerate(of.items())}
        for query, of in relevant.items()
    }
    return _of_lists(positives, graded)


def _above_zero(grades: Mapping[Hashable, float], name: str) -> dict[Hashable, float]:
    odd = next((item for item, grade in grades.items() if not _is_grade(grade)), None)
    if odd is not None:
        raise ValueError(f"{name} has the grade {grades[odd]!r} of item {odd!r}, expected finite numbers")
    return {item: grade for item, grade in grades.items() if grade > 0}


def _is_grade(grade: Any) -> bool:
    try:
        return math.isfinite(grade)
    except (TypeError, OverflowError):
        return False


def _of_lists(positives: QueryPositives, graded: Mapping[int, Mapping[int, float]]) -> Judgements:
    """Judgements of positives; 1 where ``graded`` has no grades of a query. Negative items are outside the gallery."""
    n_relevant = positives.n_relevant
    best = (np.arange(int(n_relevant.max(initial=0))) < n_relevant[:, None]).astype(np.float64)
    grades = np.ones(positives.n_pairs)
    for query, of in graded.items():
        some = slice(*positives.offsets[query : query + 2].tolist())
        grades[some] = [of[item] for item in positives.items[some].tolist()]
        best[query, : n_relevant[query]] = sorted((grade for grade in of.values() if grade > 0), reverse=True)
    return Judgements(positives, grades, best)
