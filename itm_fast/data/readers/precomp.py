"""SCAN's folder of precomputed region features and captions, memory-mapped and checked before it is used."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from itm_fast.data.readers.captioned_split import CaptionedSplit, CaptionWithImage
from itm_fast.data.readers.feature_file import FeatureFile
from itm_fast.data.readers.ownership import CAPTIONS_PER_IMAGE
from itm_fast.errors import DataError
from itm_fast.files.reading import read_array
from itm_fast.indices import IndexLike, as_indices

__all__ = ["CAPTIONS_PER_IMAGE", "CaptionWithImage", "CaptionedSplit", "PrecompDataset"]

IntArray = npt.NDArray[np.int64]


class PrecompDataset(CaptionedSplit):
    """One split of a folder in SCAN's layout; features stay on disk until `regions` asks for some of them.

    Rows of `{split}_ims.npy` against lines of `{split}_caps.txt` decide which of the two circulating kinds it is:
    one row an image (lines = 5 · rows), or every row written five times, once a caption (lines = rows). Other numbers
    of captions an image are read as `CaptionedSplit` says. Features are any real numbers, in either byte order. Of an
    image with fewer regions than others, those at the end are zeros, or `{split}_counts.npy`, integers (n_images,) or
    (rows,), says how many there are.

    Args:
        folder: The folder with the files of all splits.
        split: "train", "dev", "test", "testall", or any other name that has files.
        dev_captions: Split "dev" is cut to this many captions, as SCAN does; None keeps all. Other splits are whole.
        drop_blank: Leave out captions that are blank lines; otherwise they are an error.

    Attributes:
        images: The features on disk, (rows, max_regions, dim) or (rows, dim), as they are there, read-only.
        n_images: Distinct images.
        n_captions: Captions.
        max_regions: Regions of the image that has most; 1 where there is one vector an image.
        has_regions: False where there is one vector an image, VSE++'s layout.
        dim: Width of a region's feature.

    Raises:
        FileNotFoundError: A file of the split is missing; the message names it and the splits that are there.
        DataError: A file does not hold what the layout asks for; the message has the numbers.
        ValueError: A bad `split` or `dev_captions`.

    Source: SCAN, data.py, PrecompDataset; there, too, an item is a caption with its image.

    Example:
        loader = DataLoader(PrecompDataset("data/f30k_precomp", "train"), 128, shuffle=True, num_workers=2)
        for regions, region_counts, captions, image_ids, caption_ids in loader: ...
    """

    images: "np.memmap[Any, np.dtype[Any]]"

    def __init__(
        self,
        folder: str | Path,
        split: str,
        *,
        dev_captions: int | None = CAPTIONS_PER_IMAGE * 1000,
        drop_blank: bool = False,
    ) -> None:
        super().__init__(folder, split, dev_captions, drop_blank)
        ims_path, _ = (self._existing(f"{split}_{suffix}") for suffix in ("ims.npy", "caps.txt"))
        self._features = FeatureFile(ims_path)
        self.images = self._features.array
        self._read_captions(self._features, ims_path)
        counts_path = self.folder / f"{split}_counts.npy"
        self._counts = _read_counts(counts_path, self._features, self._ownership.rows, self._n_all_images)
        if self._features.is_fortran:
            self.notes.append(
                f"{ims_path}: in Fortran order, so that the numbers of an image lie all over the file and reading is "
                "slow; save np.ascontiguousarray(features)"
            )

    @property
    def max_regions(self) -> int:
        """Regions of the image that has most."""
        return self._features.max_regions

    @property
    def dim(self) -> int:
        """Width of a region's feature."""
        return self._features.dim

    @property
    def has_regions(self) -> bool:
        """Whether an image is regions, not one vector."""
        return self._features.has_regions

    def __repr__(self) -> str:
        size = f"{self.max_regions} x {self.dim}" if self.has_regions else f"one vector of {self.dim}"
        return (
            f"PrecompDataset({self.split!r}: {self.n_images} images of {size}, {self.n_captions} captions, "
            f"{self.folder})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # A memmap would be pickled as all its bytes; a worker process opens the files again instead.
        again = functools.partial(type(self), dev_captions=self._dev_captions, drop_blank=self._drop_blank)
        return again, (self.folder, self.split)

    def image_row(self, caption_index: int) -> int:
        """Row of `images` that belongs to a caption.

        Args:
            caption_index: 0 … n_captions - 1.

        Returns:
            The row of its image; where every image is written once a caption, its own.

        Raises:
            IndexError: There is no such caption.
        """
        if not 0 <= caption_index < self.n_captions:
            raise IndexError(f"caption_index is {caption_index}; expected 0 … {self.n_captions - 1}")
        if len(self.images) > self._n_all_images:
            return int(self._lines[caption_index])
        return int(self._ownership.rows[self.caption_to_image[caption_index]])

    def regions(self, image_indices: IndexLike, generator: torch.Generator | None = None) -> torch.Tensor:
        """Features of some images, read from disk.

        Args:
            image_indices: (n,) integers, indices of distinct images, 0 … n_images - 1, in any order, repeats allowed.
            generator: Not used: features do not vary while training.

        Returns:
            float32 (n, max_regions, dim), a copy, zeros for regions that an image does not have.

        Raises:
            DataError: A number is NaN or infinite; the message has file, row and region.
            IndexError: An index is outside the split.
            TypeError: The indices are not integers.
            ValueError: The indices have more than one axis.
        """
        return self.counted_regions(image_indices, generator)[0]

    def counted_regions(
        self, image_indices: IndexLike, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`regions`, and how many of each image are there, int64 (n,), the others being zeros; None: all are."""
        indices = as_indices(image_indices, self.n_images, "image_indices")
        given = None if self._counts is None else self._counts[indices]
        features, counts = self._features.read(self._ownership.rows[indices], given)
        return torch.from_numpy(features), None if counts is None else torch.from_numpy(counts)

    def look(self) -> list[str]:
        """Read the features once, 64 MB at a time, or a sample of 1 GB where they are more than 8 GB.

        What the sample leaves out is checked when it is read, as all features are; the first look is there so that an
        error comes before an hour of training, and costs a thirtieth of what thirty epochs read.

        Returns:
            Images with fewer regions, images of zeros only, images with zeros before or between their regions.

        Raises:
            DataError: A number is NaN or infinite; the message has file, row and region.
        """
        found = self._features.look(self._ownership.rows, self._counts)
        of = f"{found.n_rows} images" if found.n_rows == self.n_images else f"{found.n_rows} images of a sample"
        why = "are zeros" if self._counts is None else f"are beyond the counts of {self.split}_counts.npy"
        notes = []
        if found.n_fewer:
            notes.append(
                f"{self._features.path}: {found.n_fewer} of {of} have fewer than {self.max_regions} regions; rows "
                f"behind them {why}, and are no regions"
            )
        if found.n_zero:
            notes.append(f"{self._features.path}: {found.n_zero} of {of} are zeros only")
        if found.n_hollow:
            notes.append(
                f"{self._features.path}: {found.n_hollow} of {of} have rows of zeros before or between others, which "
                "are read as regions: padding belongs at the end"
            )
        return notes


def _read_counts(path: Path, features: FeatureFile, rows: IntArray, n_images: int) -> IntArray | None:
    """Regions of the images in these rows, from those of all `n_images` or of all rows."""
    if not path.exists():
        return None
    counts: npt.NDArray[Any] = read_array(path)
    if not features.has_regions:
        raise DataError(f"{path}: counts regions, but {features.path.name} has one vector an image; take it away")
    if counts.dtype.kind not in "iu" or counts.ndim != 1:
        raise DataError(f"{path}: {counts.dtype} {counts.shape}; expected integers (n_images,), regions of each image")
    if len(counts) not in (n_images, len(features)):
        other = "" if n_images == len(features) else f", or {len(features)}, one a row of {features.path.name}"
        raise DataError(f"{path}: {len(counts)} counts; expected {n_images}, one an image{other}")
    wrong = np.flatnonzero((counts < 1) | (counts > features.max_regions))
    if wrong.size:
        place = int(wrong[0])
        raise DataError(f"{path}: counts[{place}] is {counts[place]}; expected 1 … {features.max_regions}")
    return (counts[rows] if len(counts) == len(features) else counts[: len(rows)]).astype(np.int64)
