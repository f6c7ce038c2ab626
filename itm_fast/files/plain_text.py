"""The one reader of text: UTF-8 with or without a byte order mark; whatever else a file is gets named."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from itm_fast.errors import DataError

_OTHER_MARKS = {  # the longer ones first: UTF-32's begins as UTF-16's
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_OTHERS = {  # what begins so is no text, whatever its name
    b"\x1f\x8b": "gzip: name it .gz, or unpack it",
    b"PK\x03\x04": "a zip archive: unpack it",
    b"\x93NUMPY": "an array in .npy format",
    b"\x89HDF": "HDF5",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"%PDF": "a PDF",
    **{bytes([0x80, protocol]): "a pickle of Python" for protocol in range(2, 6)},
}
_NO_ARRAYS = (b"\x1f\x8b", b"\x89HDF")  # of them those that no array or checkpoint begins with
_START = 64  # bytes that tell
_HIGH_BYTES = re.compile(rb"[\x80-\xff]+")
_UNPACKED = 64 * 2**20, 100  # bytes, or times its size, that a .gz may unpack to: text shrinks to a twentieth at most
_BLOCK = 1 << 20
_NAMED = 10  # lines that an error names


class EncodingError(ValueError):
    """Bytes that are no UTF-8; says what they seem to be, and how to convert them.

    Attributes:
        line: where, counted from 1; 0 for the file as a whole.
    """

    def __init__(self, reason: str, line: int = 0) -> None:
        """Keep the line."""
        super().__init__(reason)
        self.line = line

    def of(self, path: Path) -> DataError:
        """The error of a file."""
        return DataError(f"{path}:{self.line}: {self}" if self.line else f"{path}: {self}")


def read_content(path: Path) -> bytes:
    """The bytes of a file, of a .gz unpacked.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the .gz is damaged, cut short, or unpacks to far more than text does.
    """
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    most = max(_UNPACKED[0], _UNPACKED[1] * len(content))
    unpacked = bytearray()
    try:
        packed = gzip.GzipFile(fileobj=io.BytesIO(content))
        while len(unpacked) <= most and (block := packed.read(_BLOCK)):  # read(most) alone would take as much at once
            unpacked += block
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: a .gz that is damaged, or cut short: {error}") from error
    if len(unpacked) > most:
        raise DataError(f"{path}: unpacks from {len(content)} to more than {most} bytes, which no text does")
    return bytes(unpacked)


def instead(head: bytes) -> str:
    """What the first bytes of a file say that it is in place of what it is called; "" where they say nothing.

    Example:
        >>> instead(b"version https://git-lfs.github.com/spec/v1")
        'a pointer of Git LFS, not the file itself: git lfs pull fetches it'
    """
    if head.startswith(b"version https://git-lfs."):
        return "a pointer of Git LFS, not the file itself: git lfs pull fetches it"
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "a web page, not the file itself: it was not downloaded as a file"
    return ""


def check_itself(path: Path) -> None:
    """Raise DataError where a file is a pointer of Git LFS, a web page, gzip or HDF5; FileNotFoundError."""
    with path.open("rb") as file:
        head = file.read(_START)
    kind = next((_OTHERS[magic].partition(":")[0] for magic in _NO_ARRAYS if head.startswith(magic)), None)
    if other := instead(head) or (kind and f"{kind}, not what its name says: unpack it, or save its arrays as .npy"):
        raise DataError(f"{path}: {other}")


def decoded(content: bytes) -> str:
    """UTF-8 as text, without a byte order mark; line ends as they are.

    Raises:
        EncodingError: it is something else: UTF-16, Latin-1, or no text at all.
    """
    _check_start(content[:_START])
    try:
        text = content.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        content = content.removeprefix(codecs.BOM_UTF8)
        line = content.count(b"\n", 0, error.start) + 1
        raise EncodingError(_described(content, error), line) from error
    if "\0" in text:
        raise EncodingError(
            "not UTF-8 text: it holds NUL characters, as UTF-16 without a byte order mark does; convert it, such as by "
            "`iconv -f UTF-16LE -t UTF-8`, if it is that",
            content.count(b"\n", 0, content.index(b"\0")) + 1,
        )
    return text


def read_text(path: Path) -> str:
    """The text of a file, of a .gz unpacked; line ends as they are.

    Args:
        path: UTF-8 with or without a byte order mark.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it is in another encoding, which is named, or no text; the .gz is damaged.
    """
    try:
        return decoded(read_content(path))
    except EncodingError as error:
        raise error.of(path) from error


def split_lines(text: str) -> list[str]:
    r"""Lines without their ends: line feeds, with carriage returns before them or not, and nothing else.

    str.splitlines also splits at U+2028, U+0085 and form feeds, and would shift every later pair.

    Example:
        >>> split_lines("a dog\r\na\u2028cat\n")
        ['a dog', 'a\u2028cat']
    """
    return [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")]


def read_lines(path: Path, what: str, *, hint: str = "", keep_blank: bool = False, mend: str = "") -> list[str]:
    """Read a text file of one item a line, which ends as `split_lines` says.

    Args:
        path: UTF-8 with or without a byte order mark; a .gz is unpacked.
        what: what a line holds, for the messages.
        hint: a sentence about the file's layout, for the error of an empty one.
        keep_blank: return blank lines as "" instead of refusing them.
        mend: what can be done about blank lines, for their error.

    Returns:
        The lines, stripped.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file is empty or in another encoding, lines are blank, or end with carriage returns alone; with
            file and lines.
    """
    text = read_text(path)
    if not text:
        raise DataError(f"{path}: empty; expected one {what} a line" + (f". {hint}" if hint else ""))
    lines = [line.strip() for line in split_lines(text)]
    blank = [number for number, line in enumerate(lines, start=1) if not line]
    if blank and not keep_blank:
        raise DataError(f"{path}:{blank[0]}: blank line{_others(blank)}; expected one {what} a line{mend}")
    torn = [number for number, line in enumerate(lines, start=1) if "\r" in line]
    if torn:
        raise DataError(
            f"{path}:{torn[0]}: a carriage return without a line feed{_others(torn)}: lines that end as on old Macs, "
            f"or a {what} in two parts. Where each is the end of a line, convert the file: tr '\\r' '\\n'"
        )
    return lines


def stream_lines(path: Path, *, errors: str = "strict") -> Iterator[tuple[int, str]]:
    """The lines of a text file too large to be held, without their ends.

    Args:
        path: UTF-8 with or without a byte order mark.
        errors: "replace" where a few broken characters do no harm.

    Yields:
        The number of a line, from 1, and its text.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it is in another encoding.
    """
    with path.open("rb") as file:
        try:
            for number, raw in enumerate(file, start=1):
                if number == 1:
                    _check_start(raw[:_START])
                    raw = raw.removeprefix(codecs.BOM_UTF8)
                try:
                    yield number, raw.decode("utf-8", errors).rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise EncodingError(_described(raw, error), number) from error
        except EncodingError as error:
            raise error.of(path) from error


def _check_start(start: bytes) -> None:
    """Refuse what is no UTF-8, or no text at all, by its first bytes."""
    if other := instead(start):
        raise EncodingError(other)
    for magic, kind in _OTHERS.items():
        if start.startswith(magic):
            raise EncodingError(f"not text but {kind}")
    for mark, name in _OTHER_MARKS.items():
        if start.startswith(mark):
            raise EncodingError(
                f"not UTF-8 but {name}, by its byte order mark; convert it: iconv -f {name} -t UTF-8 OLD > NEW"
            )


def _described(content: bytes, error: UnicodeDecodeError) -> str:
    """What bytes that are no UTF-8 seem to be."""
    if error.reason == "unexpected end of data" and error.end == len(content):
        return "cut short in the middle of a character; expected UTF-8"
    byte = f"byte 0x{content[error.start]:02x}"
    text = content.decode("utf-8", "replace")
    n_broken = text.count("\ufffd")
    n_sound = sum(letter > "\x7f" for letter in text) - n_broken
    if n_sound > n_broken:  # most of it is UTF-8
        return f"not UTF-8 in this line alone, or damaged there ({byte}); the rest of the file is UTF-8"
    runs = _HIGH_BYTES.findall(content)
    if sum(len(run) <= 2 for run in runs) * 2 < len(runs):
        return f"not UTF-8 ({byte}); find out what it is, such as by `file -i`, and convert it with iconv"
    name = "WINDOWS-1252" if any(0x80 <= letter < 0xA0 for run in runs for letter in run) else "LATIN1"
    seems = "Latin-1" if name == "LATIN1" else "Windows-1252, a kind of Latin-1"
    return f"not UTF-8 but, as it seems, {seems} ({byte}); convert it: iconv -f {name} -t UTF-8 OLD > NEW"


def _others(numbers: list[int]) -> str:
    """All lines with the same trouble, so that one look mends them."""
    if len(numbers) == 1:
        return ""
    more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
    return f" ({len(numbers)} of them: lines {', '.join(map(str, numbers[:_NAMED]))}{more})"
