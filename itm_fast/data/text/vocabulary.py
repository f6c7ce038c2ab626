"""Words to ids and back: SCAN's JSON vocabularies, the older pickled ones, and new ones from captions."""

import codecs
import hashlib
import io
import json
import pickle
import pickletools
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

from itm_fast.choices import WordTokenizer
from itm_fast.data.text.tokenizers import CaptionTokenizer, Tokenizer, resolve_tokenizer
from itm_fast.errors import DataError
from itm_fast.files.plain_text import EncodingError, decoded
from itm_fast.files.reading import parsed_json
from itm_fast.files.writing import written_aside

PAD, START, END, UNK = "<pad>", "<start>", "<end>", "<unk>"
SPECIALS = (PAD, START, END, UNK)

_MAX_FILE_BYTES = 64 * 2**20  # the largest vocabulary in circulation is below 1 MiB
_PROTO = b"\x80"
_PICKLES = (_PROTO, b"c", b"(", b"}")  # how a pickle of protocol 2 or later begins, and how older ones may
_FIELDS = ("word2idx", "idx2word", "idx")
_CLASS_NAMES = {"Vocabulary", "Vocab"}  # of whatever module: no class is looked up
_UNUSED = "<unused0>"  # stands for id 0 where ids begin at 1 and "<pad>" has another
# What pickle protocols 2 to 5 need for one object with a dict of str and int; no call (REDUCE), no persistent id.
# fmt: off
_ALLOWED_OPCODES = frozenset({
    "PROTO", "FRAME", "GLOBAL", "STACK_GLOBAL", "EMPTY_TUPLE", "NEWOBJ", "BUILD", "STOP",
    "EMPTY_DICT", "MARK", "SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET",
    "BININT", "BININT1", "BININT2", "SHORT_BINSTRING", "BINSTRING", "SHORT_BINUNICODE", "BINUNICODE",
})
# Protocols 0 and 1, without PROTO, spell the same object with copy_reg's function, or, of an old class, with INST.
_OLD_OPCODES = (_ALLOWED_OPCODES - {"PROTO", "FRAME", "STACK_GLOBAL", "MEMOIZE", "NEWOBJ"}) | {
    "REDUCE", "INST", "OBJ", "DICT", "TUPLE", "NONE", "PUT", "GET", "INT", "LONG", "STRING", "UNICODE",
}
_OLD_NAMES = {
    (module, name)
    for name, modules in (("_reconstructor", ("copy_reg", "copyreg")), ("object", ("__builtin__", "builtins")))
    for module in modules
}
# fmt: on


