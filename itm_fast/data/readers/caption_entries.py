"""Lists of objects with an image and its captions, as ALBEF, BLIP and their descendants write a data set's JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from itm_fast.errors import DataError
from itm_fast.files.reading import parsed_json, read_json
from itm_fast.files.text import read_lines

Entry = tuple[str, str]
"""An image, by its name or id, and one caption of it."""

_IMAGES = ("image", "image_path", "img_path", "filename", "file_name", "file_path", "filepath", "image_id")
_CAPTIONS = ("caption", "captions", "text", "sentences")
EXPECTED = '[{"image": file, "caption": one or a list}] as of ALBEF and BLIP, {image: [captions]} or [[captions], ...]'


def read_caption_json(path: Path) -> Any:
    """The content of a .json file, or of a .jsonl file as a list of its lines; errors as `read_json`."""
    if path.suffix != ".jsonl":
        return read_json(path)
    return [
        parsed_json(line.encode(), path.with_name(f"{path.name}:{number}"))
        for number, line in enumerate(read_lines(path, "JSON object"), start=1)
    ]


def caption_entries(content: list[Any], path: Path, split: str | None = None) -> list[Entry]:
    """The captions of a list of objects, in order, each with its image.

    Args:
        content: [{"image": file, "caption": text or [texts]}], an image once or again and again; names of other codes
            for these two are known too.
        path: its file, for errors.
        split: which to take where the objects say their "split"; None: they must not differ.

    Raises:
        DataError: an object holds something else; with its place.
    """
    first = content[0] if content and isinstance(content[0], dict) else {}
    image_key = next((key for key in _IMAGES if key in first), None)
    caption_key = next((key for key in _CAPTIONS if key in first), None)
    if image_key is None or caption_key is None:
        held = ", ".join(map(repr, list(first)[:8])) or "nothing"
        raise DataError(f"{path}: its first object holds {held:.120}, no image and caption; expected {EXPECTED}")
    splits = sorted({str(entry["split"]) for entry in content if isinstance(entry, dict) and "split" in entry})
    if split is None and len(splits) > 1:
        raise DataError(f"{path}: holds the splits {', '.join(splits)}; expected the captions of one")
    if split is not None and splits and split not in splits:
        raise DataError(f"{path}: has no images of split {split!r}; splits: {', '.join(splits)}")
    found: list[Entry] = []
    for place, entry in enumerate(content):
        if not isinstance(entry, dict) or image_key not in entry or caption_key not in entry:
            raise DataError(
                f"{path}: [{place}] is {entry!r:.60}, without {image_key} or {caption_key}; expected {EXPECTED}"
            )
        if split is not None and splits and entry.get("split") != split:
            continue
        name, texts = entry[image_key], entry[caption_key]
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(name, (str, int)) or isinstance(name, bool) or name == "":
            raise DataError(f"{path}: [{place}]: {image_key} is {name!r:.60}; expected the name of a file of images")
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise DataError(
                f"{path}: [{place}]: {caption_key} is {texts!r:.60}; expected a caption, or a list of captions"
            )
        found += [(str(name), text) for text in texts]
    return found


def by_image(entries: list[Entry], where: str) -> list[list[str]]:
    """The captions of every image, images in the order in which they come.

    Args:
        entries: images and captions.
        where: the file, for errors.

    Raises:
        DataError: captions of an image do not follow each other, so that their order would change.
    """
    found: dict[str, list[str]] = {}
    last = None
    for place, (name, text) in enumerate(entries):
        if name != last and name in found:
            raise DataError(
                f"{where}: caption {place} is of image {name}, whose other captions come before those of {last}; the "
                "captions of an image must follow each other, as columns do: sort them by image"
            )
        found.setdefault(name, []).append(text)
        last = name
    return list(found.values())
