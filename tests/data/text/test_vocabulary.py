import json
import os
import pickle
import struct
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itm_fast.data.text import vocabulary as vocabulary_module
from itm_fast.data.text.vocabulary import SPECIALS, Vocabulary
from itm_fast.errors import DataError

WORDS = [*SPECIALS, "a", "dog", "café", "na\u00efve", "日本", "\u00e9"]


def py2_string(text):
    content = text.encode()
    return b"U" + bytes([len(content)]) + content  # SHORT_BINSTRING: str of Python 2


def py2_unicode(text):
    content = text.encode()
    return b"X" + struct.pack("<I", len(content)) + content


def py2_int(value):
    return b"K" + bytes([value])


def py2_pickle(words=WORDS, module="__main__", string=py2_string):
    """Bytes as cPickle.dump(vocabulary, file, 2) of Python 2 writes them (memo left out but for the mappings)."""
    word2idx = b"}q\x01(" + b"".join(string(w) + py2_int(i) for i, w in enumerate(words)) + b"u"
    idx2word = b"}q\x02(" + b"".join(py2_int(i) + string(w) for i, w in enumerate(words)) + b"u"
    state = b"}q\x03(" + py2_string("idx") + py2_int(len(words))
    state += py2_string("word2idx") + word2idx + py2_string("idx2word") + idx2word + b"u"
    return b"\x80\x02c" + module.encode() + b"\nVocabulary\nq\x00)\x81q\x04" + state + b"b."


def as_json(**changes):
    fields = {
        "word2idx": {word: index for index, word in enumerate(WORDS)},
        "idx2word": {str(index): word for index, word in enumerate(WORDS)},
        "idx": len(WORDS),
    }
    fields.update(changes)
    return json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()


def load(tmp_path, content):
    (tmp_path / "vocab").write_bytes(content)  # no suffix: the content decides
    return Vocabulary.load(tmp_path / "vocab")


def python3_pickle(protocol, monkeypatch):
    """A vocabulary that someone saved again on Python 3, with the class in a module `vocab`."""
    holder = types.ModuleType("vocab")
    holder.Vocabulary = type("Vocabulary", (), {"__module__": "vocab"})
    monkeypatch.setitem(sys.modules, "vocab", holder)
    old = holder.Vocabulary()
    old.word2idx = {word: index for index, word in enumerate(WORDS)}
    old.idx2word = dict(enumerate(WORDS))
    old.idx = len(WORDS)
    return pickle.dumps(old, protocol)


READABLE = {
    "json": as_json(),
    "json without idx": as_json(idx=...),
    "json with a byte order mark": b"\xef\xbb\xbf \n" + as_json(),
    "str of __main__": py2_pickle(),
    "str of vocab": py2_pickle(module="vocab"),
    "unicode": py2_pickle(string=py2_unicode),
}


@pytest.mark.parametrize("content", READABLE.values(), ids=READABLE.keys())
def test_every_form_reads_the_same(tmp_path, content):
    vocabulary = load(tmp_path, content)
    assert vocabulary == Vocabulary(WORDS)
    assert list(vocabulary.word2idx) == list(vocabulary.idx2word.values()) == WORDS
    assert list(vocabulary.idx2word) == list(range(len(WORDS)))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_saved_again_on_python_3(tmp_path, protocol, monkeypatch):
    assert load(tmp_path, python3_pickle(protocol, monkeypatch)) == Vocabulary(WORDS)


def test_python_2_str_that_is_not_utf_8_is_latin_1(tmp_path):
    content = py2_pickle([*SPECIALS, "cafXX"]).replace(b"U\x05cafXX", b"U\x04caf\xe9")
    assert load(tmp_path, content).idx2word[4] == "café"


def test_lookup_and_encode():
    vocabulary = Vocabulary(WORDS)
    assert (vocabulary("dog"), vocabulary("wolf"), len(vocabulary)) == (5, 3, len(WORDS))
    assert vocabulary.encode(["a", "wolf"]) == [1, 4, 3, 2]
    assert vocabulary.encode([]) == [1, 2]
    assert "dog" in vocabulary
    assert "wolf" not in vocabulary


def test_build_keeps_the_order_of_first_appearance():
    captions = [["b", "a", "<unk>"], ["a", "c", "<unk>"], ["b", "d"]]
    assert list(Vocabulary.build(iter(captions), threshold=2).word2idx) == [*SPECIALS, "b", "a"]
    assert list(Vocabulary.build(captions, threshold=1).word2idx) == [*SPECIALS, "b", "a", "c", "d"]
    assert len(Vocabulary.build(captions)) == 4


