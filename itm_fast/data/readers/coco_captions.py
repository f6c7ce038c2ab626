"""COCO's own captions_*.json.

Source: cocodataset.org/#format-data; the order of images is that of torchvision's CocoCaptions, by id.
"""

from __future__ import annotations

from typing import Any

from itm_fast.data.readers.captioned_images import Entry
from itm_fast.data.readers.found_path import FoundPath
from itm_fast.errors import DataError
from itm_fast.files.ids import integer_id

_EXPECTED = (
    "expected captions_*.json of COCO: "
    '{"images": [{"id", "file_name"}], "annotations": [{"image_id", "id", "caption"}]}'
)


def is_coco(found: FoundPath) -> bool:
    """Whether a file holds a list of images and one of annotations."""
    content = found.json
    return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in ("images", "annotations"))


def read_coco(found: FoundPath) -> list[Entry]:
    """The images by their ids, each with its captions in the order of the file.

    Raises:
        DataError: an image or a caption of another form, twice, or a caption of no image; with its place.
    """
    path = found.path
    names: dict[int, str] = {}
    for place, image in enumerate(found.json["images"]):
        key, name = _of(image, "id", int, f"{path}: images[{place}]"), image.get("file_name")
        if not isinstance(name, str):
            raise DataError(f"{path}: images[{place}]: file_name is {name!r:.60}; {_EXPECTED}")
        if key in names:
            raise DataError(f"{path}: images[{place}]: id {key} is there twice, of {names[key]} and of {name}")
        names[key] = name
    captions: dict[int, list[tuple[int, str]]] = {key: [] for key in sorted(names)}
    seen: set[int] = set()
    for place, annotation in enumerate(found.json["annotations"]):
        where = f"{path}: annotations[{place}]"
        text, key = _of(annotation, "caption", str, where), _of(annotation, "image_id", int, where)
        own = _of(annotation, "id", int, where)
        if key not in captions:
            raise DataError(f"{where}: is of image {key}, which is not among the images")
        if own in seen:
            raise DataError(f"{where}: id {own} is there twice")
        seen.add(own)
        captions[key].append((own, text))
    return [
        Entry(names[key], [text for _, text in texts], key, [own for own, _ in texts])
        for key, texts in captions.items()
    ]


def _of(item: Any, key: str, kind: type, where: str) -> Any:
    value = item.get(key) if isinstance(item, dict) else None
    if kind is int and isinstance(value, (float, str)):  # a table with a gap writes 391895.0, others "391895"
        whole = integer_id(value)
        value = value if whole is None else whole
    if not isinstance(value, kind) or isinstance(value, bool):
        given = f"{key} is {value!r:.60}" if isinstance(item, dict) else f"is {item!r:.60}"
        raise DataError(f"{where}: {given}; {_EXPECTED}")
    return value
