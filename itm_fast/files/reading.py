"""Finding and reading the files of annotations, in the formats of their owners; nothing is ever unpickled."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import sys
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from itm_fast.errors import DataError
from itm_fast.files.plain_text import EncodingError, check_itself, decoded, read_content

_ZIP = b"PK\x03\x04"
_HEADER = 2**16  # bytes; NumPy reads no longer ones
_UNPACKED = 2**30, 100  # bytes, or times its size, that an .npz may unpack to
_PACKED = 1032  # times, at most, that deflate shrinks bytes
_NUMPY_ERRORS = (ValueError, EOFError, SyntaxError, OverflowError, MemoryError, zipfile.BadZipFile)


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
    """The content of a JSON file, UTF-8 with or without a byte order mark.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it is not JSON, cut short, or in another encoding, which is named.
    """
    return parsed_json(read_content(path), path)


def parsed_json(content: bytes, path: Path, kind: str = "JSON") -> Any:
    """The content of a JSON file that is read already, and what kind of one is expected; errors as ``read_json``."""
    try:
        return json.loads(decoded(content), object_pairs_hook=_distinct)
    except EncodingError as error:
        line = f" in line {error.line}" if error.line else ""
        raise DataError(f"{path}: not {kind}{line}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not {kind}, or cut short, or a key is there twice: {error}") from error


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
    check_itself(path)
    with path.open("rb") as file:
        if file.read(4) == _ZIP:
            raise DataError(f"{path}: an .npz archive, expected a single array in .npy format")
        file.seek(0)
        _check_header(file, path.stat().st_size, f"{path}")
    try:
        with _old_headers():
            array: npt.NDArray[np.generic] = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except _NUMPY_ERRORS as error:
        raise DataError(f"{path}: not a plain .npy array, or cut short (pickles are never read): {error}") from error
    _check_letters(array, f"{path}")
    return array


def read_arrays(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of a plain .npz file; errors as ``read_array``."""
    check_itself(path)
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked, packed = sum(entry.file_size for entry in archive.infolist()), path.stat().st_size
            if unpacked > max(_UNPACKED[0], _UNPACKED[1] * packed):
                raise DataError(
                    f"{path}: unpacks from {packed} to {unpacked} bytes, as nothing but constants does; if it is meant "
                    "to, save it unpacked: np.savez instead of np.savez_compressed"
                )
            for entry in archive.infolist():
                name = f"{path}: {entry.filename.removesuffix('.npy')}"
                if entry.file_size > _PACKED * entry.compress_size + _PACKED:  # before NumPy takes memory for it
                    raise DataError(
                        f"{name} is damaged: its {entry.compress_size} bytes cannot unpack to {entry.file_size}"
                    )
                with archive.open(entry) as file:
                    _check_header(file, entry.file_size, name)
        with _old_headers(), np.load(path, allow_pickle=False) as archived:
            arrays: dict[str, npt.NDArray[np.generic]] = {name: archived[name] for name in archived.files}
    except DataError:
        raise
    except (*_NUMPY_ERRORS, AttributeError, TypeError, OSError, zlib.error, RuntimeError) as error:
        raise DataError(f"{path}: not a plain .npz file, or cut short (pickles are never read): {error}") from error
    for name, array in arrays.items():
        _check_letters(array, f"{path}: {name}")
    return arrays


@contextmanager
def _old_headers() -> Iterator[None]:
    """Without NumPy's advice to save what Python 2 wrote once more; it is read all the same."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Reading `.npy` or `.npz` file required", UserWarning)
        yield


def _check_letters(array: npt.NDArray[np.generic], name: str) -> None:
    """Refuse strings with numbers in them that are no characters, at which Python itself gives up later."""
    if array.dtype.kind != "U" or not array.nbytes:
        return
    letters = np.ascontiguousarray(array).reshape(-1).view(f"{array.dtype.byteorder.replace('|', '=')}u4")
    if int(letters.max()) > sys.maxunicode:
        raise DataError(f"{name}: damaged: holds {int(letters.max())} in a string, which is no character")


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """The shape, the order (whether Fortran's) and the dtype that a .npy file promises.

    Args:
        file: of .npy format, at its start; then at its numbers.

    Raises:
        ValueError: it has no such header; says why, in a line.
    """
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "created on Python 2": most of the published files were
        try:
            start, head = file.tell(), io.BytesIO(file.read(_HEADER))  # a part, as its length may be any number
            version = np.lib.format.read_magic(head)
            if version not in readers:
                raise ValueError(f"format version {version}; expected (1, 0) or (2, 0)")
            shape, is_fortran, dtype = readers[version](head)
            if not all(type(size) is int for size in shape):  # NumPy takes True for a size
                raise ValueError(f"a shape of {shape!s:.80}")
            file.seek(start + head.tell())
            return shape, is_fortran, dtype
        except Exception as error:  # garbage raises nearly every kind of exception
            raise ValueError(str(error).partition("\n")[0] or type(error).__name__) from error


def _check_header(file: IO[bytes], size: int, name: str) -> None:
    """Refuse objects, which are pickles, and a header that promises more than the file holds, before memory is taken.

    Args:
        file: of .npy format, at its start.
        size: its bytes.
        name: what errors call it.
    """
    try:
        shape, _, dtype = read_header(file)
    except ValueError as error:
        raise DataError(f"{name}: not a plain .npy array, or cut short (pickles are never read): {error}") from error
    if dtype.names is not None:
        raise DataError(f"{name} holds records ({', '.join(dtype.names):.80}); save each column as an array of its own")
    if dtype.hasobject:
        raise DataError(
            f"{name} holds Python objects (dtype {dtype}), which are pickled, and pickles are never read; save "
            "numbers or strings: np.save(path, np.array(values.tolist())), rows of one length, where you trust the file"
        )
    promised, held = math.prod(shape) * dtype.itemsize, size - file.tell()
    if promised > held:
        raise DataError(
            f"{name} is cut short: its header promises {shape} of {dtype} = {promised} bytes, it holds {held}"
        )
