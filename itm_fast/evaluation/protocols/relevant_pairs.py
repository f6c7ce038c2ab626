"""Any data set, given as ids and the pairs that are relevant."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from itm_fast.errors import DataError
from itm_fast.files.ids import Ids, id_list, integer_id
from itm_fast.files.reading import read_arrays, read_json

_EXPECTED = (
    'expected {"image_ids": [...], "caption_ids": [...], "image_to_captions": {image id: [caption ids]}, '
    '"caption_to_images": {caption id: [image ids]}}; one of the last two may be missing'
)
_EXPECTED_ARRAYS = (
    "expected the arrays image_ids (n,), caption_ids (m,), and image_to_captions (p, 2) or caption_to_images (q, 2): "
    "pairs of a query and a positive"
)

IdLists: TypeAlias = Mapping[Hashable, Sequence[Hashable]]


@dataclass(frozen=True, eq=False)
class RelevantPairs:
    """A data set: the ids of its images and captions, and the positives of either direction.

    Attributes:
        ids: of the rows and columns of sims.
        image_to_captions: image id -> ids of its positives; others are no queries.
        caption_to_images: caption id -> ids of its positives; likewise. Not the transpose of the other if annotated
            apart.
    """

    ids: Ids
    image_to_captions: IdLists
    caption_to_images: IdLists


def read_relevant_pairs(path: str | Path | RelevantPairs | None) -> RelevantPairs:
    """Ids and positives from a file, or as given. Where one direction is missing it is the transpose of the other.

    Args:
        path: a .json file, where keys may be strings of numbers, or a .npz file of arrays with the same names.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file holds something else, or is cut short.
        ValueError: no file given.
    """
    if isinstance(path, RelevantPairs):
        return path
    if path is None:
        raise ValueError(f"protocol positives needs annotations, a .json or .npz file: {_EXPECTED}")
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path}: a folder; {_EXPECTED}")
    if path.suffix == ".npz":
        content: Any = dict(read_arrays(path))
    else:
        content = read_json(path)
    expected = _EXPECTED_ARRAYS if path.suffix == ".npz" else _EXPECTED
    if not isinstance(content, dict) or not {"image_ids", "caption_ids"} <= set(content):
        raise DataError(f"{path}: {expected}")
    ids = Ids(*(id_list(content[key], f"{path}: {key}") for key in ("image_ids", "caption_ids")))
    sides = [
        None if key not in content else _lists(content[key], queries, f"{path}: {key}", expected)
        for key, queries in (("image_to_captions", ids.images), ("caption_to_images", ids.captions or ()))
    ]
    if sides[0] is None and sides[1] is None:
        raise DataError(f"{path}: {expected}")
    return RelevantPairs(
        ids, sides[0] or _turned(sides[1] or {}, ids.images), sides[1] or _turned(sides[0] or {}, ids.captions or ())
    )


def _lists(content: object, queries: Sequence[Hashable], name: str, expected: str) -> dict[Hashable, list[Hashable]]:
    lists: dict[Hashable, list[Hashable]] = {}
    if isinstance(content, np.ndarray):
        if content.ndim != 2 or content.shape[1] != 2:
            raise DataError(f"{name} is {content.dtype} of shape {content.shape}; {expected}")
        for query, item in zip(*(id_list(content[:, side], f"{name}[:, {side}]") for side in (0, 1)), strict=True):
            lists.setdefault(query, []).append(item)
        return lists
    if not isinstance(content, dict):
        raise DataError(f"{name} is a {type(content).__name__}; {expected}")
    numbers = bool(queries) and all(isinstance(key, int) for key in queries)  # JSON's keys are always strings
    for key, items in content.items():
        query = integer_id(key) if numbers else key
        if query is None:
            raise DataError(f"{name}: the key {key!r:.60} is no number, but the ids are numbers; {expected}")
        if query in lists:
            raise DataError(f"{name}: {key!r:.60} is there twice, in two spellings")
        lists[query] = id_list(items, f"{name}[{key!r}]")
    return lists


def _turned(lists: IdLists, queries: Sequence[Hashable]) -> dict[Hashable, list[Hashable]]:
    """The positives of the other direction, for what is a query there at all."""
    turned: dict[Hashable, list[Hashable]] = {query: [] for query in queries}
    for query, items in lists.items():
        for item in items:
            if item in turned:
                turned[item].append(query)
    return {query: items for query, items in turned.items() if items}
