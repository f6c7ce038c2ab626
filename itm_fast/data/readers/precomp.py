"""SCAN's folder of precomputed region features and captions, memory-mapped and checked before it is used."""

import functools
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from itm_fast.data.readers.feature_file import FeatureFile
from itm_fast.data.readers.ownership import CAPTIONS_PER_IMAGE, Ownership, found_owners, given_owners
from itm_fast.errors import DataError
from itm_fast.files.reading import read_array, read_json
from itm_fast.indices import IndexLike, as_indices

__all__ = ["CAPTIONS_PER_IMAGE", "CaptionedSplit", "PrecompDataset", "read_lines"]

IntArray = npt.NDArray[np.int64]

_LAYOUT = (
    "SCAN's precomp layout is {split}_ims.npy, float32 (n, max_regions, dim), {split}_caps.txt, UTF-8, five lines an "
    "image, and optionally {split}_ids.txt, one integer a line"
)
_WHERE_FROM = (
    "features are not shipped with itm-fast: see the owners' pages (https://github.com/kuanghuei/SCAN), extract your "
    "own, or let `itm-fast make-data` write a generated set"
)
_MOST_NAMED = 20  # lines that one message names


class CaptionedSplit(ABC):
    """One split of a folder with captions in SCAN's layout, whatever its images are kept as.

    Whose captions they are, `{split}_owners.txt` (or .npy, .json) says: the row of each caption's image, from 0. Without
    it the numbers of images, lines and ids do; five captions an image is the rule of the layout.

    Attributes:
        folder: The folder with the files of all splits.
        split: The name of this one.
        captions: The captions, stripped of white space at both ends.
        caption_to_image: int64 (n_captions,), index of each caption's image.
        ids: int64 (n_images,), the ids of the distinct images, or None where there is no `{split}_ids.txt`.
        captions_per_image: Captions of every image where all have as many, in the order of the images; else None.
        notes: What was guessed or left out, one sentence each.
    """

    captions: list[str]
    caption_to_image: IntArray
    ids: IntArray | None
    captions_per_image: int | None
    notes: list[str]
    _ownership: Ownership
    _hint: ClassVar[str] = f"{_LAYOUT}; {_WHERE_FROM}"

    def __init__(self, folder: str | Path, split: str, dev_captions: int | None, drop_blank: bool) -> None:
        if not split or Path(split).name != split:
            raise ValueError(f'split is {split!r}; expected a plain name such as "train", "dev", "test" or "testall"')
        if dev_captions is not None and (dev_captions < 1 or dev_captions % CAPTIONS_PER_IMAGE):
            raise ValueError(f"dev_captions is {dev_captions}; expected None or a positive multiple of 5")
        self.folder, self.split = Path(folder), split
        self._dev_captions, self._drop_blank = dev_captions, drop_blank
        self.captions_path = self._existing(f"{split}_caps.txt")

    @property
    def n_captions(self) -> int:
        """Captions of the split, after the cut."""
        return len(self.captions)

    @property
    def n_images(self) -> int:
        """Distinct images of the split, after the cut."""
        return len(self._ownership.rows)

    def __len__(self) -> int:
        return self.n_captions

    @property
    def has_regions(self) -> bool:
        """Whether an image is regions, or pixels that become some; not one vector."""
        return True

    @property
    @abstractmethod
    def max_regions(self) -> int:
        """Regions of the image that has most."""

    @abstractmethod
    def regions(self, image_indices: IndexLike, generator: torch.Generator | None = None) -> torch.Tensor:
        """What a model's image encoder takes of some images.

        Args:
            image_indices: (n,) integers, indices of distinct images, 0 … n_images - 1, in any order, repeats allowed.
            generator: Of what varies while training; None: nothing does.
        """

    def counted_regions(
        self, image_indices: IndexLike, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`regions`, and how many of each image are there, int64 (n,), the others being zeros; None: all are."""
        return self.regions(image_indices, generator), None

    def captions_by_image(self) -> list[list[str]]:
        """The captions of each image, in the order of the file: (n_images,) lists, some perhaps empty."""
        by_image: list[list[str]] = [[] for _ in range(self.n_images)]
        for image, caption in zip(self.caption_to_image.tolist(), self.captions, strict=True):
            by_image[image].append(caption)
        return by_image

    def caption_line(self, caption_index: int) -> int:
        """The line of a caption in `captions_path`, counted from 1."""
        return int(self._lines[caption_index]) + 1

    def look(self) -> list[str]:
        """Look at the images before they are used, as training and `itm-fast evaluate` do.

        Returns:
            What was found that is no error, one sentence each.

        Raises:
            DataError: Something that no model can use.
        """
        return []

    def _existing(self, name: str) -> Path:
        path = self.folder / name
        if path.is_file():
            return path
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{self.folder}: no such folder; expected one with {name}. {self._hint}")
        raise FileNotFoundError(f"{path}: no such file; splits present: {_existing_splits(self.folder)}. {self._hint}")

    def _read_captions(self, features: FeatureFile | None, images_path: Path) -> None:
        """Captions, ids and owners; the cut comes last because counts are compared before it.

        Args:
            features: Of the images; None: they are files, one an id.
            images_path: The file that says how many there are, for messages.
        """
        lines = read_lines(self.captions_path, "caption", drop_blank=self._drop_blank)
        ids_path = self.folder / f"{self.split}_ids.txt"
        ids = _read_ids(ids_path) if ids_path.exists() else None
        owners = _read_owners(self.folder, self.split)
        n_rows = None if features is None else len(features)
        if owners is not None:
            n_given = len(ids) if n_rows is None and ids is not None else n_rows
            ownership = given_owners(owners[1], n_given or 0, str(owners[0]), self.captions_path.name, len(lines))
        else:
            same = functools.partial(_same_rows, features)
            ownership = found_owners(n_rows, len(lines), ids, same, images_path, self.captions_path)
        self.ids = None if ids is None else _ids_of_images(ids, ownership, ids_path)
        self._n_all_images = len(ownership.rows)
        if self.split == "dev" and self._dev_captions is not None:
            ownership = ownership.cut(self._dev_captions)
            lines = lines[: len(ownership.caption_to_image)]
            self.ids = None if self.ids is None else self.ids[: len(ownership.rows)]
        self._lines = np.array([number for number, line in enumerate(lines) if line], dtype=np.int64)
        self.notes = [*ownership.notes]
        if len(self._lines) < len(lines):
            blank = [number for number, line in enumerate(lines, start=1) if not line]
            self.notes.append(f"{self.captions_path}: {_named_lines(blank)} left out, which are blank")
            ownership = ownership.kept(self._lines)
        self.captions = [line for line in lines if line]
        if not self.captions:
            raise DataError(f"{self.captions_path}: holds blank lines only; expected one caption a line")
        self._ownership = ownership
        self.caption_to_image, self.captions_per_image = ownership.caption_to_image, ownership.captions_per_image


class PrecompDataset(CaptionedSplit):
    """One split of a folder in SCAN's layout; features stay on disk until `regions` asks for some of them.

    Rows of `{split}_ims.npy` against lines of `{split}_caps.txt` decide which of the two circulating kinds it is:
    one row an image (lines = 5 · rows), or every row written five times, once a caption (lines = rows). Other numbers of
    captions an image are read as `CaptionedSplit` says. Features are any real numbers, in either byte order. Of an
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

    Source: SCAN, data.py, PrecompDataset.
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
        ims_path = self._existing(f"{split}_ims.npy")
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
            Images with fewer regions, images of zeros only.

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
        return notes


def _existing_splits(folder: Path) -> str:
    splits = {path.name.removesuffix("_ims.npy") for path in folder.glob("*_ims.npy")}
    splits |= {path.name.removesuffix("_caps.txt") for path in folder.glob("*_caps.txt")}
    return ", ".join(sorted(splits)) or "none"


def read_lines(path: Path, what: str, *, drop_blank: bool | None = None) -> list[str]:
    """Read a text file of the layout.

    Lines end at line feeds only, as in SCAN: str.splitlines also splits at U+2028, and would shift every later pair.

    Args:
        path: UTF-8 text, a byte order mark and carriage returns tolerated.
        what: What a line holds, for the messages.
        drop_blank: True returns blank lines, but for those at the end, as ""; otherwise they are an error. None: of a
            file that has no such option.

    Returns:
        The lines, stripped.

    Raises:
        DataError: The file is empty, lines are blank or one is not UTF-8; with file and lines.
    """
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if not content:
        raise DataError(f"{path}: empty; expected one {what} a line. {_LAYOUT}")
    lines = []
    for number, raw in enumerate(content.removesuffix(b"\n").split(b"\n"), start=1):
        try:
            lines.append(raw.decode("utf-8").strip())
        except UnicodeDecodeError as error:
            raise DataError(f"{path}:{number}: not UTF-8 ({error.reason} at byte {error.start} of the line)") from error
    blank = [number for number, line in enumerate(lines, start=1) if not line]
    if blank and not drop_blank:
        place = f"{path}:{blank[0]}: blank line" if len(blank) == 1 else f"{path}: {_named_lines(blank)} are blank"
        way_out = (
            ""
            if drop_blank is None
            else "; --drop-blank (drop_blank=True) leaves them out and keeps all others with their images"
        )
        raise DataError(f"{place}; expected one {what} a line{way_out}")
    return lines


def _named_lines(numbers: list[int]) -> str:
    """Lines by number, the first of them where they are many: "2 lines (7, 9)"."""
    more = ", ..." if len(numbers) > _MOST_NAMED else ""
    return f"{len(numbers)} line{'s' * (len(numbers) != 1)} ({', '.join(map(str, numbers[:_MOST_NAMED]))}{more})"


def _same_rows(features: FeatureFile | None, first: int, last: int) -> bool:
    """Whether the rows [first, last) are equal, as bytes: NaN equals itself."""
    if features is None:
        return False
    rows = np.asarray(features.array[first:last])
    return all(row.tobytes() == rows[0].tobytes() for row in rows[1:])


def _read_owners(folder: Path, split: str) -> tuple[Path, IntArray] | None:
    """The row of each caption's image, from `{split}_owners.txt`, .npy or .json."""
    found = [path for suffix in ("txt", "npy", "json") if (path := folder / f"{split}_owners.{suffix}").is_file()]
    if not found:
        return None
    if len(found) > 1:
        raise DataError(f"{folder}: both {found[0].name} and {found[1].name} say whose captions they are; leave one")
    path = found[0]
    if path.suffix == ".txt":
        return path, _integers(path, "row of an image")
    given = read_array(path) if path.suffix == ".npy" else read_json(path)
    try:
        owners = np.asarray(given)
    except ValueError:  # lists of several lengths
        owners = np.empty(0, dtype=object)
    if owners.dtype.kind not in "iu" or owners.ndim != 1:
        raise DataError(f"{path}: expected integers (n_captions,), the row of each caption's image")
    return path, owners.astype(np.int64)


def _read_counts(path: Path, features: FeatureFile, rows: IntArray, n_images: int) -> IntArray | None:
    """Regions of the images in these rows, from those of all `n_images` or of all rows."""
    if not path.exists():
        return None
    counts = read_array(path)
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


def _read_ids(path: Path) -> IntArray:
    """Ids from a file with one line an image or one line a caption."""
    return _integers(path, "integer image id")


def _integers(path: Path, what: str) -> IntArray:
    lines = read_lines(path, what)
    numbers: IntArray = np.empty(len(lines), dtype=np.int64)
    for number, line in enumerate(lines, start=1):
        try:
            numbers[number - 1] = int(line)
        except (ValueError, OverflowError) as error:
            raise DataError(
                f"{path}:{number}: {line!r:.60} is no 64-bit integer; expected one {what} a line"
            ) from error
    return numbers


def _ids_of_images(ids: IntArray, ownership: Ownership, path: Path) -> IntArray:
    """Ids of the distinct images, from those of images or of captions."""
    owners, n_images = ownership.caption_to_image, len(ownership.rows)
    if len(ids) == n_images:
        return ids
    if len(ids) == len(owners) and len(np.unique(owners)) == n_images:
        of_images = np.empty(n_images, dtype=np.int64)
        of_images[owners[::-1]] = ids[::-1]  # of an image's captions the first is written last
        differs = np.flatnonzero(ids != of_images[owners])
        if differs.size:
            number = int(differs[0]) + 1
            raise DataError(f"{path}:{number}: id {ids[number - 1]} differs within the lines of one image")
        return of_images
    raise DataError(f"{path}: {len(ids)} ids; expected {n_images} (one an image) or {len(owners)} (one a caption)")
