"""Crisscrossed Captions: which pairs are positives by their ratings, and the rated pairs themselves."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from itm_fast.errors import DataError
from itm_fast.evaluation.protocols.eccv_caption import Truth
from itm_fast.evaluation.rated_pairs import read_rated_pairs
from itm_fast.evaluation.sampled_correlation import FloatArray
from itm_fast.files.ids import coco_ids
from itm_fast.files.reading import find_file
from itm_fast.metrics.query_positives import QueryPositives, numbered, positives_by_id
from itm_fast.similarities.scorers import IntArray

PUBLISHED = "https://github.com/google-research-datasets/Crisscrossed-Captions (data/)"
COLUMNS = {"sts": ("caption1", "caption2"), "sis": ("image1", "image2"), "sits": ("caption", "image")}
# Inclusive: 276, 155 and 79 test pairs lie exactly on these.
THRESHOLDS = {"sts": 3.0, "sis": 2.5, "sits": 3.0}
INTRA_MODAL = (
    f"t2t: STS >= {THRESHOLDS['sts']} and captions of the same image; i2i: SIS >= {THRESHOLDS['sis']}; "
    "the larger of two ratings of a pair"
)
_ORIGINAL = "c2i_original"


@dataclass(frozen=True, eq=False)
class Rated:
    """Rated pairs by id.

    Attributes:
        left: (n,) ids of the first column.
        right: (n,) ids of the second column.
        scores: (n,) float64, 0 ... 5.
        original: (n,) bool, whether the caption was written for the image (SITS).
        path: where they were read, for errors.
    """

    left: list[int]
    right: list[int]
    scores: FloatArray
    original: npt.NDArray[np.bool_]
    path: Path

    def positives(self, threshold: float) -> list[tuple[int, int]]:
        """Pairs rated at least that high."""
        high = np.flatnonzero(self.scores >= threshold).tolist()
        return [(self.left[pair], self.right[pair]) for pair in high]

    def places(self, left_ids: list[int], right_ids: list[int]) -> tuple[IntArray, IntArray]:
        """The places of both items of every pair among ids; DataError if one is not there."""
        found = []
        for items, ids in ((self.left, left_ids), (self.right, right_ids)):
            known = numbered(ids, "ids")
            missing = next((item for item in items if item not in known), None)
            if missing is not None:
                raise DataError(
                    f"{self.path}: {missing} was rated, but is not among the {len(known)} ids of this set; "
                    "are these the ids of COCO's test split?"
                )
            found.append(np.array([known[item] for item in items], dtype=np.int64))
        return found[0], found[1]

    def queries(self, column: int) -> IntArray:
        """(n,) int64: the item of that column in every pair, numbered in order of first appearance."""
        items = self.right if column else self.left
        first: dict[int, int] = {}
        return np.array([first.setdefault(item, len(first)) for item in items], dtype=np.int64)


def read_rated(folder: str | Path, task: str) -> Rated:
    """The test pairs of a task.

    Args:
        folder: with sts_test.csv, sis_test.csv and sits_test.csv, or these with .gz.
        task: "sts" (two captions), "sis" (two images) or "sits" (a caption and an image).

    Raises:
        FileNotFoundError: no such file; says where its owners publish it.
        DataError: it holds something else.
    """
    path = find_file(folder, [f"{task}_test.csv", f"{task}_test.csv.gz"], PUBLISHED)
    pairs = read_rated_pairs(path, COLUMNS[task])
    try:
        left, right = coco_ids(pairs.left, COLUMNS[task][0]), coco_ids(pairs.right, COLUMNS[task][1])
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    original = np.array([method == _ORIGINAL for method in pairs.methods], dtype=bool)
    return Rated(left, right, pairs.scores, original, path)


def image_text_truth(sits: Rated) -> Truth:
    """Every SITS pair rated at least 3: the original pairs are not added, and 29 of them are not among these."""
    by_image: dict[Hashable, list[Hashable]] = {}
    by_caption: dict[Hashable, list[Hashable]] = {}
    for caption, image in sits.positives(THRESHOLDS["sits"]):
        by_image.setdefault(image, []).append(caption)
        by_caption.setdefault(caption, []).append(image)
    return Truth(by_image, by_caption)


def rules_in_words(image: QueryPositives, whole: bool) -> str:
    """Which pairs are positives, for the report."""
    words = f"CxC positives: SITS >= {THRESHOLDS['sits']}, original pairs not added, {image.n_pairs} pairs"
    if not whole:
        return words
    return f"{words}; {INTRA_MODAL}"


def owners(sits: Rated, caption_ids: list[int]) -> IntArray:
    """(len(caption_ids),) int64, the id of the image that each caption was written for; DataError if one has none."""
    written = np.flatnonzero(sits.original).tolist()
    images = {sits.left[pair]: sits.right[pair] for pair in written}
    missing = next((key for key in caption_ids if key not in images), None)
    if missing is not None:
        raise DataError(f"{sits.path}: caption {missing} has no row of {_ORIGINAL}, so its image is not known")
    return np.array([images[key] for key in caption_ids], dtype=np.int64)


def intra_modal_positives(rated: Rated, threshold: float, ids: list[int], siblings: IntArray | None) -> QueryPositives:
    """Positives of text-text or image-image retrieval: pairs rated that high, either way round, and siblings.

    Where a pair was rated both ways round, the larger score counts.

    Args:
        rated: pairs of captions or of images.
        threshold: inclusive.
        ids: of the whole gallery.
        siblings: (len(ids),) int64, captions of equal number are positives of each other; None: no such.
    """
    sets: dict[Hashable, set[Hashable]] = {}
    for left, right in rated.positives(threshold):
        if left != right:
            sets.setdefault(left, set()).add(right)
            sets.setdefault(right, set()).add(left)
    if siblings is not None:
        groups: dict[int, list[int]] = {}
        for key, group in zip(ids, siblings.tolist(), strict=True):
            groups.setdefault(group, []).append(key)
        for group in groups.values():
            for key in group:
                sets.setdefault(key, set()).update(other for other in group if other != key)
    lists = {key: sorted(others) for key, others in sets.items() if others}  # type: ignore[type-var]
    return positives_by_id(lists, ids, ids, source=str(rated.path))
