"""Arrays in the files that retrieval codes leave: NumPy, torch, safetensors, JSON, text; mapped where they can be."""

from __future__ import annotations

import codecs
import json
import mmap
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from itm_fast.choices import perhaps
from itm_fast.errors import DataError
from itm_fast.files.pickled_arrays import unpickled_arrays
from itm_fast.files.plain_text import check_itself
from itm_fast.files.reading import read_array, read_arrays, read_header, read_json
from itm_fast.files.torch_files import load_weights_only
from itm_fast.similarities.scorers import Array

_FEWEST_NUMBERED = 2  # numbers that may count 0, 1, ... by chance
_SAVED = re.compile(rb"[+-]?(\d\.\d{18}e[+-]\d{2,3}|nan|inf)")  # a number of np.savetxt
_UNPICKLED = (
    "a pickle, which is read only if asked for (pickled=True, --pickled), and then arrays and nothing else of it"
)


def open_array(path: str | Path, ndim: int | None = None, *, pickled: bool = False) -> Array:
    """The array of numbers of a file.

    Nothing but arrays is ever built from a file.

    Args:
        path: .npy; .npz; .pt or .pth of torch.save; .safetensors; .json, a list of numbers or of rows as the NCS tool
            has it; or .txt, a row a line as np.savetxt and ESL write it (sim_best.txt), one column of which is an
            array (n,). Where a file holds several arrays, the only one of ``ndim`` axes, or that of a name put behind
            a colon: scores.pt:sims.
        ndim: axes it must have; None: any.
        pickled: also read the .npy that np.save makes of a dict, such as {"npts", "sims"} of woodfrog/vse_infty and
            CrossmodalGroup/ESL.

    Returns:
        Of .npy, .npz, .json and text an array, of the others a tensor; .npy, torch's and safetensors' memory-mapped.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it holds something else, or several arrays that fit, or is cut short.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "sims.json")
        ...     _ = file.write_text("[[0.5, 0.25], [0.125, 1]]")
        ...     open_array(file, 2)
        array([[0.5  , 0.25 ],
               [0.125, 1.   ]])
    """
    path, name = _path_and_name(Path(path))
    check_itself(path)
    if path.suffix == ".npy":
        found = _npy(path, pickled)
    elif path.suffix in _READERS:
        found = _READERS[path.suffix](path)
    else:
        raise DataError(f"{path}: not known as a file of arrays; expected .npy, {', '.join(_READERS)}")
    array = _chosen(path, found, name, ndim) if isinstance(found, Mapping) else found
    if name is not None and not isinstance(found, Mapping):
        raise DataError(f"{path}: holds a single array, so that {name!r} has no meaning; leave it out")
    return _checked(path, array, ndim)


def _path_and_name(path: Path) -> tuple[Path, str | None]:
    """The file, and the name of an array in it behind a colon."""
    file, colon, name = path.name.rpartition(":")
    return (path, None) if not colon or path.exists() else (path.with_name(file), name)


def _npy(path: Path, pickled: bool) -> Array | Mapping[str, Array]:
    with path.open("rb") as file:
        try:
            is_pickle = read_header(file)[2].hasobject
        except ValueError:  # `read_array` says what is wrong
            return read_array(path, mapped=True)
        # A plain array is safer and as quick to save, and a pickle may have been meant to do harm: so never unasked,
        # although the reader cannot be made to run anything.
        if is_pickle and not pickled:
            raise DataError(
                f"{path}: {_UNPICKLED}; or save the array alone: np.save(path, np.load(..., allow_pickle=True).item()"
                "['sims']), where you trust the file"
            )
        if is_pickle:
            found = unpickled_arrays(file.read(), path)
            if isinstance(found, dict):
                return {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
            return found
    return read_array(path, mapped=True)


def _torch(path: Path) -> Array | Mapping[str, Array]:
    try:
        content = load_weights_only(path, mapped=True)
    except Exception as error:  # garbage raises nearly every kind of exception
        wanted = re.search(r"[Uu]nsupported (?:global: )?GLOBAL (\S+)", str(error))
        if wanted is not None or isinstance(error, pickle.UnpicklingError):
            asks = f"the file asks for {wanted[1]}" if wanted is not None else "it is damaged, or holds more"
            raise DataError(
                f"{path}: only tensors are read, nothing was run: {asks}; save the tensor by itself: torch.save(t, f)"
            ) from error
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DataError(f"{path}: not a file of torch.save, or cut short: {reason}") from error
    if isinstance(content, Tensor):
        return content.detach()
    if isinstance(content, (list, tuple)):
        content = {str(place): value for place, value in enumerate(content)}
    if not isinstance(content, Mapping):
        raise DataError(f"{path}: holds a {type(content).__name__}, expected a tensor or a dict of tensors")
    return {str(name): value.detach() for name, value in content.items() if isinstance(value, Tensor)}


def _safetensors(path: Path) -> Mapping[str, Array]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{path}: not a safetensors file, or cut short: {error}") from error


def _json(path: Path) -> Array | Mapping[str, Array]:
    with path.open("rb") as file:
        first = file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()[:1]
        if first == b"[":
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _json_rows(path, content)
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}, expected a list of numbers or of rows of numbers")
    return {name: _numbers(path, value) for name, value in content.items() if isinstance(value, list)}


