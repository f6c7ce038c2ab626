"""Splits for models that read images, from captioned images of any format; and which kind of split a path holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from itm_fast.choices import Resampling
from itm_fast.data.readers.captioned_images import CaptionedImages, Entry, collected, of_split
from itm_fast.data.readers.data_folders import holds_data_set
from itm_fast.data.readers.format import Format
from itm_fast.data.readers.formats import format_of, not_captioned
from itm_fast.data.readers.found_path import FoundPath
from itm_fast.data.readers.image_places import find_images
from itm_fast.data.readers.images import IMAGE_FOLDERS, ImageDataset
from itm_fast.data.readers.ownership import Ownership
from itm_fast.data.readers.precomp import CaptionedSplit, PrecompDataset
from itm_fast.errors import DataError
from itm_fast.files.ids import integer_id
from itm_fast.indices import distinct_numbers

_OF_DEV = ("val", "validation", "valid")  # what others call it


class CaptionedImageDataset(ImageDataset):
    """One split of captioned images in any format of the table, for models that read images.

    Images that the set only names are looked for beside it: in its folder, in `images` or `flickr30k-images` there, or
    one level above; below these also where the set says. Split "dev" is the set's val where it has no dev, and whole.

    Args:
        path: A file or a folder, as `read_captioned_images` takes it.
        split: Its name; any, where the set has no splits.
        image_size: Side in pixels that images are resized to, whatever their shape.
        resampling: As of `ImageDataset`.
        drop_blank: Leave out captions that are blank; otherwise they are an error.

    Raises:
        FileNotFoundError: There is no such path, or images are missing; says how many, and names the first.
        DataError: The path holds something else.
        ValueError: A bad `split` or `image_size`.
        ImportError: Pillow, or for parquet pyarrow, is not installed.
    """

    _hint: ClassVar[str] = ""

    def __init__(
        self,
        path: str | Path,
        split: str,
        image_size: int,
        *,
        resampling: Resampling = "points",
        drop_blank: bool = False,
    ) -> None:
        super().__init__(path, split, image_size, resampling=resampling, dev_captions=None, drop_blank=drop_blank)

    def _open(self) -> None:
        found = FoundPath(self.folder)
        form = format_of(found)
        if form is None:
            raise not_captioned(found)
        items = self._items(found, form)
        if not items.captions:
            raise DataError(f"{self.folder}: holds images without captions")
        self.paths, self.names = find_images(items, self._image_folders()), items.image_names
        numbers = [integer_id(key) for key in items.image_ids]
        known = [number for number in numbers if number is not None and -(2**63) <= number < 2**63]
        self.ids = np.array(known, dtype=np.int64) if len(set(known)) == len(numbers) else None
        self.captions = [" ".join(text.split()) for text in items.captions]
        self._lines = np.arange(len(self.captions))
        del self.captions_path  # there may be none whose lines they are
        self._ownership = Ownership(np.arange(len(self.paths)), items.caption_to_image)
        self.caption_to_image = items.caption_to_image
        self.captions_per_image = self._ownership.captions_per_image
        self.notes = [*items.notes, f"{self.folder}: {form.name}"]
        n_alone = len(self.paths) - len(distinct_numbers(items.caption_to_image))
        if n_alone:
            self.notes.append(f"{self.folder}: {n_alone} of {len(self.paths)} images have no caption")

    def _items(self, found: FoundPath, form: Format) -> CaptionedImages:
        entries = form.read(found)
        chosen = of_split(entries, self._split_of(entries), f"{found.path}")
        items = collected(chosen, f"{found.path}", comes_once=form.comes_once, drop_blank=self._drop_blank)
        return replace(items, format=form.name)

    def _split_of(self, entries: list[Entry]) -> str:
        splits = {entry.split for entry in entries}
        other = next((name for name in _OF_DEV if name in splits), None)
        return other if self.split == "dev" and "dev" not in splits and other is not None else self.split

    def _image_folders(self) -> list[Path]:
        beside = self.folder.absolute().parent
        places = [parent / name for parent in (beside, beside.parent) for name in IMAGE_FOLDERS]
        return [beside, *(place for place in places if place.is_dir())]


def open_split(
    folder: str | Path,
    split: str,
    image_size: int | None,
    *,
    resampling: Resampling = "points",
    drop_blank: bool = False,
) -> CaptionedSplit:
    """A split as a model wants it.

    Args:
        folder: The folder with the files of all splits in SCAN's layout; for models that read images also captioned
            images of any format.
        split: Name of the split.
        image_size: Side in pixels of the images that the model reads; None: it takes precomputed features.
        resampling: How images are resized.
        drop_blank: Leave out captions that are blank lines.

    Raises:
        FileNotFoundError: A file is missing.
        DataError: A file does not hold what the layout or the format asks for.
    """
    if image_size is None:
        return PrecompDataset(folder, split, drop_blank=drop_blank)
    if is_image_set(Path(folder)):
        return CaptionedImageDataset(folder, split, image_size, resampling=resampling, drop_blank=drop_blank)
    return ImageDataset(folder, split, image_size, resampling=resampling, drop_blank=drop_blank)


def is_image_set(path: Path) -> bool:
    """Whether a path is a file, or a folder of captioned images that is none in SCAN's layout."""
    return path.is_file() or (path.is_dir() and not holds_data_set(path) and format_of(FoundPath(path)) is not None)
