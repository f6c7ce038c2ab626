"""Captions to BERT's word pieces and their ids."""

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from itm_fast.data.text.tokenizers import CaptionTokenizer, Tokenizer
from itm_fast.errors import DataError
from itm_fast.files.plain_text import read_text, split_lines
from itm_fast.files.reading import read_json
from itm_fast.files.writing import written_aside
from itm_fast.pretrained import text_library

PAD, UNK, CLS, SEP, MASK = SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

_CONTINUES = "##"
_CASED = 0.01  # share of pieces with capitals, from which on a vocabulary is cased: bert-base-cased has 0.4
_LOWER_CASE_OF = {  # by the SHA-256 of a vocab.txt
    "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3": True,  # bert-base-uncased
}
_SAVED, _TEXT, _WHOLE, _OPTIONS = "word_pieces", "vocab.txt", "tokenizer.json", "tokenizer_config.json"

_SAME_OPTIONS = {  # of tokenizer_config.json and of tokenizer.json
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}


class WordPieces:
    """Ids 0 … n - 1 of word pieces; stands where a `Vocabulary` does.

    A caption is split at white space and punctuation, and each word into the longest pieces that are listed, "##" in
    front of all but the first; a word that cannot be made of them is one "[UNK]". Specials that are written in a
    caption are words like any other.

    Args:
        pieces: All pieces in the order of their ids, the five specials among them.
        lower_case: Lower the letters and drop the accents first, as an uncased BERT wants it.

    Attributes:
        tokenizer: "word pieces": no tokenizer of words has a part in it.
        pieces: Piece by id.
        ids: Id by piece.
        lower_case: As given.

    Raises:
        ValueError: A piece is listed twice, or a special is missing.

    Source:
        google-research/bert, tokenization.py; used by woodfrog/vse_infty, lib/datasets/image_caption.py.

    Example:
        >>> pieces = WordPieces(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog", "##s"])
        >>> pieces.encode(["dog", "##s"])
        [2, 5, 6, 3]
    """

    tokenizer = "word pieces"

    def __init__(self, pieces: Iterable[str], *, lower_case: bool = True) -> None:
        self.pieces = list(pieces)
        self.ids = {piece: index for index, piece in enumerate(self.pieces)}
        self.lower_case = lower_case
        if len(self.ids) != len(self.pieces):
            twice = next(piece for index, piece in enumerate(self.pieces) if self.ids[piece] != index)
            raise ValueError(f"the word piece {twice!r} is listed twice; expected every piece once")
        missing = [special for special in SPECIALS if special not in self.ids]
        if missing:
            raise ValueError(f"special word pieces missing: {', '.join(missing)}; expected {', '.join(SPECIALS)}")

    def __len__(self) -> int:
        return len(self.pieces)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WordPieces) and (self.pieces, self.lower_case) == (other.pieces, other.lower_case)

    __hash__ = None  # type: ignore[assignment]  # a mutable list inside

    def __repr__(self) -> str:
        return f"WordPieces({len(self)} pieces, {self._case})"

    @property
    def _case(self) -> str:
        return "lower case" if self.lower_case else "case kept"

    def token(self, index: int) -> str:
        """The piece of an id."""
        return self.pieces[index]

    @property
    def fingerprint(self) -> str:
        """Size, case and a hash of the pieces in order: names a vocabulary."""
        digest = hashlib.sha256("\n".join(self.pieces).encode()).hexdigest()
        return f"{len(self)} word pieces, {self._case}, sha256 {digest[:12]}"

    @property
    def unknown_id(self) -> int:
        """Id of every word that cannot be made of pieces."""
        return self.ids[UNK]

    @property
    def mask_id(self) -> int:
        """Id that stands for a word that is hidden."""
        return self.ids[MASK]

    @property
    def continues(self) -> npt.NDArray[np.bool_]:
        """Bool (n,): which pieces continue the word before them."""
        return np.array([piece.startswith(_CONTINUES) for piece in self.pieces])

    def tokenizer_for(self, tokenizer: Tokenizer | None = None) -> CaptionTokenizer:
        """What splits captions into pieces, whichever tokenizer of words is asked for.

        Raises:
            ImportError: tokenizers is not installed.
        """
        return CaptionTokenizer(self.tokenizer, self.split, finds_sentences=True)

    def split(self, caption: str) -> list[str]:
        """The pieces of one caption, without "[CLS]" and "[SEP]".

        Raises:
            ImportError: tokenizers is not installed.
        """
        pieces: list[str] = self._tokenizer.encode(caption, add_special_tokens=False).tokens
        return pieces

    def encode(self, tokens: Sequence[str]) -> list[int]:
        """Ids of a caption, with its start and end.

        Args:
            tokens: Pieces of one caption.

        Returns:
            len(tokens) + 2 ids: "[CLS]", the pieces, "[SEP]".

        Raises:
            TypeError: tokens is a string, a caption that is not split.
        """
        if isinstance(tokens, str):
            raise TypeError(f"tokens is the string {tokens!r:.40}; expected a list of word pieces")
        unknown = self.ids[UNK]
        return [self.ids[CLS], *(self.ids.get(token, unknown) for token in tokens), self.ids[SEP]]

    @functools.cached_property
    def _tokenizer(self) -> Any:
        # Built here and not taken from a file: files add tokens of their own, which would be found within captions.
        library = text_library("tokenizers", "splitting captions into word pieces")
        pieces = library.models.WordPiece(self.ids, unk_token=UNK, continuing_subword_prefix=_CONTINUES)
        tokenizer = library.Tokenizer(pieces)
        tokenizer.normalizer = library.normalizers.BertNormalizer(lowercase=self.lower_case)
        tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
        return tokenizer

    @classmethod
    def load(cls, path: str | Path) -> "WordPieces":
        """Reads what `save` wrote, a vocab.txt or a tokenizer.json, or the folder of a pretrained transformer.

        Args:
            path: The file, or a folder with tokenizer.json, or with vocab.txt and perhaps tokenizer_config.json.
                Without the latter, bert-base-uncased's vocab.txt is known by its hash, another of an uncased BERT by
                its pieces, of which fewer than one in a hundred has a letter that is lowered: there may be an odd one.

        Returns:
            The word pieces.

        Raises:
            FileNotFoundError: There is no such file, or the folder holds none.
            DataError: The file is of something else, such as the byte pairs of RoBERTa, or contradicts itself.
        """
        path = Path(path)
        if path.is_dir():
            path = next((path / name for name in (_WHOLE, _TEXT) if (path / name).is_file()), path / _TEXT)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; expected BERT's {_TEXT}, or a {_WHOLE} of word pieces")
        try:
            pieces, lower_case = _read_text(path) if path.suffix == ".txt" else _read_json(path)
            return cls(pieces, lower_case=lower_case)
        except DataError:
            raise
        except ValueError as error:  # a piece twice
            raise DataError(f"{path}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Writes pieces and case as JSON, aside and then renamed.

        Args:
            path: The file; its folder must exist.
        """
        with written_aside(path) as aside:
            aside.write_text(json.dumps({_SAVED: self.pieces, "lower_case": self.lower_case}), encoding="ascii")


def holds_word_pieces(path: Path) -> bool:
    """Whether a vocabulary's path is one that `WordPieces.load` reads: a folder, a .txt, or a JSON of pieces."""
    if path.is_dir() or path.suffix == ".txt":
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(64)
    return path.name == _WHOLE or f'"{_SAVED}"'.encode() in start


def _read_text(path: Path) -> tuple[list[str], bool]:
    pieces = split_lines(read_text(path))
    torn = next((number for number, piece in enumerate(pieces, start=1) if "\r" in piece), None)
    if torn is not None:
        raise ValueError(f"line {torn} holds a carriage return without a line feed; expected a piece a line")
    options = _options_beside(path)
    if "do_lower_case" in options:
        return pieces, _lower_case(options, "do_lower_case", "tokenize_chinese_chars")
    known = _LOWER_CASE_OF.get(hashlib.sha256(path.read_bytes()).hexdigest())
    if known is not None:
        return pieces, known
    # Not str.isupper: nothing lowers U+211D, the sign of the real numbers, which bert-base-uncased holds.
    n_capitalised = sum(piece != piece.lower() for piece in pieces if piece[:1] != "[")
    return pieces, n_capitalised < _CASED * len(pieces)


def _read_json(path: Path) -> tuple[list[str], bool]:
    content = _json_object(path)
    if _SAVED in content:
        pieces = content[_SAVED]
        if not isinstance(pieces, list) or not all(isinstance(piece, str) for piece in pieces):
            raise ValueError(f"{_SAVED} is not a list of strings")
        return pieces, _lower_case(content, "lower_case")
    model, normaliser = _inner(content, "model"), _inner(content, "normalizer")
    kinds = model.get("type"), normaliser.get("type")
    if kinds != ("WordPiece", "BertNormalizer"):
        raise ValueError(
            f"of the kind {kinds[0]} after {kinds[1]}; only word pieces are read, WordPiece after BertNormalizer: of "
            "BERT, DistilBERT, ELECTRA and the like"
        )
    ids = _inner(model, "vocab")
    if any(type(index) is not int for index in ids.values()) or sorted(ids.values()) != list(range(len(ids))):
        raise ValueError("the ids of its word pieces are not 0 … n - 1")
    _check_added(content, ids)
    options = _options_beside(path)  # which decide, as in transformers
    for name, own in _SAME_OPTIONS.items():
        if options.get(name) is not None:
            normaliser[own] = options[name]
    return sorted(ids, key=ids.__getitem__), _lower_case(normaliser, "lowercase", "handle_chinese_chars")


def _options_beside(path: Path) -> dict[str, Any]:
    """What tokenizer_config.json says, where there is one."""
    beside = path.with_name(_OPTIONS)
    return _json_object(beside) if beside.is_file() else {}


def _check_added(content: Mapping[str, Any], ids: Mapping[str, int]) -> None:
    """Refuse tokens that were added to the pieces, except the specials, which no caption holds."""
    added = content.get("added_tokens")
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and token.get("special") is not True and token.get("content") not in ids:
            raise ValueError(f"it adds the token {token.get('content')!r:.60} to its word pieces, which is not read")


def _json_object(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds a {type(content).__name__}, expected an object")
    return content


def _inner(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = content.get(name)
    return found if isinstance(found, dict) else {}


def _lower_case(options: Mapping[str, Any], name: str, chinese: str = "") -> bool:
    """Whether letters are lowered; refused where accents and Chinese characters are not treated as BERT does."""
    lower_case = options.get(name)
    if not isinstance(lower_case, bool):
        raise ValueError(f"{name} is {lower_case!r}, expected true or false")
    if options.get("strip_accents") not in (None, lower_case) or options.get(chinese, True) is not True:
        raise ValueError(f"expected accents to go where letters are lowered, and {chinese} true, as BERT has it")
    return lower_case
