"""Where each value of a column of bytes lies in a .parquet file, so that one is read without those before it.

pyarrow reads a row group from its beginning only, and a page as a whole; pages of images are a hundred megabytes.
Followed is what pyarrow writes unless told otherwise: pages of the first version, plain or by dictionary, compressed by
snappy or stored.
Sources: apache/parquet-format, parquet.thrift, README.md and Encodings.md (pages, levels, encodings); apache/thrift,
thrift-compact-protocol.md; google/snappy, format_description.txt.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

_DATA, _DICTIONARY = 0, 2  # kinds of pages
_PLAIN, _BY_DICTIONARY = 0, (2, 8)  # encodings
_TRUE, _FALSE, _INTEGERS, _BINARY, _STRUCT = 1, 2, (4, 5, 6), 8, 12  # kinds of fields in headers
_LENGTH = 4  # bytes that say how long a plain value, or the levels of a page, are
_BLOCK = 2**16  # bytes that snappy compresses by themselves
_MOST_ELEMENTS = 256  # of a block of snappy, on average: images have a few, and more cost more than they save

Decompress: TypeAlias = Callable[[bytes, int], bytes]
"""The bytes and the length of what they were before."""
_Numbers: TypeAlias = npt.NDArray[np.int64]


class NotFollowedError(Exception):
    """Damaged, or written in a way that is not followed here: pyarrow reads it, or says what is wrong."""


@dataclass(frozen=True)
class _Content:
    """What a page holds.

    Attributes:
        size: bytes of it, decompressed.
        offsets: (n_blocks + 1,) where in the file each block begins, and the end; stored: all of it is one.
        decompress: snappy's; None: it is stored.
    """

    size: int
    offsets: _Numbers
    decompress: Decompress | None

    def read(self, file: BinaryIO, start: int, end: int) -> bytes:
        """A part of it."""
        if not 0 <= start <= end <= self.size:
            raise NotFollowedError("value beyond its page")
        if self.decompress is None:
            return _part(file, int(self.offsets[0]) + start, end - start)
        first, last = start // _BLOCK, -(-end // _BLOCK)
        begin, stop = int(self.offsets[first]), int(self.offsets[last])
        start, end = start - first * _BLOCK, end - first * _BLOCK
        if end - start == _LENGTH:
            literal, n, n_stored = _element(_part(file, begin, min(5, stop - begin)))
            if literal and end <= n:  # blocks of images mostly are one literal: not read for four bytes of it
                return _part(file, begin + n_stored - n + start, _LENGTH)
        n_bytes = min(last * _BLOCK, self.size) - first * _BLOCK
        return self.decompress(_varint_of(n_bytes) + _part(file, begin, stop - begin), n_bytes)[start:end]


class ColumnChunk:
    """The values of a column of bytes in one row group, each by its row; 16 bytes are kept of each.

    Args:
        start: offset of the first page.
        size: bytes of all pages.
        n_rows: rows, which are values too: no lists.
        max_level: definition level of a value that is there; 0: all are.
        decompress: snappy's; None: the pages are stored.

    Raises:
        NotFollowedError: pyarrow has to read it.
    """

    def __init__(self, start: int, size: int, n_rows: int, max_level: int, decompress: Decompress | None) -> None:
        if not 0 <= n_rows <= size:
            raise NotFollowedError("more rows than bytes")
        self._place, self._end, self._max_level, self._decompress = start, start + size, max_level, decompress
        self._rows = np.full(n_rows, -1, np.int64)  # the number of each row's value, -1: none
        self._n_found = 0  # rows whose values are found: those of the pages as far as one that was asked for
        self._dictionary: _Numbers | None = None  # the numbers of its values
        self._contents: list[_Content] = []
        self._first: list[int] = []  # the number of each content's first value, of all that lie in the chunk
        self._starts: list[_Numbers] = []  # (n_values + 1,) by content: where each begins, with its length

    def read(self, file: BinaryIO, row: int) -> bytes | None:
        """The value of a row, from 0, of the file, unbuffered; None where there is none.

        Raises:
            NotFollowedError: pyarrow has to read it.
        """
        try:
            while row >= self._n_found:
                self._open_page(file)
            return self._value(file, row)
        except NotFollowedError:
            raise
        except Exception as error:  # of damaged files: whatever numpy, pyarrow and indices raise
            raise NotFollowedError(str(error)) from error

    def _value(self, file: BinaryIO, row: int) -> bytes | None:
        number = int(self._rows[row])
        if number < 0:
            return None
        place = bisect.bisect_right(self._first, number) - 1
        begin, end = self._starts[place][number - self._first[place] :][:2].tolist()
        return self._contents[place].read(file, begin + _LENGTH, end)

    def _open_page(self, file: BinaryIO) -> None:
        """Find where the values of the next page lie."""
        header, offset = _header(file, self._place, self._end)
        kind, size, stored = header[1], header[2], header[3]
        end = offset + stored
        if kind not in (_DATA, _DICTIONARY) or min(size, stored) < 0 or end > self._end:
            raise NotFollowedError("another kind of page, or one beyond its chunk")
        if self._decompress is None:
            content = _Content(stored, np.array([offset, end]), None)
        else:
            content = _Content(size, _snappy_blocks(file, offset, end, size), self._decompress)
        self._place = end
        if kind == _DICTIONARY:
            self._dictionary = self._plain(file, content, 0, header[7][1])
            return
        n, encoding = header[5][1], header[5][2]
        begin, there = 0, np.ones(n, np.bool_)
        if self._max_level:
            begin = _LENGTH + int.from_bytes(content.read(file, 0, _LENGTH), "little")
            levels = _hybrid(content.read(file, _LENGTH, begin), self._max_level.bit_length(), n)
            there = levels == self._max_level
        n_values = int(there.sum())
        if encoding == _PLAIN:
            numbers = self._plain(file, content, begin, n_values)
        elif encoding in _BY_DICTIONARY and self._dictionary is not None:
            coded = content.read(file, begin, content.size)
            numbers = self._dictionary[_hybrid(coded[1:], coded[0], n_values) if n_values else slice(0)]
        else:
            raise NotFollowedError(f"encoding {encoding}")
        self._rows[self._n_found : self._n_found + n][there] = numbers
        self._n_found += n

    def _plain(self, file: BinaryIO, content: _Content, begin: int, n_values: int) -> _Numbers:
        """The numbers of the values of a page, of which each says how long it is."""
        if not 0 <= n_values <= content.size // _LENGTH:
            raise NotFollowedError("more values than bytes")
        starts = np.empty(n_values + 1, np.int64)
        for number in range(n_values):
            starts[number] = begin
            begin += _LENGTH + int.from_bytes(content.read(file, begin, begin + _LENGTH), "little")
        starts[n_values] = begin
        first = self._first[-1] + len(self._starts[-1]) - 1 if self._first else 0
        self._contents.append(content)
        self._first.append(first)
        self._starts.append(starts)
        return np.arange(first, first + n_values)


def _part(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    content = file.read(size)
    if len(content) < size:
        raise NotFollowedError("cut short")
    return content


def _header(file: BinaryIO, place: int, end: int) -> tuple[dict[int, Any], int]:
    """The header of a page, and the offset behind it; statistics in it may be as long as a value."""
    size = 256
    while True:
        try:
            fields, used = _struct(_part(file, place, min(size, end - place)), 0)
        except IndexError:
            if size >= end - place:
                raise
            size *= 16
        else:
            return fields, place + used


def _struct(content: bytes, place: int) -> tuple[dict[int, Any], int]:
    """The fields of a struct by number, in thrift's compact form, without strings."""
    fields: dict[int, Any] = {}
    number = 0
    while (head := content[place]) != 0:
        place += 1
        kind = head & 15
        if head >> 4 == 0:
            raise NotFollowedError("numbers of fields that headers have not")
        number += head >> 4
        if kind in (_TRUE, _FALSE):
            fields[number] = kind == _TRUE
        elif kind in _INTEGERS:
            value, place = _varint(content, place)
            fields[number] = value >> 1 ^ -(value & 1)
        elif kind == _BINARY:
            n, place = _varint(content, place)
            place += n
        elif kind == _STRUCT:
            fields[number], place = _struct(content, place)
        else:
            raise NotFollowedError(f"field of kind {kind}")
    return fields, place + 1


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """An unsigned number, and where the next thing begins."""
    number = shift = 0
    while True:
        byte = content[place]
        number, shift, place = number | (byte & 0x7F) << shift, shift + 7, place + 1
        if byte < 0x80:
            return number, place


