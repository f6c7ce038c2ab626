"""Pickles of NumPy arrays, read by a machine that can build nothing else."""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from itm_fast.errors import DataError

_DTYPES = ("i4", "i8", "f2", "f4", "f8")
_STATE_FIELDS = 5
Numbers = npt.NDArray[np.generic]
Unpickled = Numbers | dict[str, Numbers | int | str]


def unpickled_arrays(content: bytes, path: Path) -> Unpickled:
    """Build the array of a pickle, or its dict of arrays, whole numbers and strings.

    No name that the pickle asks for is ever looked up: those of NumPy's arrays stand for classes of this file, any
    other ends the reading.

    Args:
        content: The pickle.
        path: Its file, for errors.

    Returns:
        Arrays of numbers in their own dtype; an array that holds a single object, as np.save writes a dict, is that
        object.

    Raises:
        DataError: It is damaged, or holds anything else.
    """
    try:
        _check_memo(content, path)
        built = _ArrayUnpickler(content, path).load()
    except DataError:
        raise
    except Exception as error:  # a damaged pickle raises nearly every kind of exception
        raise DataError(f"{path}: not a pickle of arrays: {type(error).__name__}: {error}") from error
    if isinstance(built, PickledArray) and built.is_single_object():
        built = built.state[4][0]  # type: ignore[index]
    if isinstance(built, PickledArray):
        return built.checked(path)
    known = (PickledArray, int, str)
    if isinstance(built, dict) and all(isinstance(k, str) and isinstance(v, known) for k, v in built.items()):
        return {
            name: value.checked(path) if isinstance(value, PickledArray) else value for name, value in built.items()
        }
    raise DataError(
        f"{path}: the pickle holds a {type(built).__name__}; expected an array of numbers or a dict of them"
    )


class PickledDType:
    """Stands in for numpy.dtype."""

    def __init__(self, *given: object) -> None:
        self.name, self.order = given[0] if given else None, "<"

    def __setstate__(self, state: tuple[object, ...]) -> None:
        self.order = str(state[1])


class PickledArray:
    """Stands in for numpy.ndarray: keeps what the pickle says until `checked` has looked at it."""

    state: object = None

    def __init__(self, *given: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.state = state

    def is_single_object(self) -> bool:
        """Whether it is an array of no axis that holds one object."""
        if not isinstance(self.state, tuple) or len(self.state) != _STATE_FIELDS:
            return False
        _, shape, dtype, _, content = self.state
        is_object = isinstance(dtype, PickledDType) and dtype.name in ("O8", "O4", "O")
        return is_object and shape == () and isinstance(content, list) and len(content) == 1

    def checked(self, path: Path) -> Numbers:
        """The array; raises DataError unless it is one of plain numbers."""
        if not isinstance(self.state, tuple) or len(self.state) != _STATE_FIELDS:
            raise DataError(f"{path}: an array without content")
        _, shape, dtype, is_fortran, content = self.state
        is_known = isinstance(dtype, PickledDType) and dtype.name in _DTYPES and dtype.order in ("<", ">")
        if not is_known or not isinstance(content, bytes) or not isinstance(shape, tuple):
            raise DataError(f"{path}: an array of other than plain numbers ({', '.join(_DTYPES)})")
        try:
            flat = np.frombuffer(content, dtype=f"{dtype.order}{dtype.name}")
            return flat.reshape(shape, order="F" if is_fortran else "C")
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}: an array that contradicts itself: {error}") from error


class _ArrayUnpickler(pickle.Unpickler):
    def __init__(self, content: bytes, path: Path) -> None:
        super().__init__(io.BytesIO(content))
        self._path = path

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        stand_in = {"_reconstruct": PickledArray, "ndarray": PickledArray, "dtype": PickledDType}.get(name)
        if stand_in is None or module not in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray"):
            raise DataError(
                f"{self._path}: refused, nothing was run: the pickle asks for {module}.{name}; arrays of numbers need "
                "no more than NumPy's array and dtype"
            )
        return stand_in


def _check_memo(content: bytes, path: Path) -> None:
    """Refuse memo indices that eat memory: the unpickler allocates the whole table up to the largest."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > count:
            raise DataError(f"{path}: damaged pickle: memo index {argument} at opcode {count}")
