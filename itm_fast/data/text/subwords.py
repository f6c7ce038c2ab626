"""Captions to the subwords of a pretrained tokenizer: byte pairs of CLIP and RoBERTa, unigrams of SigLIP."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from itm_fast.data.text.tokenizers import CaptionTokenizer, Tokenizer
from itm_fast.errors import DataError
from itm_fast.files.reading import read_json
from itm_fast.files.writing import written_aside
from itm_fast.pretrained import text_library

_SAVED, _WHOLE = "subwords", "tokenizer.json"
_BEGINS_A_WORD = ("Ġ", "▁")  # how RoBERTa and SentencePiece write the blank before a word; CLIP marks its end


class Subwords:
    """Ids 0 … n - 1 of a tokenizer's subwords; stands where a `Vocabulary` does.

    Specials that are written in a caption are text like any other.

    Args:
        definition: What tokenizer.json holds.
        start_id: Id in front of every caption; None: there is none.
        end_id: Id behind every caption.
        unknown_id: Id of what cannot be made of subwords.
        mask_id: Id that stands for a word that is hidden.

    Raises:
        ValueError: The definition is of no tokenizer, or lacks an id.
    """

    tokenizer = "subwords"

    def __init__(
        self, definition: dict[str, Any], *, start_id: int | None, end_id: int, unknown_id: int, mask_id: int
    ) -> None:
        self.definition = definition
        self.start_id, self.end_id, self.unknown_id, self.mask_id = start_id, end_id, unknown_id, mask_id
        n = len(self)
        for name, index in {**self._specials, "start_id": 0 if start_id is None else start_id}.items():
            if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < n:
                raise ValueError(f"{name} is {index!r}; expected 0 … {n - 1}, an id of the tokenizer")

    @property
    def _specials(self) -> dict[str, int | None]:
        named: dict[str, int | None] = {"start_id": self.start_id, "end_id": self.end_id}
        return {**named, "unknown_id": self.unknown_id, "mask_id": self.mask_id}

    def __len__(self) -> int:
        return len(self._pieces)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Subwords):
            return False
        return (self.definition, self._specials) == (other.definition, other._specials)

    __hash__ = None  # type: ignore[assignment]  # a mutable dictionary inside

    def __repr__(self) -> str:
        return f"Subwords({len(self)})"

    @functools.cached_property
    def _tokenizer(self) -> Any:
        library = text_library("tokenizers", "splitting captions into subwords")
        try:
            tokenizer = library.Tokenizer.from_str(json.dumps(self.definition))
            tokenizer.no_truncation()
            tokenizer.no_padding()
            tokenizer.encode_special_tokens = True
        except Exception as error:  # the library's own is a plain Exception
            raise ValueError(f"no tokenizer that the library tokenizers knows: {error}") from error
        return tokenizer

    @functools.cached_property
    def _pieces(self) -> list[str]:
        ids: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        largest = max(ids.values(), default=-1)
        if largest >= 10 * len(ids) + 1000:  # before there is a list that long
            raise ValueError(f"its {len(ids)} subwords have ids up to {largest}")
        pieces = [""] * (largest + 1)
        for piece, index in ids.items():
            pieces[index] = piece
        return pieces

    def token(self, index: int) -> str:
        """The subword of an id."""
        return self._pieces[index]

    @property
    def fingerprint(self) -> str:
        """Number and a hash of the definition: names a vocabulary."""
        digest = hashlib.sha256(json.dumps([self.definition, self._specials], sort_keys=True).encode()).hexdigest()
        return f"{len(self)} subwords, sha256 {digest[:12]}"

    @property
    def continues(self) -> npt.NDArray[np.bool_] | None:
        """Bool (n,): which subwords continue the word before them; None where only the end of a word is marked."""
        begins = np.array([piece.startswith(_BEGINS_A_WORD) for piece in self._pieces])
        return None if not begins.any() else ~begins

    def tokenizer_for(self, tokenizer: Tokenizer | None = None) -> CaptionTokenizer:
        """What splits captions into subwords, whichever tokenizer of words is asked for."""
        return CaptionTokenizer(self.tokenizer, self.split, finds_sentences=True)

    def split(self, caption: str) -> list[str]:
        """The subwords of one caption, without those of start and end.

        Raises:
            ImportError: tokenizers is not installed.
        """
        pieces: list[str] = self._tokenizer.encode(caption, add_special_tokens=False).tokens
        return pieces

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {piece: index for index, piece in enumerate(self._pieces)}

    def encode(self, tokens: Sequence[str]) -> list[int]:
        """Ids of a caption, with its start, if there is one, and its end.

        Args:
            tokens: Subwords of one caption.

        Raises:
            TypeError: tokens is a string, a caption that is not split.
        """
        if isinstance(tokens, str):
            raise TypeError(f"tokens is the string {tokens!r:.40}; expected a list of subwords")
        start = [] if self.start_id is None else [self.start_id]
        return [*start, *(self._ids.get(token, self.unknown_id) for token in tokens), self.end_id]

    @classmethod
    def of_folder(cls, folder: Path) -> Subwords:
        """Reads the tokenizer of a pretrained transformer.

        Args:
            folder: With the tokenizer's files, as transformers' save_pretrained leaves them.

        Raises:
            DataError: There is no tokenizer that ends a caption, or it is damaged.
            ImportError: transformers is not installed.
        """
        transformers = text_library("transformers", "a tokenizer of subwords")
        try:
            found = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            definition = json.loads(found.backend_tokenizer.to_str())
            ids = found("a")["input_ids"]  # what it puts around a caption
            end = found.eos_token_id if found.sep_token_id is None else found.sep_token_id
            start = next((x for x in (found.cls_token_id, found.bos_token_id) if x is not None and x == ids[0]), None)
            unknown = end if found.unk_token_id is None else found.unk_token_id
            mask = unknown if found.mask_token_id is None else found.mask_token_id
            return cls(definition, start_id=start, end_id=end, unknown_id=unknown, mask_id=mask)
        except ImportError as error:
            raise ImportError(f"{folder}: {' '.join(str(error).split())}") from error
        except Exception as error:  # a damaged or foreign folder raises nearly every kind of exception
            reason = " ".join(str(error).split())
            raise DataError(f"{folder}: no tokenizer of captions: {reason:.300}") from error

    @classmethod
    def load(cls, path: str | Path) -> Subwords:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            DataError: It is something else.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; expected a tokenizer of subwords")
        content = read_json(path)
        try:
            return cls(content[_SAVED], **{name: content[name] for name in _NAMES})
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: no subwords as itm-fast saves them: {error}") from error

    def save(self, path: str | Path) -> None:
        """Writes definition and ids as JSON, aside and then renamed."""
        with written_aside(path) as aside:
            aside.write_text(json.dumps({_SAVED: self.definition, **self._specials}), encoding="ascii")


_NAMES = ("start_id", "end_id", "unknown_id", "mask_id")


def holds_subwords(path: Path) -> bool:
    """Whether a vocabulary's path is one that `Subwords.load` reads."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(64).startswith(f'{{"{_SAVED}"'.encode())


def has_subwords(folder: Path) -> bool:
    """Whether a pretrained transformer's tokenizer makes something else than word pieces."""
    path = folder / _WHOLE
    if not path.is_file():
        return not (folder / "vocab.txt").is_file() and any(
            (folder / name).is_file() for name in ("merges.txt", "spiece.model", "sentencepiece.bpe.model")
        )
    content = read_json(path)
    model = content.get("model") if isinstance(content, dict) else None
    return isinstance(model, dict) and model.get("type") != "WordPiece"
