"""Densely Captioned Images: a JSON file an image, and one that lists the files of every split.

Source: facebookresearch/DCI, dci.tar.gz: splits.json {"train": [file, ...], "valid": ..., "test": ...}; annotations/
(or complete/) with {"image", "short_caption", "extra_caption", "mask_data", ...} each.
"""

from __future__ import annotations

from pathlib import Path

from itm_fast.data.readers.captioned_images import Entry
from itm_fast.data.readers.found_path import FoundPath
from itm_fast.errors import DataError
from itm_fast.files.reading import read_json

_FOLDERS = ("annotations", "complete")


def is_dense(found: FoundPath) -> bool:
    """Whether a folder has splits.json and a folder of annotations beside it."""
    return _place(found) is not None


def read_dense(found: FoundPath) -> list[Entry]:
    """One caption an image, the short one and, in a line below, the extra one; all splits, one after the other.

    All splits together are the set that long captions are retrieved from : wuw2019/LoTLIP, dci_retrieval.py.

    Raises:
        DataError: splits.json or an annotation holds something else, or an annotation is not there.
    """
    place = _place(found)
    if place is None:
        return []
    listed, folder = place
    splits = read_json(listed)
    if not isinstance(splits, dict) or not all(isinstance(files, list) for files in splits.values()):
        raise DataError(f"{listed}: expected a list of files for every split")
    entries = []
    for file in (file for files in splits.values() for file in files):
        if not isinstance(file, str) or "/" in file or "\\" in file or file.startswith("."):
            raise DataError(f"{listed}: {file!r:.60}; expected the names of files in {folder.name}/")
        path = folder / file
        if not path.is_file():
            raise DataError(f"{listed}: {file:.60} is not in {folder}")
        content = read_json(path)
        texts = [content.get(key) for key in ("short_caption", "extra_caption")] if isinstance(content, dict) else []
        if not texts or not all(isinstance(text, str) for text in texts) or not isinstance(content.get("image"), str):
            raise DataError(f"{path}: expected image, short_caption and extra_caption")
        entries.append(Entry(content["image"], ["\n".join(text for text in texts if text)]))
    return entries


def _place(found: FoundPath) -> tuple[Path, Path] | None:
    """The first splits.json with a folder of annotations beside it, and that folder."""
    places = ((path, path.parent / name) for path in found.files if path.name == "splits.json" for name in _FOLDERS)
    return next(((path, folder) for path, folder in places if folder.is_dir()), None)
