"""What stands between captions and their ids: words, or word pieces."""

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from itm_fast.data.text.tokenizers import CaptionTokenizer, Tokenizer
from itm_fast.data.text.vocabulary import Vocabulary
from itm_fast.data.text.word_pieces import WordPieces, holds_word_pieces


class CaptionVocabulary(Protocol):
    """What `Vocabulary` and `WordPieces` have in common, and all that models and their evaluation use."""

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

    def tokenizer_for(self, tokenizer: Tokenizer, /) -> CaptionTokenizer:
        """What splits captions into the tokens that `encode` takes."""
        ...

    def encode(self, tokens: list[str], /) -> list[int]:
        """Ids of a caption, with its start and end."""
        ...

    def save(self, path: str | Path, /) -> None:
        """Write a file that `load_vocabulary` reads."""
        ...


def load_vocabulary(path: str | Path) -> CaptionVocabulary:
    """Reads a vocabulary of either kind.

    Args:
        path: What `Vocabulary.load` or `WordPieces.load` reads.

    Returns:
        The vocabulary.

    Raises:
        FileNotFoundError: There is no such file.
        DataError: The file is neither.
    """
    return WordPieces.load(path) if holds_word_pieces(Path(path)) else Vocabulary.load(path)
