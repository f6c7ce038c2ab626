"""{image file: [captions]}, as of MSCOCO-FG, Flickr30K-FG and many codes of their own."""

from __future__ import annotations

from itm_fast.data.readers.captioned_images import Entry
from itm_fast.data.readers.found_path import FoundPath
from itm_fast.errors import DataError


def is_caption_lists(found: FoundPath) -> bool:
    """Whether a file holds an object whose first value that is not empty is text, or a list of it; numbers are rows."""
    if not isinstance(found.json, dict) or not found.json:
        return False
    name, first = next(((name, value) for name, value in found.json.items() if value != []), ("", []))
    texts = first if isinstance(first, list) else [first]
    return all(isinstance(text, str) and not (name.isdecimal() and text.isdecimal()) for text in texts)


def read_caption_lists(found: FoundPath) -> list[Entry]:
    """The images in the order of the keys.

    Raises:
        DataError: a value is no list of captions.
    """
    for name, captions in found.json.items():
        if not isinstance(captions, list) or not captions or not all(isinstance(text, str) for text in captions):
            raise DataError(f"{found.path}: image {name!r:.60} has {captions!r:.60}, expected a list of captions")
    return [Entry(name, captions) for name, captions in found.json.items()]
