"""SCAN's folder of precomputed region features and captions, memory-mapped and checked before it is used."""

import functools
import math
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from itm_fast.data.readers.caption_lines import read_captions
from itm_fast.errors import DataError
from itm_fast.files.ids import read_id_lines
from itm_fast.indices import IndexLike, as_indices

CAPTIONS_PER_IMAGE = 5

_LAYOUT = (
    "SCAN's precomp layout is {split}_ims.npy, float32 (n, max_regions, dim), {split}_caps.txt, UTF-8, five lines an "
    "image, and optionally {split}_ids.txt, one integer a line"
)
_WHERE_FROM = (
    "features are not shipped with itm-fast: see the owners' pages (https://github.com/kuanghuei/SCAN), extract your "
    "own, or let `itm-fast make-data` write a generated set"
)


class CaptionedSplit(ABC):
    """One split of a folder with captions in SCAN's layout, five an image, whatever its images are kept as.

    Attributes:
        folder: The folder with the files of all splits.
        split: The name of this one.
        captions: The captions, stripped of white space at both ends.
        ids: int64 (n_images,), the ids of the distinct images, or None where there is no `{split}_ids.txt`.
        captions_per_image: 5.
    """

    captions: list[str]
    ids: npt.NDArray[np.int64] | None
    captions_per_image: int
    _hint: ClassVar[str] = f"{_LAYOUT}; {_WHERE_FROM}"

    def __init__(self, folder: str | Path, split: str, dev_captions: int | None) -> None:
        if not split or Path(split).name != split:
            raise ValueError(f'split is {split!r}; expected a plain name such as "train", "dev", "test" or "testall"')
        if dev_captions is not None and (dev_captions < 1 or dev_captions % CAPTIONS_PER_IMAGE):
            raise ValueError(f"dev_captions is {dev_captions}; expected None or a positive multiple of 5")
        self.folder, self.split, self._dev_captions = Path(folder), split, dev_captions
        self.captions_per_image = CAPTIONS_PER_IMAGE

    @property
    def n_captions(self) -> int:
        """Captions of the split, after the cut."""
        return len(self.captions)

    @property
    def n_images(self) -> int:
        """Distinct images of the split, after the cut."""
        return len(self.captions) // CAPTIONS_PER_IMAGE

    def __len__(self) -> int:
        return self.n_captions

    @property
    @abstractmethod
    def max_regions(self) -> int:
        """Regions of each image."""

    @abstractmethod
    def regions(self, image_indices: IndexLike, generator: torch.Generator | None = None) -> torch.Tensor:
        """What a model's image encoder takes of some images.

        Args:
            image_indices: (n,) integers, indices of distinct images, 0 … n_images - 1, in any order, repeats allowed.
            generator: Of what varies while training; None: nothing does.
        """

    def _existing(self, name: str) -> Path:
        path = self.folder / name
        if path.is_file():
            return path
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{self.folder}: no such folder; expected one with {name}. {self._hint}")
        raise FileNotFoundError(f"{path}: no such file; splits present: {_existing_splits(self.folder)}. {self._hint}")

    def _read_ids_and_cut(self) -> None:
        """After the captions were read; the cut comes last because counts are compared before it."""
        ids_path = self.folder / f"{self.split}_ids.txt"
        self.ids = _read_ids(ids_path, len(self.captions)) if ids_path.exists() else None
        if self.split == "dev" and self._dev_captions is not None:
            del self.captions[self._dev_captions :]
            self.ids = None if self.ids is None else self.ids[: self.n_images]


