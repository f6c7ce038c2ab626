"""Shards of web datasets: .tar of an image and its text under one key; images are read from where they are in it.

Sources: webdataset/webdataset (keys and extensions); LAION-AI/CLIP_benchmark, whose .txt holds a caption a line;
rom1504/img2dataset, whose .json has a caption beside the image's address.
"""

from __future__ import annotations

import json
import mmap
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from itm_fast.data.readers.captioned_images import Entry
from itm_fast.data.readers.column_names import CAPTIONS, LANGUAGES, first_of, split_named
from itm_fast.data.readers.found_path import FoundPath
from itm_fast.errors import DataError
from itm_fast.files.ids import IMAGE_SUFFIXES
from itm_fast.files.plain_text import EncodingError, decoded, split_lines

_BLOCK = 512  # of the format
_MAGIC = slice(257, 262), b"ustar"
_MOST_TEXT = 2**20  # bytes of a sample's captions


@dataclass(frozen=True)
class TarImage:
    """A member of a .tar that is an image.

    Attributes:
        archive: the file.
        member: its name in it.
        offset: where its bytes begin.
        stored_size: how many they are.
    """

    archive: Path
    member: str
    offset: int
    stored_size: int

    @property
    def name(self) -> str:
        """The member's name without folders."""
        return self.member.rpartition("/")[2]

    def read_bytes(self) -> bytes:
        """The image as it was stored; DataError where the file has become shorter."""
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.stored_size)
        if len(content) < self.stored_size:
            raise DataError(f"{self}: cut short: {len(content)} of {self.stored_size} bytes are there")
        return content

    def __str__(self) -> str:
        """The file and the member, as errors say them."""
        return f"{self.archive}:{self.member}"


@dataclass(frozen=True)
class _Sample:
    """What one key names."""

    key: str
    image: TarImage | None = None
    text: bytes | None = None
    fields: bytes | None = None


def is_shards(found: FoundPath) -> bool:
    """Whether a path is a .tar, or a folder of such."""
    where, magic = _MAGIC
    is_file = found.head[where] == magic or (found.path.suffix == ".tar" and not found.is_folder)
    return is_file or (found.is_folder and bool(_shards(found))) or _is_packed(found)


def read_shards(found: FoundPath) -> list[Entry]:
    """The samples of all shards, in order; their split is that of their folder or of their name.

    Raises:
        DataError: a .tar is damaged or cut short; a sample has no image, two, or text that is none; with file and
            member.
    """
    if _is_packed(found):
        raise DataError(f"{found.path}: packed; images can be read from the middle of a plain .tar only: gunzip it")
    entries = []
    for path in _shards(found):
        split = split_named(path.stem) or (split_named(path.parent.name) if path.parent != found.path.parent else None)
        entries += [(path, _entry(sample, path, split)) for sample in _samples(path)]
    again = Counter((entry.split, entry.name) for _, entry in entries)
    if max(again.values(), default=0) < 2:
        return [entry for _, entry in entries]
    # Keys that count from 0 in every shard.
    return [replace(entry, name=f"{path.stem}/{entry.name}") for path, entry in entries]


def _entry(sample: _Sample, path: Path, split: str | None) -> Entry:
    if sample.image is None:
        raise DataError(
            f"{path}: sample {sample.key} has text and no image ({', '.join(IMAGE_SUFFIXES)}); "
            "members of a sample follow each other and have its name up to the first dot"
        )
    where = f"{path}:{sample.key}"
    if sample.text is not None:
        lines = split_lines(_decoded(sample.text, f"{where}.txt").strip())
        return Entry(sample.image.member, [line.strip() for line in lines], split=split, packed=sample.image)
    texts: list[str] = []
    language = None
    if sample.fields is not None:
        texts, language = _of_json(sample.fields, f"{where}.json")
    return Entry(sample.image.member, texts, split=split, language=language, packed=sample.image)


def _of_json(content: bytes, where: str) -> tuple[list[str], str | None]:
    try:
        fields = json.loads(_decoded(content, where))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: {error if isinstance(error, DataError) else f'not JSON: {error}'}") from error
    key = first_of(CAPTIONS, fields) if isinstance(fields, dict) else None
    if key is None:
        raise DataError(f"{where}: {fields!r:.60}; expected an object with a caption, or captions")
    texts = [fields[key]] if isinstance(fields[key], str) else fields[key]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}: {key} is {texts!r:.60}; expected a caption, or a list of captions")
    language = fields.get(first_of(LANGUAGES, fields))
    return texts, None if language is None else str(language)


def _decoded(content: bytes, where: str) -> str:
    try:
        return decoded(content)
    except EncodingError as error:
        raise DataError(f"{where}: {error}") from error


def _samples(path: Path) -> Iterator[_Sample]:
    """Members of one key that follow each other."""
    sample: _Sample | None = None
    for member, content in _members(path):
        folder, _, name = member.name.rpartition("/")
        stem, _, extension = name.partition(".")
        key, extension = f"{folder}/{stem}".lstrip("/"), extension.lower()
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = _Sample(key)
        where = f"{path}:{member.name}"
        if f".{extension}" in IMAGE_SUFFIXES:
            if sample.image is not None:
                raise DataError(f"{where}: sample {key} has two images, {sample.image.name} and this one")
            sample = replace(sample, image=TarImage(path, member.name, member.offset_data, member.size))
        elif extension in ("txt", "json"):
            if member.size > _MOST_TEXT:
                raise DataError(f"{where}: {member.size} bytes, expected the captions of an image")
            held = content[member.offset_data : member.offset_data + member.size]
            sample = replace(sample, text=held) if extension == "txt" else replace(sample, fields=held)
    if sample is not None:
        yield sample


def _members(path: Path) -> Iterator[tuple[tarfile.TarInfo, mmap.mmap]]:
    """The files of a .tar in order, each found to be there whole."""
    size, last = path.stat().st_size, "its beginning"
    if not size:
        raise DataError(f"{path}: empty, no .tar")
    # A map, because of a file the library would take memory for any length that a header names.
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            with tarfile.open(fileobj=content, mode="r:", errorlevel=2) as archive:
                while (member := archive.next()) is not None:
                    if member.offset_data + max(0, member.size) > size or member.size < 0:
                        raise DataError(
                            f"{path}:{member.name}: cut short: its {member.size} bytes begin at {member.offset_data}, "
                            f"and the file ends at {size}"
                        )
                    if member.isreg() and not member.issparse() and not _is_hidden(member.name):
                        yield member, content
                    last = member.name
                end = archive.offset
        except DataError:
            raise
        except (tarfile.TarError, ValueError, OSError, OverflowError, RecursionError, KeyError) as error:
            raise DataError(f"{path}: no .tar, damaged or cut short after {last}: {error}") from error
        # The library takes a damaged header for the end.
        if content[end : end + _BLOCK].strip(b"\0") or end + _BLOCK > size:
            raise DataError(f"{path}: damaged or cut short after {last}: no end of the archive at byte {end} of {size}")


def _shards(found: FoundPath) -> list[Path]:
    """The file itself, or those of a folder; checkpoints of older PyTorch code end in .tar too."""
    return [path for path in found.files_of(".tar") if not (found.is_folder and path.name.endswith(".pth.tar"))]


def _is_packed(found: FoundPath) -> bool:
    return found.head[:2] == b"\x1f\x8b" and found.path.name.endswith((".tgz", ".tar.gz"))


def _is_hidden(name: str) -> bool:
    return name.rpartition("/")[2].startswith(".") or name.startswith("__MACOSX/")
