"""Public releases whose files hold JSON objects with names of their own: long captions, and captions that were altered.

Sources, looked at: google/docci (docci_descriptions.jsonlines); google/imageinwords, datasets/*/data.jsonl;
RAIVNLab/sugar-crepe, data/*.json; Sri-Harsha/scpp, data/*.json; facebook/winoground, examples.jsonl.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itm_fast.data.readers.captioned_images import Entry
from itm_fast.data.readers.column_names import SPLIT, first_of
from itm_fast.data.readers.found_path import FoundPath, read_caption_json
from itm_fast.errors import DataError


@dataclass(frozen=True)
class ObjectRelease:
    """A release as its files have it.

    Attributes:
        name: as people call it.
        images: the keys of an object's images; of several spellings of one, joined by |, the first that is there.
        captions: the keys of its captions, those of each image.
        marks: keys that tell it from others.
        files: of a folder, the files that it has; a part of their paths.
    """

    name: str
    images: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]
    marks: tuple[str, ...]
    files: tuple[str, ...]

    @property
    def n_captions(self) -> int:
        """Captions of an object."""
        return sum(map(len, self.captions))


_CHANGES = ("add_obj", "add_att", "replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att")
_CHANGED = tuple(f"{name}.json" for name in _CHANGES)

DOCCI = ObjectRelease(
    "DOCCI's docci_descriptions.jsonlines",
    ("image_file",),
    (("description",),),
    ("example_id", "image_file", "description"),
    ("docci_descriptions.jsonlines",),
)
IIW = ObjectRelease(
    "ImageInWords' data.jsonl",
    ("image/key|image",),
    (("IIW",),),
    ("IIW",),
    ("IIW-400/data.jsonl", "DCI_Test/data.jsonl", "DOCCI_Test/data.jsonl"),
)
SUGARCREPE_PP = ObjectRelease(
    "SugarCrepe++'s triplets",
    ("filename",),
    (("caption", "caption2", "negative_caption"),),
    ("filename", "caption", "caption2", "negative_caption"),
    _CHANGED,
)
SUGARCREPE = ObjectRelease(
    "SugarCrepe's pairs",
    ("filename",),
    (("caption", "negative_caption"),),
    ("filename", "caption", "negative_caption"),
    _CHANGED,
)
WINOGROUND = ObjectRelease(
    "Winoground's examples.jsonl",
    ("image_0", "image_1"),
    (("caption_0",), ("caption_1",)),
    ("image_0", "image_1", "caption_0", "caption_1"),
    ("examples.jsonl",),
)
RELEASES = (DOCCI, IIW, SUGARCREPE_PP, SUGARCREPE, WINOGROUND)


def holds(found: FoundPath, release: ObjectRelease) -> bool:
    """Whether a file is of the release, or a folder holds such files: by the first object of the first."""
    return release_of(found) is release


def release_of(found: FoundPath) -> ObjectRelease | None:
    """Which release a path is of, or None."""
    if not found.is_folder:
        return _marked(_first(found.json))
    named = {name.rpartition("/")[2] for release in RELEASES for name in release.files}
    for path in found.files:
        release = _marked(_first(read_caption_json(path))) if path.name in named else None
        if release is not None and _files(found, release):
            return release
    return None


def read_objects(found: FoundPath, release: ObjectRelease) -> list[Entry]:
    """The images of every object with its captions, in the order of files and objects.

    Raises:
        DataError: an object lacks an image or a caption; with file and place.
    """
    return [entry for path in _files(found, release) for entry in _read_file(path, release)]


def objects_by_file(found: FoundPath, release: ObjectRelease) -> dict[str, int]:
    """How many objects each file of a release has, by the file's name without suffix, in the order read."""
    return {path.stem: len(_objects(read_caption_json(path)) or ()) for path in _files(found, release)}


def _files(found: FoundPath, release: ObjectRelease) -> list[Path]:
    """The file itself; of a folder the release's files, in its order."""
    if not found.is_folder:
        return [found.path]
    within = [(path, f"{found.path.name}/{path.relative_to(found.path).as_posix()}") for path in found.files]
    of_name = [[path for path, place in within if f"/{place}".endswith(f"/{name}")] for name in release.files]
    return [some[0] for some in of_name if some]


def _marked(thing: Any) -> ObjectRelease | None:
    if not isinstance(thing, dict):
        return None
    for release in RELEASES:
        if set(release.marks) <= set(thing) and all(_key(name, thing) for name in release.images):
            return release
    return None


def _objects(content: Any) -> list[tuple[str, Any]] | None:
    """The objects of a list, or of SugarCrepe's {"0": object}, each with its place."""
    if isinstance(content, list):
        return [(f"[{place}]", thing) for place, thing in enumerate(content)]
    if isinstance(content, dict) and content and all(isinstance(thing, dict) for thing in content.values()):
        return [(f"[{key!r}]", thing) for key, thing in content.items()]
    return None


def _first(content: Any) -> Any:
    objects = _objects(content)
    return objects[0][1] if objects else None


def _key(name: str, thing: dict[str, Any]) -> str | None:
    return first_of(name.split("|"), thing)


def _read_file(path: Path, release: ObjectRelease) -> list[Entry]:
    entries = []
    for place, thing in _objects(read_caption_json(path)) or ():
        split = thing.get(SPLIT) if isinstance(thing, dict) else None
        for name, keys in zip(release.images, release.captions, strict=True):
            key = _key(name, thing) if isinstance(thing, dict) else None
            image = thing.get(key) if key is not None else None
            texts = [thing.get(caption) for caption in keys] if isinstance(thing, dict) else [None]
            if not isinstance(image, str) or not image or not all(isinstance(text, str) for text in texts):
                wanted = ", ".join((name.replace("|", " or "), *keys))
                raise DataError(f"{path}: {place} is {thing!r:.80}; {release.name} have text for {wanted}")
            entries.append(Entry(image, [str(text) for text in texts], split=split if isinstance(split, str) else None))
    return entries