@given(st.lists(st.text(max_size=6), unique=True).filter(lambda words: not set(words) & set(SPECIALS)))
def test_save_and_load_agree(tmp_path_factory, words):
    folder = tmp_path_factory.mktemp("vocabulary")
    vocabulary = Vocabulary([*SPECIALS, *words])
    vocabulary.save(folder / "vocab.json")
    assert Vocabulary.load(folder / "vocab.json") == vocabulary
    assert os.listdir(folder) == ["vocab.json"]
    saved = json.loads((folder / "vocab.json").read_text())
    assert saved["idx2word"]["0"] == "<pad>"
    assert saved["idx"] == len(vocabulary)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "vocab.json"
    Vocabulary(WORDS).save(path)
    old = path.read_bytes()

    def no_room(*names):
        raise OSError("no room")

    monkeypatch.setattr("itm_fast.files.writing.os.replace", no_room)
    with pytest.raises(OSError, match="no room"):
        Vocabulary(SPECIALS).save(path)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["vocab.json"]


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def hostile(tmp_path):
    """Pickles that leave a mark if anything of them runs, and what the refusal must name."""
    mark = tmp_path / "mark"
    touch = f"touch {mark}"
    opens = f"open({str(mark)!r}, 'w').close()"
    inner = pickle.dumps(Calls(os.system, touch), 2)[2:-1]  # without PROTO and STOP: a value among others
    nested = py2_pickle(module="vocab").replace(py2_string("idx") + py2_int(len(WORDS)), py2_string("idx") + inner)
    text = pickle.dumps(touch, 2)[2:-1]
    twice = py2_pickle().replace(
        py2_string("dog") + b"K\x05", py2_string("dog") + b"K\x05" + py2_unicode("dog") + b"K\x07"
    )
    return mark, {
        "os.system": (pickle.dumps(Calls(os.system, touch), 2), f"{os.system.__module__}.system"),
        "os.system, protocol 4": (pickle.dumps(Calls(os.system, touch), 4), f"{os.system.__module__}.system"),
        "eval": (pickle.dumps(Calls(eval, opens), 2), "__builtin__.eval"),
        "eval, protocol 5": (pickle.dumps(Calls(eval, opens), 5), "builtins.eval"),
        "nested in a vocabulary": (nested, f"{os.system.__module__}.system"),
        "getattr": (pickle.dumps(Calls(getattr, "text", "__class__"), 2), "__builtin__.getattr"),
        "INST": (b"\x80\x02(" + text + b"ios\nsystem\n.", "opcode INST (os system)"),
        "OBJ": (b"\x80\x02(cos\nsystem\n" + text + b"o.", "asks for os.system"),
        "dotted name": (b"\x80\x04\x8c\x08__main__\x8c\x13Vocabulary.__init__\x93.", "__main__.Vocabulary.__init__"),
        "name from the memo": (
            b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x8c\x05vocab\x8c\x0aVocabulary\x30\x30h\x00h\x01\x93.",
            "opcode POP",
        ),
        "memo after a decoy": (
            b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x8c\x05vocab\x8c\x0aVocabularyh\x00h\x01\x93" + text + b"b.",
            "asks for os.system",
        ),
        "copyreg extension": (b"\x80\x02\x82\x01.", "opcode EXT1"),
        "persistent id": (b"\x80\x02Pos.system\n.", "opcode PERSID"),
        "calling the class": (b"\x80\x02cvocab\nVocabulary\n)R.", "opcode REDUCE"),
        "buffer": (b"\x80\x05\x97.", "opcode NEXT_BUFFER"),
        "list": (b"\x80\x02]q\x00.", "opcode EMPTY_LIST"),
        "memo bomb": (b"\x80\x02}r\xff\xff\xff\x7f.", "memo index 2147483647"),
        "string bomb": (b"\x80\x02T\xff\xff\xff\x7fa.", "damaged pickle"),
        "frame bomb": (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.", "damaged pickle"),
        "no end": (py2_pickle()[:-1], "damaged pickle"),
        "half": (py2_pickle()[:60], "damaged pickle"),
        "only the mark of a pickle": (b"\x80", "damaged pickle"),
        "empty stack": (b"\x80\x02.", "damaged pickle"),
        "BUILD on the class": (b"\x80\x02cvocab\nVocabulary\n}b.", "damaged pickle"),
        "the class itself": (b"\x80\x02cvocab\nVocabulary\n.", "holds a type"),
        "a dict": (pickle.dumps({"word2idx": {}}, 2), "holds a dict"),
        "no state": (b"\x80\x02cvocab\nVocabulary\n)\x81.", "holds no fields"),
        "state is a str": (b"\x80\x02cvocab\nVocabulary\n)\x81U\x01ab.", "holds no fields"),
        "contains itself": (
            b"\x80\x02cvocab\nVocabulary\n)\x81}q\x00(U\x08word2idxh\x00ub.",
            "word2idx['word2idx'] is",
        ),
        "keys that read the same": (twice, "two keys that read as the same"),
    }


def test_hostile_and_damaged_pickles_are_refused_and_run_nothing(tmp_path):
    mark, pickles = hostile(tmp_path)
    for name, (content, fragment) in pickles.items():
        with pytest.raises(DataError) as caught:
            load(tmp_path, content)
        assert fragment in str(caught.value), name
        assert str(tmp_path / "vocab") in str(caught.value), name
        assert not mark.exists(), name


def test_the_mark_of_the_hostile_pickles_works(tmp_path, monkeypatch):
    python3_pickle(2, monkeypatch)  # so that a module `vocab` is there
    mark, pickles = hostile(tmp_path)
    for name in ("os.system", "eval", "nested in a vocabulary"):
        pickle.loads(pickles[name][0], encoding="latin1")
        assert mark.exists(), name
        mark.unlink()


def test_a_class_asked_for_past_the_opcode_check_is_still_refused(tmp_path, monkeypatch):
    # Two locks: the opcodes are read before anything runs, and find_class knows one class only.
    monkeypatch.setattr(vocabulary_module, "_check_opcodes", lambda content, path: None)
    mark, pickles = hostile(tmp_path)
    for name in ("os.system", "os.system, protocol 4", "eval", "nested in a vocabulary", "getattr", "INST", "OBJ"):
        with pytest.raises(DataError, match="refused"):
            load(tmp_path, pickles[name][0])
        assert not mark.exists(), name


def test_file_too_large(tmp_path):
    path = tmp_path / "vocab"
    path.write_bytes(b"{")
    os.truncate(path, 2**31)  # sparse
    with pytest.raises(DataError, match="2147483648 bytes; a vocabulary has at most 67108864"):
        Vocabulary.load(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.json: no such file"):
        Vocabulary.load(tmp_path / "absent.json")


def changed(mapping, **changes):
    return {key: value for key, value in {**mapping, **changes}.items() if value is not ...}


W2I = {word: index for index, word in enumerate(WORDS)}
I2W = {str(index): word for index, word in enumerate(WORDS)}
BAD_FILES = [
    (b"", "empty; expected a vocabulary"),
    (b"word\tid\n", "expected a vocabulary"),
    (b"(dp0\nS'a'\n.", "the pickle holds a bytes"),
    (b"{", "not a JSON vocabulary"),
    (b'{"word2idx": "\xff"}', "not a JSON vocabulary"),
    (b'{"a":' * 100_000, "not a JSON vocabulary"),
    (b"{}", "word2idx is missing"),
    (as_json(word2idx=...), "word2idx is missing; expected a vocabulary"),
    (as_json(idx2word=list(WORDS)), "idx2word is list"),
    (as_json(word2idx=changed(W2I, dog=5.0)), "word2idx['dog'] is 5.0; expected str -> int"),
    (as_json(word2idx=changed(W2I, dog=True)), "word2idx['dog'] is True"),
    (as_json(idx2word=changed(I2W, **{"5": None})), "idx2word[5] is None; expected int -> str"),
    (as_json(idx2word=changed(I2W, **{"x": "dog"})), "key 'x'"),
    (as_json(idx2word=changed(I2W, **{"-1": "dog"})), "key '-1'"),
    (as_json(idx2word=changed(I2W, **{"٣": "dog"})), "key '٣'"),
    (as_json(idx2word=changed(I2W, **{"05": "dog"})), "names an id twice"),
    (as_json(idx2word=changed(I2W, **{"5": ...})), "idx2word lacks id 5"),
    (as_json(idx2word=changed(I2W, **{"99": "wolf"})), "idx2word lacks id 10; expected ids 0 … 10"),
    (as_json(word2idx=changed(W2I, wolf=3)), "word2idx has 11 words, idx2word 10"),
    (as_json(idx2word=changed(I2W, **{"5": "a"})), "idx2word[5] is 'a', but word2idx gives it 4"),
    (as_json(word2idx=changed(W2I, dog=4, a=5)), "idx2word[4] is 'a', but word2idx gives it 5"),
    (as_json(idx=9), "idx is 9; expected the number of words, 10"),
    (as_json(word2idx={"<pad>": 0}, idx2word={"0": "<pad>"}), "special words missing: <start>, <end>, <unk>"),
    (py2_pickle([*SPECIALS, "a", "a"]), "word2idx has 5 words, idx2word 6"),
    (py2_pickle(["<pad>", "<end>", "<unk>"]), "special words missing: <start>"),
]


@pytest.mark.parametrize(("content", "fragment"), BAD_FILES)
def test_bad_files(tmp_path, content, fragment):
    with pytest.raises(DataError) as caught:
        load(tmp_path, content)
    assert fragment in str(caught.value)
    assert str(tmp_path / "vocab") in str(caught.value)


BAD_CALLS = [
    (lambda: Vocabulary.build([], threshold=0), "threshold is 0"),
    (lambda: Vocabulary([*SPECIALS, "a", "b", "a"]), "'a' is listed twice"),
    (lambda: Vocabulary(["a"]), "special words missing: <pad>, <start>"),
]


@pytest.mark.parametrize(("call", "fragment"), BAD_CALLS)
def test_bad_calls(call, fragment):
    with pytest.raises(ValueError, match=fragment):
        call()
