"""Precomputed features in a .npy file: mapped, read image by image, and looked at for what no model can use."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from itm_fast.errors import DataError
from itm_fast.files.plain_text import check_itself
from itm_fast.files.reading import read_header

IntArray = npt.NDArray[np.int64]

_SHAPES = "(n, max_regions, dim), or (n, dim) of models that read one vector an image"
_CHUNK_BYTES = 64 << 20  # of features in memory while a file is looked at
WHOLE_BYTES = 8 << 30  # looked at as a whole: all of Flickr30K; of what is larger a sample of _SAMPLE_BYTES
_SAMPLE_BYTES = 1 << 30


@dataclass(frozen=True)
class Look:
    """What a look at features found.

    Attributes:
        n_rows: rows that were looked at.
        n_fewer: of them those with fewer regions than the others, the last ones being zeros.
        n_zero: of them those of zeros only.
        n_hollow: of them those with a region of zeros among the others.
    """

    n_rows: int
    n_fewer: int
    n_zero: int
    n_hollow: int


class FeatureFile:
    """Features of images on disk, of any real numbers; a row is read when it is asked for.

    Attributes:
        path: The file.
        array: The features as they are on disk, memory-mapped and read-only: (n, max_regions, dim) or (n, dim).
        max_regions: Regions of a row; 1 where rows are vectors.
        dim: Numbers of a region, or of a vector.
        has_regions: Whether a row is regions, not one vector.
        is_fortran: Whether numbers of one row lie apart in the file.

    Raises:
        DataError: The file is no .npy file of such a shape, damaged, or of something else than real numbers.
    """

    array: np.memmap[Any, np.dtype[Any]]

    def __init__(self, path: Path) -> None:
        self.path = path
        self.array, self.is_fortran = _mapped(path)
        self.has_regions = self.array.ndim == 3
        self.max_regions = int(self.array.shape[1]) if self.has_regions else 1
        self.dim = int(self.array.shape[-1])

    def __len__(self) -> int:
        return len(self.array)

    def read(self, rows: IntArray, counts: IntArray | None = None) -> tuple[npt.NDArray[np.float32], IntArray | None]:
        """Features of some rows, checked.

        Args:
            rows: (n,) int64, in any order.
            counts: (n,) int64, regions of each that are there; None: all but those of zeros at the end.

        Returns:
            float32 (n, max_regions, dim), a copy, zeros beyond the counts, and the counts; None where all are there. A
            row of nothing but zeros has all its regions.

        Raises:
            DataError: A number that is there is NaN or infinite; with its row and region.
        """
        block = np.asarray(self.array)[rows]  # a plain array: of a memmap a copy too, but one that keeps the subclass
        with np.errstate(over="ignore"):  # what float32 cannot hold is found below
            features = np.ascontiguousarray(block, dtype=np.float32).reshape(len(rows), self.max_regions, self.dim)
        if counts is None:
            counts = _counts(features)
        elif (counts == self.max_regions).all():
            counts = None
        else:
            features[np.arange(self.max_regions) >= counts[:, None]] = 0
        with np.errstate(invalid="ignore", over="ignore"):
            total = features.sum(dtype=np.float32)  # once over the numbers; which is wrong, only if one is
        if not np.isfinite(total):
            self._check_finite(features, block, rows)
        return features, counts

    def look(self, rows: IntArray, counts: IntArray | None = None) -> Look:
        """Read once over the rows, or, of a file that is larger than WHOLE_BYTES, over a sample spread evenly.

        Raises:
            DataError: A number is NaN or infinite.
        """
        bytes_of_row = max(1, self.array.nbytes // len(self.array))
        if len(rows) * bytes_of_row > WHOLE_BYTES:
            n_sampled = max(2, _SAMPLE_BYTES // bytes_of_row)
            chosen = np.unique(np.linspace(0, len(rows) - 1, n_sampled).astype(np.int64))
        else:
            chosen = np.arange(len(rows))
        step = max(1, _CHUNK_BYTES // bytes_of_row)
        n_fewer = n_zero = n_hollow = 0
        for start in range(0, len(chosen), step):
            some = chosen[start : start + step]
            features, found = self.read(rows[some], None if counts is None else counts[some])
            n_fewer += 0 if found is None else int((found < self.max_regions).sum())
            n_filled = features.any(axis=2).sum(axis=1)
            n_zero += int((n_filled == 0).sum())
            n_hollow += int(((n_filled > 0) & (n_filled < (self.max_regions if found is None else found))).sum())
        return Look(len(chosen), n_fewer, n_zero, n_hollow)

    def _check_finite(self, features: npt.NDArray[np.float32], block: npt.NDArray[Any], rows: IntArray) -> None:
        wrong = np.argwhere(~np.isfinite(features))
        if not len(wrong):
            return  # only their sum was too large
        place, region, number = wrong[0].tolist()
        value = block.reshape(features.shape)[place, region, number]
        of_region = f", region {region}" if self.has_regions else ""
        n_images = len(np.unique(wrong[:, 0]))
        more = f" ({n_images} images of those read here have such numbers)" if n_images > 1 else ""
        what = "too large for float32" if np.isfinite(value) else "expected finite numbers"
        raise DataError(
            f"{self.path}: row {rows[place]}{of_region}: number {number} is {value}, {what}{more}. Extract the "
            "features of this image again, or leave it and its captions out of all files of the split"
        )


def _counts(features: npt.NDArray[np.float32]) -> IntArray | None:
    """Regions of each image without those at the end that are all zero; None where there are none such."""
    n, most, _ = features.shape
    counts = np.full(n, most, dtype=np.int64)
    if most == 1:
        return None
    for image in np.flatnonzero(~features[:, -1].any(axis=1)):
        there = np.flatnonzero(features[image].any(axis=1))
        counts[image] = there[-1] + 1 if there.size else most
    return counts if (counts < most).any() else None


def _mapped(path: Path) -> tuple[np.memmap[Any, np.dtype[Any]], bool]:
    """Map a .npy file after its header was found to tell the truth; never unpickles."""
    shape, is_fortran, dtype, offset = _read_header(path)
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
        is_object = dtype.kind == "O"
        hint = ", which are never unpickled; images with fewer regions end in rows of zeros" if is_object else ""
        raise DataError(
            f"{path}: dtype {dtype.str}{hint}; expected real numbers, {_SHAPES}: save features.astype(np.float32)"
        )
    if len(shape) not in (2, 3):
        mend = ": save features.reshape(n, max_regions, dim)" if len(shape) > 3 else ""
        raise DataError(f"{path}: shape {shape}; expected 3 axes, {_SHAPES}{mend}")
    if min(shape) < 1:
        raise DataError(f"{path}: shape {shape} is empty; expected {_SHAPES}, each at least 1")
    promised, held = math.prod(shape) * dtype.itemsize, path.stat().st_size - offset
    if promised != held:
        what = "truncated" if held < promised else "longer than its header says"
        raise DataError(
            f"{path}: {what}: the header promises {shape} {dtype.name} = {promised} bytes, the file holds {held}"
        )
    options: dict[str, Any] = {"mode": "r", "offset": offset, "shape": shape, "order": "F" if is_fortran else "C"}
    return np.memmap(path, dtype=dtype, **options), is_fortran


def _read_header(path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    check_itself(path)
    with path.open("rb") as file:
        try:
            shape, is_fortran, dtype = read_header(file)
        except ValueError as error:
            raise DataError(
                f"{path}: not a .npy file with a readable header: {error}. Save features {_SHAPES} with np.save"
            ) from error
        # One axis longer than 1, or none: both orders are the same bytes.
        return shape, is_fortran and sum(size > 1 for size in shape) > 1, dtype, file.tell()
