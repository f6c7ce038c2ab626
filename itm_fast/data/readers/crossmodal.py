"""Crossmodal-3600: an image a line, its captions by language.

Source: google/crossmodal-3600, captions.jsonl: {"image/key": ..., "image/locale": ..., "en": {"caption": [...],
"caption/tokenized": [...], ...}, "de": {...}, ...}.
"""

from __future__ import annotations

from typing import Any

from itm_fast.data.readers.captioned_images import Entry
from itm_fast.data.readers.found_path import FoundPath, read_caption_json
from itm_fast.errors import DataError

_IMAGE, _CAPTIONS, _FILE = "image/key", "caption", "captions.jsonl"


def is_crossmodal(found: FoundPath) -> bool:
    """Whether a file, or captions.jsonl of a folder, has images with captions by language."""
    content = _content(found)
    return isinstance(content, list) and bool(content) and isinstance(content[0], dict) and bool(_languages(content[0]))


def read_crossmodal(found: FoundPath) -> list[Entry]:
    """The captions as they were written, language after language, each language's images in the order of the file.

    Raises:
        DataError: a line without an image or with captions that are no list of texts; with its place.
    """
    content = _content(found)
    by_language: dict[str, list[Entry]] = {}
    for place, thing in enumerate(content, start=1):
        languages = _languages(thing) if isinstance(thing, dict) else {}
        if not languages:
            raise DataError(
                f"{found.path}: line {place} is {thing!r:.60}; expected {_IMAGE} and captions by language, "
                '{"en": {"caption": [...]}}'
            )
        for language, texts in languages.items():
            if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
                raise DataError(
                    f"{found.path}: line {place}: {language} has {texts!r:.60}; expected a list of captions"
                )
            by_language.setdefault(language, []).append(Entry(thing[_IMAGE], texts, language=language))
    return [entry for language in sorted(by_language) for entry in by_language[language]]


def _languages(thing: dict[str, Any]) -> dict[str, Any]:
    """The captions of an object by language; none where it is no such object."""
    if not isinstance(thing.get(_IMAGE), str):
        return {}
    return {key: of[_CAPTIONS] for key, of in thing.items() if isinstance(of, dict) and _CAPTIONS in of}


def _content(found: FoundPath) -> Any:
    if not found.is_folder:
        return found.json
    files = [path for path in found.files if path.name == _FILE]
    return read_caption_json(files[0]) if len(files) == 1 else None
