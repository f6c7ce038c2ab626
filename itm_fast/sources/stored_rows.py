"""The arrays of an extraction on disk: written aside a batch at a time, continued where they were, named when whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from itm_fast.errors import DataError
from itm_fast.files.reading import read_header
from itm_fast.sources.embedders.encoder import Encoded
from itm_fast.sources.embedding_files import OFFSETS, PROGRESS, mapped

Batch: TypeAlias = npt.NDArray[np.int64]
EmbedProgress: TypeAlias = Callable[[str, int, int], None]


class Written(Protocol):
    """How many rows of each kind are saved."""

    folder: Path
    rows: dict[str, int]

    def save(self, kind: str, rows: int) -> None:
        """Say that so many are."""
        ...


class StoredRows:
    """Rows of one kind, written aside as ``<kind>.npy.part``."""

    def __init__(self, state: Written, kind: str, n_rows: int, dtype: str, dim: int | None = None) -> None:
        """Open what an interrupted extraction has left, if there is any.

        Args:
            state: of the extraction.
            kind: "captions" or "images".
            n_rows: rows there are to be.
            dtype: of the file.
            dim: of the vectors, once it is known.

        Raises:
            DataError: what is there is cut short, or of another shape.
        """
        self._state, self._kind, self._n_rows, self._dtype = state, kind, n_rows, dtype
        self._path, self._part = state.folder / f"{kind}.npy", state.folder / f"{kind}.npy.part"
        self.dim, self.begun = dim, state.rows[kind]
        if not 0 <= self.begun <= n_rows:
            raise DataError(
                f"{state.folder / PROGRESS}: says that {self.begun} of {n_rows} {kind} are there; replace it with "
                "--restart"
            )
        if self.begun:
            self._open(self.begun == n_rows and not self._part.exists())

    def fill(
        self, encoded: Iterable[tuple[Batch, Encoded]], names: Sequence[str], progress: EmbedProgress | None
    ) -> None:
        """Write batch after batch, each saved before the next is made, then give the array its name."""
        done = self.begun
        if progress is not None and done < self._n_rows:
            progress(self._kind, 0, self._n_rows - done)
        for batch, vectors in encoded:
            for place, item in enumerate(vectors if isinstance(vectors, list) else [vectors]):
                self._check(item, [names[row] for row in (batch[[place]] if isinstance(vectors, list) else batch)])
            self._put(batch, vectors)
            done += len(batch)
            self._state.save(self._kind, done)
            if progress is not None:
                progress(self._kind, done - self.begun, self._n_rows - self.begun)
        self._finish()

    def _check(self, vectors: Tensor, names: Sequence[str]) -> None:
        if self.begun and self.dim != vectors.shape[1]:
            raise DataError(
                f"{self._part}: {self.dim} wide, but the model's vectors are {vectors.shape[1]} wide; replace it with "
                "--restart"
            )
        if self.dim not in (None, vectors.shape[1]):
            raise ValueError(
                f"the model's images have {vectors.shape[1]} dimensions, its captions {self.dim}: they are not in one "
                "space, and cannot be compared"
            )
        self.dim = vectors.shape[1]
        finite = vectors.isfinite().all(dim=1)
        if not finite.all():
            name = names[int(finite.int().argmin()) if len(names) > 1 else 0]
            raise ValueError(f"the model's vector of {name!r:.200} is not finite; a wider dtype, float32, may help")
        if not len(vectors):
            raise ValueError(f"the model gives no vector of {names[0]!r:.200}, which could not be compared")

    def _open(self, is_named: bool) -> None:
        """What was begun."""
        raise NotImplementedError

    def _put(self, batch: Batch, vectors: Any) -> None:
        """Write rows."""
        raise NotImplementedError

    def _finish(self) -> None:
        """Give the files their names."""
        raise NotImplementedError


class VectorRows(StoredRows):
    """A vector an item, (n, dim), in any order."""

    _array: Any = None

    def _open(self, is_named: bool) -> None:
        self._array = mapped(self._path if is_named else self._part, writable=not is_named)
        shape = (self._n_rows, self._array.shape[1] if self.dim is None else self.dim)
        if self._array.shape != shape or self._array.dtype != self._dtype:
            raise DataError(
                f"{self._part}: {self._array.dtype} of shape {self._array.shape}, expected {self._dtype} of shape "
                f"{shape}; replace it with --restart"
            )
        self.dim = shape[1]

    def _put(self, batch: Batch, vectors: Tensor) -> None:
        if self._array is None:
            shape = (self._n_rows, int(vectors.shape[1]))
            self._array = np.lib.format.open_memmap(self._part, mode="w+", dtype=self._dtype, shape=shape)
        self._array[batch] = vectors.numpy()
        self._array.flush()

    def _finish(self) -> None:
        self._array = None
        if self._part.exists():
            os.replace(self._part, self._path)


class RaggedRows(StoredRows):
    """Many vectors an item, (total, dim) one after the other, in order; and where each item begins, (n + 1,) int64."""

    _total = 0  # vectors of the rows that are saved

    def __init__(self, state: Written, kind: str, n_rows: int, dtype: str, dim: int | None = None) -> None:
        """As of any rows."""
        self._offsets_path = state.folder / OFFSETS[kind]
        self._offsets_part = self._offsets_path.with_name(f"{self._offsets_path.name}.part")
        super().__init__(state, kind, n_rows, dtype, dim)

    def _open(self, is_named: bool) -> None:
        offsets = _Growing(self._offsets_path if not self._offsets_part.exists() else self._offsets_part)
        vectors = _Growing(self._path if is_named else self._part)
        wrong = offsets.dtype != np.int64 or offsets.width or vectors.dtype != self._dtype or vectors.width < 1
        if wrong or self.dim not in (None, vectors.width):
            raise DataError(
                f"{self._part}: {vectors.dtype} {vectors.width} wide, expected {self._dtype}"
                f"{'' if self.dim is None else f' {self.dim} wide'}; replace it with --restart"
            )
        self.dim, self._total = vectors.width, int(offsets.row(self.begun))
        if self._total < self.begun:
            raise DataError(
                f"{offsets.path}: {self.begun} items end at row {self._total}, expected one of each at least; replace "
                "it with --restart"
            )
        vectors.check(self._total)

    def _put(self, batch: Batch, vectors: list[Tensor]) -> None:
        first = int(batch[0])
        if not first:
            _Growing.make(self._offsets_part, np.dtype(np.int64), ())
            _Growing(self._offsets_part).write(0, np.zeros(1, np.int64))
            _Growing.make(self._part, np.dtype(self._dtype), (int(self.dim or 0),))
        ends = self._total + np.cumsum([len(one) for one in vectors])
        _Growing(self._part).write(self._total, torch.cat(vectors).numpy().astype(self._dtype))
        _Growing(self._offsets_part).write(first + 1, ends)
        self._total = int(ends[-1])

    def _finish(self) -> None:
        for part, path, length in (
            (self._part, self._path, self._total),
            (self._offsets_part, self._offsets_path, self._n_rows + 1),
        ):
            if part.exists():
                _Growing(part).close(length)
                os.replace(part, path)


class _Growing:
    """A .npy file whose first axis grows: NumPy leaves room for its length in the header."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            try:
                shape, is_fortran, self.dtype = read_header(file)
                if is_fortran:
                    raise ValueError("in Fortran's order")
            except ValueError as error:
                raise DataError(f"{path} is cut short, or no .npy: {error}; replace it with --restart") from error
            self._begin = file.tell()
        self.width = shape[1] if len(shape) == 2 else 0
        self._row = self.dtype.itemsize * max(1, self.width)

    @staticmethod
    def make(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        """A file of no rows; one that is there is replaced."""
        with path.open("wb") as file:
            _write_header(file, dtype, (0, *shape))

    def write(self, first: int, rows: npt.NDArray[Any]) -> None:
        """Rows from a place on; what was behind it is lost."""
        with self.path.open("r+b") as file:
            file.seek(self._begin + first * self._row)
            file.write(rows.tobytes())
            file.truncate()

    def row(self, place: int) -> Any:
        """One number of an array of one axis."""
        self.check(place + 1)
        with self.path.open("rb") as file:
            file.seek(self._begin + place * self._row)
            return np.frombuffer(file.read(self._row), self.dtype)[0]

    def check(self, n_rows: int) -> None:
        """DataError unless so many rows are there."""
        n_there = (self.path.stat().st_size - self._begin) // self._row
        if n_there < n_rows:
            raise DataError(
                f"{self.path} is cut short: {n_there} of {n_rows} rows are there; replace it with --restart"
            )

    def close(self, n_rows: int) -> None:
        """Say in the header how many rows there are."""
        self.check(n_rows)
        with self.path.open("r+b") as file:
            _write_header(file, self.dtype, (n_rows, self.width) if self.width else (n_rows,))
            if file.tell() != self._begin:
                raise DataError(f"{self.path}: no room for {n_rows} rows in its header; replace it with --restart")


def _write_header(file: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
