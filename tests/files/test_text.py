"""Text as every reader of the package takes it: one table of readers, one of encodings and ends of lines."""

import gzip
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from itm_fast.data import PrecompDataset, Vocabulary, WordPieces, read_captioned_images
from itm_fast.data.readers.concept_files import read_word_vectors
from itm_fast.data.readers.images import image_names
from itm_fast.data.readers.reference_captions import read_names, read_references, read_texts
from itm_fast.data.readers.relevance_matrix import read_relevance
from itm_fast.errors import DataError
from itm_fast.evaluation.human_judgement import read_judgements
from itm_fast.evaluation.protocols.eccv_caption import read_positives
from itm_fast.evaluation.protocols.relevant_pairs import read_relevant_pairs
from itm_fast.files.ids import read_ids
from itm_fast.files.owners import read_owners
from itm_fast.files.plain_text import read_lines, read_text, split_lines, stream_lines
from itm_fast.files.reading import read_array, read_arrays, read_json
from itm_fast.pretrained import read_config

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["<pad>", "<start>", "<end>", "<unk>", "café"]
# Two lines of captions, five times; é is two bytes of UTF-8 and one of Latin-1.
CAPTIONS = [f"un café {place}" for place in range(5)]
VOCABULARY = {"word2idx": {w: i for i, w in enumerate(WORDS)}, "idx2word": dict(enumerate(WORDS)), "idx": len(WORDS)}


@dataclass(frozen=True)
class Reader:
    """A reader of text: its file, what is in it, how it is read and what comes out."""

    file: str
    text: str
    read: Callable[[Path], Any]
    right: Any


def _dumps(content: object) -> str:
    return json.dumps(content, ensure_ascii=False)


def _split(path: Path) -> PrecompDataset:
    np.save(path.with_name("train_ims.npy"), np.zeros((1, 2, 3), np.float32))
    return PrecompDataset(path.parent, "train")


def _split_ids(path: Path) -> list[int]:
    path.with_name("train_caps.txt").write_text("a\n" * 5)
    return _split(path).ids.tolist()


def _split_names(path: Path) -> list[str] | None:
    path.with_name("train_ids.txt").write_text("7\n")
    path.with_name("train_caps.txt").write_text("a\n" * 5)
    return image_names(_split(path))


