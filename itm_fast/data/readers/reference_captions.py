"""Captions of images for document frequencies and references: a set of any format, or captions alone in an order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from itm_fast.data.readers.caption_entries import EXPECTED
from itm_fast.data.readers.captioned_images import CaptionedImages
from itm_fast.data.readers.formats import format_of, not_captioned, read_as
from itm_fast.data.readers.found_path import FoundPath
from itm_fast.data.readers.precomp import CAPTIONS_PER_IMAGE
from itm_fast.errors import DataError, warn
from itm_fast.files.ids import IMAGE_SUFFIXES
from itm_fast.files.plain_text import read_lines
from itm_fast.indices import as_number


def read_references(
    path: str | Path, captions_per_image: int = CAPTIONS_PER_IMAGE, *, split: str | None = None
) -> list[list[str]]:
    """Read the captions of every image.

    Args:
        path: captioned images of any format (`formats`); .json of [[captions], ...], in order; or text of captions
            alone, captions_per_image lines an image, as SCAN's {split}_caps.txt.
        captions_per_image: lines an image of a text file without names.
        split: of a set that has splits; None: it must have one only.

    Returns:
        The captions of every image.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file does not hold that; with file and line, or image.
        ValueError: captions_per_image below 1.
    """
    captions_per_image = as_number(captions_per_image, "captions_per_image")
    found = _found(path)
    items = _items(found, split)
    if items is not None:
        return _columns(items, f"{found.path}")
    if found.lines is None:
        return _lists(found)
    lines = found.lines.captions
    if len(lines) % captions_per_image:
        raise DataError(f"{found.path}: {len(lines)} lines, no multiple of {captions_per_image} captions an image")
    return [lines[i : i + captions_per_image] for i in range(0, len(lines), captions_per_image)]


def read_texts(path: str | Path, *, split: str | None = None) -> list[str]:
    """Read captions, in order.

    Args:
        path: what `read_references` reads, one after the other; .json of a list of strings; or text, one a line.
        split: as of `read_references`.

    Returns:
        The captions.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file does not hold that.
    """
    found = _found(path)
    if _is_list_of_text(found.json):
        return list(found.json)
    items = _items(found, split)
    if items is not None:
        return items.captions
    return found.lines.captions if found.lines is not None else [text for texts in _lists(found) for text in texts]


def read_names(path: str | Path, *, split: str | None = None) -> list[str]:
    """Read the names of images, in order.

    Args:
        path: captioned images of any format; .json of a list of strings; else text, one name a line.
        split: as of `read_references`.

    Returns:
        The names.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file does not hold that.
    """
    found = _found(path)
    if _is_list_of_text(found.json):
        return list(found.json)
    try:
        items = _items(found, split)
    except DataError:
        if found.json is not None or found.is_folder:
            raise
        items = None  # names alone are no captions
    if items is not None:
        return items.image_names
    if found.json is not None or found.is_folder:
        raise DataError(f"{found.path}: expected the names of images: a list of strings, or captioned images")
    return read_lines(found.path, "image name")


def _found(path: str | Path) -> FoundPath:
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file; expected captions or names: text, JSON, or a set of images")
    return FoundPath(path)


def _items(found: FoundPath, split: str | None) -> CaptionedImages | None:
    form = format_of(found)
    if form is None:
        return None
    if form.note:
        warn(f"{found.path}: {form.note}")
    return read_as(form, found, split)


def _columns(items: CaptionedImages, where: str) -> list[list[str]]:
    """The captions of every image that has some, images as they come; in the order of the columns, or refused."""
    if not items.captions:
        raise DataError(f"{where}: holds images without captions")
    seen, last = set(), -1
    for place, image in enumerate(items.caption_to_image.tolist()):
        if image != last and image in seen:
            raise DataError(
                f"{where}: caption {place} is of image {items.image_names[image]}, whose other captions come before "
                f"those of {items.image_names[last]}; the captions of an image must follow each other, as columns do: "
                "sort them by image"
            )
        seen.add(image)
        last = image
    return items.captions_by_image()


def _is_list_of_text(content: object) -> bool:
    return isinstance(content, list) and bool(content) and all(isinstance(item, str) for item in content)


def _lists(found: FoundPath) -> list[list[str]]:
    """[[captions], ...]."""
    content: Any = found.json
    if not isinstance(content, list):
        raise not_captioned(found)
    for image, captions in enumerate(content):
        if not isinstance(captions, list) or not captions or not all(isinstance(text, str) for text in captions):
            raise DataError(f"{found.path}: image {image} has {captions!r:.60}, expected a list of captions")
        if captions[0].lower().endswith(IMAGE_SUFFIXES) and " " not in captions[0].strip():
            raise DataError(
                f"{found.path}: the list of image {image} begins with a file's name, {captions[0]!r:.60}; expected "
                "captions alone, or {image: [captions]}"
            )
    if not content:
        raise DataError(f"{found.path}: holds no images; expected {EXPECTED}")
    return content
