"""Whose each caption is: the row of its image, in all the forms in which people hold and store it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from itm_fast.errors import DataError
from itm_fast.files.ids import read_id_lines
from itm_fast.files.reading import read_array, read_arrays, read_json

IntArray = npt.NDArray[np.int64]
OwnersLike: TypeAlias = npt.ArrayLike | torch.Tensor | Mapping[Any, Any] | Sequence[Sequence[int]]
"""(n_captions,) rows of images; {caption: image}, as txt2img; {image: [captions]} or [[captions], ...], as img2txt."""

_FORMS = (
    "expected (n_captions,) integers, the row of each caption's image; {caption: image}, as txt2img; or "
    "{image: [captions]}, as img2txt"
)
_MOST = 2**53  # what a float tells apart, and more rows than anybody has
_WHOLE = re.compile(r"\s*(-?\d+)(?:\.0*)?\s*", re.ASCII)


def as_owners(owners: OwnersLike, n_images: int, n_captions: int, name: str = "caption_to_image") -> IntArray:
    """The row of each caption's image.

    Args:
        owners: (n_captions,) integers, or whole floats, as a column of a table with a gap has them; ALBEF's txt2img,
            {caption: image}, or its img2txt, {image: [captions]}, whose keys may be strings, as JSON makes them; or
            [[captions], ...], a list an image.
        n_images: images there are.
        n_captions: captions there are.
        name: what errors call it.

    Returns:
        int64 (n_captions,), each 0 … n_images - 1.

    Raises:
        ValueError: sizes that do not fit, a row or a caption that is not there, a caption without image or with two.
        TypeError: neither of these forms.

    Example:
        >>> as_owners({"0": [0, 1], "1": [2]}, 2, 3)
        array([0, 0, 1])
    """
    if isinstance(owners, Mapping):
        held = [
            isinstance(value, (list, tuple)) or (isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim == 1)
            for value in owners.values()
        ]
        if any(held) and not all(held):
            raise TypeError(f"{name} is a dict of lists and of numbers; {_FORMS}")
        if any(held):
            return _of_images(owners, n_images, n_captions, name)
        return _checked(_of_captions(owners, n_captions, name), n_images, n_captions, name)
    if isinstance(owners, (list, tuple)) and any(isinstance(item, (list, tuple)) for item in owners):
        if not all(isinstance(item, (list, tuple)) for item in owners):
            raise TypeError(f"{name} is a list of lists and of numbers; {_FORMS}")
        if n_images > 1 and all(len(item) == 1 for item in owners):
            raise ValueError(
                f"{name} is {len(owners)} lists of one number each, which may be captions or images; {_FORMS}"
            )
        return _of_images(dict(enumerate(owners)), n_images, n_captions, name)
    return _checked(_integers(owners, name), n_images, n_captions, name)


def read_owners(path: Path, n_images: int, n_captions: int) -> IntArray:
    """The row of each caption's image from a file.

    Args:
        path: .txt, a row a line; .json, any form of `as_owners`; .npy; or .npz of a single array.
        n_images: images there are.
        n_captions: captions there are.

    Returns:
        int64 (n_captions,).

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it holds anything else, or does not fit the sizes.
    """
    try:
        return as_owners(stored_owners(path), n_images, n_captions, f"{path}")
    except DataError:
        raise
    except (ValueError, TypeError) as error:
        raise DataError(f"{error}") from error


def stored_owners(path: Path) -> OwnersLike:
    """What a file of owners holds, for `as_owners`; files and errors as `read_owners`."""
    if path.suffix == ".txt":
        return read_id_lines(path)
    if path.suffix == ".npy":
        return read_array(path)
    if path.suffix == ".npz":
        arrays = read_arrays(path)
        if len(arrays) != 1:
            raise DataError(f"{path}: holds {', '.join(arrays) or 'no arrays'}; expected one array, (n_captions,)")
        return next(iter(arrays.values()))
    content = read_json(path)
    if not isinstance(content, (dict, list)):
        raise DataError(f"{path}: holds a {type(content).__name__}; {_FORMS}")
    return content


def _of_captions(owners: Mapping[Any, Any], n_captions: int, name: str) -> IntArray:
    captions = _integers(list(owners), f"the captions of {name}")
    _check_captions(captions, n_captions, name)
    found = np.zeros(n_captions, dtype=np.int64)
    found[captions] = _integers(list(owners.values()), name)
    return found


def _of_images(owners: Mapping[Any, Any], n_images: int, n_captions: int, name: str) -> IntArray:
    images = _integers(list(owners), f"the images of {name}")
    if len(set(images.tolist())) < len(images):
        raise ValueError(f"{name} has an image twice, in two spellings; {_FORMS}")
    outside = images[(images < 0) | (images >= n_images)]
    if outside.size:
        raise ValueError(f"{name} has captions of image {outside[0]}, but sims has n_images = {n_images} rows")
    lists = [_integers(value, f"{name}[{key!r}]") for key, value in owners.items()]
    nested = next((key for key, part in zip(owners, lists, strict=True) if part.ndim != 1), None)
    if nested is not None:
        raise TypeError(f"{name}[{nested!r}] is lists within a list; {_FORMS}")
    captions = np.concatenate([*lists, np.zeros(0, dtype=np.int64)])
    _check_captions(captions, n_captions, name)
    found = np.zeros(n_captions, dtype=np.int64)
    found[captions] = np.repeat(images, [len(part) for part in lists])
    return found


def _check_captions(captions: IntArray, n_captions: int, name: str) -> None:
    """Every caption once: what a dictionary leaves over has no image."""
    outside = captions[(captions < 0) | (captions >= n_captions)]
    if outside.size:
        raise ValueError(f"{name} has caption {outside[0]}, but sims has n_captions = {n_captions} columns")
    counts = np.bincount(captions, minlength=n_captions)
    if (counts > 1).any():
        raise ValueError(
            f"{name} has caption {int(np.argmax(counts > 1))} twice, expected every caption once; {_FORMS}"
        )
    if (counts == 0).any():
        missing = int(np.argmax(counts == 0))
        raise ValueError(
            f"{name} has no image for {int((counts == 0).sum())} of {n_captions} captions, such as {missing}"
        )


def _integers(values: Any, name: str) -> IntArray:
    """Integers out of integers, whole floats and strings of them."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    if isinstance(values, str):
        raise TypeError(f"{name} is the string {values!r:.40}; {_FORMS}")
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of several lengths: NumPy's own words speak of shapes that nobody gave
        raise TypeError(f"{name} holds lists of different lengths; {_FORMS}") from error
    if array.dtype.kind in "OU" and array.ndim == 1:
        array = np.array(
            [_parsed(value, f"{name}[{place}]") for place, value in enumerate(array.tolist())], dtype=np.int64
        )
    if not array.size:
        array = array.astype(np.int64)
    if array.dtype.kind == "f":
        odd = ~(np.abs(array) < _MOST) | (array != np.round(array))
        if odd.any():
            place = tuple(np.argwhere(odd)[0].tolist())
            raise TypeError(
                f"{name}{list(place)} is the float {array[place]}, of dtype {array.dtype}, expected integers "
                "(or floats that are whole)"
            )
    elif array.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {array.dtype}, expected integers; {_FORMS}")
    found: IntArray = array.astype(np.int64)
    return found


