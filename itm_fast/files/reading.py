"""Finding and reading the files of annotations, in the formats of their owners; nothing is ever unpickled."""

from __future__ import annotations

import gzip
import importlib.util
import json
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from itm_fast.errors import DataError


def find_file(folder: str | Path | None, names: Sequence[str], published: str, package: str | None = None) -> Path:
    """A file of annotations in a folder, or in an installed package that carries it.

    Args:
        folder: where the user has them, or None.
        names: the file's name, and others under which it is accepted.
        published: where its owners publish it, for the error.
        package: an installed package with a folder ``data`` of such files, or None.

    Returns:
        The path.

    Raises:
        FileNotFoundError: it is in neither.
    """
    places = [] if folder is None else [Path(folder)]
    if folder is not None and not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of annotations")
    found = importlib.util.find_spec(package) if package is not None else None
    if found is not None and found.submodule_search_locations:
        places += [Path(place) / "data" for place in found.submodule_search_locations]
    for place in places:
        for name in names:
            if (place / name).is_file():
                return place / name
    given = f"is not in {folder}" if folder is not None else "is missing, no folder of annotations was given"
    also = "" if package is None or found is not None else f", and the package {package} is not installed"
    raise FileNotFoundError(f"{names[0]} {given}{also}; its owners publish it at {published}")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it is not JSON, or cut short.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:  # a decoding error is a ValueError
        raise DataError(f"{path}: not JSON, or cut short, or a key is there twice: {error}") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in content if keys.count(key) > 1)!r} is there twice")
    return content


def read_array(path: Path, *, mapped: bool = False) -> npt.NDArray[np.generic]:
    """A plain .npy array.

    Args:
        path: the file.
        mapped: leave the content in the file, memory-mapped.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it is something else, needs unpickling, or is cut short.
    """
    try:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (ValueError, EOFError, SyntaxError, OverflowError, MemoryError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a plain .npy array, or cut short (pickles are never read): {error}") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise DataError(f"{path}: an .npz archive, expected a single array in .npy format")
    return array


def read_arrays(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of a plain .npz file; errors as ``read_array``."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a plain .npz file, or cut short (pickles are never read): {error}") from error


def read_text(path: Path) -> str:
    """The text of a file, of a .gz unpacked.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it is not UTF-8, or the .gz is damaged or cut short.
    """
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
    except (gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a UTF-8 CSV file, or cut short: {error}") from error
