"""Image files with captions in SCAN's layout: read when a batch asks for them, cropped and mirrored while training."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import ClassVar, get_args

import torch
from torch import Tensor

from itm_fast.choices import Resampling
from itm_fast.data.readers.image_file import ImageFile, pillow, read_image
from itm_fast.data.readers.precomp import CAPTIONS_PER_IMAGE, CaptionedSplit
from itm_fast.errors import DataError
from itm_fast.files.ids import integer_id
from itm_fast.files.reading import read_json
from itm_fast.indices import IndexLike, as_indices

_MAPPING = "id_mapping.json"
IMAGE_FOLDERS = ("images", "flickr30k-images")
_SMALLEST_CROP = 0.6  # of an image's sides
_LAYOUT = (
    "images are read from {split}_caps.txt, five lines an image, {split}_ids.txt, one integer a line, and, in the same "
    "folder or the one above, id_mapping.json, {id: file}, and beside that or above images/ or flickr30k-images/"
)


class ImageDataset(CaptionedSplit):
    """One split of a folder with captions and ids in SCAN's layout, whose images are files.

    Args:
        folder: With `{split}_caps.txt` and `{split}_ids.txt`; `id_mapping.json`, from ids to file names, lies here or
            in the folder above; `images` or `flickr30k-images`, where the files are, beside it or one level above.
        split: "train", "dev", "test", "testall", or any other name that has files.
        image_size: Side in pixels that images are resized to, whatever their shape.
        resampling: "points" is bilinear between the four pixels around a point; "bilinear" and "bicubic" take the mean
            of all pixels that shrink to one, as image processors do.
        dev_captions: Split "dev" is cut to this many captions, as SCAN does; None keeps all.
        drop_blank: Leave out captions that are blank lines; otherwise they are an error.

    Attributes:
        paths: The files of the distinct images, or what holds them, (n_images,).
        ids: int64 (n_images,), the ids of the distinct images.
        names: Their names, where the set gives them instead of id_mapping.json.

    Raises:
        FileNotFoundError: A file is missing; the message names it.
        DataError: A file does not hold what the layout asks for.
        ValueError: A bad `split`, `image_size` or `dev_captions`.
        ImportError: Pillow is not installed.

    Source: woodfrog/vse_infty, lib/datasets/image_caption.py, RawImageDataset.
    """

    paths: list[ImageFile]
    names: list[str] | None = None
    _hint: ClassVar[str] = _LAYOUT

    def __init__(
        self,
        folder: str | Path,
        split: str,
        image_size: int,
        *,
        resampling: Resampling = "points",
        dev_captions: int | None = CAPTIONS_PER_IMAGE * 1000,
        drop_blank: bool = False,
    ) -> None:
        super().__init__(folder, split, dev_captions, drop_blank)
        if image_size < 1:
            raise ValueError(f"image_size is {image_size}; expected at least 1 pixel")
        _check_resampling(resampling)
        pillow()
        self.image_size, self.resampling = image_size, resampling
        self._open()

    def _open(self) -> None:
        """Read what there is but for the images."""
        _, ids_path = (self._existing(f"{self.split}_{suffix}") for suffix in ("caps.txt", "ids.txt"))
        self._read_captions(None, ids_path)
        self.paths = [*_paths(self.folder, [] if self.ids is None else self.ids.tolist(), ids_path)]

    @property
    def max_regions(self) -> int:
        """1: an image is whole until the model makes a grid of it."""
        return 1

    def __repr__(self) -> str:
        return (
            f"ImageDataset({self.split!r}: {self.n_images} images of {self.image_size} x {self.image_size} pixels, "
            f"{self.n_captions} captions, {self.folder})"
        )

    def regions(self, image_indices: IndexLike, generator: torch.Generator | None = None) -> Tensor:
        """Pixels of some images, read from their files and resized to a square.

        While training, a part is cut out whose sides are U(0.6, 1) of the image's, and mirrored with probability 0.5.

        Args:
            image_indices: (n,) integers, indices of distinct images, 0 … n_images - 1, in any order, repeats allowed.
            generator: Of the choices while training; None takes the images as they are.

        Returns:
            float32 (n, 3, image_size, image_size), red, green and blue from 0 to 255.

        Raises:
            DataError: A file is no image, or broken; the message names it.
            IndexError: An index is outside the split.
            TypeError: The indices are not integers.
            ValueError: The indices have more than one axis.
        """
        indices = as_indices(image_indices, self.n_images, "image_indices")
        pixels = torch.empty(len(indices), 3, self.image_size, self.image_size)
        for row, index in enumerate(indices):
            image = read_image(self.paths[index])
            mirrored = False
            if generator is not None:
                image, mirrored = _cut_out(image, generator)
            image = _resized(image, self.image_size, self.resampling)
            pixels[row] = image.flip(2) if mirrored else image
        return pixels


def image_names(split: CaptionedSplit) -> list[str] | None:
    """The file of every image of a split, below the folder of images, as id_mapping.json gives it.

    Args:
        split: a split of either kind.

    Returns:
        (n_images,) names; None where the split has no ids or there is no id_mapping.json.

    Raises:
        DataError: id_mapping.json is damaged, or lacks an image.
    """
    if isinstance(split, ImageDataset) and split.names is not None:
        return split.names
    root = _mapping_folder(split.folder)
    if root is None or split.ids is None:
        return None
    mapping = _read_mapping(root / _MAPPING)
    missing = [number for number in split.ids.tolist() if str(number) not in mapping]
    if missing:
        raise DataError(f"{root / _MAPPING}: has no image {missing[0]}, which {split.split}_ids.txt names. {_LAYOUT}")
    return [mapping[str(number)] for number in split.ids.tolist()]


def _cut_out(image: Tensor, generator: torch.Generator) -> tuple[Tensor, bool]:
    """A part of an image (3, height, width), and whether it is to be mirrored."""
    share, top, left, mirror = torch.rand(4, generator=generator).tolist()
    sides = image.shape[1:]
    height, width = (max(1, int(side * (_SMALLEST_CROP + (1 - _SMALLEST_CROP) * share))) for side in sides)
    y, x = (int(at * (side - part + 1)) for at, side, part in zip((top, left), sides, (height, width), strict=True))
    return image[:, y : y + height, x : x + width], mirror < 0.5


def _check_resampling(resampling: str) -> None:
    if resampling not in get_args(Resampling):
        raise ValueError(f"resampling is {resampling!r}; expected one of {', '.join(get_args(Resampling))}")


def _resized(image: Tensor, size: int, resampling: Resampling) -> Tensor:
    """A square of float32; "points" does not smooth what it shrinks: so VSE-infinity's weights learnt."""
    mode = "bilinear" if resampling == "points" else resampling
    square = torch.nn.functional.interpolate(
        image[None].float(), (size, size), mode=mode, align_corners=False, antialias=resampling != "points"
    )[0]
    return square.clamp_(0, 255)  # bicubic goes beyond


