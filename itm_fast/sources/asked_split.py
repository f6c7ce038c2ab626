"""The images of a data set with captions that are not its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from itm_fast.data.readers.precomp import CaptionedSplit


class AskedSplit:
    """A split whose captions are somebody's questions: they belong to no image.

    Whatever else a split has is that of the data set, so that a model reads its images as before.
    """

    def __init__(self, split: CaptionedSplit, captions: Sequence[str]) -> None:
        """Keep the split.

        Args:
            split: whose images.
            captions: the questions.
        """
        self._split = split
        self.captions, self.n_captions = list(captions), len(captions)
        self.caption_to_image = np.zeros(len(captions), dtype=np.int64)
        self.captions_path = None
        self.notes: list[str] = []

    def __getattr__(self, name: str) -> Any:
        """What the split has."""
        return getattr(self._split, name)
