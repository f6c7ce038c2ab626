"""Test sets as their owners publish them: JSON of Karpathy, of ALBEF and others, .token; and the image files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from itm_fast.choices import in_order, perhaps
from itm_fast.data.readers.caption_entries import caption_entries, read_caption_json
from itm_fast.data.readers.caption_lines import read_caption_lines
from itm_fast.errors import DataError
from itm_fast.files.ids import IMAGE_SUFFIXES
from itm_fast.files.plain_text import read_lines
from itm_fast.files.reading import read_array

_SUFFIXES = ("", *IMAGE_SUFFIXES)
_EXPECTED = (
    'expected Karpathy\'s {"images": [{"filename", "split", "sentences": [{"raw", "sentid"}]}]} (dataset_coco.json, '
    'dataset_flickr30k.json), {image file: [captions]}, ALBEF\'s [{"image": file, "caption": one or a list}], '
    "or lines of a file's name and a caption as of Flickr30K's .token file"
)


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
    """

    image_names: list[str]
    captions: list[str]
    caption_to_image: npt.NDArray[np.int64]
    image_ids: list[int | str]
    caption_ids: list[int | str]
    subfolders: list[str]


@dataclass(frozen=True)
class _Entry:
    """One image of a file."""

    name: str
    image_id: int | str
    subfolder: str
    captions: list[str]
    caption_ids: list[int | str]