LINES = "".join(f"{caption}\n" for caption in CAPTIONS)
CSV = "caption,image,agg_score,sampling_method\né:5,1.jpg,4.5,c2i_original\n"
OBJECTS_OF_LINES = "".join(_dumps({"image": "1.jpg", "caption": caption}) + "\n" for caption in CAPTIONS)
READERS = {
    "precomp captions": Reader("train_caps.txt", LINES, lambda path: _split(path).captions, CAPTIONS),
    "precomp ids": Reader("train_ids.txt", "391895\n", _split_ids, [391895]),
    "id_mapping": Reader("id_mapping.json", '{"7": "é.jpg"}', _split_names, ["é.jpg"]),
    "references, text": Reader("a.txt", LINES, read_references, [CAPTIONS]),
    "references, JSON": Reader("a.json", _dumps({"1.jpg": CAPTIONS}), read_references, [CAPTIONS]),
    "references, JSON lines": Reader("a.jsonl", OBJECTS_OF_LINES, read_references, [CAPTIONS]),
    "captions": Reader("a.txt", LINES, read_texts, CAPTIONS),
    "names of images": Reader("a.txt", "é.jpg\nb.jpg\n", read_names, ["é.jpg", "b.jpg"]),
    "captions of images": Reader(
        "a.json", _dumps({"é": CAPTIONS}), lambda path: read_captioned_images(path).captions, CAPTIONS
    ),
    "token file": Reader(
        "a.token",
        "".join(f"1.jpg#{n}\t{caption}\n" for n, caption in enumerate(CAPTIONS)),
        lambda path: read_captioned_images(path).captions,
        CAPTIONS,
    ),
    "ids, JSON": Reader("a.json", _dumps({"image_ids": ["é"]}), lambda path: read_ids(path).images, ["é"]),
    "ids, text": Reader("a.txt", "é\n7\n", lambda path: read_ids(path).images, ["é", 7]),
    "owners, text": Reader("a.txt", "0\n0\n1\n", lambda path: read_owners(path, 2, 3).tolist(), [0, 0, 1]),
    "owners, JSON": Reader("a.json", '{"0": [0, 1], "1": [2]}', lambda p: read_owners(p, 2, 3).tolist(), [0, 0, 1]),
    "positives": Reader(
        "a.json",
        _dumps({"image_ids": ["é"], "caption_ids": [1], "image_to_captions": {"é": [1]}}),
        lambda path: read_relevant_pairs(path).image_to_captions,
        {"é": [1]},
    ),
    "positives of COCO": Reader("a.json", '{"1": [5, 6]}', read_positives, {1: [5, 6]}),
    "judgements": Reader("sits.csv", CSV, lambda path: read_judgements(path).captions, ["é:5"]),
    "SPICE": Reader("a.csv", "1,2\n3,4\n5,6\n", lambda p: read_relevance(p, 2, 3).tolist(), [[1, 3, 5], [2, 4, 6]]),
    "word vectors": Reader(
        "glove.txt", "café 1 2\nla 3 4\n", lambda p: read_word_vectors(p, {"café"}, 2)["café"].tolist(), [1.0, 2.0]
    ),
    "vocabulary": Reader("v.json", _dumps(VOCABULARY), lambda path: Vocabulary.load(path).word2idx["café"], 4),
    "word pieces": Reader(
        "vocab.txt", "\n".join([*SPECIALS, "é"]) + "\n", lambda path: WordPieces.load(path).pieces, [*SPECIALS, "é"]
    ),
    "config": Reader("config.json", '{"model_type": "é"}', lambda path: read_config(path.parent)["model_type"], "é"),
    "any JSON": Reader("a.json", '["é"]', read_json, ["é"]),
    "any text": Reader("a.txt", "é\n", lambda path: split_lines(read_text(path)), ["é"]),
}
ALL = pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())


def _read(reader: Reader, tmp_path: Path, content: bytes) -> Any:
    path = tmp_path / reader.file
    path.write_bytes(content)
    return reader.read(path)


@ALL
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["no mark", "mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_utf_8_with_and_without_a_mark_and_both_ends_of_lines(reader, mark, end, tmp_path):
    assert _read(reader, tmp_path, mark + reader.text.replace("\n", end).encode()) == reader.right


@ALL
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_utf_16_is_named(reader, encoding, tmp_path):
    content = ("\ufeff" if encoding.endswith("be") else "") + reader.text
    with pytest.raises(DataError, match=f"{encoding[:6].upper()}.*iconv") as raised:
        _read(reader, tmp_path, content.encode(encoding))
    assert reader.file in str(raised.value)


@ALL
def test_latin_1_is_named(reader, tmp_path):
    if "é" not in reader.text or reader.file == "glove.txt":
        return  # numbers are the same in both; of word vectors a few broken words do no harm
    with pytest.raises(DataError, match=r"Latin-1 \(byte 0xe9\); convert it: iconv -f LATIN1") as raised:
        _read(reader, tmp_path, reader.text.encode("latin-1"))
    assert reader.file in str(raised.value)


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"a\nb caf\xe9\n", "a.txt:2: not UTF-8 but, as it seems, Latin-1 (byte 0xe9)"),
        (b"it\x92s\n", "a.txt:1: not UTF-8 but, as it seems, Windows-1252, a kind of Latin-1 (byte 0x92)"),
        (("é" * 9 + "\n").encode() + b"\xff\n", "a.txt:2: not UTF-8 in this line alone"),
        ("café".encode()[:-1], "a.txt:1: cut short in the middle of a character"),
        (("两只狗在跑\n" * 3).encode("gb18030"), "a.txt:1: not UTF-8 (byte"),
        ("a dog\n".encode("utf-16-le"), "a.txt:1: not UTF-8 text: it holds NUL characters, as UTF-16"),
        (b"", "a.txt: empty; expected one caption a line"),
        (b"a\n \nb\n\t\n", "a.txt:2: blank line (2 of them: lines 2, 4); expected one caption a line"),
        (b"\n" * 12, "a.txt:1: blank line (12 of them: lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 2 more)"),
        (b"a\rb\rc\r", "a.txt:1: a carriage return without a line feed: lines that end as on old Macs"),
        (b"a\nb\rc\nd\re\n", "a.txt:2: a carriage return without a line feed (2 of them: lines 2, 3)"),
    ],
)
def test_what_lines_refuse(content, fragment, tmp_path):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError) as raised:
        read_lines(tmp_path / "a.txt", "caption")
    assert fragment in str(raised.value)


