"""Which image is in which row and which caption in which column: ids beside similarities, and the set they ask for."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from itm_fast.errors import DataError
from itm_fast.evaluation.files import read_arrays, read_json
from itm_fast.metrics.positives import IntArray
from itm_fast.metrics.query_positives import numbered
from itm_fast.metrics.scorers import TileScorer
from itm_fast.metrics.selection import select

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


Order: TypeAlias = tuple[IntArray | None, IntArray | None]


@dataclass(frozen=True, eq=False)
class Arranged:
    """The images and captions of a protocol.

    Attributes:
        scorer: their similarities, in the order of the protocol.
        order: which of the given images and captions they are, (n_images,) and (n_captions,); None for all of them, in
            the order given.
        notes: what was left out.
    """

    scorer: TileScorer
    order: Order
    notes: list[str]

    @property
    def moved(self) -> bool:
        """Whether nothing else may be read by position."""
        return any(part is not None for part in self.order)


def arrange(
    scorer: TileScorer,
    ids: Ids,
    wanted: tuple[Sequence[Hashable], Sequence[Hashable] | None],
    protocol: str,
    plain: Callable[[Iterable[Hashable], str], Sequence[Hashable]] = lambda ids, _: list(ids),
) -> Arranged:
    """The wanted images and captions of a scorer, in the wanted order.

    Args:
        scorer: similarities by tile.
        ids: the ids of its rows and columns.
        wanted: ids of images and of captions, in the order of the protocol; None: all captions as they are.
        protocol: its name, for errors.
        plain: the form in which ids are compared.

    Returns:
        The scorer of these; ids that nobody wants are left out and noted.

    Raises:
        ValueError: not one id a row and a column, ids that are there twice, wanted ones that are not there.
    """
    sizes = {"image_ids": scorer.n_images, "caption_ids": scorer.n_captions}
    chosen: list[IntArray | None] = []
    notes = []
    for (name, n), given, ours in zip(sizes.items(), (ids.images, ids.captions), wanted, strict=True):
        if ours is None:
            chosen.append(None)
            continue
        if given is None:
            raise ValueError(f"protocol {protocol} needs caption_ids beside image_ids")
        if len(given) != n:
            other = next((size for other, size in sizes.items() if other != name))
            turned = "; sims looks transposed: rows are images, columns captions" if len(given) == other else ""
            raise ValueError(f"{name} has {len(given)} ids, but sims has {n} {name[:-4]}s{turned}")
        places = numbered(plain(given, name), name)
        missing = [key for key in ours if key not in places]
        if missing:
            raise ValueError(
                f"{name} does not fit protocol {protocol}: {len(missing)} of its {len(ours)} {name[:-4]}s are not "
                f"among the ids given, such as {missing[0]!r}; the ids given are like {next(iter(places), None)!r}"
            )
        if len(given) > len(ours):
            notes.append(f"{len(given) - len(ours)} {name[:-4]}s that protocol {protocol} does not have were left out")
        chosen.append(np.array([places[key] for key in ours], dtype=np.int64))
    arranged = select(scorer, *chosen)
    rows, columns = chosen
    return Arranged(arranged, (None, None) if arranged is scorer else (rows, columns), notes)


def first_five(caption_to_image: npt.NDArray[np.int64], n_images: int) -> IntArray:
    """The columns of the first five captions of every image, image by image: Karpathy's 25,010 captions to 25,000.

    Raises:
        ValueError: an image with fewer.
    """
    order = np.argsort(caption_to_image, kind="stable")
    counts = np.bincount(caption_to_image, minlength=n_images)
    if np.any(counts < 5):
        image = int(np.argmax(counts < 5))
        raise ValueError(f"caption_to_image gives image {image} {counts[image]} captions, expected at least five")
    starts = np.cumsum(counts) - counts
    chosen: IntArray = np.asarray(order, np.int64)[(starts[:, None] + np.arange(5)).ravel()]
    return chosen
