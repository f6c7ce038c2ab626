"""Counts of vectors as people have them, made what the operators take: int64, on the device of the vectors.

Only masks are looked at. An int64 tensor is returned as it is, and others are copied to a device without waiting for
what it has still to do.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

Counts: TypeAlias = Tensor | Sequence[int] | np.ndarray[Any, Any] | None
"""How many vectors of each group are there: None for all; a list, array or tensor of any integers (n,); or a boolean
mask (n, max), True at what is there, which is one run a row, padded behind or before."""

READ_ON = ("cpu",)
"""Devices whose tensors the host reads without waiting."""

_EXPECTED = "a list, array or tensor of integers, a boolean mask, or None"


def may_be_read(tensor: Tensor) -> bool:
    """Whether the host reads it without waiting for a device."""
    return tensor.device.type in READ_ON


def counted(name: str, counts: Counts, of: str, vectors: Tensor) -> tuple[Tensor, Tensor | None]:
    """Vectors and their counts as the operators take them.

    Args:
        name: Of the argument, for messages.
        counts: As above.
        of: Name of `vectors`.
        vectors: (n, max, ...); tokens have no third dimension.

    Returns:
        `vectors`, moved to the front of their rows where a mask pads before them, and int64 (n,) or None for all.

    Raises:
        ValueError: Shape or device do not fit, or a row of a mask is no run; the message names it.
        TypeError: They are no integers.
    """
    normal, first = as_counts(name, counts, of, (vectors.shape[0], vectors.shape[1]), vectors.device)
    return moved_to_front(vectors, first), normal


def counted_in_place(name: str, counts: Counts, of: str, vectors: Tensor) -> Tensor | None:
    """Counts of vectors whose places matter to the caller, who gets results in the same ones: int64 (n,), None for all.

    Raises:
        ValueError: As in `counted`; or a mask pads before the vectors.
        TypeError: As in `counted`.
    """
    normal, first = as_counts(name, counts, of, (vectors.shape[0], vectors.shape[1]), vectors.device)
    if first is not None:
        raise ValueError(
            f"{name} is a mask with padding before {of}; here it must be behind them: {of} come first in a row"
        )
    return normal


def as_counts(
    name: str, counts: Counts, of: str, shape: tuple[int, int], device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """Counts, and where each row begins if a mask pads before it; arguments and errors as in `counted`.

    Returns:
        int64 (n,), or None for all; int64 (n,) places of the first vectors, or None where all rows begin at 0.
    """
    if counts is None:
        return None, None
    given = _as_tensor(name, counts)
    if given.device.type != "cpu" and given.device != device:
        raise ValueError(f"{name} must be on the device of {of}, {device}, or on the CPU, got {given.device}")
    if given.dtype == torch.bool:
        return _of_mask(name, given.to(device), of, shape)
    if given.shape != shape[:1]:
        hint = f"; a mask must be boolean: {name} != 0" if given.shape == shape else ""
        expected = f"({shape[0]},), one count per row of {of}"
        raise ValueError(f"{name} must have shape {expected}, got {tuple(given.shape)}{hint}")
    is_ready = given.dtype == torch.int64 and given.device == device
    return given if is_ready else given.to(device, torch.int64, non_blocking=True), None


def packed_counts(name: str, counts: Counts, of: str) -> Tensor:
    """Counts (n,) int64 of vectors that lie one after another without padding.

    Raises:
        TypeError: They are no integers.
        ValueError: They have another shape, as a mask has.
    """
    if counts is None:
        raise TypeError(f"{name} is None, but {of} are packed: say how many each has, in a list or tensor of integers")
    given = _as_tensor(name, counts)
    if given.dtype == torch.bool or given.ndim != 1:
        raise ValueError(
            f"{name} must be integers of one dimension, for {of} are packed without padding, got {given.dtype} of "
            f"shape {tuple(given.shape)}; of a mask take mask.sum(1)"
        )
    return given.to(torch.int64)


def moved_to_front(vectors: Tensor, first: Tensor | None) -> Tensor:
    """Vectors (n, max, ...), each row begun at its place `first` (n,) and what was before it put behind."""
    if first is None:
        return vectors
    most = vectors.shape[1]
    places = (torch.arange(most, device=vectors.device) + first[:, None]) % most
    return vectors.take_along_dim(places.view(*places.shape, *[1] * (vectors.ndim - 2)), dim=1)


def _as_tensor(name: str, counts: object) -> Tensor:
    """Counts as a tensor of integers or truth values."""
    if isinstance(counts, np.ndarray) and counts.dtype.kind in "biu":  # torch lacks byte orders, and strides below 0
        return torch.from_numpy(counts.astype(np.bool_ if counts.dtype.kind == "b" else np.int64))
    try:
        given = torch.as_tensor(np.array(counts) if isinstance(counts, np.ndarray) else counts)  # a map is read-only
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be {_EXPECTED}, got {type(counts).__name__}: {error}") from error
    if given.is_floating_point() or given.is_complex():
        if not given.numel():
            return given.to(torch.int64)  # an empty list
        of = "" if isinstance(counts, Tensor) else f"{type(counts).__name__} of "
        raise TypeError(f"{name} must be {_EXPECTED}, got {of}{given.dtype}")
    return given


def _of_mask(name: str, mask: Tensor, of: str, shape: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
    if mask.shape != shape:
        raise ValueError(f"{name} is a mask of shape {tuple(mask.shape)}; expected {shape}, one entry for each of {of}")
    counts = mask.sum(1)
    if not mask.numel():
        return counts, None
    first = mask.to(torch.uint8).argmax(1)  # the first of equal ones
    place = torch.arange(shape[1], device=mask.device) - first[:, None]
    is_run = (mask == ((place >= 0) & (place < counts[:, None]))).all(1) & (counts > 0)
    if not bool(is_run.all()):
        row = int(is_run.logical_not().nonzero()[0])
        what = "is False everywhere" if not int(counts[row]) else "has holes"
        raise ValueError(
            f"{name}[{row}] {what}; a row of a mask must be one run of True with padding behind or before it: take "
            f"what is not there out of {of}"
        )
    return counts, first if bool(first.any()) else None
