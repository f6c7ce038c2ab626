"""Pictures of generated scenes: coloured bands for each concept, so that their pixels say what the captions say."""

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from itm_fast.data.made.scenes import Words
from itm_fast.data.readers.image_file import pillow
from itm_fast.files.writing import written_aside

FOLDER, MAPPING = "images", "id_mapping.json"
_PLACES = 4  # elements, or background, side by side
_BANDS = 4  # of a concept, from top to bottom: a mirrored picture says the same
_CONTRAST, _NOISE = 48.0, 8.0  # of 256 steps; the deviation of a band's colour, and of a pixel's


class Pictures:
    """Draws images of elements; a concept has one look in all images and splits."""

    def __init__(self, size: int, seed: int) -> None:
        """Nothing is drawn yet.

        Args:
            size: Side in pixels, a multiple of 16.
            seed: Of the looks.

        Raises:
            ValueError: `size` is no multiple of 16.
            ImportError: Pillow is not installed.
        """
        if not isinstance(size, int) or size < 1 or size % (_PLACES * _BANDS):
            raise ValueError(f"picture_size is {size!r}; expected a multiple of {_PLACES * _BANDS} pixels")
        self.size, self.seed, self._pillow = size, seed, pillow()
        self._known: dict[str, npt.NDArray[np.float64]] = {}

    def draw(self, elements: Sequence[Words], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        """Every element at a place of its own, if there is room, on a noisy ground: uint8 (size, size, 3)."""
        pixels = np.full((self.size, self.size, 3), 128.0)
        side = self.size // _PLACES
        places = rng.permutation(_PLACES**2)
        for place, element in zip(places, elements, strict=False):  # the most telling come first
            top, left = (side * int(x) for x in divmod(int(place), _PLACES))
            look = np.sum([self._look(concept) for concept in element], axis=0) / len(element) ** 0.5
            pixels[top : top + side, left : left + side] += look.repeat(side // _BANDS, axis=0)[:, None]
        pixels += rng.normal(0, _NOISE, pixels.shape)
        drawn: npt.NDArray[np.uint8] = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
        return drawn

    def write(self, path: Path, pixels: npt.NDArray[np.uint8]) -> None:
        """A PNG, written aside and then renamed."""
        encoded = io.BytesIO()
        self._pillow.fromarray(pixels).save(encoded, format="PNG")
        with written_aside(path) as aside:
            aside.write_bytes(encoded.getvalue())

    def _look(self, concept: str) -> npt.NDArray[np.float64]:
        """(_BANDS, 3): depends on the concept's name and the seed only."""
        if concept not in self._known:
            code = int.from_bytes(hashlib.blake2b(concept.encode(), digest_size=8).digest(), "little")
            self._known[concept] = np.random.default_rng([self.seed, code, 1]).normal(0, _CONTRAST, (_BANDS, 3))
        return self._known[concept]


def picture_name(image_id: int) -> str:
    """The file of an image, below the folder of images."""
    return f"{image_id:06}.png"


def write_mapping(folder: Path, n_images: int) -> None:
    """Write id_mapping.json, from ids to the files that `picture_name` names."""
    mapping = {str(image_id): picture_name(image_id) for image_id in range(n_images)}
    with written_aside(folder / MAPPING) as aside:
        aside.write_text(json.dumps(mapping), encoding="ascii")
