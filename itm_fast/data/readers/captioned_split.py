"""One split of a folder in SCAN's layout: its captions, whose they are, and the ids of its images."""

import functools
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from itm_fast.choices import perhaps
from itm_fast.data.readers.caption_lines import read_captions
from itm_fast.data.readers.feature_file import FeatureFile
from itm_fast.data.readers.ownership import CAPTIONS_PER_IMAGE, Ownership, found_owners, given_owners
from itm_fast.errors import DataError
from itm_fast.files.ids import read_id_lines
from itm_fast.files.owners import read_owners
from itm_fast.indices import IndexLike, as_index, distinct_numbers

IntArray = npt.NDArray[np.int64]

_LAYOUT = (
    "SCAN's precomp layout is {split}_ims.npy, float32 (n, max_regions, dim), {split}_caps.txt, UTF-8, five lines an "
    "image, and optionally {split}_ids.txt, one integer a line"
)
_WHERE_FROM = (
    "features are not shipped with itm-fast: see the owners' pages (https://github.com/kuanghuei/SCAN), extract your "
    "own, or let `itm-fast make-data` write a generated set"
)
_MEND = "; --drop-blank (drop_blank=True) leaves them out and keeps all others with their images"


_MOST_NAMED = 20  # lines that one note names
_OWNERS = (".txt", ".npy", ".npz", ".json")
_READ = {"ids": (".txt",), "counts": (".npy",), "owners": _OWNERS}  # what is read beside images and captions


class CaptionWithImage(NamedTuple):
    """One item of a split, as torch's DataLoader asks for it; its default collation makes a tuple of batches of these.

    Attributes:
        regions: float32 (max_regions, dim), 0 beyond `region_count`, (1, dim) of one vector an image; or pixels
            (3, height, width).
        region_count: Regions that are there.
        caption: The text.
        image_id: Index of the image in the split: equal where two captions share an image.
        caption_id: Index of the caption in the split.
    """

    regions: torch.Tensor
    region_count: int
    caption: str
    image_id: int
    caption_id: int