def _json_rows(path: Path, content: mmap.mmap) -> npt.NDArray[np.generic]:
    """A list of rows, each parsed by itself: as Python's objects the scores of 5000 images would take 4 GB."""
    start = content.find(b"[") + 1
    second = content.find(b"[", start)
    if second < 0 or content[start:second].strip():
        return _numbers(path, read_json(path))
    numbers, n_rows, width = bytearray(), 0, -1
    while True:
        end = content.find(b"]", second) + 1
        row = _numbers(path, _parsed(path, content[second:end], n_rows)).astype(np.float64)
        if row.ndim != 1 or (n_rows and len(row) != width):
            raise DataError(f"{path}: row {n_rows} has {len(row)} numbers, but row 0 has {width}")
        numbers += row.tobytes()
        n_rows, width = n_rows + 1, len(row)
        second = content.find(b"[", end)
        between = content[end : second if second >= 0 else len(content)].strip()
        if second < 0 and between == b"]":
            return np.frombuffer(numbers).reshape(n_rows, width)
        if second < 0 or between != b",":
            raise DataError(f"{path}: not JSON, or cut short, after row {n_rows - 1}")


def _parsed(path: Path, row: bytes, number: int) -> Any:
    try:
        return json.loads(row)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON, or cut short, in row {number}: {error}") from error


def _numbers(path: Path, values: object) -> npt.NDArray[np.generic]:
    try:
        array = np.array(values)
    except ValueError as error:
        # NumPy's own words speak of a shape that nobody gave.
        raise DataError(
            f"{path}: rows of different lengths; expected a list of numbers, or of rows of one length"
        ) from error
    if array.dtype.kind not in "iuf":
        raise DataError(f"{path}: expected a list of numbers or of rows of numbers, got {array.dtype} in it")
    return array


def _text(path: Path) -> npt.NDArray[np.generic]:
    """A row a line, numbers between blanks or between commas; each line is parsed by itself, as of JSON."""
    numbers, n_rows, width, whole = bytearray(), 0, -1, True
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            text = line.removeprefix(codecs.BOM_UTF8).partition(b"#")[0].strip()
            cells = text.removesuffix(b",").split(b"," if b"," in text else None)
            if not cells:
                continue
            try:
                row = np.array(cells, dtype=np.float64)
            except ValueError as error:
                raise DataError(
                    f"{path}:{number}: {error}; expected a row of numbers, as np.savetxt writes it, without headings, "
                    "and a point in each"
                ) from error
            if n_rows and len(row) != width:
                raise DataError(f"{path}:{number}: {len(row)} numbers, but the first row has {width}; is it cut short?")
            whole = whole and len(row) == 1 and cells[0].lstrip(b"+-").isdigit()
            numbers += row.tobytes()
            n_rows, width = n_rows + 1, len(row)
    if not n_rows:
        raise DataError(f"{path}: holds no numbers, expected a row of them a line, as np.savetxt writes it")
    # A number that is cut short may still be one; where np.savetxt wrote the file, its width tells.
    if cells and not line.endswith(b"\n") and _SAVED.fullmatch(cells[0]) and not _SAVED.fullmatch(cells[-1]):
        raise DataError(f"{path}:{number}: cut short, in its last number {cells[-1].decode('ascii', 'replace')}")
    array = np.frombuffer(numbers).reshape(n_rows, width)
    for name, first, others in (
        ("row", array[0], array[1:]),
        ("column", array[:, 0], array[:, 1:]),
    ):  # as pandas writes
        counts = len(first) > _FEWEST_NUMBERED and np.array_equal(first, np.arange(len(first)))
        if counts and (others != np.rint(others)).any():  # all whole: it may be by chance
            counted = f"its first {name} counts 0 ... {len(first) - 1}"
            raise DataError(f"{path}: {counted}: a heading or an index; leave it out")
    return array if width > 1 else (array[:, 0].astype(np.int64) if whole else array[:, 0])


def _chosen(path: Path, arrays: Mapping[str, Array], name: str | None, ndim: int | None) -> Array:
    if name is not None and name in arrays:
        return arrays[name]
    fitting = [key for key, array in arrays.items() if ndim is None or array.ndim == ndim]
    if name is None and len(fitting) == 1:
        return arrays[fitting[0]]
    held = ", ".join(f"{key} {tuple(array.shape)}" for key, array in arrays.items()) or "no arrays"
    wanted = "an array" if ndim is None else f"one array of {_axes(ndim)}"
    missing = f"no {name!r}{perhaps(name, arrays)}" if name is not None else f"expected {wanted}"
    raise DataError(f"{path}: holds {held}; {missing}; choose with {path.name}:NAME")


def _checked(path: Path, array: Array, ndim: int | None) -> Array:
    kind = "f" if isinstance(array, Tensor) and array.is_floating_point() else "i"
    if isinstance(array, np.ndarray):
        kind = array.dtype.kind
    elif array.layout != torch.strided or array.is_quantized or array.is_complex() or array.dtype == torch.bool:
        kind = "?"
    if kind not in "iuf":
        given = f"{array.dtype} {array.layout}" if isinstance(array, Tensor) else str(array.dtype)
        hint = "; NumPy has no bfloat16: save it with torch or as float32" if given == "|V2" else ""
        raise DataError(f"{path}: holds {given}, expected real numbers{hint}")
    if ndim is not None and array.ndim != ndim:
        raise DataError(f"{path}: has shape {tuple(array.shape)}, expected {_axes(ndim)}")
    return array


def _axes(ndim: int) -> str:
    return f"{ndim} axes" if ndim > 1 else "1 axis"


_READERS: dict[str, Callable[[Path], Array | Mapping[str, Array]]] = {
    ".npz": read_arrays,
    ".json": _json,
    ".txt": _text,
    ".csv": _text,
    ".tsv": _text,
    ".pt": _torch,
    ".pth": _torch,
    ".safetensors": _safetensors,
}
