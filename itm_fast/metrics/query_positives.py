"""Any number of positives for every query of one direction, from lists or from ids; no similarities here."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from itm_fast.indices import distinct_numbers
from itm_fast.similarities.scorers import IntArray


@dataclass(frozen=True, eq=False)
class QueryPositives:
    """The positives of every query of one direction: a set each, which may be empty.

    Attributes:
        items: (n_pairs,) int64, gallery items grouped by query, ascending inside a group.
        offsets: (n_queries + 1,) int64, query q has ``items[offsets[q]:offsets[q + 1]]``.
        n_unreachable: (n_queries,) int64, positives that are not in the gallery; they stay in R.
        n_items: items of the gallery.
    """

    items: IntArray
    offsets: IntArray
    n_unreachable: IntArray
    n_items: int

    @property
    def n_queries(self) -> int:
        """Queries, with or without positives."""
        return len(self.offsets) - 1

    @property
    def n_relevant(self) -> IntArray:
        """(n_queries,) int64, R: how many positives each query has, in the gallery or not."""
        return np.diff(self.offsets) + self.n_unreachable

    @property
    def queries(self) -> IntArray:
        """Numbers of the queries that have a positive, ascending; the others are left out of every metric."""
        return np.flatnonzero(self.n_relevant)

    @property
    def n_pairs(self) -> int:
        """Pairs of a query and a positive in the gallery."""
        return len(self.items)

    def owners(self) -> IntArray:
        """(n_pairs,) int64, the query of every pair."""
        return np.repeat(np.arange(self.n_queries), np.diff(self.offsets))

    def padded(self) -> IntArray:
        """Positives of each query, ascending, (n_queries, most of a query) int64, -1 where it has fewer."""
        counts = np.diff(self.offsets)
        padded = np.full((self.n_queries, int(counts.max(initial=0))), -1, np.int64)
        owners = self.owners()
        padded[owners, np.arange(self.n_pairs) - self.offsets[owners]] = self.items
        return padded

    def mask(self, queries: IntArray) -> Tensor:
        """(len(queries), n_items) bool: which items are positives of these queries."""
        mask = np.zeros((len(queries), self.n_items), dtype=bool)
        counts = np.diff(self.offsets)[queries]
        starts = np.repeat(self.offsets[queries] - np.cumsum(counts) + counts, counts)
        mask[np.repeat(np.arange(len(queries)), counts), self.items[starts + np.arange(counts.sum())]] = True
        return torch.from_numpy(mask)


ListsOfItems: TypeAlias = QueryPositives | Sequence[Sequence[int]]


def query_positives(lists: ListsOfItems, n_queries: int, n_items: int) -> QueryPositives:
    """The positives of every query from a list a query.

    Args:
        lists: for each of n_queries queries the numbers of its positives in the gallery, a list, an array or a set;
            repeats count once. Or what this function returns.
        n_queries: queries.
        n_items: items of the gallery.

    Returns:
        The positives.

    Raises:
        ValueError: not one list a query, an item outside 0 ... n_items - 1, a matrix of 0 and 1.
        TypeError: not lists of integers.

    Example:
        >>> query_positives([[2, 0], []], 2, 3).n_relevant
        array([2, 0])
    """
    if isinstance(lists, QueryPositives):
        if (lists.n_queries, lists.n_items) != (n_queries, n_items):
            raise ValueError(
                f"positives are of {lists.n_queries} queries and {lists.n_items} items, but sims has {n_queries} "
                f"queries and {n_items} items; rows are images, columns captions: is query the right one?"
            )
        return lists
    if isinstance(lists, Mapping):
        raise TypeError("positives is a dict, expected a list of positives a query; positives_by_id makes it of ids")
    if len(lists) != n_queries:
        raise ValueError(f"positives has {len(lists)} lists, expected one a query: {n_queries}")
    arrays: list[npt.NDArray[Any]] = []
    for query, some in enumerate(lists):
        array = np.asarray(list(some) if isinstance(some, (set, frozenset)) else some)
        if not array.ndim or (array.dtype.kind not in "iu" and array.size):
            raise TypeError(f"positives[{query}] has dtype {array.dtype} and {array.ndim} axes, expected (n,) integers")
        arrays.append(array.ravel())
    if n_items > 2 and arrays and all(len(array) == n_items and array.max() <= 1 for array in arrays):
        raise ValueError(
            "positives is a matrix of 0 and 1, expected the numbers of each query's positives: "
            "[row.nonzero()[0] for row in positives]"
        )
    queries = np.repeat(np.arange(n_queries), [len(array) for array in arrays])
    items = np.concatenate([np.zeros(0, np.int64), *(array.astype(np.int64) for array in arrays)])
    outside = (items < 0) | (items >= n_items)
    if outside.any():
        query = queries[outside.argmax()]
        raise ValueError(
            f"positives[{query}] holds {arrays[query].min()} ... {arrays[query].max()}, expected 0 ... {n_items - 1}; "
            "make positives outside the gallery with positives_by_id, which keeps them in R"
        )
    return _grouped(queries, items, np.zeros(n_queries, np.int64), n_items)


def positives_by_id(
    positives: Mapping[Hashable, Sequence[Hashable]],
    query_ids: Sequence[Hashable] | npt.NDArray[np.generic],
    item_ids: Sequence[Hashable] | npt.NDArray[np.generic],
    *,
    source: str = "positives",
) -> QueryPositives:
    """The positives of every query from ids, as annotation files have them.

    A positive whose id is not in the gallery stays in R, as in eccv_caption: no ranking of this gallery is perfect.

    Args:
        positives: id of a query -> ids of its positives, without order; repeats count once.
        query_ids: (n_queries,) distinct ids, in the order of the rows (or columns) of sims.
        item_ids: (n_items,) distinct ids of the gallery, likewise.
        source: what errors call ``positives``.

    Returns:
        The positives; queries that ``positives`` does not name have none.

    Raises:
        ValueError: repeated ids, a query of ``positives`` that is not among query_ids, no positive in the gallery.
        TypeError: a string in place of a list of ids.

    Example:
        >>> positives_by_id({7: [30, 10, 99]}, [5, 7], [10, 20, 30]).n_relevant
        array([0, 3])
    """
    query_at, item_at = numbered(query_ids, "query_ids"), numbered(item_ids, "item_ids")
    words = next((key for key, of in positives.items() if isinstance(of, str)), None)
    if words is not None:
        raise TypeError(f"{source}[{words!r}] is {positives[words]!r:.60}, expected a list of ids")
    missing = [key for key in positives if key not in query_at]
    if missing:
        raise ValueError(
            f"{source} has {len(missing)} of {len(positives)} queries that the given ids lack, such as "
            f"{missing[0]!r}; the ids given are like {next(iter(query_at), None)!r}: pass the ids of this test set"
        )
    rows = np.repeat([query_at[key] for key in positives], [*map(len, positives.values())]).astype(np.int64)
    items = list(itertools.chain.from_iterable(positives.values()))
    places = np.array([item_at.get(item, -1) for item in items], np.int64)
    reached = places >= 0
    outside = {(rows[pair], items[pair]) for pair in np.flatnonzero(~reached)}
    n_unreachable = np.bincount(np.array([row for row, _ in outside], np.int64), minlength=len(query_at))
    grouped = _grouped(rows[reached], places[reached], n_unreachable, len(item_at))
    if n_unreachable.sum() and not grouped.n_pairs:
        raise ValueError(
            f"{source}: no positive, such as {items[0]!r}, is among the {len(item_at)} ids of the gallery, such as "
            f"{next(iter(item_at), None)!r}; pass the ids of this test set"
        )
    return grouped


def numbered(ids: Sequence[Hashable] | npt.NDArray[np.generic], name: str) -> dict[Hashable, int]:
    """The place of every id; ValueError if one is there twice.

    Example:
        >>> numbered([30, 10], "ids")
        {30: 0, 10: 1}
    """
    plain = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    places = {key: place for place, key in enumerate(plain)}
    if len(places) < len(plain):
        place, key = next((place, key) for place, key in enumerate(plain) if places[key] != place)
        raise ValueError(f"{name}: {key!r} is there twice, at {place} and {places[key]}; ids must be distinct")
    return places


def _grouped(queries: IntArray, items: IntArray, n_unreachable: IntArray, n_items: int) -> QueryPositives:
    """From pairs in any order; repeats count once."""
    pairs = distinct_numbers(queries * n_items + items)
    offsets = np.zeros(len(n_unreachable) + 1, np.int64)
    np.cumsum(np.bincount(pairs // max(n_items, 1), minlength=len(n_unreachable)), out=offsets[1:])
    return QueryPositives(pairs % max(n_items, 1), offsets, n_unreachable, n_items)