class Vocabulary:
    """Ids 0 … n - 1 of words; a word that is not listed has the id of "<unk>".

    Args:
        words: All words in the order of their ids, the four specials among them.
        tokenizer: The name of what split the captions that they are of; None: unknown.

    Attributes:
        tokenizer: As given; kept with the words.
        word2idx: Word -> id.
        idx2word: Id (int) -> word.

    Raises:
        ValueError: A word is listed twice, or a special is missing.

    Source: SCAN, vocab.py.

    Example:
        >>> vocabulary = Vocabulary.build([["a", "dog"], ["a", "cat"]], threshold=2)
        >>> vocabulary.encode(["a", "dog"])
        [1, 4, 3, 2]
    """

    def __init__(self, words: Iterable[str], tokenizer: WordTokenizer | None = None) -> None:
        self.tokenizer = tokenizer
        self.idx2word: dict[int, str] = dict(enumerate(words))
        self.word2idx: dict[str, int] = {word: index for index, word in self.idx2word.items()}
        if len(self.word2idx) != len(self.idx2word):
            twice = next(word for index, word in self.idx2word.items() if self.word2idx[word] != index)
            raise ValueError(f"the word {twice!r} is listed twice; expected every word once")
        missing = [special for special in SPECIALS if special not in self.word2idx]
        if missing:
            raise ValueError(f"special words missing: {', '.join(missing)}; expected {', '.join(SPECIALS)}")
        self._unknown_id = self.word2idx[UNK]

    def __len__(self) -> int:
        return len(self.word2idx)

    def __contains__(self, word: object) -> bool:
        return word in self.word2idx

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.word2idx == other.word2idx

    __hash__ = None  # type: ignore[assignment]  # two mutable dicts inside

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} words)"

    def token(self, index: int) -> str:
        """The word of an id."""
        return self.idx2word[index]

    @property
    def fingerprint(self) -> str:
        """Size and a hash of the words in order, such as "8481 words, sha256 0a1b2c3d4e5f": names a vocabulary."""
        digest = hashlib.sha256("\n".join(self.idx2word[index] for index in range(len(self))).encode()).hexdigest()
        return f"{len(self)} words, sha256 {digest[:12]}"

    @property
    def unknown_id(self) -> int:
        """Id of every word that is not listed."""
        return self._unknown_id

    @property
    def mask_id(self) -> int:
        """Id that stands for a word that is hidden: one beyond the words."""
        return len(self)

    @property
    def continues(self) -> None:
        """Which tokens continue the word before them: None, each is a word."""
        return

    def tokenizer_for(self, tokenizer: Tokenizer | None = None) -> CaptionTokenizer:
        """What splits captions into the words that `encode` takes, as `resolve_tokenizer` makes it.

        Args:
            tokenizer: None: the vocabulary's own, or nltk where it does not know it.

        Raises:
            ImportError: "nltk" was asked for and nltk is not installed.
            ValueError: Unknown tokenizer.
        """
        return resolve_tokenizer((self.tokenizer or "nltk") if tokenizer is None else tokenizer)

    def __call__(self, word: str) -> int:
        """Id of a word.

        Args:
            word: A token.

        Returns:
            Its id, or the id of "<unk>".
        """
        return self.word2idx.get(word, self._unknown_id)

    def encode(self, tokens: Sequence[str]) -> list[int]:
        """Ids of a caption, with its start and end.

        Args:
            tokens: Tokens of one caption.

        Returns:
            len(tokens) + 2 ids: "<start>", the tokens, "<end>".

        Raises:
            TypeError: tokens is a string, a caption that is not split.
        """
        if isinstance(tokens, str):
            raise TypeError(f"tokens is the string {tokens!r:.40}; expected a list of tokens")
        return [self.word2idx[START], *map(self, tokens), self.word2idx[END]]

    @classmethod
    def build(
        cls,
        tokenised_captions: Iterable[Sequence[str]],
        threshold: int = 4,
        tokenizer: WordTokenizer | None = None,
    ) -> "Vocabulary":
        """Collect the words that occur often enough.

        Ids: the four specials as 0 … 3, then the words in the order in which they first appear, which is what
        SCAN's vocab.py gives on Python ≥ 3.7 (on Python 2 its order was arbitrary).

        Args:
            tokenised_captions: Tokens of each caption; read once, so a generator will do.
            threshold: Least number of occurrences of a word that is kept.
            tokenizer: The name of what split them, where it has one.

        Returns:
            The vocabulary.

        Raises:
            TypeError: A caption is a string that is not split.
            ValueError: threshold < 1.

        Source: SCAN, vocab.py, build_vocab.
        """
        if threshold < 1:
            raise ValueError(f"threshold is {threshold}; expected at least 1")
        counts: Counter[str] = Counter()
        for tokens in tokenised_captions:
            if isinstance(tokens, str):  # of which only the letters would be counted
                raise TypeError(f"a caption is the string {tokens!r:.40}; expected the list of its tokens")
            counts.update(tokens)
        kept = (word for word, count in counts.items() if count >= threshold and word not in SPECIALS)
        return cls([*SPECIALS, *kept], tokenizer)

    @classmethod
    def load(cls, path: str | Path) -> "Vocabulary":
        """Read a vocabulary file; its content, not its name, says which form it has.

        Args:
            path: SCAN's JSON form {word2idx, idx2word, idx}, also with "tokenizer", as `save` writes it; or the pickle
                of VSE++, VSRN and many forks, of any protocol: an object `Vocabulary` of whatever module with these
                fields, or a dict of them. The pickle is read by a machine that can build nothing else. Ids may begin at
                1; id 0 is "<pad>" then.

        Returns:
            The vocabulary.

        Raises:
            FileNotFoundError: There is no such file.
            DataError: The file is too large, is neither form, asks for anything but a vocabulary, names an unknown
                tokenizer, or contradicts itself (ids not 0 … n - 1, a special missing, the two mappings not inverse).
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; expected a vocabulary of SCAN's form (JSON, or pickle)")
        n_bytes = path.stat().st_size
        if n_bytes > _MAX_FILE_BYTES:
            raise DataError(f"{path}: {n_bytes} bytes; a vocabulary has at most {_MAX_FILE_BYTES}")
        content, tokenizer = path.read_bytes(), None
        if content[:1] in _PICKLES:
            fields = _read_pickle(content, path)
        elif content.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"{":
            fields = _read_json(content, path)
            tokenizer = _checked_tokenizer(fields, path)
        else:
            try:
                decoded(content)
            except EncodingError as error:
                raise error.of(path) from error
            given = f"starts with {content[:8]!r}" if content else "empty"
            raise DataError(f"{path}: {given}; expected a vocabulary: JSON {{word2idx, idx2word, idx}}, or a pickle")
        return cls(_checked_words(fields, path), tokenizer)

    def save(self, path: str | Path) -> None:
        """Write SCAN's JSON form, aside and then renamed, so that no reader ever sees half a file.

        The tokenizer, where it is known, stands beside the words; SCAN's own reader leaves it out.

        Args:
            path: The file; its folder must exist.
        """
        fields = {"word2idx": self.word2idx, "idx2word": self.idx2word, "idx": len(self)}  # json makes the keys str
        fields |= {} if self.tokenizer is None else {"tokenizer": self.tokenizer}
        with written_aside(path) as aside:
            aside.write_text(json.dumps(fields), encoding="ascii")


def _read_json(content: bytes, path: Path) -> dict[str, Any]:
    fields = parsed_json(content, path, "a JSON vocabulary")
    idx2word = fields.get("idx2word")
    if isinstance(idx2word, dict):
        # Only "0", "17": int() alone would also take " 17", "1_7" and "٣", and let two keys meet in one id.
        odd = next((key for key in idx2word if not (key.isascii() and key.isdigit() and len(key) <= 9)), None)
        if odd is not None:
            raise DataError(f"{path}: idx2word has the key {odd!r:.40}; expected ids written as strings of digits")
        fields["idx2word"] = {int(key): word for key, word in idx2word.items()}
        if len(fields["idx2word"]) != len(idx2word):
            raise DataError(f"{path}: idx2word names an id twice (as in '7' and '07')")
    return dict(fields)


class _PickledVocabulary:
    """Stands in for the class that a pickle names; keeps the fields without looking at them."""

    def __setstate__(self, fields: object) -> None:
        self.fields = fields


class _VocabularyUnpickler(pickle.Unpickler):
    def __init__(self, content: bytes, path: Path) -> None:
        # Python 2 str comes as bytes, unicode as str: their difference, which latin1 would blur, decides the text.
        super().__init__(io.BytesIO(content), encoding="bytes")
        self._path = path
        self._is_old = content[:1] != _PROTO

    def find_class(self, module: str, name: str) -> Any:
        if self._is_old and (module, name) in _OLD_NAMES:
            return object if name == "object" else _reconstructed
        if name not in _CLASS_NAMES:
            _refuse(self._path, f"{module}.{name}")
        return _PickledVocabulary


def _reconstructed(kind: object, *_: object) -> _PickledVocabulary:
    """Stands in for copy_reg._reconstructor."""
    if kind is not _PickledVocabulary:
        raise ValueError("an object that is no vocabulary")
    return _PickledVocabulary()


def _read_pickle(content: bytes, path: Path) -> dict[str, Any]:
    try:
        _check_opcodes(content, path)
        built = _VocabularyUnpickler(content, path).load()
    except DataError:
        raise
    except Exception as error:  # a damaged pickle raises nearly every kind of exception
        raise DataError(f"{path}: damaged pickle: {type(error).__name__}: {error}") from error
    if isinstance(built, dict):
        fields = _decoded(built, path)
        if {"word2idx", "idx2word"} <= set(fields):
            return dict(fields)
    if not isinstance(built, _PickledVocabulary):
        raise DataError(f"{path}: the pickle holds a {type(built).__name__}; expected an object `Vocabulary`")
    fields = _decoded(getattr(built, "fields", None), path)
    if not isinstance(fields, dict):
        raise DataError(f"{path}: the pickled Vocabulary holds no fields; expected {', '.join(_FIELDS)}")
    return fields


def _check_opcodes(content: bytes, path: Path) -> None:
    """Refuse, before anything runs, every opcode that a vocabulary does not need, and memo indices that eat memory."""
    names: list[str] = []  # the last strings, which STACK_GLOBAL takes as module and name
    is_old = content[:1] != _PROTO
    allowed = _OLD_OPCODES if is_old else _ALLOWED_OPCODES
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if opcode.name in ("SHORT_BINUNICODE", "BINUNICODE"):
            names = [*names[-1:], str(argument)]
        elif opcode.name in ("GLOBAL", "INST") and opcode.name in allowed:
            wanted = tuple(str(argument).split(" ", 1))
            if wanted[-1] not in _CLASS_NAMES and not (is_old and opcode.name == "GLOBAL" and wanted in _OLD_NAMES):
                _refuse(path, ".".join(wanted))
        elif opcode.name == "STACK_GLOBAL" and (len(names) < 2 or names[1] not in _CLASS_NAMES):
            _refuse(path, ".".join(names) or "a name it computes")
        elif opcode.name not in allowed:
            _refuse(path, f"the pickle opcode {opcode.name}" + (f" ({argument!s:.80})" if argument else ""))
        elif opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > count:
            # The unpickler allocates the whole table up to the index: nine bytes of file could ask for 32 GiB.
            raise DataError(f"{path}: damaged pickle: memo index {argument} at opcode {count}")


def _refuse(path: Path, wanted: str) -> NoReturn:
    raise DataError(
        f"{path}: refused, nothing was run: the pickle asks for {wanted}; a vocabulary needs only the class "
        "`Vocabulary` (of any module), dict, str and int"
    )


def _decoded(value: object, path: Path, depth: int = 0) -> Any:
    """Turn Python-2 byte strings into text: UTF-8 where they are, else Latin-1."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value.decode("latin1")
    if not isinstance(value, dict) or depth > 1:  # fields -> mappings -> words; a pickle may nest without end
        return value
    decoded = {_decoded(key, path, depth + 1): _decoded(item, path, depth + 1) for key, item in value.items()}
    if len(decoded) != len(value):
        raise DataError(f"{path}: the pickle has two keys that read as the same text")
    return decoded


