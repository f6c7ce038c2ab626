"""Images of a page: thumbnails kept once each inside it, or links; reads only files inside the folder it was given."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from itm_fast.data.readers.captioned_images import stem_of
from itm_fast.data.readers.image_file import ImageFile, read_image
from itm_fast.data.readers.image_places import packed_images
from itm_fast.errors import DataError

_SUFFIXES = ("", ".jpg", ".jpeg", ".png", ".webp")
_QUALITY = 74  # of the JPEG thumbnails: about 8 KB each at 200 pixels


@dataclass(frozen=True)
class Picture:
    """An image that a page can show.

    Attributes:
        number: row of the image.
        width, height: of the thumbnail, in pixels.
        scale: thumbnail's pixels per pixel of the file.
        source: a data URI, or a relative link.
        linked: whether it is a link.
    """

    number: int
    width: int
    height: int
    scale: float
    source: str
    linked: bool


class Pictures:
    """Thumbnails of the images that a page shows.

    Args:
        folder: with the image files; or a set that holds its images, as parquet and web-dataset .tar.
        names: of all images: file names, with or without a suffix, or paths inside ``folder``.
        budget: bytes of thumbnails at most; images beyond it are not shown.
        height: of a thumbnail, in pixels.
        link_from: the folder of the page, to link the files relative to it and not to keep them; None keeps them.

    Raises:
        FileNotFoundError: there is no such folder.
        DataError: a file that is no set with images.
        ValueError: images of a set are to be linked.
    """

    def __init__(
        self, folder: str | os.PathLike[str], names: Sequence[str], *, budget: int, height: int, link_from: Path | None
    ) -> None:
        self._folder = Path(folder).resolve()
        if not self._folder.exists():
            raise FileNotFoundError(f"{folder}: no such folder of images")
        self._packed = _packed(self._folder)
        if self._packed and link_from is not None:
            raise ValueError(f"{folder} holds its images itself: they can not be linked, only kept in the page")
        self._names, self._left, self._height, self._link_from = names, budget, height, link_from
        self._pictures: dict[int, Picture | None] = {}
        self.not_found: list[str] = []
        self.beyond_budget = 0

    def add(self, image: int) -> Picture | None:
        """The picture of an image, read on the first call.

        Args:
            image: its row.

        Returns:
            The picture; None if there is no readable file, or the budget is spent.
        """
        if image not in self._pictures:
            self._pictures[image] = self._made(image)
        return self._pictures[image]

    def made(self) -> list[Picture]:
        """All pictures that were added."""
        return [picture for picture in self._pictures.values() if picture is not None]

    def _made(self, image: int) -> Picture | None:
        path = self._packed.get(stem_of(self._names[image])) or self._find(self._names[image])
        if path is None:
            self.not_found.append(self._names[image])
            return None
        if self._link_from is None and self._left <= 0:
            self.beyond_budget += 1
            return None
        try:
            content, width, height, scale = thumbnail(path, self._height)
        except DataError:
            self.not_found.append(self._names[image])
            return None
        if self._link_from is not None and isinstance(path, Path):
            link = quote(Path(os.path.relpath(path, self._link_from)).as_posix())
            return Picture(image, width, height, scale, link, True)
        source = "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")
        if len(source) > self._left:
            self._left = 0
            self.beyond_budget += 1
            return None
        self._left -= len(source)
        return Picture(image, width, height, scale, source, False)

    def _find(self, name: str) -> Path | None:
        """The file of a name; names come from a file that others may have written, so none leads out of the folder."""
        path = Path(name)
        if "\0" in name or not path.name or path.name == "..":
            return None
        candidates = [path.name] if path.is_absolute() or ".." in path.parts else [name, path.name]
        for candidate in dict.fromkeys(candidates):
            for suffix in _SUFFIXES:
                found = self._folder / (candidate + suffix)
                if found.is_file():
                    return found
        return None


def _packed(folder: Path) -> dict[str, ImageFile]:
    """The images of a set; of a folder of files none."""
    if folder.is_dir() and not any(folder.rglob("*.tar")) and not any(folder.rglob("*.parquet")):
        return {}
    packed = packed_images(folder)
    if not packed and not folder.is_dir():
        raise DataError(f"{folder}: no folder of images, and no set that holds some (parquet, web-dataset .tar)")
    return packed


def thumbnail(path: ImageFile, height: int) -> tuple[bytes, int, int, float]:
    """A JPEG, its width and height, and its scale.

    Raises:
        DataError: no image that can be read.
        ImportError: Pillow is not installed.
    """
    pixels = read_image(path)
    from PIL import Image

    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    scale = min(1.0, height / image.height, 2 * height / image.width)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    written = io.BytesIO()
    image.save(written, "JPEG", quality=_QUALITY, optimize=True)
    return written.getvalue(), image.width, image.height, scale
