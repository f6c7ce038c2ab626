"""Indices of images or captions as people pass them, checked."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

IndexLike = Sequence[int] | range | npt.NDArray[np.integer[Any]] | torch.Tensor
"""Indices as a list, a range, a NumPy array or a tensor of an integer dtype, one axis."""


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