def _parsed(value: object, name: str) -> int:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _MOST and value == int(value):
        return int(value)
    whole = _WHOLE.fullmatch(value) if isinstance(value, str) and len(value) < 18 else None
    if whole is None:
        kind = type(value).__name__
        raise TypeError(f"{name} is {value!r:.40}, a {kind}, expected integers: rows of sims; {_FORMS}")
    return int(whole[1])


def _checked(owners: IntArray, n_images: int, n_captions: int, name: str) -> IntArray:
    if owners.shape != (n_captions,):
        turned = "; sims looks transposed: rows are images, columns captions" if owners.shape == (n_images,) else ""
        raise ValueError(f"{name} has shape {owners.shape}, expected ({n_captions},), one entry a column{turned}")
    outside = (owners < 0) | (owners >= n_images)
    if outside.any():
        caption = int(np.argmax(outside))
        hint = _counted(owners, n_images)
        raise ValueError(f"{name}[{caption}] is {owners[caption]}, but sims has n_images = {n_images} rows{hint}")
    return owners


def _counted(owners: npt.NDArray[np.int64], n_images: int) -> str:
    """What may have happened to rows that are not there."""
    if owners.min() == 1 and owners.max() == n_images:
        return "; they seem to be counted from 1: rows are counted from 0, so subtract 1"
    return f"; expected the row of each caption's image, 0 to {n_images - 1}, not its id"
