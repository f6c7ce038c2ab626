"""Captions with what a text encoder made of their tokens before: a memory map of float16 beside the ids."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from itm_fast.data.text.caption_tokens import CaptionTokens
from itm_fast.errors import DataError
from itm_fast.files.reading import read_array
from itm_fast.indices import IndexLike


@dataclass(frozen=True, eq=False)
class CaptionStates(CaptionTokens):
    """Token ids of captions, and the state of every token, read from a file when a batch asks for them.

    Attributes:
        path: float16 (n_tokens, dim), .npy: the states in the order of `flat`.
        offsets_path: int64 (n_captions + 1,), .npy: `offsets`, for readers that do not have the ids.

    Raises:
        DataError: A file is of something else.
    """

    path: Path = field(kw_only=True)
    offsets_path: Path = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        states = read_array(self.path, mapped=True)
        if states.dtype != np.float16 or states.ndim != 2 or len(states) != len(self.flat):
            raise DataError(
                f"{self.path}: {states.dtype} {states.shape}; expected float16 ({len(self.flat)}, dim), a state of "
                "every token of the captions"
            )
        offsets = read_array(self.offsets_path)
        if offsets.dtype != np.int64 or not np.array_equal(offsets, self.offsets):
            raise DataError(f"{self.offsets_path}: expected the offsets of {len(self)} captions, as they are tokenised")
        object.__setattr__(self, "_states", states)

    def __reduce__(self) -> tuple[Any, ...]:
        given = self.flat, self.offsets, self.n_attached_stops, self.path, self.offsets_path
        return _reopened, given  # a memmap would be pickled as all its bytes

    def states(self, caption_indices: IndexLike) -> torch.Tensor:
        """States of the tokens of some captions, float32 (B, max_words, dim), zero after each caption's end.

        Raises:
            IndexError: An index is outside the captions.
            TypeError: The indices are not integers.
        """
        places, valid = self._places(caption_indices)
        kept: npt.NDArray[np.float16] = vars(self)["_states"]
        states = np.zeros((*valid.shape, kept.shape[1]), dtype=np.float32)
        states[valid] = kept[places]
        return torch.from_numpy(states)


def _reopened(
    flat: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64], n_attached_stops: int, path: Path, offsets_path: Path
) -> CaptionStates:
    return CaptionStates(flat, offsets, n_attached_stops, path=path, offsets_path=offsets_path)