@pytest.mark.parametrize("letter", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_nothing_but_a_line_feed_ends_a_line(letter, tmp_path):
    text = f"a{letter}dog\r\na cat\n"
    (tmp_path / "a.txt").write_bytes(text.encode())
    right = [f"a{letter}dog", "a cat"]
    assert split_lines(text) == right
    assert read_lines(tmp_path / "a.txt", "caption") == right
    assert [line for _, line in stream_lines(tmp_path / "a.txt")] == right
    assert read_references(tmp_path / "a.txt", 2) == [right]
    (tmp_path / "vocab.txt").write_bytes("\n".join([*SPECIALS, letter]).encode())
    assert WordPieces.load(tmp_path / "vocab.txt").pieces[5] == letter


def test_a_gz_is_unpacked_and_bounded(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress("café\n".encode()))
    assert read_lines(path, "caption") == ["café"]
    path.write_bytes(gzip.compress("café\n".encode())[:-3])
    with pytest.raises(DataError, match=r"a \.gz that is damaged, or cut short"):
        read_lines(path, "caption")
    path.write_bytes(gzip.compress(bytes(70 * 2**20), compresslevel=1))
    with pytest.raises(DataError, match="which no text does"):
        read_text(path)


def test_word_vectors_of_others(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_bytes("3 2\n. . 9 9\n. 1 2\ncaf\xe9 5 6\n3 7 8\n".encode("latin-1"))  # word2vec's heading; a broken word
    found = read_word_vectors(path, {".", "3"}, 2)
    assert {word: vector.tolist() for word, vector in found.items()} == {".": [1.0, 2.0], "3": [7.0, 8.0]}


def _npz(**entries: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, entry in entries.items():
            archive.writestr(name.replace("_", "."), entry)
    return content.getvalue()


def _npy(array: Any) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=True)
    return content.getvalue()


OBJECTS = np.array([[1, 2], [3]], dtype=object)
HUGE = _npy(np.zeros(3)).replace(b"(3,), }          ", b"(3000000000000,),}")


@pytest.mark.parametrize(
    ("read", "content", "fragment"),
    [
        (read_array, _npy(OBJECTS), "holds Python objects (dtype object)"),
        (read_arrays, _npz(sims_npy=_npy(OBJECTS)), ": sims holds Python objects (dtype object)"),
        (read_array, _npy(np.zeros((3, 4)))[:-8], "is cut short: its header promises (3, 4) of float64 = 96 bytes"),
        (read_arrays, _npz(a_npy=_npy(np.zeros(3))[:-8]), ": a is cut short: its header promises (3,)"),
        (read_array, HUGE, "promises (3000000000000,) of float64"),
        (read_arrays, _npz(a_npy=HUGE), "promises (3000000000000,) of float64"),
        (read_arrays, _npz(a_txt=b"text"), ": a.txt: not a plain .npy array"),
        (read_array, _npz(a_npy=_npy(np.zeros(3))), "an .npz archive, expected a single array"),
        (read_array, pickle.dumps([1]), "not a plain .npy array"),
        (read_arrays, _npy(np.zeros(3)), "not a plain .npz file"),
    ],
)
def test_arrays_say_what_they_are(read, content, fragment, tmp_path):
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(DataError) as raised:
        read(tmp_path / "a.bin")
    assert fragment in str(raised.value)
    assert str(tmp_path / "a.bin") in str(raised.value)
    assert "inhomogeneous" not in str(raised.value)
