"""Any data set, given as ids and the pairs that are relevant."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from itm_fast.errors import DataError
from itm_fast.files.ids import Ids, IdsLike, id_list, integer_id, read_ids
from itm_fast.files.reading import read_arrays, read_json
from itm_fast.files.trec import read_qrels

_EXPECTED = (
    'expected {"image_ids": [...], "caption_ids": [...], "image_to_captions": {image id: [caption ids]}, '
    '"caption_to_images": {caption id: [image ids]}}; one of the last two may be missing'
)
_EXPECTED_ARRAYS = (
    "expected the arrays image_ids (n,), caption_ids (m,), and image_to_captions (p, 2) or caption_to_images (q, 2): "
    "pairs of a query and a positive"
)

IdLists: TypeAlias = Mapping[Hashable, Sequence[Hashable] | Mapping[Hashable, float]]


@dataclass(frozen=True, eq=False)
class RelevantPairs:
    """A data set: the ids of its images and captions, and the positives of either direction.

    Attributes:
        ids: of the rows and columns of sims.
        image_to_captions: image id -> ids of its positives, or {id: grade}; others are no queries. None: the transpose
            of the other.
        caption_to_images: caption id -> ids of its positives, or {id: grade}; likewise. Not the transpose of the other
            if annotated apart.
    """

    ids: Ids
    image_to_captions: IdLists | None
    caption_to_images: IdLists | None

    def both(self) -> tuple[IdLists, IdLists]:
        """The positives of images and of captions.

        Raises:
            TypeError: something else than such mappings.
            ValueError: neither has a query.
        """
        sides = [_checked_lists(getattr(self, name), name) for name in ("image_to_captions", "caption_to_images")]
        if not any(sides):
            raise ValueError("neither image_to_captions nor caption_to_images has a query: there is nothing to rank")
        of_images, of_captions = sides
        return (
            _turned(of_captions or {}, self.ids.images) if of_images is None else of_images,
            _turned(of_images or {}, self.ids.captions or ()) if of_captions is None else of_captions,
        )


def read_relevant_pairs(path: str | Path | RelevantPairs | None, ids: IdsLike | None = None) -> RelevantPairs:
    """Ids and positives from a file, or as given. Where one direction is missing it is the transpose of the other.

    Args:
        path: a .json file, where keys may be strings of numbers, or a .npz file of arrays with the same names; or, of
            any other name, qrels (``read_qrels``), whose queries are images or captions.
        ids: of the test set, which qrels do not have.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file holds something else, or is cut short.
        ValueError: no file given, or qrels without ids.
        TypeError: something else than a file or ``RelevantPairs`` with ``Ids``.
    """
    if isinstance(path, RelevantPairs):
        if not isinstance(path.ids, Ids):
            raise TypeError(f"the ids of RelevantPairs are a {type(path.ids).__name__}, expected Ids(images, captions)")
        return RelevantPairs(path.ids, *path.both())
    if isinstance(path, Mapping):
        raise TypeError("annotations is a dict, expected RelevantPairs(Ids(images, captions), {...}, {...}) or a file")
    if path is None:
        raise ValueError(f"protocol positives needs annotations, a .json or .npz file: {_EXPECTED}")
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path}: a folder; {_EXPECTED}")
    if path.suffix not in (".json", ".npz"):
        return _of_qrels(path, ids)
    if path.suffix == ".npz":
        content: Any = dict(read_arrays(path))
    else:
        content = read_json(path)
    expected = _EXPECTED_ARRAYS if path.suffix == ".npz" else _EXPECTED
    if not isinstance(content, dict) or not {"image_ids", "caption_ids"} <= set(content):
        raise DataError(f"{path}: {expected}")
    ids = Ids(*(id_list(content[key], f"{path}: {key}") for key in ("image_ids", "caption_ids")))
    sides = [
        None if key not in content else _lists(content[key], queries, items, f"{path}: {key}", expected)
        for key, queries, items in (
            ("image_to_captions", ids.images, ids.captions or ()),
            ("caption_to_images", ids.captions or (), ids.images),
        )
    ]
    if not any(sides):
        raise DataError(f"{path}: {expected}")
    return RelevantPairs(ids, *RelevantPairs(ids, *(side or None for side in sides)).both())


def _of_qrels(path: Path, ids: IdsLike | None) -> RelevantPairs:
    """Qrels of either direction, whose ids are text."""
    qrels = read_qrels(path)
    if ids is None:
        raise ValueError(f"{path}: qrels name images and captions by id: give their ids in the order of sims (--ids)")
    given = read_ids(ids)
    images, captions = list(given.images), list(given.captions or ())
    of_images, of_captions = ({str(key): key for key in keys} for keys in (images, captions))
    n_images, n_captions = (sum(query in side for query in qrels) for side in (of_images, of_captions))
    if not max(n_images, n_captions):
        raise ValueError(
            f"{path}: no query, such as {next(iter(qrels))!r}, is an image, such as {next(iter(of_images), None)!r}, "
            f"or a caption, such as {next(iter(of_captions), None)!r}, of the ids given"
        )
    queries, items = (of_images, of_captions) if n_images >= n_captions else (of_captions, of_images)
    lists = {
        queries[query]: {items.get(item, item): float(grade) for item, grade in of.items() if grade > 0}
        for query, of in qrels.items()
        if query in queries
    }
    if n_images >= n_captions:
        return RelevantPairs(Ids(images, captions), lists, _turned(lists, captions))
    return RelevantPairs(Ids(images, captions), _turned(lists, images), lists)


def _lists(
    content: object, queries: Sequence[Hashable], items: Sequence[Hashable], name: str, expected: str
) -> dict[Hashable, list[Hashable] | dict[Hashable, float]]:
    lists: dict[Hashable, list[Hashable] | dict[Hashable, float]] = {}
    if isinstance(content, np.ndarray):
        if content.ndim != 2 or content.shape[1] != 2:
            raise DataError(f"{name} is {content.dtype} of shape {content.shape}; {expected}")
        for query, item in zip(*(id_list(content[:, side], f"{name}[:, {side}]") for side in (0, 1)), strict=True):
            lists.setdefault(query, []).append(item)  # type: ignore[union-attr]  # of arrays there are lists only
        return lists
    if not isinstance(content, dict):
        raise DataError(f"{name} is a {type(content).__name__}; {expected}")
    # JSON's keys are always strings.
    numbers, item_numbers = (bool(ids) and all(isinstance(key, int) for key in ids) for ids in (queries, items))
    for key, of in content.items():
        query = integer_id(key) if numbers else key
        if query is None:
            raise DataError(f"{name}: the key {key!r:.60} is no number, but the ids are numbers; {expected}")
        if query in lists:
            raise DataError(f"{name}: {key!r:.60} is there twice, in two spellings")
        where = f"{name}[{key!r}]"
        lists[query] = _graded(of, item_numbers, where, expected) if isinstance(of, dict) else id_list(of, where)
    return lists


def _graded(items: dict[str, Any], are_numbers: bool, name: str, expected: str) -> dict[Hashable, float]:
    """{id: grade} of JSON."""
    graded: dict[Hashable, float] = {}
    for key, grade in items.items():
        item = integer_id(key) if are_numbers else key
        if item is None or isinstance(grade, bool) or not isinstance(grade, (int, float)) or not math.isfinite(grade):
            raise DataError(f"{name}: {key!r:.60}: {grade!r:.40}, expected the grade of an id; {expected}")
        graded[item] = float(grade)
    return graded


def _checked_lists(lists: IdLists | None, name: str) -> IdLists | None:
    """Positives as they were given, arrays and tensors of them as lists."""
    if lists is None:
        return None
    if not isinstance(lists, Mapping):
        raise TypeError(f"{name} is a {type(lists).__name__}, expected {{id: [ids]}}, or {{id: {{id: grade}}}}")
    checked: dict[Hashable, Any] = {}
    for query, of in lists.items():
        if isinstance(of, str) or not isinstance(of, (Collection, np.ndarray, Tensor)):
            raise TypeError(f"{name}[{query!r:.60}] is {of!r:.60}, expected a list of ids, or {{id: grade}}")
        checked[query] = of.tolist() if isinstance(of, (np.ndarray, Tensor)) else of
    return checked


def _turned(lists: IdLists, queries: Sequence[Hashable]) -> IdLists:
    """The positives of the other direction, for what is a query there at all; with grades where there are any."""
    turned: dict[Hashable, dict[Hashable, float]] = {query: {} for query in queries}
    for query, items in graded_lists(lists).items():
        for item, grade in items.items():
            if item in turned:
                turned[item][query] = grade
    if any(isinstance(of, Mapping) for of in lists.values()):
        return {query: items for query, items in turned.items() if items}
    return {query: list(items) for query, items in turned.items() if items}


def graded_lists(lists: IdLists) -> dict[Hashable, Mapping[Hashable, float]]:
    """{query: {item: grade}}, of grade 1 where there are none."""
    return {query: of if isinstance(of, Mapping) else dict.fromkeys(of, 1.0) for query, of in lists.items()}