class CaptionedSplit(torch.utils.data.Dataset[CaptionWithImage], ABC):
    """One split of a folder with captions in SCAN's layout, whatever its images are kept as.

    A sequence of its captions, each with its image, as torch's DataLoader takes it; `Collator` makes the batches that
    models train on.

    Whose captions they are, `{split}_owners.txt` (or .npy, .npz, .json) says: the row of each caption's image, from 0.
    Without it the numbers of images, lines and ids do; five captions an image is the rule of the layout.

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

    def __init__(self, folder: str | Path, split: str, dev_captions: int | None, drop_blank: bool = False) -> None:
        if not split or Path(split).name != split:
            raise ValueError(f'split is {split!r}; expected a plain name such as "train", "dev", "test" or "testall"')
        if dev_captions is not None and (dev_captions < 1 or dev_captions % CAPTIONS_PER_IMAGE):
            raise ValueError(f"dev_captions is {dev_captions}; expected None or a positive multiple of 5")
        self.folder, self.split = Path(folder), split
        self._dev_captions, self._drop_blank = dev_captions, drop_blank
        self.captions_path = self.folder / f"{split}_caps.txt"

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

    def __getitem__(self, index: int) -> CaptionWithImage:
        """A caption and its image, read from disk.

        Args:
            index: Of the caption; negative ones count from the end.

        Raises:
            IndexError: There is no such caption.
            TypeError: It is no integer.
            DataError: The image cannot be read.
        """
        caption = as_index(index, self.n_captions, "index")
        image = int(self.caption_to_image[caption])
        regions, counts = self.counted_regions([image])
        count = self.max_regions if counts is None else int(counts[0])
        return CaptionWithImage(regions[0], count, self.captions[caption], image, caption)

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
        splits = _existing_splits(self.folder)
        present = f"splits present: {', '.join(splits) or 'none'}{perhaps(self.split, splits)}"
        others = ", ".join(sorted(other.name for other in self.folder.iterdir() if other.stem == path.stem))
        unread = f" ({others} is not read)" if others else ""
        raise FileNotFoundError(f"{path}: no such file{unread}; {present}. {self._hint}")

    def _owners_path(self) -> Path | None:
        places = [self.folder / f"{self.split}_owners{suffix}" for suffix in _OWNERS]
        found = [path for path in places if path.is_file()]
        if len(found) > 1:
            raise DataError(f"{self.folder}: both {found[0].name} and {found[1].name} say whose captions they are")
        return found[0] if found else None

    def _read_captions(self, features: FeatureFile | None, images_path: Path) -> None:
        """Captions, ids and owners; the cut comes last because counts are compared before it.

        Args:
            features: Of the images; None: they are files, one an id.
            images_path: The file that says how many there are, for messages.
        """
        lines = read_captions(self.captions_path, hint=self._hint, keep_blank=self._drop_blank, mend=_MEND)
        ids_path = self.folder / f"{self.split}_ids.txt"
        ids = read_id_lines(ids_path) if ids_path.exists() else None
        owners_path = self._owners_path()
        n_rows = None if features is None else len(features)
        same = functools.partial(_same_rows, features)
        if owners_path is not None:
            n_given = len(ids) if n_rows is None and ids is not None else n_rows or 0
            owners = read_owners(owners_path, n_given, len(lines))
            if n_rows is None and ids is not None and _are_of_captions(ids, owners):
                n_given = int(owners.max()) + 1
            ownership = given_owners(owners, n_given, same, str(owners_path))
        else:
            ownership = found_owners(n_rows, len(lines), ids, same, images_path, self.captions_path)
        self.ids = None if ids is None else _ids_of_images(ids, ownership, ids_path)
        self._n_all_images = len(ownership.rows)
        if self.split == "dev" and self._dev_captions is not None:
            ownership = ownership.cut(self._dev_captions)
            lines = lines[: len(ownership.caption_to_image)]
            self.ids = None if self.ids is None else self.ids[: len(ownership.rows)]
        self._lines = np.array([number for number, line in enumerate(lines) if line], dtype=np.int64)
        self.notes = [*ownership.notes, *_unread(self.folder, self.split)]
        if self.ids is not None and (n_ids := len(distinct_numbers(self.ids))) < len(self.ids):
            self.notes.append(
                f"{ids_path}: {len(self.ids)} images have {n_ids} ids: some are the same image, or misnamed"
            )
        if len(self._lines) < len(lines):
            blank = [number for number, line in enumerate(lines, start=1) if not line]
            self.notes.append(f"{self.captions_path}: {_named_lines(blank)} left out, which are blank")
            ownership = ownership.kept(self._lines)
        self.captions = [line for line in lines if line]
        self._ownership = ownership
        self.caption_to_image, self.captions_per_image = ownership.caption_to_image, ownership.captions_per_image


def _existing_splits(folder: Path) -> list[str]:
    splits = {path.name.removesuffix("_ims.npy") for path in folder.glob("*_ims.npy")}
    splits |= {path.name.removesuffix("_caps.txt") for path in folder.glob("*_caps.txt")}
    return sorted(splits)


def _unread(folder: Path, split: str) -> list[str]:
    """Files whose names say that they are of the layout, but in a form that nothing reads."""
    found = []
    for path in sorted(folder.iterdir()):
        expected = next((forms for what, forms in _READ.items() if path.stem == f"{split}_{what}"), None)
        if expected is not None and path.suffix not in expected:
            found.append(f"{path}: not read; expected {path.stem}{' or '.join(expected)}")
    return found


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


def _are_of_captions(ids: IntArray, owners: IntArray) -> bool:
    """Whether ids are one a caption, not one an image: equal for captions of one image."""
    if len(ids) != len(owners):
        return False
    of_images = np.zeros(int(owners.max()) + 1, dtype=np.int64)
    of_images[owners] = ids
    return bool((of_images[owners] == ids).all())


def _ids_of_images(ids: IntArray, ownership: Ownership, path: Path) -> IntArray:
    """Ids of the distinct images, from those of images or of captions."""
    owners, n_images = ownership.caption_to_image, len(ownership.rows)
    if len(ids) == n_images:
        return ids
    if len(ids) == len(owners) and len(distinct_numbers(owners)) == n_images:
        of_images = np.empty(n_images, dtype=np.int64)
        of_images[owners[::-1]] = ids[::-1]  # of an image's captions the first is written last
        differs = np.flatnonzero(ids != of_images[owners])
        if differs.size:
            number = int(differs[0]) + 1
            raise DataError(f"{path}:{number}: id {ids[number - 1]} differs within the lines of one image")
        return of_images
    raise DataError(f"{path}: {len(ids)} ids; expected {n_images} (one an image) or {len(owners)} (one a caption)")
