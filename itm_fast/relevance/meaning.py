"""When φ says nothing, and why: a line with the figure that shows it and the way out. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from itm_fast.relevance.characters import n_characters_without_blanks

_FEW = 20  # one caption in so many in another script is worth a word
_LONG = 4.5  # characters a word; words of Chinese and Japanese have 2, of Thai 3 to 4 without their marks
_WAY_OUT = (
    'tokenizer="characters" (--tokenizer characters of itm-fast cider, --cider-tokenizer of evaluate and train), or '
    "captions whose words are parted by blanks"
)

ONE_IMAGE = (
    "φ is 0 everywhere: the document frequencies come from 1 image, so that every idf is log(1) - log(1) = 0; fit on "
    "the captions of a corpus, Cider().fit(corpus).score(references, candidates) (itm-fast cider --frequencies FILE)"
)


class SplitCaptions:
    """Counts, caption by caption, whether a script without blanks between words was split."""

    def __init__(self, tokenizer: str) -> None:
        """Nothing is counted yet; ``tokenizer`` is the name of the one that splits."""
        self._tokenizer = tokenizer
        self._n_captions = self._n_written = self._n_whole = self._n_tokens = self._n_characters = 0
        self._example = ""

    def add(self, caption: str, tokens: Sequence[str]) -> None:
        """Count a caption and its tokens."""
        self._n_captions += 1
        if caption.isascii():
            return
        counts = [n for n in map(n_characters_without_blanks, tokens) if n]
        if not counts:
            return
        self._n_written += 1
        self._n_whole += len(tokens) == 1
        self._n_tokens += len(counts)
        self._n_characters += sum(counts)
        self._example = self._example or caption

    def note(self) -> str | None:
        """The line to say, or None where captions were split."""
        if not self._n_written or self._n_written * _FEW < self._n_captions:
            return None
        mean = self._n_characters / self._n_tokens
        if mean < _LONG and not (self._n_whole * 2 >= self._n_written and mean >= 2):
            return None
        return (
            f"{self._n_written} of {self._n_captions} captions are in a script without blanks between words, and "
            f"tokenizer {self._tokenizer!r} leaves {mean:.1f} of its characters in a token ({self._n_whole} captions "
            f"are one token), as in {self._example!r:.60}: φ compares whole phrases; take {_WAY_OUT}"
        )


def zero_note(inverse_norms: Tensor, n_images: int, log_n_images: float) -> str | None:
    """Why φ of all images is 0, or None where it is not.

    Args:
        inverse_norms: (references, n), 0 where the tf-idf vector of a reference is.
        n_images: of the document frequencies.
        log_n_images: what stands for their logarithm.
    """
    if torch.count_nonzero(inverse_norms):
        return None
    if log_n_images == 0:
        return ONE_IMAGE
    return (
        f"φ is 0 everywhere: no n-gram of the references tells images apart: each is in all {n_images} images that the "
        f"document frequencies come from, so that its idf is log({n_images}) - log({n_images}) = 0, or there are no "
        "words; fit on captions that differ from image to image"
    )
