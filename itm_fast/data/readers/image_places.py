"""Where the images of a set are: in the folders that were named, or in its own file."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from itm_fast.data.readers.captioned_images import SUFFIXES, CaptionedImages, stem_of
from itm_fast.data.readers.formats import format_of
from itm_fast.data.readers.found_path import FoundPath
from itm_fast.data.readers.image_file import ImageFile

_Listing: TypeAlias = tuple[set[str], dict[str, str]]


def find_images(items: CaptionedImages, folders: Sequence[str | Path]) -> list[ImageFile]:
    """The file of every image.

    Args:
        items: the images; a name without suffix also finds .jpg, .jpeg, .png, .webp.
        folders: where the files are, themselves or in the subfolder that Karpathy's file names; the first that has one.
            None are needed, and none are looked into, where the set holds its images itself, as parquet and tar do.

    Returns:
        (n_images,) paths, found to be there, or parts of files.

    Raises:
        FileNotFoundError: a folder or an image is missing; says how many, and names the first.
        ValueError: no folder is named, but needed.
    """
    if items.packed is not None:
        return [*items.packed]
    if not folders:
        raise ValueError(f"{items.format or 'the set'} names its images and holds none: expected --images-folder too")
    for folder in folders:
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"{folder}: no such folder of images")
    listings: dict[Path, _Listing] = {}  # one listing a folder: asking for each of 100,000 files takes minutes
    found: list[ImageFile] = []
    missing = []
    for name, subfolder in zip(items.image_names, items.subfolders, strict=True):
        place = _place(name, subfolder, folders, listings)
        if place is None:
            missing.append(name)
        else:
            found.append(place)
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(items.image_names)} images are not in {', '.join(map(str, folders))}: the first "
            f"is {missing[0]}"
        )
    return found


def packed_images(path: Path) -> dict[str, ImageFile]:
    """The images that a set holds itself, of all splits, by their names without suffix; none where it is no such set.

    Raises:
        FileNotFoundError: there is no such path.
        DataError: the set is damaged.
    """
    found = FoundPath(path)
    form = format_of(found)
    entries = [] if form is None else form.read(found)
    return {stem_of(entry.name): entry.packed for entry in entries if entry.packed is not None}


def _place(name: str, subfolder: str, folders: Sequence[str | Path], listings: dict[Path, _Listing]) -> Path | None:
    for folder in folders:
        for parent in dict.fromkeys((Path(folder), Path(folder) / subfolder)):
            for suffix in SUFFIXES:
                path = parent / f"{name}{suffix}"
                if path.parent not in listings:
                    inside = path.parent.iterdir() if path.parent.is_dir() else ()
                    listings[path.parent] = _by_spelling(file.name for file in inside)
                names, others = listings[path.parent]
                spelt = path.name if path.name in names else others.get(_spelling(path.name))
                if spelt:
                    return path.with_name(spelt)
    return None


def _by_spelling(names: Iterable[str]) -> _Listing:
    """Names of files, and which one has another spelling; "" where several have."""
    exact, others = set(names), dict[str, str]()
    for name in exact:
        others[_spelling(name)] = "" if _spelling(name) in others else name
    return exact, others


def _spelling(name: str) -> str:
    """A name with accents composed, as macOS does not write them, and its suffix in small letters."""
    stem, dot, suffix = unicodedata.normalize("NFC", name).rpartition(".")
    return f"{stem}{dot}{suffix.lower()}"
