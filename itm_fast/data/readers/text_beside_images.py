"""Folders of images with a folder of texts of the same names beside it, as Urban1k has them.

Source: BeichenZhang/Urban1k, image/ and caption/; beichenzbc/Long-CLIP, eval/retrieval/Urban1k.py.
"""

from __future__ import annotations

from pathlib import Path

from itm_fast.data.readers.captioned_images import Entry
from itm_fast.data.readers.found_path import FoundPath
from itm_fast.errors import DataError
from itm_fast.files.ids import IMAGE_SUFFIXES
from itm_fast.files.plain_text import read_lines

_TEXTS, _IMAGES = ("caption", "captions"), ("image", "images")


def is_text_beside_images(found: FoundPath) -> bool:
    """Whether a folder has caption/ with texts and image/ beside it."""
    return _places(found) is not None


def read_text_beside_images(found: FoundPath) -> list[Entry]:
    """The images that have a text, by the numbers in their names; a caption a line.

    Raises:
        DataError: a text has no image.
    """
    places = _places(found)
    if places is None:
        return []
    texts, images = places
    by_stem = {path.stem: path for path in images}
    entries = []
    for path in texts:
        if path.stem not in by_stem:
            raise DataError(f"{path}: no image of that name in {images[0].parent}")
        image = by_stem[path.stem]
        lines = [line.strip() for line in read_lines(path, "caption", keep_blank=True)]
        entries.append(Entry(image.name, [line for line in lines if line] or [""], packed=image))
    return entries


def _places(found: FoundPath) -> tuple[list[Path], list[Path]] | None:
    """The texts and the images, in order; None where there are not both in one folder."""
    texts = [path for path in found.files if path.suffix == ".txt" and path.parent.name in _TEXTS]
    if not texts:
        return None
    beside = [texts[0].parent.parent / name for name in _IMAGES]
    images = [path for path in found.files if path.parent in beside and path.suffix.lower() in IMAGE_SUFFIXES]
    return (texts, images) if images else None
