"""Lists of objects with an image and its captions, as ALBEF, BLIP and their descendants write a data set's JSON.

Sources: salesforce/ALBEF and salesforce/BLIP, their json of COCO and Flickr30K; DOCCI's and others' .jsonl.
"""

from __future__ import annotations

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
from itm_fast.data.readers.found_path import FoundPath
from itm_fast.errors import DataError, warn
from itm_fast.files.ids import integer_id

EXPECTED = '[{"image": file, "caption": one or a list}] as of ALBEF and BLIP, {image: [captions]} or [[captions], ...]'


def is_entries(found: FoundPath) -> bool:
    """Whether a file holds a list of objects."""
    content = found.json
    return isinstance(content, list) and bool(content) and isinstance(content[0], dict)


def read_entries(found: FoundPath) -> list[Entry]:
    """The captions of a list of objects, in order, each with its image; an image once, or again and again.

    Raises:
        DataError: an object holds something else; with its place.
    """
    content, path = found.json, found.path
    image_key = first_of((*IMAGE_FILES, *IMAGE_IDS), content[0])
    caption_key = first_of(CAPTIONS, content[0])
    if image_key is None or caption_key is None:
        held = ", ".join(map(repr, list(content[0])[:8])) or "nothing"
        raise DataError(f"{path}: its first object holds {held:.120}, no image and caption; expected {EXPECTED}")
    language_key = first_of(LANGUAGES, content[0])
    entries = []
    for place, entry in enumerate(content):
        if not isinstance(entry, dict) or image_key not in entry or caption_key not in entry:
            raise DataError(
                f"{path}: [{place}] is {entry!r:.60}, without {image_key} or {caption_key}; expected {EXPECTED}"
            )
        name, texts = entry[image_key], entry[caption_key]
        if isinstance(name, float) and integer_id(name) is not None:
            name = integer_id(name)  # 391895.0
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(name, (str, int)) or isinstance(name, bool) or name == "":
            raise DataError(f"{path}: [{place}]: {image_key} is {name!r:.60}; expected the name of a file of images")
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise DataError(
                f"{path}: [{place}]: {caption_key} is {texts!r:.60}; expected a caption, or a list of captions"
            )
        split = None if SPLIT not in entry else str(entry[SPLIT])
        language = None if language_key is None else str(entry.get(language_key))
        entries.append(Entry(str(name), texts, split=split, language=language))
    if note := label_note(entry.get(LABEL) for entry in content):
        warn(f"{path}: {note}")
    return entries
