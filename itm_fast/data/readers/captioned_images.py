"""Images and their captions, in whatever format they came: what every reader makes and every command takes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from itm_fast.choices import in_order, perhaps
from itm_fast.data.readers.image_file import ImageFile
from itm_fast.errors import DataError
from itm_fast.files.ids import IMAGE_SUFFIXES
from itm_fast.files.plain_text import read_lines
from itm_fast.files.reading import read_array

_DRIVE = re.compile(r"[A-Za-z]:/")  # of Windows
SUFFIXES = ("", *IMAGE_SUFFIXES)


@dataclass(frozen=True, eq=False)
class CaptionedImages:
    """Images by name and their captions, in order.

    Attributes:
        image_names: (n_images,) file names, distinct; in {image file: [captions]} perhaps without suffix.
        captions: (n_captions,) text as written.
        caption_to_image: int64 (n_captions,), the place of each caption's image.
        image_ids: (n_images,) COCO's ids where the file has them, else the names.
        caption_ids: (n_captions,) sentids where the file has them, else "name#number".
        subfolders: (n_images,) where below the folder of images the file says they are, or "".
        format: name of the format that they were read from.
        languages: (n_captions,) as the file says them; None where it says none.
        packed: (n_images,) the images, where the file or folder holds them itself; read when asked for.
        notes: what was left out, or is not said by the file.
    """

    image_names: list[str]
    captions: list[str]
    caption_to_image: npt.NDArray[np.int64]
    image_ids: list[int | str]
    caption_ids: list[int | str]
    subfolders: list[str]
    format: str = ""
    languages: list[str] | None = None
    packed: list[ImageFile] | None = None
    notes: tuple[str, ...] = ()

    def captions_by_image(self) -> list[list[str]]:
        """The captions of each image, in order: (n_images,) lists, some perhaps empty."""
        found: list[list[str]] = [[] for _ in self.image_names]
        for text, image in zip(self.captions, self.caption_to_image.tolist(), strict=True):
            found[image].append(text)
        return found


@dataclass(frozen=True, eq=False)
class Entry:
    """An image with some of its captions, as a reader finds them; an image may come again.

    Attributes:
        name: of the image.
        captions: all of it, or one.
        image_id: its own, where the file has one.
        caption_ids: theirs, likewise.
        subfolder: where the image is, below the folder of images.
        split: None where the file says none.
        language: of the captions, likewise.
        packed: the image, where the file holds it.
    """

    name: str
    captions: list[str]
    image_id: int | str | None = None
    caption_ids: list[int | str] | None = None
    subfolder: str = ""
    split: str | None = None
    language: str | None = None
    packed: ImageFile | None = None


def of_split(entries: list[Entry], split: str | None, where: str) -> list[Entry]:
    """The entries of a split.

    Args:
        entries: of all splits.
        split: its name; None: there must be no choice. Entries without a split are of any.
        where: the file, for errors.

    Raises:
        DataError: there is no such split, or several and none was named.
    """
    splits = list(dict.fromkeys(entry.split for entry in entries if entry.split is not None))
    if not splits:
        return entries
    if split is None:
        if len(splits) > 1:
            raise DataError(f"{where}: holds the splits {', '.join(in_order(splits))}; name one (split=, --split)")
        return entries
    if split not in splits:
        near = perhaps(split, splits)
        raise DataError(f"{where}: has no images of split {split!r}{near}; splits: {', '.join(in_order(splits))}")
    return [entry for entry in entries if entry.split in (split, None)]


def collected(
    entries: list[Entry],
    where: str,
    *,
    comes_once: bool,
    image_list: str | Path | None = None,
    drop_blank: bool = False,
) -> CaptionedImages:
    """One set of the entries of a split: captions in their order, images in that of the list, or as they come.

    Args:
        entries: of one split.
        where: the file, for errors.
        comes_once: whether an image that comes again is an error.
        image_list: .npy of names, or text, one a line: the images and their order, also such without captions.
        drop_blank: leave out blank captions, which are an error otherwise.

    Raises:
        FileNotFoundError: there is no such list.
        DataError: a name leads out of the folder of images; an image is there twice, has two ids, or is not in the
            list; a caption is blank.
    """
    if not entries:
        raise DataError(f"{where}: holds no images")
    entries, of_root = _below_root(entries, where)
    for entry in entries:
        _check_name(where, entry.name, entry.subfolder)
    by_stem = _merged(entries, where, comes_once)
    names = [entry.name for entry in by_stem.values()]
    if image_list is not None:
        names = _listed(where, names, Path(image_list))
    described = [by_stem.get(stem_of(name)) for name in names]
    kept, notes = _without_blank(entries, where, drop_blank)
    places = {stem_of(name): place for place, name in enumerate(names)}
    counts: dict[str, int] = {}
    numbered: list[int | str] = []
    for entry, _ in kept:
        counts[entry.name] = counts.get(entry.name, -1) + 1
        numbered.append(f"{entry.name}#{counts[entry.name]}")
    own = [entry.caption_ids[number] if entry.caption_ids else None for entry, number in kept]
    caption_ids, of_captions = _distinct_ids(own, numbered, f"{where}: captions", "their image and number")
    written = [name if entry is None else entry.name for name, entry in zip(names, described, strict=True)]
    own = [None if entry is None else entry.image_id for entry in described]
    image_ids, of_images = _distinct_ids(own, written, f"{where}: images", "name")
    speaks = any(entry.language is not None for entry in entries)
    return CaptionedImages(
        names,
        [entry.captions[number] for entry, number in kept],
        np.array([places[stem_of(entry.name)] for entry, _ in kept], dtype=np.int64),
        image_ids,
        caption_ids,
        ["" if entry is None else entry.subfolder for entry in described],
        languages=[entry.language or "" for entry, _ in kept] if speaks else None,
        packed=_packed(described, names, where),
        notes=(*notes, *of_root, *of_captions, *of_images),
    )


def stem_of(name: str) -> str:
    """The name without a suffix of images, which one file may give and the other not."""
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in SUFFIXES else name


def _distinct_ids(
    ids: Sequence[int | str | None], names: Sequence[int | str], where: str, what: str
) -> tuple[list[int | str], tuple[str, ...]]:
    """The ids, names where there are none; all names, and a note, where an id is there twice."""
    found = [name if key is None else key for key, name in zip(ids, names, strict=True)]
    if len(set(found)) == len(found):
        return found, ()
    twice = next(key for key, n in Counter(found).items() if n > 1)
    return list(names), (f"{where}: the id {twice} is there again and again, so that they are called by {what}",)


def _merged(entries: list[Entry], where: str, comes_once: bool) -> dict[str, Entry]:
    """The first entry of every image."""
    found: dict[str, Entry] = {}
    for entry in entries:
        first = found.setdefault(stem_of(entry.name), entry)
        if first is entry:
            continue
        if comes_once or first.name != entry.name:
            raise DataError(f"{where}: image {entry.name} is there twice, expected distinct ones")
        if first.image_id != entry.image_id:
            raise DataError(
                f"{where}: image {entry.name} has two ids, {first.image_id} and {entry.image_id}; expected one"
            )
    return found


def _without_blank(
    entries: list[Entry], where: str, drop_blank: bool
) -> tuple[list[tuple[Entry, int]], tuple[str, ...]]:
    """Every caption that is none of blanks, by entry and number; a note about the others."""
    kept: list[tuple[Entry, int]] = []
    blank: list[tuple[Entry, int]] = []
    for entry in entries:
        for number, text in enumerate(entry.captions):
            (kept if text.strip() else blank).append((entry, number))
    if not blank:
        return kept, ()
    first = blank[0][0].name
    many = "a caption that is blank" if len(blank) == 1 else f"the first of {len(blank)} captions that are blank"
    if not drop_blank:
        raise DataError(f"{where}: image {first} has {many}; --drop-blank (drop_blank=True) leaves such out")
    return kept, (f"{where}: {len(blank)} blank captions left out, the first of image {first}",)


def _packed(described: Sequence[Entry | None], names: list[str], where: str) -> list[ImageFile] | None:
    files = [None if entry is None else entry.packed for entry in described]
    if all(file is None for file in files):
        return None
    missing = next((name for name, file in zip(names, files, strict=True) if file is None), None)
    if missing is not None:
        raise DataError(f"{where}: holds no image {missing}, though others")
    return [file for file in files if file is not None]


def _below_root(entries: list[Entry], where: str) -> tuple[list[Entry], tuple[str, ...]]:
    """Names as paths below one folder: those of another machine lose the folder that all have in common."""
    if not all(isinstance(entry.name, str) for entry in entries):
        return entries, ()
    if any("\\" in entry.name for entry in entries) and not any("/" in entry.name for entry in entries):
        entries = [replace(entry, name=entry.name.replace("\\", "/")) for entry in entries]
    if not all(PurePosixPath(entry.name).is_absolute() or _DRIVE.match(entry.name) for entry in entries):
        return entries, ()
    folders = [PurePosixPath(entry.name).parent.parts for entry in entries]
    n_common = next((n for n, parts in enumerate(zip(*folders, strict=False)) if len(set(parts)) > 1), None)
    root = PurePosixPath(*folders[0][: min(map(len, folders)) if n_common is None else n_common])
    if not root.name:
        return entries, ()
    below = [replace(one, name=f"{PurePosixPath(one.name).relative_to(root)}", subfolder=root.name) for one in entries]
    return below, (f"{where}: names are paths of one machine: they are taken as names below {root}/",)


def _check_name(where: str, name: object, subfolder: object) -> None:
    for part, what in ((name, "a file"), (subfolder, "a folder")):
        if not isinstance(part, str) or (what == "a file" and not part):
            raise DataError(f"{where}: {part!r:.60}; expected the name of {what} of images")
        if PurePosixPath(part).is_absolute() or ".." in PurePosixPath(part).parts:
            raise DataError(f"{where}: {part!r:.60}; expected {what} below the folder of images")


def _listed(where: str, named: list[str], source: Path) -> list[str]:
    """The names of all images in order, of which ``named`` have captions."""
    if not source.is_file():
        raise FileNotFoundError(f"{source}: no such file; expected names of images, .npy or text")
    names = _read_npy(source) if source.suffix == ".npy" else read_lines(source, "image name")
    _distinct(source, names)
    stems = set(map(stem_of, names))
    missing = next((name for name in named if stem_of(name) not in stems), None)
    if missing is not None:
        raise DataError(f"{source}: has no image {missing}, which {where} has captions of")
    for name in names:
        _check_name(f"{source}", name, "")
    return names


def _distinct(path: Path, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if stem_of(name) in seen:
            raise DataError(f"{path}: image {name} is there twice, expected distinct ones")
        seen.add(stem_of(name))


def _read_npy(path: Path) -> list[str]:
    array = read_array(path)
    if array.dtype.kind != "U" or array.ndim != 1:
        raise DataError(f"{path}: {array.dtype} of shape {array.shape}; expected a .npy array of file names (n,)")
    names: list[str] = array.tolist()
    return names