def read_captioned_images(
    path: str | Path, *, split: str = "test", image_list: str | Path | None = None
) -> CaptionedImages:
    """Read the images and captions of a test set.

    Args:
        path: Karpathy's dataset_coco.json or dataset_flickr30k.json, of which all captions of the split are taken in
            order; {image file: [captions]}, names perhaps without suffix, as of MSCOCO-FG and Flickr30K-FG; a list of
            {"image": file, "caption": one or a list} as of ALBEF and BLIP, an image once or again; or text with a
            file's name before each caption, as Flickr30K's results_20130124.token.
        split: of Karpathy's file: "test", "val", "train", "restval". The other formats have none.
        image_list: .npy of names, or text, one a line: the images and their order, also such without captions. None:
            those of ``path`` in its order.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file holds something else, an image twice, or one that the list lacks.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "captions.json"
        ...     _ = path.write_text('{"1.jpg": ["a dog", "a brown dog"], "2.jpg": ["a cat"]}')
        ...     items = read_captioned_images(path)
        >>> items.captions, items.caption_to_image.tolist(), items.caption_ids
        (['a dog', 'a brown dog', 'a cat'], [0, 0, 1], ['1.jpg#0', '1.jpg#1', '2.jpg#0'])
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {_EXPECTED}")
    entries = _of_lines(path) if path.suffix not in (".json", ".jsonl") else _of_json(path, split)
    if not entries:
        raise DataError(f"{path}: holds no images; {_EXPECTED}")
    for entry in entries:
        _check_name(path, entry.name, entry.subfolder)
    return _collected(entries, _names(path, list(dict.fromkeys(entry.name for entry in entries)), image_list))


def find_images(items: CaptionedImages, folders: Sequence[str | Path]) -> list[Path]:
    """The file of every image.

    Args:
        items: the images; a name without suffix also finds .jpg, .jpeg, .png, .webp.
        folders: where the files are, themselves or in the subfolder that Karpathy's file names; the first that has one.

    Returns:
        (n_images,) paths, found to be there.

    Raises:
        FileNotFoundError: a folder or an image is missing; says how many, and names the first.
    """
    for folder in folders:
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"{folder}: no such folder of images")
    listings: dict[Path, set[str]] = {}  # one listing a folder: asking for each of 100,000 files takes minutes
    found, missing = [], []
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


def _place(name: str, subfolder: str, folders: Sequence[str | Path], listings: dict[Path, set[str]]) -> Path | None:
    for folder in folders:
        for parent in dict.fromkeys((Path(folder), Path(folder) / subfolder)):
            for suffix in _SUFFIXES:
                path = parent / f"{name}{suffix}"
                if path.parent not in listings:
                    inside = path.parent.iterdir() if path.parent.is_dir() else ()
                    listings[path.parent] = {file.name for file in inside}
                if path.name in listings[path.parent]:
                    return path
    return None


def _of_json(path: Path, split: str) -> list[_Entry]:
    content = read_caption_json(path)
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        return _karpathy(path, content["images"], split)
    if isinstance(content, dict):
        return [_of_name(path, name, captions) for name, captions in content.items()]
    if isinstance(content, list) and content and isinstance(content[0], dict):
        return _of_pairs(caption_entries(content, path, split))
    raise DataError(f"{path}: holds a {type(content).__name__}; {_EXPECTED}")


def _of_lines(path: Path) -> list[_Entry]:
    found = read_caption_lines(path)
    if found.images is None:
        raise DataError(f"{path}: captions without the names of their images; {_EXPECTED}")
    return _of_pairs(list(zip(found.images, found.captions, strict=True)))


def _of_pairs(pairs: list[tuple[str, str]]) -> list[_Entry]:
    """An entry a caption, in the order of the file: an image may come again."""
    counts: dict[str, int] = {}
    entries = []
    for name, text in pairs:
        counts[name] = counts.get(name, -1) + 1
        entries.append(_Entry(name, name, "", [text], [f"{name}#{counts[name]}"]))
    return entries


def _karpathy(path: Path, images: list[Any], split: str) -> list[_Entry]:
    entries, splits = [], set()
    seen: set[str] = set()
    for place, image in enumerate(images):
        if not isinstance(image, dict) or not {"filename", "split", "sentences"} <= set(image):
            is_coco = isinstance(image, dict) and "file_name" in image
            hint = "; COCO's own captions_*.json has no split and no order" if is_coco else ""
            raise DataError(f"{path}: images[{place}] has no filename, split or sentences{hint}; {_EXPECTED}")
        splits.add(str(image["split"]))
        if image["split"] != split:
            continue
        sentences = image["sentences"]
        if not isinstance(sentences, list) or not all(
            isinstance(sentence, dict) and isinstance(sentence.get("raw"), str) for sentence in sentences
        ):
            raise DataError(f'{path}: images[{place}]: expected sentences [{{"raw": caption, "sentid": id}}, ...]')
        name = image["filename"]
        if str(name) in seen:
            raise DataError(f"{path}: image {name} is there twice, expected distinct ones")
        seen.add(str(name))
        ids = [_id(sentence.get("sentid"), f"{name}#{n}") for n, sentence in enumerate(sentences)]
        captions = [sentence["raw"] for sentence in sentences]
        entries.append(_Entry(name, _id(image.get("cocoid"), name), image.get("filepath", ""), captions, ids))
    if not entries:
        near = perhaps(split, splits)
        raise DataError(f"{path}: has no images of split {split!r}{near}; splits: {', '.join(in_order(splits))}")
    return entries


def _id(given: object, otherwise: str) -> int | str:
    return given if isinstance(given, (int, str)) and not isinstance(given, bool) else otherwise


def _of_name(path: Path, name: str, captions: object) -> _Entry:
    if not isinstance(captions, list) or not captions or not all(isinstance(text, str) for text in captions):
        raise DataError(f"{path}: image {name!r:.60} has {captions!r:.60}, expected a list of captions; {_EXPECTED}")
    return _Entry(name, name, "", captions, [f"{name}#{n}" for n in range(len(captions))])


def _check_name(path: Path, name: object, subfolder: object) -> None:
    for part, what in ((name, "a file"), (subfolder, "a folder")):
        if not isinstance(part, str) or (what == "a file" and not part):
            raise DataError(f"{path}: {part!r:.60}; expected the name of {what} of images")
        if PurePosixPath(part).is_absolute() or ".." in PurePosixPath(part).parts:
            raise DataError(f"{path}: {part!r:.60}; expected {what} below the folder of images")


def _names(path: Path, named: list[str], image_list: str | Path | None) -> list[str]:
    """The names of all images in order, of which ``named`` have captions."""
    _distinct(path, named)
    if image_list is None:
        return named
    source = Path(image_list)
    if not source.is_file():
        raise FileNotFoundError(f"{source}: no such file; expected names of images, .npy or text")
    names = _read_npy(source) if source.suffix == ".npy" else read_lines(source, "image name")
    _distinct(source, names)
    stems = set(map(_stem, names))
    missing = next((name for name in named if _stem(name) not in stems), None)
    if missing is not None:
        raise DataError(f"{source}: has no image {missing}, which {path} has captions of")
    for name in names:
        _check_name(source, name, "")
    return names


def _distinct(path: Path, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if _stem(name) in seen:
            raise DataError(f"{path}: image {name} is there twice, expected distinct ones")
        seen.add(_stem(name))


def _stem(name: str) -> str:
    """The name without a suffix of images, which one file may give and the other not."""
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in _SUFFIXES else name


def _read_npy(path: Path) -> list[str]:
    array = read_array(path)
    if array.dtype.kind != "U" or array.ndim != 1:
        raise DataError(f"{path}: {array.dtype} of shape {array.shape}; expected a .npy array of file names (n,)")
    names: list[str] = array.tolist()
    return names


def _collected(entries: list[_Entry], names: list[str]) -> CaptionedImages:
    """Captions in the order of the entries, images in that of the names."""
    places = {_stem(name): place for place, name in enumerate(names)}
    by_stem = {_stem(entry.name): entry for entry in entries}
    described = [by_stem.get(_stem(name)) for name in names]
    owners = [places[_stem(entry.name)] for entry in entries for _ in entry.captions]
    return CaptionedImages(
        names,
        [caption for entry in entries for caption in entry.captions],
        np.array(owners, dtype=np.int64),
        [name if entry is None else entry.image_id for name, entry in zip(names, described, strict=True)],
        [key for entry in entries for key in entry.caption_ids],
        ["" if entry is None else entry.subfolder for entry in described],
    )
