"""Captions as token ids, tokenised once."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from itm_fast.data.text.caption_vocabulary import CaptionVocabulary
from itm_fast.data.text.tokenizers import Tokenizer
from itm_fast.indices import IndexLike, as_indices

_MANY_WORDS, _MANY_CAPTIONS = 0.05, 0.5


@dataclass(frozen=True, eq=False)
class CaptionTokens:
    """Token ids of many captions in one flat array: 4 bytes a token and 8 a caption, whatever their lengths.

    Attributes:
        flat: int32 (n_tokens,), the ids of all captions, one after the other.
        offsets: int64 (n_captions + 1,), caption c is flat[offsets[c] : offsets[c + 1]].
        n_attached_stops: At most this many captions kept an inner full stop on its word ("dog.") because nltk's
            punkt_tab data was absent; 0 with any other tokenizer.

    Raises:
        ValueError: offsets do not start at 0, decrease, or do not end at len(flat).
    """

    flat: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    n_attached_stops: int = 0

    def __post_init__(self) -> None:
        offsets = self.offsets
        if offsets.ndim != 1 or not len(offsets) or offsets[0] != 0 or (np.diff(offsets) < 0).any():
            raise ValueError(f"offsets have shape {offsets.shape}; expected one axis, from 0, never decreasing")
        if offsets[-1] != len(self.flat):
            raise ValueError(f"offsets end at {offsets[-1]}, but flat has {len(self.flat)} tokens; expected the same")

    @classmethod
    def from_captions(
        cls, captions: Iterable[str], vocabulary: CaptionVocabulary, tokenizer: Tokenizer | None = None
    ) -> "CaptionTokens":
        """Tokenise and encode captions, start and end included.

        Args:
            captions: One text each.
            vocabulary: Gives the ids.
            tokenizer: As in `resolve_tokenizer`; None: the one that the vocabulary is kept with, or nltk. Word pieces
                have their own.

        Returns:
            The ids of all captions.

        Raises:
            ImportError: The library of the tokenizer is not installed.
            TypeError: captions is a single string, or one of them is no text.
            ValueError: Unknown tokenizer.
        """
        if isinstance(captions, str):
            raise TypeError(f"captions is the string {captions!r:.40}; expected a list of captions")
        ready = vocabulary.tokenizer_for(tokenizer)
        n_attached_stops = 0
        flat, offsets = array("i"), array("q", [0])
        for number, caption in enumerate(captions):
            if not isinstance(caption, str):
                raise TypeError(f"captions[{number}] is {caption!r:.40}; expected a text")
            tokens = ready(caption)
            n_attached_stops += ready.leaves_stop_attached(tokens)
            flat.extend(vocabulary.encode(tokens))
            offsets.append(len(flat))
        return cls(np.array(flat, dtype=np.int32), np.array(offsets, dtype=np.int64), n_attached_stops)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def unknown_words(self, vocabulary: CaptionVocabulary) -> str:
        """How many words the vocabulary lacks, in a sentence.

        Args:
            vocabulary: The one that the ids are of.
        """
        n_unknown, n_words, n_captions = self._unknown(vocabulary)
        share = n_unknown / max(n_words, 1)
        percent = f"{share:.2%}" if 0 < share < 0.01 else f"{share:.0%}"
        return (
            f"{n_unknown:,} of {n_words:,} words ({percent}), in {n_captions:,} of {len(self):,} captions, are not in "
            f"the vocabulary ({vocabulary.fingerprint.partition(', sha256')[0]})"
        )

    def unknown_note(self, vocabulary: CaptionVocabulary) -> str | None:
        """What to tell people about words that the vocabulary lacks, where they are many.

        Args:
            vocabulary: The one that the ids are of.

        Returns:
            `unknown_words` and what to look at, where more than one word in twenty or every second caption is
            concerned; else None. The published vocabularies lack one or two words in a hundred of their own data sets.
        """
        n_unknown, n_words, n_captions = self._unknown(vocabulary)
        if n_unknown <= _MANY_WORDS * n_words and n_captions <= _MANY_CAPTIONS * len(self):
            return None
        return (
            f"{self.unknown_words(vocabulary)} and are read as {vocabulary.token(vocabulary.unknown_id)}: check that "
            "it is theirs, and that capitals are treated and captions split as when it was made (--tokenizer)"
        )

    def _unknown(self, vocabulary: CaptionVocabulary) -> tuple[int, int, int]:
        """Unknown words, all words without starts and ends, captions with an unknown one."""
        before = np.concatenate([[0], np.cumsum(self.flat == vocabulary.unknown_id)])
        n_captions = int((before[self.offsets[1:]] > before[self.offsets[:-1]]).sum())
        return int(before[-1]), len(self.flat) - 2 * len(self), n_captions

    def pad(self, caption_indices: IndexLike) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids of some captions as a rectangle, in the order asked for.

        Args:
            caption_indices: (B,) integers, 0 … len(self) - 1.

        Returns:
            tokens, int64 (B, max_words), zero after each caption's end, and word_counts, int64 (B,).

        Raises:
            IndexError: An index is outside the captions.
            TypeError: The indices are not integers.
        """
        places, valid = self._places(caption_indices)
        tokens = np.zeros(valid.shape, dtype=np.int64)
        tokens[valid] = self.flat[places]
        return torch.from_numpy(tokens), torch.from_numpy(valid.sum(1))

    def states(self, caption_indices: IndexLike) -> torch.Tensor | None:
        """What a text encoder made of the tokens of some captions before, in their places; None: nothing is kept."""
        return None

    def _places(self, caption_indices: IndexLike) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Where the tokens of some captions lie in `flat`, (n,), and in a rectangle, (B, max_words)."""
        indices = as_indices(caption_indices, len(self), "caption_indices")
        starts = self.offsets[indices]
        word_counts = self.offsets[indices + 1] - starts
        columns = np.arange(word_counts.max(initial=0))
        valid = columns < word_counts[:, None]
        return (starts[:, None] + columns)[valid], valid

    def by_image(self, caption_to_image: npt.NDArray[np.int64], n_images: int) -> "CaptionTokens":
        """All captions of an image, one after the other, as if they were one caption.

        Args:
            caption_to_image: (len(self),) int64, index of each caption's image.
            n_images: Images; one without captions has no tokens.

        Returns:
            One entry an image.
        """
        lengths = np.diff(self.offsets)
        order = np.argsort(caption_to_image, kind="stable")
        starts = self.offsets[order] - np.cumsum(lengths[order]) + lengths[order]  # less what is before it then
        flat = self.flat[np.repeat(starts, lengths[order]) + np.arange(len(self.flat))]
        sizes = np.bincount(caption_to_image, lengths, n_images).astype(np.int64)
        return CaptionTokens(flat, np.append(0, np.cumsum(sizes)))

    def take(self, caption_indices: IndexLike) -> "CaptionTokens":
        """Some captions, in the order asked for; they may repeat.

        Raises:
            IndexError: An index is outside the captions.
            TypeError: The indices are not integers.
        """
        indices = as_indices(caption_indices, len(self), "caption_indices")
        starts, counts = self.offsets[indices], np.diff(self.offsets)[indices]
        offsets = np.concatenate([[0], counts.cumsum()]).astype(np.int64)
        places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)
        return CaptionTokens(self.flat[places], offsets)