def _paths(folder: Path, ids: list[int], ids_path: Path) -> list[Path]:
    """The file of each id, found to be there."""
    root = _mapping_folder(folder)
    if root is None:
        raise FileNotFoundError(f"{folder / _MAPPING}: no such file, nor in the folder above. {_LAYOUT}")
    mapping = _read_mapping(root / _MAPPING)
    files_in = _image_folder(root)
    files: dict[Path, set[str]] = {}  # one listing a folder: asking for each of 100,000 files takes minutes on a share
    paths = []
    for image_id in ids:
        if str(image_id) not in mapping:
            raise DataError(f"{root / _MAPPING}: has no image {image_id}, which {ids_path} names. {_LAYOUT}")
        path = files_in / mapping[str(image_id)]
        if path.parent not in files:
            files[path.parent] = {found.name for found in path.parent.iterdir()} if path.parent.is_dir() else set()
        if path.name not in files[path.parent]:
            raise FileNotFoundError(f"{path}: no such file; {_MAPPING} gives it for image {image_id} of {ids_path}")
        paths.append(path)
    return paths


def _image_folder(root: Path) -> Path:
    """Where the files are: beside id_mapping.json, or one level above it."""
    for place in (root, root.absolute().parent):
        for name in IMAGE_FOLDERS:
            if (place / name).is_dir():
                return place / name
    raise FileNotFoundError(
        f"{root}: no folder {' or '.join(IMAGE_FOLDERS)} beside {_MAPPING} or one level above it. {_LAYOUT}"
    )


def _mapping_folder(folder: Path) -> Path | None:
    """Where id_mapping.json lies: in the folder or the one above."""
    return next((place for place in (folder, folder.absolute().parent) if (place / _MAPPING).is_file()), None)


def _read_mapping(path: Path) -> dict[str, str]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected {{id: file}}, got {type(content).__name__}. {_LAYOUT}")
    mapping: dict[str, str] = {}
    for written, name in content.items():
        number = integer_id(written)
        image_id = written if number is None else str(number)  # "000000391895" is image 391895
        if image_id in mapping:
            raise DataError(f"{path}: image {image_id} is there twice, in two spellings")
        mapping[image_id] = name
        if not isinstance(name, str) or not name:
            raise DataError(f"{path}: image {image_id} is {name!r:.60}; expected the name of a file")
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DataError(f"{path}: image {image_id} is {name!r:.60}; expected a file below the folder of images")
    return mapping
