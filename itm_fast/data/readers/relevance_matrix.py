"""A matrix of relevance φ from a file: .npy, or the authors' SPICE CSV."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from itm_fast.data.readers.formats import format_of
from itm_fast.data.readers.found_path import FoundPath
from itm_fast.errors import DataError, warn
from itm_fast.files.plain_text import stream_lines
from itm_fast.files.reading import read_array

_FIRST_LINE = 2**16  # bytes
_NUMBER = re.compile(rb"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|nan|inf|-inf", re.IGNORECASE)
_ROWS = 500  # of a CSV file parsed at a time


def read_relevance(path: str | Path, n_images: int, n_captions: int) -> npt.NDArray[np.generic]:
    """Read φ, images as rows.

    Args:
        path: .npy of (n_images, n_captions), memory-mapped, or of (n_captions, n_images), which is how the NCS
            repository stores CIDEr: turned; where both are as many, a warning says that rows are images. Or .csv with
            a caption a line, as it stores SPICE; numbers of a line beyond n_images are left out, as there.
        n_images: images of the similarities.
        n_captions: captions of the similarities.

    Returns:
        (n_images, n_captions) of the file's dtype (float64 for CSV).

    Raises:
        FileNotFoundError: there is no such file.
        DataError: another shape, not numbers, a damaged or truncated file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected relevance, .npy or .csv")
    if path.suffix == ".csv":
        return _read_csv(path, n_images, n_captions)
    matrix = read_array(path, mapped=True)
    if matrix.shape not in ((n_images, n_captions), (n_captions, n_images)) or matrix.dtype.kind not in "fiu":
        raise DataError(
            f"{path}: {matrix.dtype} of shape {matrix.shape}, expected numbers of shape ({n_images}, {n_captions}), or "
            f"({n_captions}, {n_images}) with captions as rows"
        )
    if n_images == n_captions:
        warn(
            f"{path}: as many images as captions: its rows are taken as images; the NCS repository's files have "
            "captions as rows, so turn such first"
        )
    phi: npt.NDArray[np.generic] = matrix if matrix.shape == (n_images, n_captions) else matrix.T
    return phi


def holds_matrix(path: Path) -> bool:
    """Whether a file is a matrix, and no captioned images: .npy, or .csv whose first line is numbers or no headings."""
    if path.suffix != ".csv" or not path.is_file():
        return path.suffix in (".npy", ".csv")
    with path.open("rb") as file:
        cells = file.readline(_FIRST_LINE).removeprefix(b"\xef\xbb\xbf").strip().split(b",")
    are_numbers = all(_NUMBER.fullmatch(cell.strip()) for cell in cells[:-1] or cells)  # the last may be cut
    return are_numbers or format_of(FoundPath(path)) is None


def _read_csv(path: Path, n_images: int, n_captions: int) -> npt.NDArray[np.generic]:
    phi = np.empty((n_captions, n_images))
    stream = (line for _, line in stream_lines(path))
    for start in range(0, n_captions, _ROWS):
        lines = list(islice(stream, min(_ROWS, n_captions - start)))
        if not lines:
            raise DataError(f"{path}: {start} lines, expected one a caption: {n_captions}")
        blank = next((number for number, line in enumerate(lines, start=start + 1) if not line.strip()), None)
        if blank is not None:  # which NumPy would pass over
            raise DataError(f"{path}:{blank}: blank line; expected {n_images} numbers a line, one line a caption")
        try:
            rows = np.loadtxt(lines, delimiter=",", ndmin=2, comments=None, usecols=range(n_images))
        except (ValueError, IndexError) as error:
            place = f"lines {start + 1} ... {start + len(lines)}"
            raise DataError(
                f"{path}: {place}: expected {n_images} numbers a line ({error}); captions are read from .txt or .json"
            ) from error
        if len(rows) != min(_ROWS, n_captions - start):
            raise DataError(f"{path}: {start + len(rows)} lines, expected one a caption: {n_captions}")
        phi[start : start + len(rows)] = rows
    if next(stream, "").strip():
        raise DataError(f"{path}: more than {n_captions} lines, expected one a caption")
    turned: npt.NDArray[np.float64] = phi.T
    return turned
