"""Karpathy's dataset_*.json of COCO, Flickr30K and Flickr8K, and RSICD's and RSITMD's, which have its form.

Sources: cs.stanford.edu/people/karpathy/deepimagesent (caption_datasets.zip); 201528014227051/RSICD_optimal;
xiaoyuan1996/AMFMN.
"""

from __future__ import annotations

from itm_fast.data.readers.captioned_images import Entry
from itm_fast.data.readers.found_path import FoundPath
from itm_fast.errors import DataError
from itm_fast.files.ids import integer_id

_EXPECTED = 'expected Karpathy\'s {"images": [{"filename", "split", "sentences": [{"raw", "sentid"}]}]}'
_REMOTE_SENSING = ("rsicd", "rsitmd")


def is_karpathy(found: FoundPath) -> bool:
    """Whether a file holds a list of images, and no annotations beside it."""
    return isinstance(found.json, dict) and isinstance(found.json.get("images"), list)


def is_remote_sensing(found: FoundPath) -> bool:
    """Whether a file of Karpathy's form calls itself RSICD or RSITMD."""
    return is_karpathy(found) and str(found.json.get("dataset")).lower() in _REMOTE_SENSING


def read_karpathy(found: FoundPath) -> list[Entry]:
    """The images of all splits, in order.

    Raises:
        DataError: an image has no file, split or sentences of the form; with its place.
    """
    path, entries = found.path, []
    for place, image in enumerate(found.json["images"]):
        if not isinstance(image, dict) or not {"filename", "split", "sentences"} <= set(image):
            raise DataError(f"{path}: images[{place}] has no filename, split or sentences; {_EXPECTED}")
        if not isinstance(image["split"], str):
            raise DataError(f"{path}: images[{place}]: split is {image['split']!r:.60}; {_EXPECTED}")
        sentences = image["sentences"]
        if not isinstance(sentences, list) or not all(
            isinstance(sentence, dict) and isinstance(sentence.get("raw"), str) for sentence in sentences
        ):
            raise DataError(f'{path}: images[{place}]: expected sentences [{{"raw": caption, "sentid": id}}, ...]')
        name = image["filename"]
        entries.append(
            Entry(
                name,
                [sentence["raw"] for sentence in sentences],
                _id(image.get("cocoid"), name),
                [_id(sentence.get("sentid"), f"{name}#{n}") for n, sentence in enumerate(sentences)],
                image.get("filepath", ""),
                image["split"],
            )
        )
    return entries


def _id(given: object, otherwise: str) -> int | str:
    if isinstance(given, float):  # a table with a gap writes 391895.0
        given = integer_id(given)
    return given if isinstance(given, (int, str)) and not isinstance(given, bool) else otherwise