def _varint_of(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _hybrid(content: bytes, width: int, count: int) -> _Numbers:
    """So many numbers of so many bits each, in runs and packed (parquet's RLE)."""
    if not 0 < width <= 32:
        raise NotFollowedError("numbers of more than 32 bits")
    found = np.empty(count, np.int64)
    done = place = 0
    while done < count:
        head, place = _varint(content, place)
        n = min(count - done, (head >> 1) * (8 if head & 1 else 1))
        if not n:
            raise NotFollowedError("empty run")
        n_bytes = (head >> 1) * width if head & 1 else -(-width // 8)
        if head & 1:
            packed = np.frombuffer(content, np.uint8, n_bytes, place)
            found[done : done + n] = np.unpackbits(packed, bitorder="little").reshape(-1, width)[:n] @ (
                1 << np.arange(width)
            )
        else:
            found[done : done + n] = int.from_bytes(content[place : place + n_bytes], "little")
        place, done = place + n_bytes, done + n
    return found


def _snappy_blocks(file: BinaryIO, place: int, end: int, size: int) -> _Numbers:
    """Where each block of 64 KB of what snappy compressed begins, and the end."""
    length, n_bytes = _varint(_part(file, place, min(10, end - place)), 0)
    if length != size:
        raise NotFollowedError("another length than the header's")
    place, done, n_elements = place + n_bytes, 0, 0
    offsets = []
    while done < size:
        if done % _BLOCK == 0:
            offsets.append(place)
        _, n, n_stored = _element(_part(file, place, min(5, end - place)))
        n_elements += 1
        if done % _BLOCK + n > _BLOCK or n_elements > _MOST_ELEMENTS * (len(offsets) + 16):
            raise NotFollowedError("an element of several blocks, or many and small ones")
        place, done = place + n_stored, done + n
    if place != end or done != size:
        raise NotFollowedError("another length than the header's")
    return np.array([*offsets, end])


def _element(head: bytes) -> tuple[bool, int, int]:
    """Whether an element of snappy is a literal, not a copy of what was before; how many bytes it becomes and is."""
    tag, kind = head[0] >> 2, head[0] & 3
    if kind:  # the decompressor refuses copies of what is not in their block
        return False, 4 + (tag & 7) if kind == 1 else 1 + tag, (2, 3, 5)[kind - 1]
    more = max(0, tag - 59)
    n = 1 + (int.from_bytes(head[1 : 1 + more], "little") if more else tag)
    return True, n, 1 + more + n
