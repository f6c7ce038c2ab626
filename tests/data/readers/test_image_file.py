"""Image files of every kind as red, green and blue: the right pixels worked out by hand, the rest refused by name."""

import io
import warnings

import numpy as np
import pytest

from itm_fast.data.readers.image_file import _webp_size, read_image
from itm_fast.errors import DataError

Image = pytest.importorskip("PIL.Image")

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOURS = np.stack([GREY, GREY.T, 255 - GREY], axis=2)
ALPHA = (GREY // 2 + 1)[:, :, None]
WIDE = GREY.astype(np.uint16) * 256 + 3  # its upper bytes are GREY


def _three(grey):
    return np.repeat(grey[:, :, None], 3, axis=2)


def _palette():
    image = Image.fromarray(GREY, "L").convert("P")
    image.putpalette([value for place in range(256) for value in (place, 255 - place, place // 2)])
    return image


IN_PALETTE = np.stack([GREY, 255 - GREY, GREY // 2], axis=2)
CMYK = np.concatenate([255 - COLOURS, np.zeros((16, 16, 1), np.uint8)], axis=2)  # without black: its complement
ONE_BIT = GREY >= 128


def _frames(path, kind):
    first = Image.fromarray(GREY, "L")
    first.save(path, kind, save_all=True, append_images=[Image.fromarray(255 - GREY, "L")])


def _saved(array, kind, mode=None, **options):
    return lambda path: Image.fromarray(np.ascontiguousarray(array), mode).save(path, kind, **options)


KINDS = {
    "colours, PNG": (_saved(COLOURS, "PNG"), COLOURS),
    "colours, TIFF": (_saved(COLOURS, "TIFF"), COLOURS),
    "colours, BMP": (_saved(COLOURS, "BMP"), COLOURS),
    "colours, WebP": (_saved(COLOURS, "WEBP", lossless=True), COLOURS),
    "grey": (_saved(GREY, "PNG"), _three(GREY)),
    "grey, TIFF": (_saved(GREY, "TIFF"), _three(GREY)),
    "1 bit": (_saved(ONE_BIT, "PNG"), _three(255 * ONE_BIT.astype(np.uint8))),
    "16 bits, PNG": (_saved(WIDE, "PNG"), _three(GREY)),
    "16 bits, TIFF": (_saved(WIDE, "TIFF"), _three(GREY)),
    "16 bits, the other order": (lambda path: Image.fromarray(WIDE.astype(">u2")).save(path, "TIFF"), _three(GREY)),
    "16 bits, white is 0": (_saved(WIDE, "TIFF", tiffinfo={262: 0}), _three(255 - GREY)),
    "with alpha": (_saved(np.concatenate([COLOURS, ALPHA], axis=2), "PNG"), COLOURS),
    "grey with alpha": (_saved(np.concatenate([GREY[:, :, None], ALPHA], axis=2), "PNG"), _three(GREY)),
    "palette": (lambda path: _palette().save(path, "PNG"), IN_PALETTE),
    "palette, one transparent": (lambda path: _palette().save(path, "PNG", transparency=7), IN_PALETTE),
    "palette, all transparent": (lambda path: _palette().save(path, "PNG", transparency=bytes(range(256))), IN_PALETTE),
    "palette, GIF": (lambda path: _palette().save(path, "GIF"), IN_PALETTE),
    "GIF, first frame": (lambda path: _frames(path, "GIF"), _three(GREY)),
    "TIFF, first page": (lambda path: _frames(path, "TIFF"), _three(GREY)),
    "CMYK, TIFF": (_saved(CMYK, "TIFF", "CMYK"), COLOURS),
    "0 to 1": (_saved((GREY / 255).astype(np.float32), "TIFF"), _three(GREY)),
    "0 to 255 with a point": (_saved(GREY.astype(np.float32), "TIFF"), _three(GREY)),
}


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
@pytest.mark.parametrize(("write", "right"), KINDS.values(), ids=KINDS.keys())
def test_kinds(write, right, tmp_path):
    path = tmp_path / "picture"  # without suffix: the content decides
    write(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow warns of transparent palettes
        found = read_image(path)
    assert found.shape == (3, 16, 16)
    np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), right)


def test_jpeg_of_cmyk_is_close(tmp_path):
    smooth = np.repeat(np.linspace(40, 200, 16, dtype=np.uint8)[:, None], 16, axis=1)
    inks = np.stack([255 - smooth, 255 - smooth, 255 - smooth, np.zeros_like(smooth)], axis=2)
    Image.fromarray(inks, "CMYK").save(tmp_path / "a.jpg", "JPEG", quality=95)
    found = read_image(tmp_path / "a.jpg").permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found.astype(float), _three(smooth).astype(float), atol=6)


def _nan(path):
    numbers = GREY.astype(np.float32)
    numbers[3, 3] = np.nan
    _saved(numbers, "TIFF")(path)


def _cut(path):
    _saved(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), "PNG")(path)
    path.write_bytes(path.read_bytes()[:3000])


BAD = {
    "beyond 255": (_saved(GREY.astype(np.float32) * 9, "TIFF"), "go from 0 to 2295; expected 0 to 1, or 0 to 255"),
    "below 0": (_saved(GREY.astype(np.float32) - 1, "TIFF"), "go from -1 to 254"),
    "NaN": (_nan, "go from nan to nan"),
    "32 bits": (_saved(GREY.astype(np.int32), "TIFF"), "grey of 32 bits"),
    "cut": (_cut, "truncated"),
    "no image": (lambda path: path.write_text("a dog"), "cannot identify"),
    "of another kind": (_saved(COLOURS, "PPM"), "cannot identify"),
    "empty": (lambda path: path.write_bytes(b""), "cannot identify"),
}


@pytest.mark.parametrize(("write", "fragment"), BAD.values(), ids=BAD.keys())
def test_what_is_refused(write, fragment, tmp_path):
    write(tmp_path / "picture.png")
    with pytest.raises(DataError, match=r"picture\.png: no image that can be read \(JPEG, ") as raised:
        read_image(tmp_path / "picture.png")
    assert fragment in str(raised.value)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_large_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    _saved(COLOURS, "PNG")(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.raises(DataError, match=r"a\.png"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0abc"}], ids=["VP8", "VP8L", "VP8X"])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (5000, 7)])
def test_the_size_of_a_webp_is_known_before_it_is_opened(size, options):
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "WEBP", **options)
    assert _webp_size(file.getvalue()) == size
    assert _webp_size(file.getvalue()[:20]) == _webp_size(b"") == (0, 0)
