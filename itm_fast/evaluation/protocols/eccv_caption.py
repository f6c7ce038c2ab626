"""ECCV Caption's ground truth, in the files of the package eccv_caption: COCO's test ids, CxC, ECCV, PMRP."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from itm_fast.errors import DataError
from itm_fast.files.ids import coco_ids, id_list, integer_id
from itm_fast.files.reading import find_file, read_array, read_json

PACKAGE = "eccv_caption"
PUBLISHED = "https://github.com/naver-ai/eccv-caption (eccv_caption/data; pip install itm-fast[eval] brings it)"
_PLAUSIBLE_MATCHES = "https://github.com/naver-ai/eccv-caption (a download of its own, see its README)"

IdLists = Mapping[Hashable, Sequence[Hashable]]


@dataclass(frozen=True, eq=False)
class CocoTest:
    """COCO's test images and captions in Karpathy's order, which decides the folds.

    Attributes:
        image_ids: 5000 ids.
        caption_ids: 25,000 ids, five consecutive ones an image.
    """

    image_ids: list[int]
    caption_ids: list[int]


@dataclass(frozen=True, eq=False)
class Truth:
    """Positives of both directions by id; two annotations, not transposes of each other.

    Attributes:
        image_to_captions: image id -> caption ids.
        caption_to_images: caption id -> image ids.
    """

    image_to_captions: IdLists
    caption_to_images: IdLists


def read_coco_test(folder: str | Path | None) -> CocoTest:
    """COCO's test ids: coco_test_ids.npy and original_caption_to_image.json.

    Args:
        folder: where they are; None: in the installed package eccv_caption.

    Raises:
        FileNotFoundError: they are not there; says where they are published.
        DataError: they hold something else.
    """
    path = find_file(folder, ["coco_test_ids.npy"], PUBLISHED, PACKAGE)
    array = read_array(path)
    if array.dtype.kind not in "iuf" or array.ndim != 1 or len(array) % 5:
        raise DataError(
            f"{path}: {array.dtype} of shape {array.shape}, expected integers (n,), five consecutive ids an image"
        )
    captions = coco_ids(id_list(array, f"{path}"), f"{path}")
    images_path = find_file(folder, ["original_caption_to_image.json"], PUBLISHED, PACKAGE)
    images = read_positives(images_path)
    owners = [images.get(caption, []) for caption in captions]
    for place in range(0, len(captions), 5):
        if len(owners[place]) != 1 or owners[place : place + 5] != owners[place : place + 1] * 5:
            raise DataError(
                f"{images_path}: captions {captions[place : place + 5]} of {path.name} have images "
                f"{owners[place : place + 5]}, expected the same one for all five"
            )
    image_ids = [owner[0] for owner in owners[::5]]
    if len(set(captions)) < len(captions) or len(set(image_ids)) < len(image_ids):
        raise DataError(f"{path}: an id is there twice, expected every caption once and five captions an image")
    return CocoTest(image_ids, captions)


def read_truth(folder: str | Path | None, name: str) -> Truth:
    """The two files of one ground truth.

    Args:
        folder: where they are; None: in the installed package eccv_caption.
        name: "original", "cxc", "eccv" or "pm".

    Raises:
        FileNotFoundError: they are not there; says where they are published.
        DataError: they hold something else.
    """
    published = _PLAUSIBLE_MATCHES if name == "pm" else PUBLISHED
    files = (f"{name}_image_to_caption.json", f"{name}_caption_to_image.json")
    return Truth(*(read_positives(find_file(folder, [file], published, PACKAGE)) for file in files))


def has_plausible_matches(folder: str | Path | None) -> bool:
    """Whether the folder holds the ground truth of PMRP, which is not part of the package."""
    return folder is not None and (Path(folder) / "pm_image_to_caption.json").is_file()


def read_positives(path: Path) -> dict[Hashable, list[int]]:
    """{"id": [ids]} as {id: [ids]}.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it holds something else, or is cut short.
    """
    content = read_json(path)
    expected = 'expected {"id": [ids, ...], ...} of whole numbers'
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}; {expected}")
    positives: dict[Hashable, list[int]] = {}
    for key, ids in content.items():
        number = integer_id(key)
        if number is None or number in positives:
            raise DataError(f"{path}: the key {key!r:.60} is no number, or there in two spellings; {expected}")
        if not isinstance(ids, list) or not ids:
            raise DataError(f"{path}: {key} has {ids!r:.60}, expected a list of at least one id")
        if set(map(type, ids)) == {int}:
            positives[number] = ids
            continue
        try:
            positives[number] = coco_ids(id_list(ids, f"{key}"), f"{key}")
        except ValueError as error:  # also DataError
            raise DataError(f"{path}: {key} has {ids!r:.60}, expected a list of at least one id: {error}") from error
    if not positives:
        raise DataError(f"{path}: holds no query")
    return positives
