"""Rows and images of a .parquet file, a few at a time, by pyarrow."""

from __future__ import annotations

import bisect
import functools
import importlib
import io
import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itm_fast.data.readers.parquet_pages import ColumnChunk, NotFollowedError
from itm_fast.errors import DataError

_ROWS, _IMAGES = 1024, 16  # that are decoded at a time, without and with images
_KEPT = 64 * 2**20  # bytes of images that pyarrow decoded with others: threads ask for rows near each other
_BUFFER = 2**20  # bytes of a column read at a time; without it, all of a row group's
_FOOTER = 64 * 2**20, 2**20  # bytes of a string, and items of a list, in a footer
_IN_STRUCT, _PATH = "bytes", "path"  # how the library datasets keeps an image
_STORED = "UNCOMPRESSED"
_CODECS = _STORED, "SNAPPY"  # of which a part is read


class _Refusing(io.FileIO):
    """A file that keeps which part of it is asked for, and does not give it.

    Attributes:
        asked: offset and bytes; None: nothing was.
    """

    asked: tuple[int, int] | None = None

    def read(self, size: int | None = -1) -> bytes:
        """Refuse."""
        self.asked = self.tell(), -1 if size is None else size
        raise OSError("not to be read")


class ParquetFile:
    """A .parquet file, opened.

    Args:
        path: the file.

    Attributes:
        path: the same.
        columns: the types of its columns, as pyarrow has them, by name.
        n_rows: how many rows it has.

    Raises:
        DataError: it is none, damaged or cut short.
        ImportError: pyarrow is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._arrow = _library("pyarrow")
        self._file = _library("pyarrow.parquet")
        self._opened = self._guarded(self._open)
        self.columns: dict[str, Any] = {field.name: field.type for field in self._opened.schema_arrow}
        groups = [self._opened.metadata.row_group(n).num_rows for n in range(self._opened.metadata.num_row_groups)]
        if min(groups, default=0) < 0:
            raise DataError(f"{path}: no parquet, damaged or cut short: a row group of {min(groups)} rows")
        self.starts = [0, *itertools.accumulate(groups)]
        self.n_rows = self.starts[-1]

    def _open(self) -> Any:
        size, items = _FOOTER
        limits = {"thrift_string_size_limit": size, "thrift_container_size_limit": items}
        return self._file.ParquetFile(self.path, buffer_size=_BUFFER, pre_buffer=False, **limits)

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The rows in order, of some columns; of a column of images name what of it: "image.path"."""
        if not columns:
            yield from ({} for _ in range(self.n_rows))
            return
        batches = self._guarded(lambda: self._opened.iter_batches(_ROWS, columns=list(columns)))
        while (batch := self._guarded(lambda: next(batches, None))) is not None:
            yield from self._guarded(batch.to_pylist)

    def images(self, column: str, group: int) -> Iterator[list[bytes | None]]:
        """The images of a row group in order, a few at a time."""
        is_struct = self._arrow.types.is_struct(self.columns[column])
        part = f"{column}.{_IN_STRUCT}" if is_struct else column
        batches = self._guarded(lambda: self._opened.iter_batches(_IMAGES, row_groups=[group], columns=[part]))
        while (batch := self._guarded(lambda: next(batches, None))) is not None:
            yield self._guarded(functools.partial(_values_of, batch, is_struct))

    def chunk(self, column: str, group: int) -> ColumnChunk | None:
        """The images of a row group, each by its row; None: pyarrow has to read them, or to say what is wrong."""
        if column not in self.columns:
            raise DataError(f"{self.path}: has no column {column} any more")
        part = f"{column}.{_IN_STRUCT}" if self._arrow.types.is_struct(self.columns[column]) else column
        kinds = [self._opened.schema.column(number) for number in range(self._opened.metadata.num_columns)]
        places = [number for number, kind in enumerate(kinds) if kind.path == part]
        if len(places) != 1:
            return None
        kind = kinds[places[0]]
        asked = self._asked(part, group)
        codec = None if asked is None else self._opened.metadata.row_group(group).column(places[0]).compression
        if asked is None or kind.physical_type != "BYTE_ARRAY" or kind.max_repetition_level or codec not in _CODECS:
            return None
        n_rows = self.starts[group + 1] - self.starts[group]
        decompress = None if codec == _STORED else self._decompress
        try:
            return ColumnChunk(*asked, n_rows, kind.max_definition_level, decompress)
        except NotFollowedError:
            return None

    def _asked(self, part: str, group: int) -> tuple[int, int] | None:
        """Offset and bytes of a column in a row group, as pyarrow's reader asks for them; None: it is damaged.

        pyarrow's own objects for what the footer says of it end the process where that is damaged; its reader does not.
        """
        with _Refusing(self.path) as file:
            try:
                opened = self._file.ParquetFile(file, metadata=self._opened.metadata, pre_buffer=False)
                opened.read_row_group(group, columns=[part], use_threads=False)
            except Exception:  # damaged files raise many kinds
                return file.asked
        return None

    def _decompress(self, content: bytes, size: int) -> bytes:
        found: bytes = self._arrow.decompress(content, size, codec="snappy", asbytes=True)
        return found

    def image_column(self) -> str | None:
        """The first column that holds images: a struct with bytes, or bytes alone; None if there is none."""
        return next((name for name, kind in self.columns.items() if self._is_image(kind)), None)

    def path_of(self, column: str) -> str | None:
        """What names the file that an image of a column was, to be read as a column."""
        kind = self.columns[column]
        has_path = self._arrow.types.is_struct(kind) and kind.get_field_index(_PATH) >= 0
        return f"{column}.{_PATH}" if has_path else None

    def _is_image(self, kind: Any) -> bool:
        types = self._arrow.types
        if types.is_struct(kind):
            place = kind.get_field_index(_IN_STRUCT)
            return place >= 0 and self._is_image(kind.field(place).type)
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    def _guarded(self, call: Any) -> Any:
        try:
            return call()
        except Exception as error:  # damaged files raise many kinds
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise DataError(f"{self.path}: no parquet, damaged or cut short: {reason:.200}") from error


