"""Text files of captions: one a line; or beside the names of their images, which are never taken for words."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from itm_fast.data.readers.captioned_images import Entry
from itm_fast.errors import DataError
from itm_fast.files.plain_text import read_lines

_SAMPLE = 64  # lines looked at before all are: most files hold captions alone
_FILE = r"\.(?:jpe?g|png|webp|bmp|gif|tiff?)"
# A name, perhaps with the caption's number behind it, and what follows.
_FORMS = {
    "a file's name, a tab and a caption": re.compile(rf'"?(?P<name>[^\t]*{_FILE})"?(?:#\w*)?"?\s*\t(?P<rest>.*)', re.I),
    "a file's name | a caption": re.compile(rf'"?(?P<name>[^|]*{_FILE})"?(?:#\w*)?"?\s*\|(?P<rest>.*)', re.I),
    "a file's name, a caption": re.compile(rf'"?(?P<name>[^\s,]*{_FILE})"?(?:#\w*)?"?\s*,(?P<rest>.*)', re.I),
    "a file's name and a caption": re.compile(rf"(?P<name>[^\s,|]+{_FILE})(?:#\w*)?(?:\s+(?P<rest>.*))?", re.I),
    "an id, a tab and a caption": re.compile(r'"?(?P<name>\d+)(?:#\d+)?"?\s*\t(?P<rest>.*)', re.ASCII),
    "an id | a caption": re.compile(r'"?(?P<name>\d+)(?:#\d+)?"?\s*\|(?P<rest>.*)', re.ASCII),
    "an id, a caption": re.compile(r'"?(?P<name>\d{3,})(?:#\d+)?"?\s*,(?P<rest>.*)', re.ASCII),
    "a caption, a tab and a file's name": re.compile(rf'(?P<rest>.*)\t\s*"?(?P<name>[^\t]*{_FILE})"?', re.I),
    "a caption | a file's name": re.compile(rf'(?P<rest>.*)\|\s*"?(?P<name>[^|]*{_FILE})"?', re.I),
    "a caption, a file's name": re.compile(rf'(?P<rest>.*),\s*"?(?P<name>[^\s,]*{_FILE})"?', re.I),
}
_TOKEN_IDS = re.compile(r"\[?\d+(?:[,\s]+\d+)+\]?", re.ASCII)
_NUMBER = re.compile(r"\s*\d+\s*(?:[\t|,]|\s\s)(.*)", re.ASCII)  # of the caption; Kaggle's file lacks a bar once
_HEADINGS = re.compile(
    r"images?|img|file|file_?(?:name|path)|path|id|name|captions?|text|title|comment|sentence|raw", re.I
)


@dataclass(frozen=True, eq=False)
class CaptionLines:
    """Captions of a text file, in its order.

    Attributes:
        captions: (n,) the captions alone.
        names: (n,) what the file names beside each, its image or an id; None where it holds captions alone.
        form: what a line holds, in words; "" where it is a caption.
    """

    captions: list[str]
    names: list[str] | None = None
    form: str = ""

    @property
    def images(self) -> list[str] | None:
        """(n,) the image of each caption; None if not said: a number that is there once may be the caption's own."""
        if self.names is None or (self.form.startswith("an id") and len(set(self.names)) == len(self.names)):
            return None
        return self.names


def line_entries(lines: CaptionLines) -> list[Entry]:
    """The captions beside names, each with its image, in the order of the lines: an image may come again."""
    return [Entry(name, [text]) for name, text in zip(lines.images or (), lines.captions, strict=True)]


