"""What the footer of a .parquet file and the headers of its pages say of a column of bytes, without trust.

pyarrow's own objects for these end the process where a footer is damaged.
Sources: apache/parquet-format, parquet.thrift; apache/thrift, thrift-compact-protocol.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

_CODECS = {0: None, 1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd", 7: "lz4_raw"}
_BYTE_ARRAY = 6  # of the kinds of columns
_OPTIONAL, _REPEATED = 1, 2
_TAIL = 8  # bytes: the footer's length and the format's mark
_DEPTH = 16  # structs and lists in one another
_TRUE, _FALSE, _BYTE, _INTEGERS, _DOUBLE, _BINARY, _LIST, _STRUCT = 1, 2, 3, (4, 5, 6), 7, 8, 9, 12


class NotIndexedError(Exception):
    """Damaged, or written in a way that is not followed here: pyarrow reads it, or says what is wrong."""


@dataclass(frozen=True)
class Chunk:
    """A column in one row group, as the footer has it.

    Attributes:
        start: offset of its first page.
        size: bytes of all its pages.
        n_rows: rows, which are values too.
        max_level: definition level of a value that is there; 0: all are.
        codec: as pyarrow calls it; None: it is not compressed.
    """

    start: int
    size: int
    n_rows: int
    max_level: int
    codec: str | None


def column_chunks(file: BinaryIO, path: Sequence[str]) -> list[Chunk]:
    """A column in each row group, by the names that lead to it: ("image", "bytes").

    Raises:
        NotIndexedError: it is damaged, a list, not of bytes, encrypted, or of a codec that is not followed.
    """
    try:
        end = file.seek(0, 2) - _TAIL
        size = int.from_bytes(read_part(file, end, 4), "little")
        if not 0 < size <= end:
            raise NotIndexedError("footer beyond the file")
        footer, _ = _struct(read_part(file, end - size, size), 0, 0)
        max_level = _max_level(footer[2], path)
        return [_chunk(group, [name.encode() for name in path], max_level, end - size) for group in footer[4]]
    except NotIndexedError:
        raise
    except Exception as error:
        raise NotIndexedError(str(error)) from error


def _max_level(schema: list[dict[int, Any]], path: Sequence[str]) -> int:
    """How many of the names that lead to a column may be missing in a row."""
    place, level = 1, 0  # behind the root
    siblings = schema[0][5]
    for name in path:
        for _ in range(siblings):
            if schema[place][4] == name.encode():
                break
            place = _behind(schema, place)
        element = schema[place]
        if element[4] != name.encode() or element.get(3) == _REPEATED:
            raise NotIndexedError("no such column, or a list")
        level += element.get(3) == _OPTIONAL
        place, siblings = place + 1, element.get(5) or 0
    return level


def _behind(schema: list[dict[int, Any]], place: int) -> int:
    """The place behind a column and all that is in it."""
    left = 1
    while left:
        left += (schema[place].get(5) or 0) - 1
        place += 1
    return place


def _chunk(group: dict[int, Any], path: list[bytes], max_level: int, end: int) -> Chunk:
    about = next(column[3] for column in group[1] if column[3][3] == path)
    if about[1] != _BYTE_ARRAY or about[4] not in _CODECS:
        raise NotIndexedError("another kind or codec")
    start = min(offset for offset in (about[9], about.get(11)) if offset)
    if not 0 < start <= start + about[7] <= end:
        raise NotIndexedError("chunk beyond the file")
    return Chunk(start, about[7], group[3], max_level, _CODECS[about[4]])


def read_part(file: BinaryIO, offset: int, size: int) -> bytes:
    """So many bytes; NotIndexedError where there are fewer."""
    file.seek(offset)
    content = file.read(size)
    if len(content) < size:
        raise NotIndexedError("cut short")
    return content


def page_header(file: BinaryIO, place: int, end: int) -> tuple[dict[int, Any], int]:
    """The header of a page, and the offset behind it; statistics in it may be as long as a value."""
    size = 256
    while True:
        content = read_part(file, place, min(size, end - place))
        try:
            fields, used = _struct(content, 0, 0)
        except IndexError:
            if size >= end - place:
                raise
            size *= 8
            continue
        return fields, place + used


def _struct(content: bytes, place: int, depth: int) -> tuple[dict[int, Any], int]:
    """The fields of a struct by number, in thrift's compact form."""
    fields: dict[int, Any] = {}
    number = 0
    while (head := content[place]) != 0:
        place += 1
        if head >> 4:
            number += head >> 4
        else:
            number, place = _zigzag(content, place)
        kind = head & 15
        fields[number], place = (
            (kind == _TRUE, place) if kind in (_TRUE, _FALSE) else _value(content, place, kind, depth)
        )
    return fields, place + 1


def _value(content: bytes, place: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in _INTEGERS:
        return _zigzag(content, place)
    if kind == _BINARY:
        n, place = varint(content, place)
        if place + n > len(content):
            raise IndexError
        return content[place : place + n], place + n
    if kind in (_TRUE, _FALSE, _BYTE):  # in a list
        return content[place], place + 1
    if kind == _DOUBLE:
        return None, place + 8
    if depth >= _DEPTH:
        raise NotIndexedError("too many structs in one another")
    if kind == _STRUCT:
        return _struct(content, place, depth + 1)
    if kind == _LIST:
        n, of = content[place] >> 4, content[place] & 15
        n, place = varint(content, place + 1) if n == 15 else (n, place + 1)
        items = []
        for _ in range(n):
            item, place = _value(content, place, of, depth + 1)
            items.append(item)
        return items, place
    raise NotIndexedError(f"field of kind {kind}")


def _zigzag(content: bytes, place: int) -> tuple[int, int]:
    number, place = varint(content, place)
    return number >> 1 ^ -(number & 1), place


def varint(content: bytes, place: int) -> tuple[int, int]:
    """An unsigned number, and where the next thing begins."""
    number = shift = 0
    while True:
        byte = content[place]
        number, shift, place = number | (byte & 0x7F) << shift, shift + 7, place + 1
        if byte < 0x80:
            return number, place
        if shift > 63:
            raise NotIndexedError("number of more than 64 bits")