class ParquetImages:
    """The images of one column of a file, each by its row; for several threads, and for other processes.

    Where they lie is found once a page and kept, 16 bytes an image, and each is read by itself, in any order. What
    `parquet_pages` does not follow pyarrow decodes, a row group again and again as far as the row, and what it decoded
    last is kept, up to so many bytes.

    Args:
        path: the file.
        column: with the images.
    """

    def __init__(self, path: Path, column: str) -> None:
        self.path, self.column = path, column
        self.stored_size = path.stat().st_size
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._file: ParquetFile | None = None
        self._chunks: dict[int, ColumnChunk | None] = {}  # by row group; None: pyarrow reads it
        self._coming: Iterator[list[bytes | None]] = iter(())
        self._group, self._next = -1, 0  # of which row group, and the row at which it goes on
        self._kept: list[tuple[int, list[bytes | None]]] = []

    def __getstate__(self) -> dict[str, Any]:
        """The file's name and the column: what is open stays here."""
        return {"path": self.path, "column": self.column, "stored_size": self.stored_size}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open it again when it is asked for."""
        self.__dict__.update(state)
        self._reset()

    def read(self, row: int) -> bytes:
        """The image of a row.

        Raises:
            DataError: the file is damaged, or the row has none.
        """
        with self._lock:
            image = self._found(row)
        if image is None:
            raise DataError(f"{self.path}: row {row}: no image in column {self.column}")
        return image

    def _found(self, row: int) -> bytes | None:
        if self._file is None:
            self._file = ParquetFile(self.path)
        starts = self._file.starts
        group = bisect.bisect_right(starts, row) - 1
        if row >= starts[-1]:
            raise DataError(f"{self.path}: row {row}: the file has {starts[-1]} only, and has become shorter")
        if group not in self._chunks:
            self._chunks[group] = self._file.chunk(self.column, group)
        chunk = self._chunks[group]
        if chunk is not None:
            try:
                with self.path.open("rb", buffering=0) as file:
                    return chunk.read(file, row - starts[group])
            except (NotFollowedError, OSError):
                self._chunks[group] = None
        return self._decoded(self._file, row, group)

    def _decoded(self, file: ParquetFile, row: int, group: int) -> bytes | None:
        """The same by pyarrow."""
        for start, images in self._kept:
            if start <= row < start + len(images):
                return images[row - start]
        if group != self._group or row < self._next:
            self._coming = file.images(self.column, group)
            self._group, self._next = group, file.starts[group]
        for images in self._coming:
            start, self._next = self._next, self._next + len(images)
            self._kept.append((start, images))
            while len(self._kept) > 1 and sum(len(image or b"") for _, part in self._kept for image in part) > _KEPT:
                del self._kept[0]
            if row < self._next:
                return images[row - start]
        raise DataError(f"{self.path}: row {row}: damaged: fewer rows than its row group names")


@dataclass(frozen=True)
class ParquetImage:
    """The image of a row.

    Attributes:
        images: of its file.
        row: from 0.
    """

    images: ParquetImages
    row: int

    @property
    def name(self) -> str:
        """The file and the row."""
        return f"{self.images.path.name}:{self.row}"

    @property
    def stored_size(self) -> int:
        """Bytes of the whole file."""
        return self.images.stored_size

    def read_bytes(self) -> bytes:
        """The image as it was stored; DataError where there is none."""
        return self.images.read(self.row)

    def __str__(self) -> str:
        """The file, the row and the column, as errors say them."""
        return f"{self.images.path}: row {self.row}: {self.images.column}"


def _values_of(batch: Any, is_struct: bool) -> list[bytes | None]:
    values = batch.column(0).field(_IN_STRUCT) if is_struct else batch.column(0)
    found: list[bytes | None] = values.to_pylist()
    return found


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError("reading parquet needs pyarrow: pip install 'itm-fast[parquet]'") from error
