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
LABEL = "label"

_SPLITS = ("train", "val", "valid", "validation", "dev", "test", "testall", "restval")
_SHARD = re.compile(r"([A-Za-z]\w*?)[-_]\d+(?:[-_]of[-_]\d+)?", re.ASCII)


def first_of(names: Iterable[str], present: Iterable[str]) -> str | None:
    """The first of some names that is among those present; None if none is."""
    held = set(present)
    return next((name for name in names if name in held), None)


def label_note(labels: Iterable[object]) -> str:
    """What is to be said of a column `label` that may say which captions are not true of their images; "" if nothing.

    Example:
        >>> label_note([1, 1, 0]), label_note(["cat", "dog"])
        ("1 of 3 captions have a label of 0 or false: if it says that they are not their image's, leave them out", '')
    """
    written = [str(label).lower() for label in labels]
    n_false = sum(label in ("0", "false") for label in written)
    if not 0 < n_false < len(written) or not {*written} <= {"0", "1", "false", "true"}:
        return ""
    return (
        f"{n_false} of {len(written)} captions have a label of 0 or false: if it says that they are not their image's, "
        "leave them out"
    )


def split_named(name: str) -> str | None:
    """The split that the name of a file or folder without its suffix says; None where it says none.

    Example:
        >>> [split_named(name) for name in ("test", "train-00003-of-00041", "val_000012", "0000", "flickr30k")]
        ['test', 'train', 'val', None, None]
    """
    shard = _SHARD.fullmatch(name)
    stem = name if shard is None else shard[1]
    return stem if stem in _SPLITS else None