def read_caption_lines(path: Path, *, hint: str = "", keep_blank: bool = False, mend: str = "") -> CaptionLines:
    """Read a text file of captions, alone or beside the names of their images.

    Args:
        path: one caption a line; or a name or an id beside each, as in Flickr30K's results_20130124.token, "1.jpg#0", a
            tab and the caption; in Kaggle's "1.jpg| 0| caption"; and in "image,caption". Headings are left out.
        hint: a sentence about the file's layout, for the error of an empty one.
        keep_blank: return blank lines as "" instead of refusing them.
        mend: what can be done about blank lines, for their error.

    Returns:
        The captions and the names.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it is no text, holds JSON, or some lines have names and others none; with file and line.
    """
    lines = read_lines(path, "caption", hint=hint, keep_blank=keep_blank, mend=mend)
    written = [line for line in lines if line]
    if not written:
        raise DataError(f"{path}: holds blank lines only; expected one caption a line")
    _check_json(path, written)
    sample = written[:: max(1, len(written) // _SAMPLE)]
    counts = {form: sum(pattern.fullmatch(line) is not None for line in sample) for form, pattern in _FORMS.items()}
    form = max(counts, key=counts.__getitem__)  # the first of equals
    if counts[form] * 2 < len(sample) or (len(lines) == 1 and form.startswith("an id")):
        return CaptionLines(lines)
    matches = [_FORMS[form].fullmatch(line) for line in lines]
    first = int(matches[0] is None and len(lines) > 1 and _is_heading(lines[0]))
    other = next((place for place, match in enumerate(matches) if match is None and place >= first), None)
    if other is not None:
        raise DataError(
            f"{path}:{other + 1}: {lines[other]!r:.60} is not what most lines of the file are: {form}, such as "
            f"{lines[matches.index(next(filter(None, matches)))]!r:.60}; mend it, or leave captions alone in the file"
        )
    found = [match for match in matches if match is not None]
    names = [match["name"].strip() for match in found]
    captions, are_numbered = _captions([(match["rest"] or "").strip() for match in found])
    columns = _columns(lines[0]) if first else []
    if len(columns) > 3 - (not are_numbered):
        raise DataError(
            f"{path}:1: {len(columns)} columns, {', '.join(columns):.120}; expected an image and a caption, or a table "
            "with these two among its headings"
        )
    if not any(captions):
        raise DataError(f"{path}: holds names of files, such as {names[0]!r:.40}, and no captions")
    for number, caption in enumerate(captions, start=first + 1):
        if not caption:
            raise DataError(f"{path}:{number}: {names[number - first - 1]} without a caption; expected {form}")
        if ("\t" in caption and "tab" in form) or ("|" in caption and "|" in form):
            raise DataError(
                f"{path}:{number}: {lines[number - 1]!r:.80} has more columns than {form}; leave the others out"
            )
    return CaptionLines(captions, names, form)


def read_captions(path: Path, *, hint: str = "", keep_blank: bool = False, mend: str = "") -> list[str]:
    """Read a text file of captions alone, whose order says whose they are.

    Args:
        path: one caption a line.
        hint: a sentence about the file's layout, for errors.
        keep_blank: return blank lines as "" instead of refusing them.
        mend: what can be done about blank lines, for their error.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: as `read_caption_lines`, there are names beside the captions, or numbers alone.
    """
    found = read_caption_lines(path, hint=hint, keep_blank=keep_blank, mend=mend)
    if found.names is not None:
        raise DataError(
            f"{path}: holds {found.form} a line, such as {found.names[0]!r:.40} and {found.captions[0]!r:.40}; "
            f"expected captions alone, in the order of the images. Write them to a file of their own"
            + (f". {hint}" if hint else "")
        )
    if all(map(_TOKEN_IDS.fullmatch, filter(None, found.captions))):
        raise DataError(f"{path}: holds numbers alone, such as {found.captions[0]!r:.60}: ids of tokens, no captions")
    return found.captions


def _captions(rests: list[str]) -> tuple[list[str], bool]:
    """The captions, and whether numbers of theirs were left out."""
    numbered = [_NUMBER.fullmatch(rest) for rest in rests]
    are_numbered = all(numbered)
    if are_numbered:
        rests = [match[1].strip() for match in numbered if match is not None]
    quoted = all(len(rest) > 1 and rest[0] == rest[-1] == '"' for rest in rests if '"' in rest[:1])
    found = [rest[1:-1].replace('""', '"').strip() if quoted and rest[:1] == '"' else rest for rest in rests]
    return found, are_numbered


def _is_heading(line: str) -> bool:
    columns = _columns(line)
    return len(columns) > 1 and any(_HEADINGS.search(column) for column in columns)


def _columns(line: str) -> list[str]:
    return [column.strip(' "') for column in re.split(r"[\t|,]", line)]


def _check_json(path: Path, lines: list[str]) -> None:
    """Refuse JSON under another name, whose brackets and names would become words."""
    if lines[0][0] not in "[{" or lines[-1][-1] not in "]}":
        return
    for text in ("\n".join(lines), lines[0]):
        try:
            if isinstance(json.loads(text), (dict, list)):
                raise DataError(
                    f"{path}: holds JSON, not lines of captions; name it .json, or .jsonl for one object a line"
                )
        except (json.JSONDecodeError, RecursionError):
            continue
    if all(line[0] + line[-1] in ("[]", "{}") for line in lines):  # as Python prints them
        raise DataError(
            f"{path}: holds a list or an object a line, such as {lines[0]!r:.60}; expected one caption a line"
        )
