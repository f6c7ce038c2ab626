"""What columns and keys are called in which data sets keep images, captions, ids, splits and languages."""

from __future__ import annotations

import re
from collections.abc import Iterable

IMAGE_FILES = (
    "image",
    "image_path",
    "img_path",
    "filename",
    "file_name",
    "file_path",
    "filepath",
    "image_file",
    "image_name",
)
IMAGE_IDS = ("image_id", "img_id", "cocoid", "imgid", "__key__", "key")
CAPTIONS = ("caption", "captions", "text", "sentences", "sentence", "raw", "title", "description", "comment", "texts")
CAPTION_IDS = ("sentids", "sentid", "caption_ids", "caption_id")
LANGUAGES = ("language", "lang", "locale")
SPLIT = "split"

_SPLITS = ("train", "val", "valid", "validation", "dev", "test", "testall", "restval")
_SHARD = re.compile(r"([A-Za-z]\w*?)[-_]\d+(?:[-_]of[-_]\d+)?", re.ASCII)


def first_of(names: Iterable[str], present: Iterable[str]) -> str | None:
    """The first of some names that is among those present; None if none is."""
    held = set(present)
    return next((name for name in names if name in held), None)


def split_named(name: str) -> str | None:
    """The split that the name of a file or folder without its suffix says; None where it says none.

    Example:
        >>> [split_named(name) for name in ("test", "train-00003-of-00041", "val_000012", "0000", "flickr30k")]
        ['test', 'train', 'val', None, None]
    """
    shard = _SHARD.fullmatch(name)
    stem = name if shard is None else shard[1]
    return stem if stem in _SPLITS else None
