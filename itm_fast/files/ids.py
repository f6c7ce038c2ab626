"""Which image is in which row and which caption in which column: ids beside similarities, and the set they ask for."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from itm_fast.errors import DataError
from itm_fast.files.reading import read_arrays, read_json

_NUMBER_AT_THE_END = re.compile(r"(?:.*[_:])?(\d+)(?:\.jpg)?", re.DOTALL)
_KEYS = ("image_ids", "caption_ids")


@dataclass(frozen=True, eq=False)
class Ids:
    """Ids of a similarity matrix.

    Attributes:
        images: (n_images,) ids of the rows.
        captions: (n_captions,) ids of the columns, or None where a protocol needs those of images only.
    """

    images: Sequence[Hashable]
    captions: Sequence[Hashable] | None = None


IdsLike: TypeAlias = Ids | str | Path


def read_ids(ids: IdsLike) -> Ids:
    """Ids from a file, or as given.

    Args:
        ids: a .json file {"image_ids": [...], "caption_ids": [...]}, numbers or strings; or a .npz file of two such
            arrays; caption_ids may be missing. Or the ids themselves.

    Returns:
        The ids.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file holds something else, or is cut short.
    """
    if isinstance(ids, Ids):
        return ids
    path = Path(ids)
    content = read_arrays(path) if path.suffix == ".npz" else read_json(path)
    if not isinstance(content, dict) or _KEYS[0] not in content:
        raise DataError(f'{path}: expected {{"image_ids": [...], "caption_ids": [...]}}, in the order of sims')
    return Ids(*(None if key not in content else id_list(content[key], f"{path}: {key}") for key in _KEYS))  # type: ignore[arg-type]


def id_list(ids: object, name: str) -> list[Hashable]:
    """A list of numbers or strings; DataError for anything else."""
    plain = ids.tolist() if isinstance(ids, np.ndarray) else ids
    if not isinstance(plain, list) or not all(
        isinstance(key, (int, str)) and not isinstance(key, bool) for key in plain
    ):
        raise DataError(f"{name}: expected a list of ids, numbers or strings")
    return plain


def coco_ids(ids: Iterable[Hashable], name: str) -> list[int]:
    """COCO's ids as integers: 391895, "391895", "COCO_val2014_000000391895.jpg", "COCO_val2014:sentid:770337".

    Args:
        ids: numbers or strings.
        name: what errors call them.

    Raises:
        ValueError: one that does not end with a number.

    Example:
        >>> coco_ids(["COCO_val2014_000000391895.jpg", 7], "ids")
        [391895, 7]
    """
    plain = []
    for place, key in enumerate(ids):
        if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
            plain.append(int(key))
            continue
        found = _NUMBER_AT_THE_END.fullmatch(key) if isinstance(key, str) else None
        if found is None:
            raise ValueError(f"{name}[{place}] is {key!r}, expected an id of COCO: a number, or a name that ends so")
        plain.append(int(found[1]))
    return plain
