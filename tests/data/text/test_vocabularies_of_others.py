"""Vocabularies as forks and older Pythons left them, and word pieces without a tokenizer's file: read, or refused."""

import json
import os
import pickle
import sys
import types

import numpy as np
import pytest

from itm_fast.data import CaptionTokens, Vocabulary, WordPieces
from itm_fast.errors import DataError

WORDS = ["<pad>", "<start>", "<end>", "<unk>", "dogs", "楼兰", "café", "'s", "0.5"]
OTHER_ORDER = ["<unk>", "<pad>", "<end>", "<start>", "dogs"]


def _load(tmp_path, content):
    (tmp_path / "vocab").write_bytes(content)
    return Vocabulary.load(tmp_path / "vocab")


def _fields(words, first=0):
    return {
        "word2idx": {word: index for index, word in enumerate(words, first)},
        "idx2word": dict(enumerate(words, first)),
        "idx": len(words) + first,
    }


def _pickled(monkeypatch, module, name, protocol, fields):
    holder = types.ModuleType(module)
    kind = type(name, (), {"__module__": module})
    setattr(holder, name, kind)
    for parent in ("lib", "data", "data.utils"):
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    monkeypatch.setitem(sys.modules, module, holder)
    made = kind()
    made.__dict__.update(fields)
    return pickle.dumps(made, protocol)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("module", ["vocab", "build_vocab", "lib.vocab", "data.utils.vocabulary"])
@pytest.mark.parametrize("name", ["Vocabulary", "Vocab"])
def test_any_module_and_protocol(module, name, protocol, monkeypatch, tmp_path):
    content = _pickled(monkeypatch, module, name, protocol, _fields(WORDS))
    monkeypatch.delitem(sys.modules, module)  # nothing is imported
    assert _load(tmp_path, content) == Vocabulary(WORDS)


# A class of Python 2 that is no object, as cPickle.dump(vocabulary, file) writes it: protocol 0, INST.
OLD_CLASS = (
    b"(ivocab\nVocabulary\np1\n(dp2\nS'idx'\nI4\nsS'word2idx'\n(dS'<pad>'\nI0\nsS'<start>'\nI1\nsS'<end>'\nI2\nsS'<unk>'\n"
    b"L3L\nssS'idx2word'\n(dI0\nS'<pad>'\nsI1\nS'<start>'\nsI2\nS'<end>'\nsI3\nV<unk>\nssb."
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (OLD_CLASS, WORDS[:4]),
        (pickle.dumps(_fields(WORDS), 2), WORDS),
        (pickle.dumps(_fields(WORDS), 0), WORDS),
        (json.dumps(_fields(OTHER_ORDER)).encode(), OTHER_ORDER),
        (json.dumps(_fields(WORDS), ensure_ascii=False).encode(), WORDS),
    ],
)
def test_other_forms(content, words, tmp_path):
    assert _load(tmp_path, content) == Vocabulary(words)


@pytest.mark.parametrize("protocol", [None, 0, 2, 4])
@pytest.mark.parametrize(
    ("words", "right"),
    [
        (WORDS[1:], WORDS),
        (OTHER_ORDER, ["<unused0>", *OTHER_ORDER]),
    ],
)
@pytest.mark.parametrize("idx", [0, 1])
def test_ids_from_1(words, right, protocol, idx, monkeypatch, tmp_path):
    fields = {**_fields(words, 1), "idx": len(words) + idx}  # the next id, or how many there are
    if protocol is None:
        content = json.dumps(fields).encode()
    else:
        content = _pickled(monkeypatch, "vocab", "Vocabulary", protocol, fields)
    found = _load(tmp_path, content)
    assert [found.idx2word[index] for index in range(len(found))] == right
    assert found("dogs") == words.index("dogs") + 1
    assert found.unknown_id == words.index("<unk>") + 1


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 1])
def test_old_protocols_run_nothing_either(protocol, tmp_path):
    mark = tmp_path / "mark"
    for content in (
        pickle.dumps(Calls(os.system, f"touch {mark}"), protocol),
        pickle.dumps({"word2idx": Calls(os.system, f"touch {mark}"), "idx2word": {}}, protocol),
        b"(S'touch x'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch x'\no.",
        b"ccopy_reg\n_reconstructor\n(c__builtin__\nobject\nc__builtin__\nobject\nNtR.",
        b"ccopy_reg\n__newobj__\n(cvocab\nVocabulary\ntR.",
        b"c__builtin__\neval\n(S'1'\ntR.",
        b"Pos.system\n.",
        b"(dp999999999\n.",
        b"(" * 100,
        b"cut",
    ):
        with pytest.raises(DataError, match="vocab: "):
            _load(tmp_path, content)
        assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (json.dumps({"word2idx": {"a": 0}, "char_level": False}).encode(), "idx2word is missing"),
        (b'{"word2idx": {', "not a JSON vocabulary, or cut short"),
        (json.dumps(_fields(WORDS)).encode("utf-16"), "not UTF-8 but UTF-16"),
        (b'{"word2idx": {"caf\xe9": 1}}', "not a JSON vocabulary in line 1: not UTF-8 but, as it seems, Latin-1"),
        (b'{"word2idx": {"a": 1, "a": 2}}', "'a' is there twice"),
        (json.dumps(_fields(WORDS[1:], 2)).encode(), "idx2word lacks id 0"),
        (b"the\nof\n", "starts with b'the"),
    ],
)
def test_what_is_refused(content, fragment, tmp_path):
    with pytest.raises(DataError) as raised:
        _load(tmp_path, content)
    assert fragment in str(raised.value)


