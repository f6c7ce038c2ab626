"""CSV and TSV whose headings name an image and a caption, among others: split, language, lists of captions.

Flickr30K's flickr_annotations_30k.csv has a JSON list of captions in a cell, pandas writes Python's. Tables of two
columns, which people also write without quotes, are read line by line instead (`caption_lines`), unless semicolons
separate them.
"""

from __future__ import annotations

import ast
import csv
import io
import json

from itm_fast.data.readers.captioned_images import Entry
from itm_fast.data.readers.column_names import (
    CAPTIONS,
    IMAGE_FILES,
    IMAGE_IDS,
    LABEL,
    LANGUAGES,
    SPLIT,
    first_of,
    label_note,
)
from itm_fast.data.readers.found_path import BINARY, FoundPath, is_json
from itm_fast.errors import DataError, warn
from itm_fast.files.plain_text import read_text

_LEAST = {",": 3, "\t": 3, ";": 2}  # columns, by what separates them


def is_table(found: FoundPath) -> bool:
    """Whether the first line of a text file is headings, an image's and a caption's among three or more."""
    if found.is_folder or is_json(found.path) or found.head.startswith(BINARY):
        return False
    line = found.head.removeprefix(b"\xef\xbb\xbf").partition(b"\n")[0].decode("utf-8", "replace")
    delimiter = _delimiter(line)
    headings = _headings(line, delimiter)
    named = first_of((*IMAGE_FILES, *IMAGE_IDS), headings), first_of(CAPTIONS, headings)
    return len(headings) >= _LEAST[delimiter] and None not in named


def read_table(found: FoundPath) -> list[Entry]:
    """The rows in order.

    Raises:
        DataError: a row has more or fewer cells than there are headings, or none for its image; with its line.
    """
    path, text = found.path, read_text(found.path)
    delimiter = _delimiter(text.partition("\n")[0])
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    entries: list[Entry] = []
    labels: list[object] = []
    try:
        headings = [cell.strip().lower() for cell in next(reader)]
        if len(set(headings)) < len(headings):
            raise DataError(f"{path}:1: a heading is there twice: {', '.join(headings):.120}")
        image, caption = first_of((*IMAGE_FILES, *IMAGE_IDS), headings), first_of(CAPTIONS, headings)
        language = first_of(LANGUAGES, headings)
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if len(row) != len(headings):
                raise DataError(
                    f"{where}: {len(row)} cells, expected {len(headings)}: {', '.join(headings):.120}; a cell that "
                    f"holds {delimiter!r} stands in quotes"
                )
            cells = dict(zip(headings, (cell.strip() for cell in row), strict=True))
            name = cells[str(image)]
            if not name:
                raise DataError(f"{where}: no {image}; expected the name of a file of images")
            labels.append(cells.get(LABEL))
            spoken = None if language is None else cells[language]
            entries.append(Entry(name, _texts(cells[str(caption)]), split=cells.get(SPLIT), language=spoken))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV: {error}") from error
    if note := label_note(labels):
        warn(f"{path}: {note}")
    return entries


def _texts(cell: str) -> list[str]:
    """A caption, or those of a list in one cell, as JSON or Python write it."""
    if cell.startswith("[") and cell.endswith("]"):
        for read in (json.loads, ast.literal_eval):
            try:
                texts = read(cell)
            except (ValueError, SyntaxError, RecursionError, MemoryError):  # literal_eval: too deep
                continue
            if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
                return texts
    return [cell]


def _delimiter(line: str) -> str:
    if "\t" in line:
        return "\t"
    return ";" if ";" in line and "," not in line else ","


def _headings(line: str, delimiter: str) -> list[str]:
    try:
        return [cell.strip().lower() for cell in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []
