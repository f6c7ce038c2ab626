"""MSCOCO-FG and Flickr30K-FG: refined captions of the test images, and pools enlarged by images without captions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from itm_fast.errors import DataError
from itm_fast.files.reading import find_file, read_array, read_json

PUBLISHED = "https://github.com/cwj1412/MSCOCO-Flikcr30K_FG (Annotations/ and Images/)"
_FILES = {"coco-fg": "MSCOCO_FG", "flickr30k-fg": "Flickr30K_FG"}


@dataclass(frozen=True, eq=False)
class FineGrained:
    """A fine-grained test set.

    Attributes:
        pool: file names of all images, originals and distractors, in the order of their .npy file.
        originals: file names of the images that have captions, in the order of the pool.
        captions: (n_captions,) (key, place): the caption's image, and its place among that image's captions; in the
            order of the .json file.
    """

    pool: list[str]
    originals: list[str]
    captions: list[tuple[str, int]]

    def caption_to_image(self, names: list[str]) -> npt.NDArray[np.int64]:
        """(n_captions,) int64: the place of each caption's image among file names. Always by name, never by order."""
        places = {name: place for place, name in enumerate(names)}
        return np.array([places[f"{key}.jpg"] for key, _ in self.captions], dtype=np.int64)


def read_fine_grained(folder: str | Path | None, name: str) -> FineGrained:
    """The captions and the pool of a fine-grained set.

    Args:
        folder: with <set>_FG_ann.json and <set>_FG_img_filenames.npy.
        name: "coco-fg" or "flickr30k-fg".

    Raises:
        FileNotFoundError: a file is not there; says where its owners publish it.
        DataError: it holds something else, or an image of the captions is not in the pool.
    """
    stem = _FILES[name]
    path = find_file(folder, [f"{stem}_ann.json"], PUBLISHED)
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path}: expected {{image name: [captions]}}")
    for key, captions in content.items():
        if not isinstance(captions, list) or not captions or not all(isinstance(text, str) for text in captions):
            raise DataError(f"{path}: image {key!r} has {captions!r:.60}, expected a list of captions")
    pool_path = find_file(folder, [f"{stem}_img_filenames.npy"], PUBLISHED)
    array = read_array(pool_path)
    if array.dtype.kind != "U" or array.ndim != 1:
        raise DataError(f"{pool_path}: {array.dtype} of shape {array.shape}, expected file names (n,)")
    pool: list[str] = array.tolist()
    known = set(pool)
    if len(known) < len(pool):
        raise DataError(f"{pool_path}: a file name is there twice, expected distinct ones")
    missing = next((key for key in content if f"{key}.jpg" not in known), None)
    if missing is not None:
        raise DataError(f"{pool_path}: has no {missing}.jpg, which {path.name} describes")
    captions = [(key, place) for key, texts in content.items() for place in range(len(texts))]
    return FineGrained(pool, [image for image in pool if image.removesuffix(".jpg") in content], captions)
