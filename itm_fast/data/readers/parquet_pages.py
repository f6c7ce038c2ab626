"""Where each value of a column of bytes lies in a .parquet file, so that one is read without those before it.

pyarrow reads a row group from its beginning only, and a page as a whole; pages of images are a hundred megabytes.
Sources: apache/parquet-format, README.md and Encodings.md (pages, levels, encodings); google/snappy,
format_description.txt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from itm_fast.data.readers.parquet_metadata import Chunk, NotIndexedError, page_header, read_part, varint

_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3  # kinds of pages
_PLAIN, _PLAIN_DICTIONARY, _RLE_DICTIONARY = 0, 2, 8  # encodings
_LENGTH = 4  # bytes that say how long a plain value, or the levels of a page, are
_BLOCK = 2**16  # bytes that snappy compresses by themselves
_MOST_ELEMENTS = 256  # of a block of snappy, on average: images have a few, and more cost more than they save
_KEPT = 64 * 2**20  # bytes of pages that are kept as a whole, where their codec lets no part be read

Decompress: TypeAlias = Callable[[bytes, int], bytes]
"""The bytes and the length of what they were before."""


class _Content(Protocol):
    """What a page holds, once decompressed."""

    @property
    def size(self) -> int:
        """Bytes of it."""
        ...

    def read(self, file: BinaryIO, start: int, end: int) -> bytes:
        """A part of it."""
        ...


@dataclass(frozen=True)
class _Stored:
    """Content that is not compressed."""

    offset: int
    size: int

    def read(self, file: BinaryIO, start: int, end: int) -> bytes:
        return read_part(file, self.offset + start, end - start)


@dataclass(frozen=True)
class _Snappy:
    """Content in blocks that snappy compressed by themselves.

    Attributes:
        offsets: (n_blocks + 1,) where in the file each begins, and the end.
        size: of all of it, decompressed.
        decompress: snappy's.
    """

    offsets: npt.NDArray[np.int64]
    size: int
    decompress: Decompress

    def read(self, file: BinaryIO, start: int, end: int) -> bytes:
        first, last = start // _BLOCK, -(-end // _BLOCK)
        begin, stop = int(self.offsets[first]), int(self.offsets[last])
        n_bytes = min(last * _BLOCK, self.size) - first * _BLOCK
        content = self.decompress(_varint_of(n_bytes) + read_part(file, begin, stop - begin), n_bytes)
        return content[start - first * _BLOCK : end - first * _BLOCK]


@dataclass
class Whole:
    """Content that can only be decompressed as a whole; the last that were are kept, for readers near each other."""

    offset: int
    stored: int
    size: int
    decompress: Decompress
    kept: list[Whole]
    content: bytes | None = None

    def read(self, file: BinaryIO, start: int, end: int) -> bytes:
        """A part of it, once it is there as a whole."""
        if self.content is None:
            while self.kept and sum(page.size for page in self.kept) + self.size > _KEPT:
                self.kept.pop(0).content = None
            self.content = self.decompress(read_part(file, self.offset, self.stored), self.size)
            self.kept.append(self)
        return self.content[start:end]


@dataclass
class _Values:
    """Plain values of a page: a length and so many bytes each.

    Attributes:
        content: of the page.
        starts: (n_values + 1,) where each begins, with its length, and the end of the last.
    """

    content: _Content
    starts: npt.NDArray[np.int64]

    def read(self, file: BinaryIO, place: int) -> bytes:
        return self.content.read(file, int(self.starts[place]) + _LENGTH, int(self.starts[place + 1]))


@dataclass
class _Page:
    """A page of data as its header has it; what is in it is found when a row is asked for.

    Attributes:
        header: fields of the page, by number.
        offset: behind its header.
        first: its first row in the chunk.
        n_rows: its rows.
        places: (n_rows,) which value each row is, -1: none; before it is asked for None.
        values: of the page, or of the dictionary.
    """

    header: dict[int, Any]
    offset: int
    first: int
    n_rows: int
    places: npt.NDArray[np.int64] | None = None
    values: _Values | None = None


@dataclass
class ColumnChunk:
    """The values of a column in one row group, each by its row.

    Args:
        chunk: where it is.
        decompress: of its codec; None: not compressed.
        kept: pages that are decompressed, of all chunks of a column.
    """

    chunk: Chunk
    decompress: Decompress | None
    kept: list[Whole]
    _pages: list[_Page] = field(default_factory=list)
    _dictionary: _Values | None = None

    def read(self, file: BinaryIO, row: int) -> bytes | None:
        """The value of a row, from 0; None where there is none.

        Raises:
            NotIndexedError: pyarrow has to read it.
        """
        try:
            if not self._pages:
                self._look(file)
            page = next(page for page in self._pages if page.first <= row < page.first + page.n_rows)
            if page.places is None:
                self._open(file, page)
            if page.places is None or page.values is None:
                raise NotIndexedError("page without values")
            place = int(page.places[row - page.first])
            return None if place < 0 else page.values.read(file, place)
        except NotIndexedError:
            raise
        except Exception as error:  # of damaged files: whatever numpy, pyarrow and indices raise
            raise NotIndexedError(str(error)) from error

    def _look(self, file: BinaryIO) -> None:
        """Find the pages by their headers."""
        place, end, first = self.chunk.start, self.chunk.start + self.chunk.size, 0
        pages = []
        while place < end and first < self.chunk.n_rows:
            header, offset = page_header(file, place, end)
            kind, stored = header[1], header[3]
            if stored < 0 or offset + stored > end or header[2] < 0:
                raise NotIndexedError("page beyond its chunk")
            if kind == _DICTIONARY:
                if header[7][2] not in (_PLAIN, _PLAIN_DICTIONARY):
                    raise NotIndexedError("dictionary that is not plain")
                content = self._content(file, offset, stored, header[2])
                self._dictionary = _plain(file, content, 0, header[7][1])
            elif kind in (_DATA, _DATA_V2):
                n_rows = header[5 if kind == _DATA else 8][1]
                if not 0 <= n_rows <= self.chunk.n_rows - first:
                    raise NotIndexedError("more values than rows")
                pages.append(_Page(header, offset, first, n_rows))
                first += n_rows
            place = offset + stored
        if first != self.chunk.n_rows:
            raise NotIndexedError("fewer values than rows")
        self._pages = pages

    def _open(self, file: BinaryIO, page: _Page) -> None:
        """Find where the values of a page lie."""
        header, max_level = page.header, self.chunk.max_level
        if header[1] == _DATA:
            about = header[5]
            encoding, content, begin = about[2], self._content(file, page.offset, header[3], header[2]), 0
            levels = b""
            if max_level:
                begin = _LENGTH + int.from_bytes(_within(content, file, 0, _LENGTH), "little")
                levels = _within(content, file, _LENGTH, begin)
        else:
            about = header[8]
            encoding, begin, n_levels = about[4], 0, about[5]
            levels = read_part(file, page.offset + about[6], n_levels)
            before = n_levels + about[6]
            sizes = page.offset + before, header[3] - before, header[2] - before
            content = self._content(file, *sizes) if about.get(7, True) else _Stored(*sizes[:2])
        level_of = _hybrid(levels, max_level.bit_length(), page.n_rows) if max_level else None
        there = np.ones(page.n_rows, np.bool_) if level_of is None else level_of == max_level
        n_values = int(there.sum())
        if encoding == _PLAIN:
            page.values, numbers = _plain(file, content, begin, n_values), np.arange(n_values)
        elif encoding in (_RLE_DICTIONARY, _PLAIN_DICTIONARY) and self._dictionary is not None:
            coded = _within(content, file, begin, content.size)
            page.values = self._dictionary
            numbers = _hybrid(coded[1:], coded[0], n_values) if n_values else np.zeros(0, np.int64)
            if n_values and int(numbers.max()) >= len(page.values.starts) - 1:
                raise NotIndexedError("more than its dictionary has")
        else:
            raise NotIndexedError(f"encoding {encoding}")
        places = np.full(page.n_rows, -1, np.int64)
        places[there] = numbers
        page.places = places

    def _content(self, file: BinaryIO, offset: int, stored: int, size: int) -> _Content:
        if self.decompress is None:
            return _Stored(offset, stored)
        blocks = _snappy_blocks(file, offset, stored, size) if self.chunk.codec == "snappy" else None
        if blocks is None:
            return Whole(offset, stored, size, self.decompress, self.kept)
        return _Snappy(blocks, size, self.decompress)


def _within(content: _Content, file: BinaryIO, start: int, end: int) -> bytes:
    if not 0 <= start <= end <= content.size:
        raise NotIndexedError("value beyond its page")
    return content.read(file, start, end)


def _plain(file: BinaryIO, content: _Content, begin: int, n_values: int) -> _Values:
    """Where the plain values of a page lie, of which each says how long it is."""
    if not 0 <= n_values <= content.size // _LENGTH:
        raise NotIndexedError("more values than bytes")
    starts = np.empty(n_values + 1, np.int64)
    place = begin
    for number in range(n_values):
        starts[number] = place
        place += _LENGTH + int.from_bytes(_within(content, file, place, place + _LENGTH), "little")
    if place > content.size:
        raise NotIndexedError("value beyond its page")
    starts[n_values] = place
    return _Values(content, starts)


def _hybrid(content: bytes, width: int, count: int) -> npt.NDArray[np.int64]:
    """So many numbers of so many bits each, in runs and packed (parquet's RLE)."""
    if not 0 <= width <= 32:
        raise NotIndexedError("numbers of more than 32 bits")
    found = np.empty(count, np.int64)
    done = place = 0
    while done < count:
        head, place = varint(content, place)
        if head & 1:
            packed = content[place : place + (head >> 1) * width]
            bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")
            numbers = bits[: len(bits) // width * width].reshape(-1, width) @ (1 << np.arange(width)) if width else ()
            n, place = min(count - done, len(numbers) if width else (head >> 1) * 8), place + (head >> 1) * width
            found[done : done + n] = numbers[:n] if width else 0
        else:
            n_bytes = -(-width // 8)
            n = min(count - done, head >> 1)
            found[done : done + n] = int.from_bytes(content[place : place + n_bytes], "little")
            place += n_bytes
        if not n:
            raise NotIndexedError("empty run")
        done += n
    return found


def _snappy_blocks(file: BinaryIO, offset: int, stored: int, size: int) -> npt.NDArray[np.int64] | None:
    """Where each block of 64 KB begins, and the end; None: blocks reach into each other, or are of small parts."""
    end = offset + stored
    file.seek(offset)
    length, n_bytes = 0, 0
    while True:
        (byte,) = file.read(1)
        length |= (byte & 0x7F) << 7 * n_bytes
        n_bytes += 1
        if byte < 0x80:
            break
    if length != size:
        raise NotIndexedError("another length than the header's")
    n_blocks = -(-size // _BLOCK)
    if n_blocks > stored:
        return None
    offsets = np.empty(n_blocks + 1, np.int64)
    place, done, block = offset + n_bytes, 0, 0
    for _ in range(_MOST_ELEMENTS * (n_blocks + 1)):
        if done == block * _BLOCK:
            offsets[block] = place
            block += 1
        if done >= size:
            break
        head = file.read(5)
        tag, kind = head[0] >> 2, head[0] & 3
        if kind == 0:  # a literal
            more = max(0, tag - 59)
            n = 1 + (int.from_bytes(head[1 : 1 + more], "little") if more else tag)
            place += 1 + more + n
        else:
            n = 4 + (tag & 7) if kind == 1 else 1 + tag
            back = (
                (head[0] >> 5) << 8 | head[1]
                if kind == 1
                else int.from_bytes(head[1 : 3 if kind == 2 else 5], "little")
            )
            if not 0 < back <= done - (block - 1) * _BLOCK:
                return None
            place += (1, 2, 3, 5)[kind]
        done += n
        if done > min(block * _BLOCK, size) or place > end:
            return None
        file.seek(place)
    offsets[n_blocks] = place
    return offsets if done == size and place == end else None


def _varint_of(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])
