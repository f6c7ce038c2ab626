"""Hugging Face data sets as parquet: a file, or a folder of shards; an image a row, or a caption a row.

Source: the library datasets, which keeps an image as {"bytes", "path"} and names shards test-00000-of-00003.parquet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from itm_fast.data.readers.captioned_images import Entry
from itm_fast.data.readers.column_names import (
    CAPTION_IDS,
    CAPTIONS,
    IMAGE_FILES,
    IMAGE_IDS,
    LANGUAGES,
    SPLIT,
    first_of,
    split_named,
)
from itm_fast.data.readers.found_path import FoundPath
from itm_fast.data.readers.parquet_rows import ParquetFile, ParquetImage, ParquetImages
from itm_fast.errors import DataError

_MAGIC = b"PAR1"
_LOOKED_AT = 64  # rows of an image that came before
_IN_SENTENCE = ("raw", "caption", "text")


def is_parquet(found: FoundPath) -> bool:
    """Whether a path is a parquet file, or a folder of such."""
    is_file = found.head[:4] == _MAGIC or (found.path.suffix == ".parquet" and not found.is_folder)
    return is_file or bool(found.files_if_folder(".parquet"))


def read_parquet(found: FoundPath) -> list[Entry]:
    """The rows of all files, in order; their split is a column, or in the name of the file or its folder.

    Raises:
        DataError: a file is damaged; has no column of captions, or none that names or holds images; a row lacks one.
    """
    entries: list[Entry] = []
    for path in found.files_of(".parquet"):
        split = split_named(path.stem) or (split_named(path.parent.name) if path.parent != found.path.parent else None)
        entries += _rows(path, split, len(entries))
    return _told_apart(entries)


def _told_apart(entries: list[Entry]) -> list[Entry]:
    """Rows of one name are of one image, unless the first of such hold two: then names tell nothing."""
    first: dict[tuple[str | None, str], Entry] = {}
    n_alike = 0
    for entry in entries:
        other = first.setdefault((entry.split, entry.name), entry)
        if other is entry or not isinstance(entry.packed, ParquetImage) or not isinstance(other.packed, ParquetImage):
            continue
        if entry.packed.read_bytes() != other.packed.read_bytes():
            return [replace(one, name=f"{number:09d}", image_id=None) for number, one in enumerate(entries)]
        n_alike += 1
        if n_alike == _LOOKED_AT:
            break
    return entries


def _rows(path: Path, split: str | None, first: int) -> Iterator[Entry]:
    file = ParquetFile(path)
    held = file.image_column()
    others = [name for name in file.columns if name != held]
    captions, spoken = first_of(CAPTIONS, others), first_of(LANGUAGES, others)
    names, key = first_of(IMAGE_FILES, others), first_of(IMAGE_IDS, others)
    paths = None if held is None else file.path_of(held)
    naming = [name for name in (names, paths, key) if name is not None]
    if captions is None or (held is None and not naming):
        raise DataError(
            f"{path}: columns {', '.join(file.columns):.200}; expected one of captions ({', '.join(CAPTIONS[:4])}) and "
            f"one that holds images as bytes, or names them ({', '.join(IMAGE_FILES[:4])})"
        )
    images = None if held is None else ParquetImages(path, held)
    ids = first_of(CAPTION_IDS, others)
    wanted = dict.fromkeys((captions, *naming, ids, spoken, SPLIT if SPLIT in others else None))
    for number, row in enumerate(file.rows([name for name in wanted if name is not None])):
        where = f"{path}: row {number}"
        texts = _texts(row[captions], f"{where}: {captions}")
        name = next((value for value in (_within(row, one) for one in naming) if value is not None), None)
        if name is None and held is None:
            raise DataError(f"{where}: no {naming[0]}; expected the name of an image")
        own = row.get(key) if key is not None else None
        yield Entry(
            f"{first + number:09d}" if name is None else str(name),
            texts,
            own if isinstance(own, (int, str)) and not isinstance(own, bool) else None,
            _caption_ids(None if ids is None else row[ids], len(texts)),
            split=split if row.get(SPLIT) is None else str(row[SPLIT]),
            language=None if spoken is None else str(row[spoken]),
            packed=None if images is None else ParquetImage(images, number),
        )


def _within(row: dict[str, Any], name: str) -> Any:
    """A value of a row, or of what a column of it holds."""
    column, _, part = name.partition(".")
    value = row.get(name, row.get(column))
    return value.get(part) if part and isinstance(value, dict) else value


def _texts(value: Any, where: str) -> list[str]:
    """The captions of a cell: one or a list, themselves or with their tokens beside them."""
    texts: list[str] = []
    for one in value if isinstance(value, list) else [value]:
        text = next((one[key] for key in _IN_SENTENCE if key in one), None) if isinstance(one, dict) else one
        if not isinstance(text, str):
            raise DataError(f"{where} is {value!r:.60}; expected a caption, or a list of captions")
        texts.append(text)
    return texts


def _caption_ids(value: Any, n_captions: int) -> list[int | str] | None:
    values = value if isinstance(value, list) else [value]
    fits = len(values) == n_captions and all(
        isinstance(one, (int, str)) and not isinstance(one, bool) for one in values
    )
    return values if fits else None
