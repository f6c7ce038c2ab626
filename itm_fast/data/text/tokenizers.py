"""Captions to tokens, as SCAN and its descendants do it; BERT's word pieces are not here."""

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from itm_fast.choices import WordTokenizer, perhaps

Tokenizer = WordTokenizer | Callable[[str], list[str]]
"""Name of a tokenizer, or a callable from the caption as written to its tokens (which lower-cases if it wants to)."""

# Two letters or more and one full stop: "dog." but not "u.s." or "j."; "mr." is counted too, hence "at most" below.
_ATTACHED_STOP = re.compile(r"[^\W\d_]{2,}\.")


@dataclass(frozen=True)
class CaptionTokenizer:
    """A tokenizer that is ready to run, and what is known about it.

    Attributes:
        name: "nltk" (with punkt_tab), "nltk-without-punkt_tab", "split", "word pieces" or "callable".
        split: The function from a caption to its tokens.
        finds_sentences: Whether a full stop inside the caption becomes a token of its own where a sentence ends.
    """

    name: str
    split: Callable[[str], list[str]]
    finds_sentences: bool

    def __call__(self, caption: str) -> list[str]:
        """Split one caption.

        Args:
            caption: One line of text.

        Returns:
            Its tokens, lower-cased unless the tokenizer is the user's own callable.

        Raises:
            TypeError: The user's callable returned something other than a list of strings.
        """
        tokens = self.split(caption)
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise TypeError(f"tokenizer returned {tokens!r:.80} for {caption!r:.60}; expected a list of str")
        return tokens

    def leaves_stop_attached(self, tokens: Sequence[str]) -> bool:
        """Whether an inner full stop may have stayed on its word, as "dog." in "a dog. it runs .".

        Args:
            tokens: Tokens of one caption, made by this tokenizer.

        Returns:
            Always False where sentences are found; otherwise True also for abbreviations ("mr."), so that a count
            over captions is an upper bound on those that differ from nltk with punkt_tab.
        """
        if self.finds_sentences:
            return False
        return any(_ATTACHED_STOP.fullmatch(token) for token in tokens[:-1])


def resolve_tokenizer(tokenizer: Tokenizer = "nltk") -> CaptionTokenizer:
    """Make a tokenizer ready for many captions.

    Args:
        tokenizer: "nltk": lower-case, then nltk's word_tokenize, or NLTKWordTokenizer alone where nltk's punkt_tab
            data is absent; "split": lower-case, then white space; or a callable, used as it is.

    Returns:
        The tokenizer. `finds_sentences` is False only for nltk without punkt_tab.

    Raises:
        ImportError: "nltk" was asked for and nltk is not installed.
        ValueError: The name is not one of the two.

    Source: SCAN, data.py, PrecompDataset.__getitem__ (Python 2 lowered ASCII letters only; all letters are here).
    """
    if callable(tokenizer):
        return CaptionTokenizer("callable", tokenizer, finds_sentences=True)
    if tokenizer == "split":
        return CaptionTokenizer("split", _split_lowered, finds_sentences=True)
    if tokenizer == "nltk":
        return _nltk_tokenizer()
    near = perhaps(tokenizer, ("nltk", "split"))
    raise ValueError(f'tokenizer is {tokenizer!r}; expected "nltk", "split" or a callable{near}')


def tokenize(caption: str, tokenizer: Tokenizer = "nltk") -> list[str]:
    """Split one caption into tokens.

    Args:
        caption: One line of text.
        tokenizer: As in `resolve_tokenizer`.

    Returns:
        The tokens, lower-cased unless `tokenizer` is a callable.

    Raises:
        ImportError: "nltk" was asked for and nltk is not installed.
        ValueError: Unknown name.
        TypeError: A callable returned something other than a list of strings.

    Example:
        >>> tokenize("A man in an orange hat .", "split")
        ['a', 'man', 'in', 'an', 'orange', 'hat', '.']
    """
    return resolve_tokenizer(tokenizer)(caption)


def _split_lowered(caption: str) -> list[str]:
    return caption.lower().split()


@lru_cache(maxsize=1)  # finding out whether punkt_tab is there walks the file system
def _nltk_tokenizer() -> CaptionTokenizer:
    try:
        nltk_tokenize = importlib.import_module("nltk.tokenize")
    except ImportError as error:
        message = 'tokenizer "nltk" needs nltk: pip install \'itm-fast[text]\' (or choose tokenizer "split")'
        raise ImportError(message) from error

    def with_sentences(caption: str) -> list[str]:
        tokens: list[str] = nltk_tokenize.word_tokenize(caption.lower())
        return tokens

    words_only = nltk_tokenize.NLTKWordTokenizer()

    def without_sentences(caption: str) -> list[str]:
        tokens: list[str] = words_only.tokenize(caption.lower())
        return tokens

    try:
        with_sentences("a dog .")
    except LookupError:  # nltk's own word for "data not downloaded"
        return CaptionTokenizer("nltk-without-punkt_tab", without_sentences, finds_sentences=False)
    return CaptionTokenizer("nltk", with_sentences, finds_sentences=True)
