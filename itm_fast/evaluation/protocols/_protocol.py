"""What a protocol fixes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Headline: TypeAlias = Literal["full", "fold_mean", "language_mean"]


@dataclass(frozen=True)
class Protocol:
    """A test set and how its figures are formed.

    Attributes:
        name: as on the command line.
        n_images: images the set must have.
        n_captions: captions the set must have.
        folds: folds, in file order, or None.
        headline: whether the quoted figures are those of the whole gallery or the mean of the folds.
        wrong_size: what a wrong size usually means, by number of images given.
        wrong_captions: likewise where only the number of captions is wrong, by that number.
    """

    name: str
    n_images: int
    n_captions: int
    folds: int | None
    headline: Headline
    wrong_size: dict[int, str]
    wrong_captions: dict[int, str]

    def check(self, n_images: int, n_captions: int) -> None:
        """Raise ValueError unless the set has the sizes of the protocol."""
        if (n_images, n_captions) == (self.n_images, self.n_captions):
            return
        reason = self.wrong_size.get(n_images, "")
        if (n_images, n_captions) == (self.n_captions, self.n_images):
            reason = "it looks transposed; rows are images and columns captions, so pass sims.T (--transposed)"
        elif n_images == self.n_images:
            per_image = self.n_captions // self.n_images
            reason = self.wrong_captions.get(
                n_captions, f"its images have {per_image} captions each; leave protocol out"
            )
        raise ValueError(
            f"protocol {self.name} expects {self.n_images} images x {self.n_captions} captions, given {n_images} x "
            f"{n_captions}{': ' if reason else ''}{reason}"
        )