class PrecompDataset(CaptionedSplit):
    """One split of a folder in SCAN's layout; features stay on disk until `regions` asks for some of them.

    Rows of `{split}_ims.npy` against lines of `{split}_caps.txt` decide which of the two circulating kinds it is:
    one row an image (lines = 5 · rows), or every row written five times, once a caption (lines = rows).

    Args:
        folder: The folder with the files of all splits.
        split: "train", "dev", "test", "testall", or any other name that has files.
        dev_captions: Split "dev" is cut to this many captions, as SCAN does; None keeps all. Other splits are whole.

    Attributes:
        images: The features on disk, float32 or float16 (rows, max_regions, dim), read-only.
        captions: The captions, stripped of white space at both ends.
        ids: int64 (n_images,), the ids of the distinct images, or None where there is no `{split}_ids.txt`.
        n_images: Distinct images.
        n_captions: Captions; captions 5i … 5i + 4 belong to image i.
        captions_per_image: 5.
        max_regions: Regions of each image.
        dim: Width of a region's feature.

    Raises:
        FileNotFoundError: A file of the split is missing; the message names it and the splits that are there.
        DataError: A file does not hold what the layout asks for; the message has the numbers.
        ValueError: A bad `split` or `dev_captions`.

    Source: SCAN, data.py, PrecompDataset.
    """

    images: "np.memmap[Any, np.dtype[Any]]"

    def __init__(self, folder: str | Path, split: str, *, dev_captions: int | None = CAPTIONS_PER_IMAGE * 1000) -> None:
        super().__init__(folder, split, dev_captions)
        ims_path, caps_path = (self._existing(f"{split}_{suffix}") for suffix in ("ims.npy", "caps.txt"))
        self.images = _open_features(ims_path)
        self.captions = read_captions(caps_path, hint=_LAYOUT)
        self._captions_per_row = _captions_per_row(self.images, len(self.captions), ims_path, caps_path)
        self._read_ids_and_cut()

    @property
    def max_regions(self) -> int:
        """Regions of each image."""
        return int(self.images.shape[1])

    @property
    def dim(self) -> int:
        """Width of a region's feature."""
        return int(self.images.shape[2])

    def __repr__(self) -> str:
        return (
            f"PrecompDataset({self.split!r}: {self.n_images} images of {self.max_regions} x {self.dim}, "
            f"{self.n_captions} captions, {self.folder})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # A memmap would be pickled as all its bytes; a worker process opens the files again instead.
        return functools.partial(type(self), dev_captions=self._dev_captions), (self.folder, self.split)

    def image_row(self, caption_index: int) -> int:
        """Row of `images` that belongs to a caption.

        Args:
            caption_index: 0 … n_captions - 1.

        Returns:
            caption_index // 5, or caption_index where rows are written five times.

        Raises:
            IndexError: There is no such caption.
        """
        if not 0 <= caption_index < self.n_captions:
            raise IndexError(f"caption_index is {caption_index}; expected 0 … {self.n_captions - 1}")
        return caption_index // self._captions_per_row

    def regions(self, image_indices: IndexLike, generator: torch.Generator | None = None) -> torch.Tensor:
        """Features of some images, read from disk.

        Args:
            image_indices: (n,) integers, indices of distinct images, 0 … n_images - 1, in any order, repeats allowed.
            generator: Not used: features do not vary while training.

        Returns:
            float32 (n, max_regions, dim), a copy.

        Raises:
            IndexError: An index is outside the split.
            TypeError: The indices are not integers.
            ValueError: The indices have more than one axis.
        """
        indices = as_indices(image_indices, self.n_images, "image_indices")
        rows = indices * (CAPTIONS_PER_IMAGE // self._captions_per_row)
        # A plain array: indexing a memmap with an array makes a copy anyway, but would keep the subclass.
        block = np.asarray(self.images)[rows]
        return torch.from_numpy(block.astype(np.float32, copy=False))


def _existing_splits(folder: Path) -> str:
    splits = {path.name.removesuffix("_ims.npy") for path in folder.glob("*_ims.npy")}
    splits |= {path.name.removesuffix("_caps.txt") for path in folder.glob("*_caps.txt")}
    return ", ".join(sorted(splits)) or "none"


def _open_features(path: Path) -> "np.memmap[Any, np.dtype[Any]]":
    """Map a .npy file after its header was found to tell the truth; never unpickles."""
    shape, dtype, offset = _read_header(path)
    if len(shape) != 3:
        hint = "; single vectors an image (VSE++'s layout) have no regions to attend to" if len(shape) == 2 else ""
        raise DataError(f"{path}: shape {shape}; expected 3 axes, (n, max_regions, dim){hint}")
    if dtype not in (np.dtype(np.float32), np.dtype(np.float16)):
        raise DataError(f"{path}: dtype {dtype.str}; expected float32 or float16 in this machine's byte order")
    if min(shape) < 1:
        raise DataError(f"{path}: shape {shape} is empty; expected (n, max_regions, dim), each at least 1")
    promised, held = math.prod(shape) * dtype.itemsize, path.stat().st_size - offset
    if promised != held:
        what = "truncated" if held < promised else "longer than its header says"
        raise DataError(
            f"{path}: {what}: the header promises {shape} {dtype.name} = {promised} bytes, the file holds {held}"
        )
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)


def _read_header(path: Path) -> tuple[tuple[int, ...], "np.dtype[Any]", int]:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "created on Python 2": most of the published files were
        try:
            version = np.lib.format.read_magic(file)
            if version not in readers:
                raise ValueError(f"format version {version}; expected (1, 0) or (2, 0)")
            shape, fortran_order, dtype = readers[version](file)
        except Exception as error:  # the header is a Python literal: garbage raises nearly every kind of exception
            raise DataError(f"{path}: not a .npy file with a readable header: {error}. {_LAYOUT}") from error
        if fortran_order:
            raise DataError(f"{path}: Fortran order; expected C order (save np.ascontiguousarray(features))")
        return shape, dtype, file.tell()


def _captions_per_row(images: npt.NDArray[Any], n_captions: int, ims_path: Path, caps_path: Path) -> int:
    """SCAN's rule, checked: 5 where a row is an image, 1 where every row is written five times."""
    n_rows = len(images)
    if n_captions % CAPTIONS_PER_IMAGE:
        raise DataError(f"{caps_path}: {n_captions} captions; expected a multiple of 5. {_LAYOUT}")
    if n_captions == n_rows * CAPTIONS_PER_IMAGE:
        return CAPTIONS_PER_IMAGE
    if n_captions != n_rows:
        raise DataError(
            f"{ims_path.name} has {n_rows} rows and {caps_path.name} {n_captions} lines ({ims_path.parent}); expected "
            f"{n_rows * CAPTIONS_PER_IMAGE} lines (five an image), or {n_rows} with every row written five times"
        )
    n_groups = n_rows // CAPTIONS_PER_IMAGE
    for group in sorted({0, n_groups // 2, n_groups - 1}):  # a sample: reading all would read the whole file
        start = group * CAPTIONS_PER_IMAGE
        rows = np.asarray(images[start : start + CAPTIONS_PER_IMAGE])
        if any(row.tobytes() != rows[0].tobytes() for row in rows[1:]):  # as bytes: NaN equals itself
            raise DataError(
                f"{ims_path}: as many rows as captions ({n_rows}), which means that every row is written five times, "
                f"but rows {start} … {start + CAPTIONS_PER_IMAGE - 1} differ; one caption an image is not this layout"
            )
    return 1


def _read_ids(path: Path, n_captions: int) -> npt.NDArray[np.int64]:
    """Ids of the distinct images, from a file with one line an image or one line a caption."""
    ids = read_id_lines(path)
    n_images = n_captions // CAPTIONS_PER_IMAGE
    if len(ids) not in (n_images, n_captions):
        raise DataError(f"{path}: {len(ids)} ids; expected {n_images} (one an image) or {n_captions} (one a caption)")
    if len(ids) == n_images:
        return ids
    differs = np.flatnonzero(ids != np.repeat(ids[::CAPTIONS_PER_IMAGE], CAPTIONS_PER_IMAGE))
    if differs.size:
        number = int(differs[0]) + 1
        raise DataError(f"{path}:{number}: id {ids[number - 1]} differs within the five lines of one image")
    return np.ascontiguousarray(ids[::CAPTIONS_PER_IMAGE])
