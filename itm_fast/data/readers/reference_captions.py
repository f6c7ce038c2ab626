"""Captions of images from a text or JSON file, for document frequencies and references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from itm_fast.data.readers.caption_entries import EXPECTED, by_image, caption_entries, read_caption_json
from itm_fast.data.readers.caption_lines import read_caption_lines
from itm_fast.data.readers.precomp import CAPTIONS_PER_IMAGE
from itm_fast.errors import DataError
from itm_fast.files.text import read_lines

_JSON = (".json", ".jsonl")


def read_references(path: str | Path, captions_per_image: int = CAPTIONS_PER_IMAGE) -> list[list[str]]:
    """Read the captions of every image.

    Args:
        path: .json: {image: [captions]}, [[captions], ...], or the list of objects of ALBEF and BLIP, in order; else
            text: captions_per_image lines an image, as SCAN's {split}_caps.txt, or the name of its image before each
            caption, as Flickr30K's .token file, and then any number an image.
        captions_per_image: lines an image of a text file without names.

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
    if path.suffix in _JSON:
        return _of_images(read_caption_json(path), path)
    found = read_caption_lines(path)
    if found.images is not None:
        return by_image(list(zip(found.images, found.captions, strict=True)), f"{path}")
    lines = found.captions
    if len(lines) % captions_per_image:
        raise DataError(f"{path}: {len(lines)} lines, no multiple of {captions_per_image} captions an image")
    return [lines[i : i + captions_per_image] for i in range(0, len(lines), captions_per_image)]


def read_texts(path: str | Path) -> list[str]:
    """Read captions, in order.

    Args:
        path: .json: a list of strings, or what `read_references` reads, one after the other; else text, one a line,
            perhaps beside the name of its image.

    Returns:
        The captions.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file does not hold that.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a text file, one caption a line, or JSON")
    if path.suffix not in _JSON:
        return read_caption_lines(path).captions
    content = read_caption_json(path)
    if _is_list_of(content, str):
        return list(content)
    if _is_list_of(content, dict):
        return [text for _, text in caption_entries(content, path)]
    return [text for texts in _of_images(content, path) for text in texts]


def read_names(path: str | Path) -> list[str]:
    """Read the names of images, in order.

    Args:
        path: .json: a list of strings, or the images of what `read_references` reads with names; else text, one a line.

    Returns:
        The names.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file does not hold that.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a text file, one image name a line, or JSON")
    if path.suffix not in _JSON:
        return read_lines(path, "image name")
    content = read_caption_json(path)
    if _is_list_of(content, str):
        return list(content)
    if _is_list_of(content, dict):
        return list(dict.fromkeys(name for name, _ in caption_entries(content, path)))
    if isinstance(content, dict):
        _of_images(content, path)
        return list(content)
    raise DataError(f"{path}: expected the names of images: a list of strings, or {{image: [captions]}}")


def _is_list_of(content: object, kind: type) -> bool:
    return isinstance(content, list) and bool(content) and all(isinstance(item, kind) for item in content)


def _of_images(content: Any, path: Path) -> list[list[str]]:
    if isinstance(content, list) and content and isinstance(content[0], dict):
        return by_image(caption_entries(content, path), f"{path}")
    if isinstance(content, dict):
        _check_whole_set(content, path)
        named = [*content.items()]
    elif isinstance(content, list):
        named = [*enumerate(content)]
    else:
        raise DataError(f"{path}: holds a {type(content).__name__}, expected {EXPECTED}")
    references = []
    for image, captions in named:
        if not isinstance(captions, list) or not captions or not all(isinstance(text, str) for text in captions):
            raise DataError(f"{path}: image {image!r:.60} has {captions!r:.60}, expected a list of captions")
        references.append(captions)
    if not references:
        raise DataError(f"{path}: holds no images")
    return references


def _check_whole_set(content: dict[str, Any], path: Path) -> None:
    """Refuse by their names files with more than the captions of a split."""
    if isinstance(content.get("images"), list):
        kind = (
            "COCO's annotations, without split and order" if "annotations" in content else "Karpathy's, of all splits"
        )
        raise DataError(f"{path}: a data set's JSON ({kind}); expected the captions of one split: {EXPECTED}")