def _checked_words(fields: dict[str, Any], path: Path) -> list[str]:
    """Words by id, after every field was found to agree with the others."""
    word2idx = _checked_mapping(fields, "word2idx", str, int, path)
    idx2word = _checked_mapping(fields, "idx2word", int, str, path)
    n_named = len(idx2word)
    if n_named and 0 not in idx2word and {1, n_named} <= idx2word.keys():  # ids from 1; any other gap is found below
        filler = PAD if PAD not in word2idx else _UNUSED
        idx2word, word2idx = {0: filler, **idx2word}, {filler: 0, **word2idx}
    gap = next((index for index in range(len(idx2word)) if index not in idx2word), None)
    if gap is not None:
        raise DataError(f"{path}: idx2word lacks id {gap}; expected ids 0 … {len(idx2word) - 1}")
    words = [idx2word[index] for index in range(len(idx2word))]
    if len(word2idx) != len(words):
        raise DataError(f"{path}: word2idx has {len(word2idx)} words, idx2word {len(words)}; expected as many")
    for index, word in enumerate(words):
        if word2idx.get(word) != index:
            raise DataError(
                f"{path}: idx2word[{index}] is {word!r:.40}, but word2idx gives it {word2idx.get(word)}; expected "
                "the two mappings to be inverse"
            )
    missing = [special for special in SPECIALS if special not in word2idx]
    if missing:
        raise DataError(f"{path}: special words missing: {', '.join(missing)}; expected {', '.join(SPECIALS)}")
    if fields.get("idx", len(words)) not in (len(words), n_named):
        raise DataError(f"{path}: idx is {fields['idx']!r:.40}; expected the number of words, {len(words)}")
    return words


def _checked_tokenizer(fields: dict[str, Any], path: Path) -> WordTokenizer | None:
    found = fields.get("tokenizer")
    known: dict[object, WordTokenizer] = {name: name for name in get_args(WordTokenizer)}
    if found is None or (isinstance(found, str) and found in known):
        return known.get(found)
    raise DataError(f"{path}: tokenizer is {found!r:.40}; expected one of {', '.join(map(str, known))}, or none")


def _checked_mapping(fields: dict[str, Any], name: str, key_type: type, value_type: type, path: Path) -> dict[Any, Any]:
    mapping = fields.get(name)
    if not isinstance(mapping, dict):
        given = f"{name} is {type(mapping).__name__}" if name in fields else f"{name} is missing"
        raise DataError(f"{path}: {given}; expected a vocabulary with word2idx and idx2word, both mappings")
    for key, value in mapping.items():
        if type(key) is not key_type or type(value) is not value_type:  # exact: True is an int to isinstance
            wanted = f"{key_type.__name__} -> {value_type.__name__}"
            raise DataError(f"{path}: {name}[{key!r:.40}] is {value!r:.40}; expected {wanted}")
    return mapping
