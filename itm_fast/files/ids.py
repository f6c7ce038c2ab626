"""Which image is in which row and which caption in which column: ids beside similarities, and the set they ask for."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from itm_fast.errors import DataError
from itm_fast.files.plain_text import read_lines
from itm_fast.files.reading import read_array, read_arrays, read_json

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_KEYS = ("image_ids", "caption_ids")
_WHOLE = re.compile(r"([+-]?\d+)(?:\.0*)?", re.ASCII)
_FLOAT = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(\.\d*)?[eE][+-]?\d+|nan|inf)", re.ASCII | re.IGNORECASE)
# What may stand before the number in a name of COCO's or Flickr30K's: anything else may make it the number of a variant
# ("000000391895_mirrored_2.jpg").
_PART = (
    r"(?:ms)?coco(?:20\d\d)?|flickr\d+k?|(?:train|val|test|trainval|dev)(?:20\d\d)?"
    r"|im(?:g|age)s?|captions?|cap|sentid|ids?|[a-z]{1,2}"
)
_NAMED = re.compile(rf"(?:(?:{_PART})[_\-])*(\d+)", re.ASCII | re.IGNORECASE)
_EXACT = 2**53  # above it a float names several whole numbers
_INT64 = 2**63


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
            arrays; caption_ids may be missing. Or image ids alone: a .npy array, or a .txt with one a line. Or the ids
            themselves.

    Returns:
        The ids; numbers written as whole floats, such as 391895.0, are integers.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file holds something else, or is cut short.
    """
    if isinstance(ids, Ids):
        return ids
    path = Path(ids)
    if path.suffix == ".txt":
        lines = read_lines(path, "image id")
        return Ids([_as_written(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)])
    if path.suffix == ".npy":
        return Ids(id_list(read_array(path), f"{path}"))
    content = read_arrays(path) if path.suffix == ".npz" else read_json(path)
    if not isinstance(content, dict) or _KEYS[0] not in content:
        raise DataError(f'{path}: expected {{"image_ids": [...], "caption_ids": [...]}}, in the order of sims')
    images = id_list(content[_KEYS[0]], f"{path}: {_KEYS[0]}")
    return Ids(images, id_list(content[_KEYS[1]], f"{path}: {_KEYS[1]}") if _KEYS[1] in content else None)


def id_list(ids: object, name: str) -> list[Hashable]:
    """A list of numbers or strings.

    Args:
        ids: a list or an array; whole floats become integers: a column of a table with a gap, or COCO's API, writes
            391895 as 391895.0.
        name: the file and what of it, for errors.

    Raises:
        DataError: it is anything else; says what.
    """
    if isinstance(ids, np.ndarray) and ids.ndim != 1:
        raise DataError(f"{name}: an array of shape {ids.shape}; expected a list of ids, (n,)")
    plain = ids.tolist() if isinstance(ids, np.ndarray) else ids
    if not isinstance(plain, (list, tuple)):
        raise DataError(f"{name}: a {type(plain).__name__}; expected a list of ids, numbers or strings")
    if set(map(type, plain)) <= {int, str}:  # nearly always; a hundred thousand ids are looked at in no time
        return list(plain)
    found: list[Hashable] = []
    for place, key in enumerate(plain):
        if isinstance(key, float):
            found.append(_whole(key, f"{name}[{place}]"))
        elif isinstance(key, (int, str)) and not isinstance(key, bool):
            found.append(key)
        else:
            kind = type(key).__name__
            raise DataError(f"{name}[{place}] is {key!r:.40}, a {kind}; expected a list of ids, numbers or strings")
    return found


def _whole(key: float, name: str) -> int:
    if not math.isfinite(key) or key != int(key):
        raise DataError(f"{name} is the float {key!r}; expected a list of ids: a float is one only if it is whole")
    if abs(key) > _EXACT:
        raise DataError(f"{name} is the float {key!r}, which stands for several ids; write them as integers")
    return int(key)


def integer_id(key: object) -> int | None:
    """The number that an id stands for.

    Args:
        key: an integer; a whole float; or a string: "391895", "000000391895", "391895.0", a file's name or path such as
            "val2017/000000391895.jpg", COCO's names such as "COCO_val2014_000000391895.jpg" and
            "COCO_val2014:sentid:770337".

    Returns:
        The number; None where there is none, or where it may belong to something else: "391895_mirrored_2.jpg".

    Example:
        >>> [integer_id(key) for key in (391895.0, "val2017/000000391895.jpg", "391895_mirrored_2.jpg")]
        [391895, 391895, None]
    """
    if type(key) is int:
        return key
    if not isinstance(key, str):
        return _integer_number(key)
    if len(key) > 1000:  # int() refuses thousands of digits
        return None
    if key.isascii() and key.isdigit():
        return int(key)
    whole = _WHOLE.fullmatch(key.strip())
    if whole is not None:
        return int(whole[1])
    named = _NAMED.fullmatch(stem(key).rpartition(":")[2])  # "COCO_val2014:sentid:770337"
    return None if named is None else int(named[1])