SPECIALS = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LOWER = [f"w{place}" for place in range(400)]


@pytest.mark.parametrize(
    ("more", "lower_case"),
    [
        ([], True),
        (["\u211d", "##\u211d"], True),  # nothing lowers the sign of the real numbers
        (["\u03d2", "\u2115", "\u2124"], True),
        (["NASA"], True),
        (["NASA", "##B", "I"], True),
        ([f"W{place}" for place in range(12)], False),
        ([word.capitalize() for word in LOWER], False),
        (["É", "Ö", "Ω", "Ж", "I", "The"], False),
    ],
)
def test_the_case_of_pieces_without_a_tokenizers_file(more, lower_case, tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIALS, *LOWER, *more]), encoding="utf-8")
    for path in (tmp_path, tmp_path / "vocab.txt"):
        assert WordPieces.load(path).lower_case is lower_case


def test_a_letter_that_nothing_lowers_is_no_capital(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIALS, "a", "\u211d", "##\u211d"]), encoding="utf-8")
    assert WordPieces.load(tmp_path).lower_case


def test_torn_lines_of_pieces_are_named(tmp_path):
    (tmp_path / "vocab.txt").write_bytes("\r".join(SPECIALS).encode())
    with pytest.raises(DataError, match=r"vocab\.txt: line 1 holds a carriage return without a line feed"):
        WordPieces.load(tmp_path)


VOCABULARY = Vocabulary([*WORDS[:4], "a", "dog"])


@pytest.mark.parametrize(
    ("captions", "note"),
    [
        (["a dog"] * 99 + ["a cat"], None),  # 1 word of 200
        (["a dog"] * 9 + ["a cat"], None),  # 1 of 20, which is not more than one in twenty
        (["a dog"] * 8 + ["a cat"], "1 of 18 words (6%), in 1 of 9 captions, are not in the vocabulary (6 words)"),
        (["a " * 30 + "cat"] * 2 + ["a"], "2 of 63 words (3%), in 2 of 3 captions"),
        (["Two cats"] * 600, "1,200 of 1,200 words (100%), in 600 of 600 captions"),
        ([], None),
        ([""], None),
    ],
)
def test_words_that_the_vocabulary_lacks_are_told_where_they_are_many(captions, note):
    found = CaptionTokens.from_captions(captions, VOCABULARY, "split").unknown_note(VOCABULARY)
    assert found is None if note is None else note in found
    assert found is None or ("<unk>" in found and "--tokenizer" in found)


def test_pieces_read_in_the_wrong_case_are_told():
    pytest.importorskip("tokenizers")
    pieces = [*SPECIALS, "two", "dogs", "run"]
    wrong, right = (WordPieces(pieces, lower_case=case) for case in (False, True))
    captions = ["Two dogs run"] * 10
    note = CaptionTokens.from_captions(captions, wrong).unknown_note(wrong)
    assert note.startswith(
        "10 of 30 words (33%), in 10 of 10 captions, are not in the vocabulary (9 word pieces, case kept)"
    )
    assert CaptionTokens.from_captions(captions, right).unknown_note(right) is None


@pytest.mark.parametrize(
    "call",
    [
        lambda: CaptionTokens.from_captions("a dog", VOCABULARY, "split"),
        lambda: Vocabulary.build(["a dog"]),
        lambda: Vocabulary.build("a dog"),
        lambda: VOCABULARY.encode("a dog"),
        lambda: WordPieces(SPECIALS).encode("a dog"),
    ],
)
def test_a_string_is_not_spelt(call):
    with pytest.raises(TypeError, match=r"is the string 'a( dog)?'; expected (a|the) list of"):
        call()


def test_ids_of_padding_stay_0():
    tokens = CaptionTokens.from_captions(["a dog", "a"], VOCABULARY, "split")
    np.testing.assert_array_equal(tokens.pad([0, 1])[0], [[1, 4, 5, 2], [1, 4, 2, 0]])
