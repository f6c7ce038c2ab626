"""What stands between captions and their ids: words, word pieces, or subwords of another tokenizer."""

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from itm_fast.data.text.subwords import Subwords, has_subwords, holds_subwords
from itm_fast.data.text.tokenizers import CaptionTokenizer, Tokenizer
from itm_fast.data.text.vocabulary import Vocabulary
from itm_fast.data.text.word_pieces import WordPieces, holds_word_pieces


class CaptionVocabulary(Protocol):
    """What `Vocabulary`, `WordPieces` and `Subwords` have in common, and all that models and their evaluation use."""

    @property
    def tokenizer(self) -> str | None:
        """Name of what splits captions into its words: "nltk", "split", "word pieces", "subwords"; None: unknown."""
        ...

    @property
    def fingerprint(self) -> str:
        """Size and a hash: names a vocabulary."""
        ...

    @property
    def unknown_id(self) -> int:
        """Id of every word or piece that is not listed."""
        ...

    @property
    def mask_id(self) -> int:
        """Id that stands for a word that is hidden."""
        ...

    @property
    def continues(self) -> npt.NDArray[np.bool_] | None:
        """Bool (n,): which tokens continue the word before them; None: each is a word."""
        ...

    def __len__(self) -> int: ...

    def token(self, index: int, /) -> str:
        """The word or piece of an id."""
        ...

    def tokenizer_for(self, tokenizer: Tokenizer | None = None, /) -> CaptionTokenizer:
        """What splits captions into the tokens that `encode` takes; None: its own, or nltk where that is unknown."""
        ...

    def encode(self, tokens: list[str], /) -> list[int]:
        """Ids of a caption, with its start and end."""
        ...

    def save(self, path: str | Path, /) -> None:
        """Write a file that `load_vocabulary` reads."""
        ...


def check_is_vocabulary(given: object) -> None:
    """Raise TypeError unless it is a vocabulary; the path of one is none."""
    if not hasattr(given, "tokenizer_for"):
        raise TypeError(
            f"vocabulary must be a Vocabulary, WordPieces or Subwords, got {given!r:.40}; load_vocabulary(path) reads "
            "one"
        )


def load_vocabulary(path: str | Path) -> CaptionVocabulary:
    """Reads a vocabulary of any kind.

    Args:
        path: What `Vocabulary.load`, `WordPieces.load` or `Subwords.load` reads.

    Returns:
        The vocabulary.

    Raises:
        FileNotFoundError: There is no such file.
        DataError: The file is none.
    """
    if holds_subwords(Path(path)):
        return Subwords.load(path)
    return WordPieces.load(path) if holds_word_pieces(Path(path)) else Vocabulary.load(path)


def pretrained_pieces(folder: Path) -> CaptionVocabulary:
    """The word pieces, or other subwords, that a pretrained transformer reads.

    Args:
        folder: Its folder.

    Raises:
        FileNotFoundError: The folder holds no tokenizer.
        DataError: The tokenizer is damaged.
        ImportError: A library that knows it is not installed.
    """
    if has_subwords(folder):
        return Subwords.of_folder(folder)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise FileNotFoundError(
            f"{folder}: no tokenizer; expected tokenizer.json, or vocab.txt of BERT, vocab.json and merges.txt of CLIP "
            "and RoBERTa, spiece.model of SigLIP"
        )
    return WordPieces.load(folder)


def tokenizer_note(vocabulary: CaptionVocabulary, asked: Tokenizer | None) -> str | None:
    """What to tell people about how captions are split, where that is not known to be as the vocabulary has it.

    Args:
        vocabulary: Encodes them.
        asked: What splits them; None: what `tokenizer_for` takes then.

    Returns:
        A sentence, or None: the two agree, the vocabulary brings its own, or does not know what the user says.
    """
    own = vocabulary.tokenizer
    if own in (WordPieces.tokenizer, Subwords.tokenizer) or callable(asked) or (own is None and asked is not None):
        return None
    if own is None:
        return (
            "which tokenizer the vocabulary was made with is not kept with it: captions are split by nltk; give "
            "--tokenizer split if that was it"
        )
    if asked is None or asked == own:
        return None
    return (
        f"WARNING: captions are split by {asked}, as asked for (--tokenizer), but the vocabulary says {own}: "
        "leave --tokenizer out to follow it"
    )