def _integer_number(key: object) -> int | None:
    if isinstance(key, numbers.Integral) and not isinstance(key, bool):
        return int(key)
    if isinstance(key, numbers.Real) and not isinstance(key, bool):
        number = float(key)
        return int(number) if math.isfinite(number) and number == int(number) and abs(number) <= _EXACT else None
    return None


def stem(name: str) -> str:
    """The name of an image without its folders and its suffix: two files may write it with and without."""
    last = name.strip().replace("\\", "/").rpartition("/")[2]
    lowered = last.lower()
    if not lowered.endswith(IMAGE_SUFFIXES):
        return last
    return last[: len(last) - len(next(suffix for suffix in IMAGE_SUFFIXES if lowered.endswith(suffix)))]


def coco_ids(ids: Iterable[Hashable], name: str) -> list[int]:
    """COCO's ids as integers, as `integer_id` reads them.

    Args:
        ids: numbers or strings.
        name: what errors call them.

    Raises:
        ValueError: one that is no such id.

    Example:
        >>> coco_ids(["COCO_val2014_000000391895.jpg", 7], "ids")
        [391895, 7]
    """
    ids = list(ids)
    if set(map(type, ids)) == {int}:  # nearly always
        return ids  # type: ignore[return-value]
    plain = []
    known: dict[str, int | None] = {}  # files name an id again and again
    for place, key in enumerate(ids):
        if not isinstance(key, str):
            number = integer_id(key)
        elif key in known:
            number = known[key]
        else:
            number = known[key] = integer_id(key)
        if number is None:
            raise ValueError(
                f"{name}[{place}] is {_told(key)}; expected an id of COCO: a whole number, or a file's name that is "
                "one, such as COCO_val2014_000000391895.jpg"
            )
        plain.append(number)
    return plain


def read_id_lines(path: Path) -> npt.NDArray[np.int64]:
    """Integer ids from a text file, one a line, as `integer_id` reads them.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: a line is blank, no id, or beyond 64 bits; with file and line.
    """
    lines = read_lines(path, "integer image id")
    found = np.empty(len(lines), dtype=np.int64)
    for place, line in enumerate(lines):
        number = integer_id(line)
        if number is None or not -_INT64 <= number < _INT64:
            raise DataError(f"{path}:{place + 1}: {_told(line)} is no 64-bit integer; expected an image id")
        found[place] = number
    return found


def as_spelt(given: Iterable[Hashable], wanted: Iterable[Hashable]) -> list[Hashable]:
    """The given ids in the spelling of those wanted.

    Args:
        given: ids as somebody writes them.
        wanted: distinct ids of the set.

    Returns:
        For each given id the wanted one that equals it; else the only one of the same file name without folders and
        suffix; else the only one of the same number; else itself.

    Example:
        >>> as_spelt(["val2017/000000391895.jpg", "x"], [391895, 7])
        [391895, 'x']
    """
    exact = set(wanted := list(wanted))
    by_name, by_number = (_only_ones(wanted, spelling) for spelling in (_name, integer_id))
    found = []
    for key in given:
        if key not in exact:
            key = by_name.get(_name(key), by_number.get(integer_id(key), key))
        found.append(key)
    return found


def _name(key: Hashable) -> str | None:
    return stem(key) if isinstance(key, str) else None


def _only_ones(keys: Iterable[Hashable], spelling: object) -> Mapping[object, Hashable]:
    """Keys by another spelling, where only one has it."""
    found: dict[object, Hashable] = {}
    twice: set[object] = {None}
    for key in keys:
        spelt = spelling(key)  # type: ignore[operator]
        if spelt in found:
            twice.add(spelt)
        found[spelt] = key
    return {spelt: key for spelt, key in found.items() if spelt not in twice}


def _as_written(line: str, name: str) -> Hashable:
    """A line as an id: a number if it is one, else the string."""
    whole = _WHOLE.fullmatch(line)
    if whole is None and _FLOAT.fullmatch(line) is not None:
        raise DataError(f"{name}: {_told(line)}; expected an id: a float is one only if it is whole")
    return int(whole[1]) if whole is not None and len(line) < 20 else line


def _told(key: object) -> str:
    is_float = isinstance(key, float) or (isinstance(key, str) and _FLOAT.fullmatch(key.strip()) is not None)
    return f"the float {key!r}" if is_float else f"{key!r:.60}"
