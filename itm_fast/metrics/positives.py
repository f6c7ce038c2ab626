"""Which captions belong to which image; no similarities here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from itm_fast.files.owners import OwnersLike, as_owners
from itm_fast.indices import as_number
from itm_fast.similarities.scorers import IntArray, TileScorer, owners_of

CAPTIONS_PER_IMAGE = 5
_PER_IMAGE = "captions_per_image"


@dataclass(frozen=True, eq=False)
class Positives:
    """The ground truth of a retrieval set: every caption has one image, an image any number of captions.

    Attributes:
        caption_to_image: (n_captions,) int64, the row of each caption's image.
        n_images: rows of the similarity matrix; images without captions are gallery only.
        by_image: (n_captions,) int64, the captions grouped by image, ascending inside a group.
        offsets: (n_images + 1,) int64, image i owns ``by_image[offsets[i]:offsets[i + 1]]``.
    """

    caption_to_image: IntArray
    n_images: int
    by_image: IntArray
    offsets: IntArray

    @property
    def n_captions(self) -> int:
        """Columns of the similarity matrix."""
        return int(self.caption_to_image.size)

    @property
    def captions_of_image(self) -> IntArray:
        """(n_images,) int64, how many captions each image has."""
        return np.diff(self.offsets)

    def padded(self) -> IntArray:
        """Captions of each image, ascending, (n_images, most captions of an image) int64, -1 where it has fewer."""
        counts = self.captions_of_image
        padded = np.full((self.n_images, int(counts.max(initial=0))), -1, np.int64)
        rows = self.caption_to_image[self.by_image]
        padded[rows, np.arange(self.n_captions) - self.offsets[rows]] = self.by_image
        return padded

    def fold_bounds(self, folds: int) -> tuple[IntArray, IntArray]:
        """First row and first column of each fold, and the end of the last: two (folds + 1,) int64 arrays.

        Args:
            folds: number of folds, in file order; each takes n_images / folds images and all their captions.

        Raises:
            ValueError: n_images is no multiple of folds, or the captions are not stored in the order of the folds.
        """
        folds = as_number(folds, "folds")
        if self.n_images % folds:
            raise ValueError(f"folds is {folds}, but n_images = {self.n_images} is not a multiple of it")
        rows = np.arange(folds + 1, dtype=np.int64) * (self.n_images // folds)
        columns = self.offsets[rows]
        fold_of_caption = self.caption_to_image // max(1, self.n_images // folds)
        if np.any(np.diff(fold_of_caption) < 0):
            caption = int(np.argmax(np.diff(fold_of_caption) < 0)) + 1
            raise ValueError(
                f"folds need captions stored fold after fold, but caption {caption} belongs to image "
                f"{int(self.caption_to_image[caption])}, of an earlier fold than the caption before it; sort them"
            )
        if folds > 1 and np.any(np.diff(columns) == 0):
            raise ValueError(
                f"fold {int(np.argmin(np.diff(columns)))} (counted from 0) has no captions: nothing to rank"
            )
        return rows, columns


def make_positives(
    n_images: int,
    n_captions: int,
    *,
    captions_per_image: int | None = None,
    caption_to_image: OwnersLike | None = None,
) -> Positives:
    """Ground truth of a set from its rule or its map.

    Args:
        n_images: rows of the similarity matrix.
        n_captions: columns of the similarity matrix.
        captions_per_image: caption c belongs to image c // captions_per_image; None means 5, unless a map is given.
        caption_to_image: the row of each caption's image, in any form of ``as_owners``.

    Returns:
        The ground truth.

    Raises:
        ValueError: sizes that do not fit (a transposed matrix, image rows repeated once a caption), a map out of range.
        TypeError: a map that is not of integers.

    Source: kuanghuei/SCAN evaluation.py (caption c belongs to image c // 5).

    Example:
        >>> make_positives(2, 4, captions_per_image=2).caption_to_image
        array([0, 0, 1, 1])
    """
    if caption_to_image is None:
        per_image = CAPTIONS_PER_IMAGE if captions_per_image is None else as_number(captions_per_image, _PER_IMAGE)
        _check_sizes(n_images, n_captions, per_image)
        owners = np.arange(n_captions, dtype=np.int64) // per_image
    elif captions_per_image is not None:
        raise ValueError("captions_per_image and caption_to_image exclude each other: give one of them")
    else:
        owners = as_owners(caption_to_image, n_images, n_captions)
    order = np.argsort(owners, kind="stable").astype(np.int64)
    offsets = np.zeros(n_images + 1, np.int64)
    np.cumsum(np.bincount(owners, minlength=n_images), out=offsets[1:])
    return Positives(owners, n_images, order, offsets)


def positives_of(
    scorer: TileScorer,
    captions_per_image: int | None = None,
    caption_to_image: OwnersLike | None = None,
) -> Positives:
    """`make_positives` of a scorer, which may itself know whose captions they are, if nothing else says so."""
    if captions_per_image is None and caption_to_image is None:
        caption_to_image = owners_of(scorer)
    return make_positives(
        scorer.n_images, scorer.n_captions, captions_per_image=captions_per_image, caption_to_image=caption_to_image
    )


def _check_sizes(n_images: int, n_captions: int, per_image: int) -> None:
    if n_captions == n_images * per_image:
        return
    given = f"sims is {n_images} x {n_captions}"
    if n_images == n_captions * per_image:
        raise ValueError(f"{given}: it looks transposed; rows are images, columns captions: pass sims.T (--transposed)")
    if n_images == n_captions:
        raise ValueError(
            f"{given}: as many images as captions, so every image may be repeated once a caption; pass each image once "
            f"(images[::{per_image}] where captions_per_image = {per_image}), or captions_per_image=1 if it is not so"
        )
    raise ValueError(
        f"{given}, but captions_per_image = {per_image} expects {n_images * per_image} captions; "
        "pass caption_to_image for a varying number of captions"
    )


def first_five(caption_to_image: npt.NDArray[np.int64], n_images: int) -> IntArray:
    """The columns of the first five captions of every image, image by image: Karpathy's 25,010 captions to 25,000.

    Raises:
        ValueError: an image with fewer.
    """
    order = np.argsort(caption_to_image, kind="stable")
    counts = np.bincount(caption_to_image, minlength=n_images)
    if np.any(counts < 5):
        image = int(np.argmax(counts < 5))
        raise ValueError(f"caption_to_image gives image {image} {counts[image]} captions, expected at least five")
    starts = np.cumsum(counts) - counts
    chosen: IntArray = np.asarray(order, np.int64)[(starts[:, None] + np.arange(5)).ravel()]
    return chosen
