"""Captions of images from a text or JSON file, for document frequencies and references."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from itm_fast.data.readers.precomp import CAPTIONS_PER_IMAGE, read_lines
from itm_fast.errors import DataError


def read_references(path: str | Path, captions_per_image: int = CAPTIONS_PER_IMAGE) -> list[list[str]]:
    """Read the captions of every image.

    Args:
        path: .json: {image: [captions]} or [[captions], ...], in order; else UTF-8 text, captions_per_image lines an
            image, as SCAN's {split}_caps.txt.
        captions_per_image: lines an image of a text file.

    Returns:
        The captions of every image.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file does not hold that; with file and line, or image.
        ValueError: captions_per_image below 1.
    """
    path = Path(path)
    if captions_per_image < 1:
        raise ValueError(f"captions_per_image is {captions_per_image}, expected at least 1")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected captions, a text file or JSON")
    if path.suffix == ".json":
        return _of_images(_json(path), path)
    lines = read_lines(path, "caption")
    if len(lines) % captions_per_image:
        raise DataError(f"{path}: {len(lines)} lines, no multiple of {captions_per_image} captions an image")
    return [lines[i : i + captions_per_image] for i in range(0, len(lines), captions_per_image)]


def read_texts(path: str | Path, what: str) -> list[str]:
    """Read one text an item, such as a caption or the name of an image.

    Args:
        path: .json: a list of strings, or what `read_references` reads, one after the other; else UTF-8 text, one a
            line.
        what: what an item is, for the messages.

    Returns:
        The texts, in order.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file does not hold that.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a text file, one {what} a line, or JSON")
    if path.suffix != ".json":
        return read_lines(path, what)
    content = _json(path)
    if isinstance(content, list) and content and all(isinstance(text, str) for text in content):
        return content
    return [text for texts in _of_images(content, path) for text in texts]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, or not JSON
        raise DataError(f"{path}: not JSON: {error}") from error


def _of_images(content: object, path: Path) -> list[list[str]]:
    if isinstance(content, dict):
        named = [*content.items()]
    elif isinstance(content, list):
        named = [*enumerate(content)]
    else:
        raise DataError(
            f"{path}: holds a {type(content).__name__}, expected {{image: [captions]}} or [[captions], ...]"
        )
    references = []
    for image, captions in named:
        if not isinstance(captions, list) or not captions or not all(isinstance(text, str) for text in captions):
            raise DataError(f"{path}: image {image!r:.60} has {captions!r:.60}, expected a list of captions")
        references.append(captions)
    if not references:
        raise DataError(f"{path}: holds no images")
    return references
