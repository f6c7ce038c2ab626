"""Indices of images or captions: as people pass them, checked, and the distinct ones."""

import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt
import torch

IndexLike = Sequence[int] | range | npt.NDArray[np.integer[Any]] | torch.Tensor
"""Indices as a list, a range, a NumPy array or a tensor of an integer dtype, one axis."""


def as_index(index: SupportsIndex, size: int, name: str) -> int:
    """Check one index into a sequence of `size` entries, as lists take them.

    Args:
        index: An integer of any kind; negative ones count from the end.
        size: Number of entries.
        name: Name of the argument, for the message.

    Returns:
        0 … size - 1.

    Raises:
        IndexError: It is outside -size … size - 1.
        TypeError: It is no integer.
    """
    try:
        number = operator.index(index)
    except TypeError as error:
        raise TypeError(f"{name} is {index!r:.60}; expected an integer") from error
    if not -size <= number < size:
        raise IndexError(f"{name} is {number}; expected {-size} … {size - 1}")
    return number % size


def as_number(number: SupportsIndex, name: str) -> int:
    """Check a number of things, of which there is at least one.

    Args:
        number: An integer of any kind.
        name: Name of the argument, for the message.

    Returns:
        The plain integer.

    Raises:
        TypeError: It is no integer, or a truth value.
        ValueError: It is below 1.
    """
    if isinstance(number, (bool, np.bool_)) or not hasattr(number, "__index__"):
        raise TypeError(f"{name} is {number!r:.60}, expected an integer")
    found = operator.index(number)
    if found < 1:
        raise ValueError(f"{name} is {found}, expected at least 1")
    return found


def as_indices(indices: IndexLike, size: int, name: str) -> npt.NDArray[np.int64]:
    """Check indices into something of `size` entries.

    Args:
        indices: (n,) integers.
        size: Number of entries.
        name: Name of the argument, for the message.

    Returns:
        int64 (n,).

    Raises:
        IndexError: One is outside 0 … size - 1 (negative ones do not count from the end).
        TypeError: They are not integers.
        ValueError: They have more than one axis.
    """
    array = np.asarray(indices.detach().cpu() if isinstance(indices, torch.Tensor) else indices)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; expected one axis")
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {array.dtype}; expected integers")
    outside = array[(array < 0) | (array >= size)]
    if outside.size:
        raise IndexError(f"{name} holds {outside[0]}; expected 0 … {size - 1}")
    return np.array(array, dtype=np.int64)  # a copy: batches must not alias what the caller goes on to change


def distinct_numbers(numbers: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """The distinct numbers, ascending, int64 (n,).

    ``np.unique`` hashes since NumPy 2.3: 2.5 million pairs took it 3.8 s, sorting 0.06 s.

    Example:
        >>> distinct_numbers(np.array([3, 1, 3]))
        array([1, 3])
    """
    ordered = np.sort(numbers, axis=None).astype(np.int64, copy=False)
    return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(ordered) else ordered
