"""What a model has to offer to be a source of similarities, and what else it may."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from itm_fast.data.text.caption_tokens import CaptionTokens
from itm_fast.data.text.caption_vocabulary import CaptionVocabulary
from itm_fast.data.text.tokenizers import Tokenizer
from itm_fast.ops._ragged import Packed


class RetrievalModel(Protocol):
    """What a model has to offer to be evaluated."""

    @property
    def vocabulary(self) -> CaptionVocabulary:
        """The vocabulary it was trained with."""
        ...

    def encode_images(self, images: Tensor, /) -> Tensor:
        """(n, max_regions, dim_in) float32 -> regions (n, max_regions, dim).

        Where images have fewer regions, here and to `similarity` their counts (n,) int64 are one more argument.
        """
        ...

    def encode_captions(self, tokens: Tensor, word_counts: Tensor, /) -> Tensor:
        """Tokens (n, max_words) int64, word_counts (n,) int64 -> words (n, max_words, dim)."""
        ...

    def similarity(self, regions: Tensor, words: Tensor, word_counts: Tensor, /) -> Tensor:
        """Regions of n images, words of m captions -> (n, m)."""
        ...


class KnowsCounts(Protocol):
    """A model that images with fewer regions can be given to."""

    def encode_images(self, images: Tensor, region_counts: Tensor, /) -> Tensor:
        """As `RetrievalModel` has it, nothing beyond the counts (n,) int64 being read."""
        ...

    def similarity(self, regions: Tensor, words: Tensor, word_counts: Tensor, region_counts: Tensor, /) -> Tensor:
        """Likewise."""
        ...


class IsTold(Protocol):
    """A model that is told which concepts a caption speaks of: CVSE."""

    @property
    def completes_labels(self) -> bool:
        """Whether `complete_labels` is to be called."""
        ...

    def labels_of(self, captions: Sequence[str], tokenizer: Tokenizer | None, /) -> CaptionTokens:
        """Numbers of concepts in place of tokens."""
        ...

    def complete_labels(self, labels: CaptionTokens, images: Tensor, captions: Tensor, /) -> CaptionTokens:
        """Labels of all captions, completed from those near them."""
        ...

    def reads_image_tokens(self, *, training: bool) -> bool:
        """Whether a caption has the labels of all captions of its image."""
        ...

    def encode_captions(
        self, tokens: Tensor, word_counts: Tensor, image_tokens: None, concept_numbers: Tensor, /
    ) -> Tensor:
        """As `RetrievalModel` has it, with labels (n, most) int64, zero-padded."""
        ...


class ScoresCandidates(Protocol):
    """A model of an operator that walks lists: SCAN, ESL, CHAN, LAPS."""

    def similarity_of_candidates(
        self, regions: Tensor, captions: Packed, candidates: Tensor, region_counts: Tensor | None, /
    ) -> Tensor:
        """Regions of n images, words of captions, candidates (n, k) int64, -1: none -> sims (n, k)."""
        ...
