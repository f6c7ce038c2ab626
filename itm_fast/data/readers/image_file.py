"""Image files as red, green and blue, whatever they hold: grey, 16 bits, palettes, CMYK, numbers with a point."""

from __future__ import annotations

import importlib
import io
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from itm_fast.errors import DataError
from itm_fast.files.plain_text import instead

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # Pillow has decoders that call other programs
_PLAUSIBLE = 2**22, 1000  # pixels, or times its bytes, that an image may have: photographs have ten times its bytes
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF


class PackedImage(Protocol):
    """An image within a larger file; its str() is what errors say."""

    @property
    def name(self) -> str:
        """Its own name, without what it lies in."""
        ...

    @property
    def stored_size(self) -> int:
        """Bytes that are another number, most likely, where it is another image."""
        ...

    def read_bytes(self) -> bytes:
        """All of it; DataError if it is damaged."""
        ...


ImageFile: TypeAlias = Path | PackedImage
"""An image as it is stored: a file of its own, or a part of a larger one."""


def stored_size(file: ImageFile) -> int:
    """Bytes of an image as it is stored; of a row of parquet those of the whole file."""
    return file.stat().st_size if isinstance(file, Path) else file.stored_size


def read_image(path: ImageFile) -> Tensor:
    """An image file as red, green and blue: uint8 (3, height, width); of several frames or pages the first.

    Grey, palettes and CMYK are converted, and transparency is dropped, as everywhere in the field. 16 bits are scaled
    to 8 and not cut off at 255; numbers with a point are taken from 0 … 1, or from 0 … 255 where they are larger.

    Args:
        path: JPEG, PNG, WebP, BMP, GIF or TIFF, a file or a part of one. Its EXIF orientation is not applied.

    Raises:
        DataError: the file is missing, no image, broken or too large, or its numbers have no known range; with its
            name.
        ImportError: Pillow is not installed.
    """
    library = pillow()
    content = b""
    try:
        content = path.read_bytes()  # of a file, unlike of bytes, Pillow would take memory for any length it names
        _check_size(library, *_webp_size(content), len(content))  # libwebp takes a canvas of it when it is opened
        with library.open(io.BytesIO(content), formats=_FORMATS) as image:
            _check_size(library, image.width, image.height, len(content))
            pixels = np.array(_as_rgb(image))
    except Exception as error:  # decoders raise nearly every kind of exception
        reason = instead(content) or str(error).partition(" <_io.BytesIO")[0]
        raise DataError(f"{path}: no image that can be read ({', '.join(_FORMATS)}): {reason}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _check_size(library: ModuleType, width: int, height: int, n_bytes: int) -> None:
    most, n_pixels = library.MAX_IMAGE_PIXELS, width * height
    if most is not None and n_pixels > most:
        raise ValueError(f"{width} x {height} pixels, more than {most}")
    if n_pixels > max(_PLAUSIBLE[0], _PLAUSIBLE[1] * n_bytes):
        raise ValueError(f"{width} x {height} pixels in {n_bytes} bytes, too few for a picture")


def _webp_size(content: bytes) -> tuple[int, int]:
    """Width and height that a WebP file's first chunk names (RFC 9649); (0, 0): it is none, or names none."""
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP" or len(content) < 30:
        return 0, 0
    kind, body = content[12:16], content[20:30]
    if kind == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    return 0, 0


def pillow() -> ModuleType:
    """Pillow's module of images; ImportError says how to get it."""
    try:
        return importlib.import_module("PIL.Image")
    except ImportError as error:
        raise ImportError("reading images needs Pillow: pip install 'itm-fast[images]'") from error


def _as_rgb(image: Any) -> Any:
    """An image of Pillow's in its mode RGB, or an array of the same numbers."""
    if image.mode == "F" or image.mode.startswith("I"):
        grey = _grey(image)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("P", "PA") and ("transparency" in image.info or image.mode == "PA"):
        image = image.convert("RGBA")  # a palette with transparent colours
    return image.convert("RGB")


def _grey(image: Any) -> npt.NDArray[np.uint8]:
    """Grey of more than 8 bits as uint8; Pillow itself would cut it off at 255."""
    tags = getattr(image, "tag_v2", {})
    numbers = np.asarray(image)
    if image.mode == "F":
        grey = _of_reals(numbers)
    elif image.mode.startswith("I;16") or image.format == "PNG":  # PNG has no more than 16 bits
        grey = (numbers.astype(np.uint16) >> 8).astype(np.uint8)
    else:
        bits = tags.get(_BITS, ("?",))[0]
        raise ValueError(
            f"grey of {bits} bits with a sign, or of 32 bits, has no known range; save it with 8 or 16 bits"
        )
    return 255 - grey if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else grey


def _of_reals(numbers: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.uint8]:
    low, high = float(numbers.min()), float(numbers.max())
    if not (low >= 0 and high <= 255):  # also where one is NaN
        raise ValueError(f"its numbers go from {low:.6g} to {high:.6g}; expected 0 to 1, or 0 to 255")
    return np.round(numbers * 255 if high <= 1 else numbers).astype(np.uint8)
