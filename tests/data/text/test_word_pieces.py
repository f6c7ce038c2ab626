"""Word pieces: the ids of a plain re-implementation of BERT's tokenizer, files of every form, what is refused."""

import hashlib
import json
import re
import sys
import unicodedata

import numpy as np
import pytest

from itm_fast.data import CaptionTokens, SizeAugment, Vocabulary, WordPieces, load_vocabulary
from itm_fast.errors import DataError

pytest.importorskip("tokenizers")

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SMALL = WordPieces([*SPECIALS, "a", "dog", "run", "##s", "##ning", "un", "##run", ".", "'", "cafe", "[", "]", "mask"])


def by_hand(caption, pieces):
    """BasicTokenizer, then WordPiece for each word, as their authors describe them."""
    words = []
    for word in clean(caption).split():
        if pieces.lower_case:
            word = unicodedata.normalize("NFD", word.lower())
            word = "".join(letter for letter in word if unicodedata.category(letter) != "Mn")
        words += split_at_punctuation(word)
    return ["[CLS]", *(piece for word in words for piece in longest_first(word, pieces)), "[SEP]"]


def clean(caption):
    kept = []
    for letter in caption:
        if letter in "\t\n\r" or unicodedata.category(letter) == "Zs":
            kept.append(" ")
        elif letter not in "\0\N{REPLACEMENT CHARACTER}" and unicodedata.category(letter)[0] != "C":
            kept.append(f" {letter} " if "\u4e00" <= letter <= "\u9fff" else letter)
    return "".join(kept)


def split_at_punctuation(word):
    found = [""]
    for letter in word:
        if unicodedata.category(letter)[0] == "P" or letter in "$+<=>^`|~":
            found += [letter, ""]
        else:
            found[-1] += letter
    return [part for part in found if part]


def longest_first(word, pieces):
    found, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        ends = (end for end in range(len(word), start, -1) if prefix + word[start:end] in pieces.ids)
        end = next(ends, None)
        if end is None:
            return ["[UNK]"]
        found.append(prefix + word[start:end])
        start = end
    return found if len(word) <= 100 else ["[UNK]"]


def of_captions(captions, lower_case):
    """A vocabulary that lacks letters, so that there are unknown words, and words, so that there are pieces."""
    words = re.findall(r"\w+|[^\w\s]", " ".join(captions).lower() if lower_case else " ".join(captions))
    starts = [word[:3] for word in words if "q" not in word]
    rest = [f"##{word[i : i + n]}" for word in words[:3000] for i in range(1, len(word)) for n in (1, 2)]
    whole = sorted(words, key=words.count if len(words) < 5000 else len)[:400]
    return WordPieces(dict.fromkeys([*SPECIALS, *starts, *rest, *whole]), lower_case=lower_case)


ODD = [
    "A dog's ball-game, isn't it?",
    "Crème brûlée at the CAFÉ  ",
    "naïve\tco-operation…\u00a0“quoted”",
    "price: $5+tax=<6>",
    "two 狗 run",
    "a" * 101,
    "x\u200bzero width\u0000",
    "",
    "[MASK] [CLS] a ##s",
]


@pytest.mark.parametrize("lower_case", [True, False])
def test_ids_are_those_of_a_plain_implementation(real_captions, lower_case):
    captions = [*real_captions.read_text(encoding="utf-8").splitlines()[:2000], *ODD]
    pieces = of_captions(captions, lower_case)
    tokens = CaptionTokens.from_captions(captions, pieces)
    seen = set()
    for caption, start, end in zip(captions, tokens.offsets, tokens.offsets[1:], strict=False):
        wanted = by_hand(caption, pieces)
        assert [pieces.pieces[index] for index in tokens.flat[start:end]] == wanted, caption
        seen.update(wanted)
    assert "[UNK]" in seen
    assert any(piece.startswith("##") for piece in seen)


def test_a_caption_by_hand():
    assert SMALL.split("A dog's unrunning. Café runs [MASK]") == [
        *("a", "dog", "'", "[UNK]", "un", "##run", "##ning", ".", "cafe", "run", "##s", "[", "mask", "]")
    ]
    assert SMALL.encode(["a", "dog"]) == [2, 5, 6, 3]
    assert SMALL.encode(["zebra"]) == [2, 1, 3]
    assert (len(SMALL), SMALL.mask_id) == (18, 4)
    assert [SMALL.pieces[i] for i in np.flatnonzero(SMALL.continues)] == ["##s", "##ning", "##run"]


def test_whatever_tokenizer_of_words_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk", None)
    tokens = CaptionTokens.from_captions(["a dog runs", "A."], SMALL, "nltk")
    assert tokens.flat.tolist() == [2, 5, 6, 7, 8, 3, 2, 5, 12, 3]
    assert tokens.n_attached_stops == 0


def test_words_and_pieces_answer_the_same_questions():
    words = Vocabulary(["<pad>", "<start>", "<end>", "<unk>", "a"])
    assert (words.mask_id, words.continues) == (5, None)
    assert words.tokenizer_for("split")("A dog") == ["a", "dog"]
    augment = SizeAugment(len(SMALL), SMALL.mask_id, SMALL.continues)
    assert augment.continues.shape == (len(SMALL),)


def test_equal_pieces_of_another_case_are_another_vocabulary():
    other = WordPieces(SMALL.pieces, lower_case=False)
    assert other != SMALL
    assert SMALL.fingerprint.startswith("18 word pieces, lower case, sha256 ")
    assert other.fingerprint.startswith("18 word pieces, case kept, sha256 ")
    assert WordPieces([*SMALL.pieces[:-1], "Mask"]).fingerprint != SMALL.fingerprint
    assert other.split("a Dog") == ["a", "[UNK]"]


def as_saved(folder, pieces):
    pieces.save(folder / "vocab.json")
    return folder / "vocab.json"


def as_text(folder, pieces):
    (folder / "vocab.txt").write_text("\n".join(pieces.pieces) + "\n")
    return folder / "vocab.txt"


def as_text_with_options(folder, pieces):
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": pieces.lower_case}))
    return as_text(folder, pieces).parent


def as_transformers_does(folder, pieces):
    transformers = pytest.importorskip("transformers")
    vocabulary = str(as_text(folder, pieces))
    transformers.BertTokenizer(vocabulary, do_lower_case=pieces.lower_case).save_pretrained(folder / "new")
    return folder / "new"


def test_a_published_vocabulary_is_known_by_its_hash(tmp_path, monkeypatch):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*SPECIALS, "Dog", "Cat"]) + "\n")
    assert not WordPieces.load(path).lower_case
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr("itm_fast.data.text.word_pieces._LOWER_CASE_OF", {digest: True})
    assert WordPieces.load(path).lower_case
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')  # what its owner says of it counts
    assert not WordPieces.load(path).lower_case


@pytest.mark.parametrize("written", [as_saved, as_text, as_text_with_options, as_transformers_does])
@pytest.mark.parametrize("lower_case", [True, False])
def test_files(written, lower_case, tmp_path):
    pieces = WordPieces([*SMALL.pieces, "x" if lower_case else "Dog"], lower_case=lower_case)
    loaded = load_vocabulary(written(tmp_path, pieces))
    assert loaded == pieces
    assert loaded.fingerprint == pieces.fingerprint


def test_a_vocabulary_of_words_is_still_one(tmp_path):
    words = Vocabulary(["<pad>", "<start>", "<end>", "<unk>", "word_pieces"])
    words.save(tmp_path / "vocab.json")
    assert load_vocabulary(tmp_path / "vocab.json") == words


def test_options_decide_over_the_letters(tmp_path):
    as_text(tmp_path, SMALL)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert not WordPieces.load(tmp_path).lower_case


@pytest.mark.parametrize("lower_case", [True, False])
@pytest.mark.parametrize("said", [True, False])
def test_options_decide_over_the_tokenizer_beside_them(lower_case, said, tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = as_transformers_does(tmp_path, WordPieces([*SMALL.pieces, "Dog"], lower_case=lower_case))
    options = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**options, "do_lower_case": said}))
    loaded = WordPieces.load(folder)
    assert loaded.lower_case == said
    assert loaded.split("Dog dog") == transformers.BertTokenizer.from_pretrained(folder).tokenize("Dog dog")


def tokenizer_json(**changes):
    normaliser = {"type": "BertNormalizer", "lowercase": True, "handle_chinese_chars": True, "strip_accents": None}
    model = {"type": "WordPiece", "vocab": SMALL.ids}
    content = {"model": model, "normalizer": normaliser}
    for name, change in changes.items():
        content[name] = change if isinstance(change, list) else {**content[name], **change}
    return json.dumps(content)


BAD = [
    ("vocab.txt", "a\nb", r"special word pieces missing: \[PAD\], \[UNK\]"),
    ("vocab.txt", "\n".join([*SPECIALS, "a", "a"]), "'a' is listed twice"),
    ("vocab.txt", b"\xff\xfe", "vocab.txt: not UTF-8 but UTF-16"),
    ("vocab.json", '{"word_pieces": 3, "lower_case": true}', "word_pieces is not a list of strings"),
    ("vocab.json", '{"word_pieces": [1], "lower_case": true}', "word_pieces is not a list of strings"),
    ("vocab.json", json.dumps({"word_pieces": SPECIALS, "lower_case": 1}), "lower_case is 1, expected true or false"),
    ("vocab.json", '{"word_pieces": ["a", ', "vocab.json: "),
    ("tokenizer.json", "[]", "holds a list, expected an object"),
    ("tokenizer.json", "{}", "of the kind None after None; only word pieces are read"),
    ("tokenizer.json", tokenizer_json(model={"type": "BPE"}), "of the kind BPE after BertNormalizer; only word"),
    ("tokenizer.json", tokenizer_json(model={"vocab": {"a": 1}}), r"not 0 … n - 1"),
    ("tokenizer.json", tokenizer_json(model={"vocab": {"a": [0]}}), r"not 0 … n - 1"),
    ("tokenizer.json", tokenizer_json(model={"vocab": 3}), "special word pieces missing"),
    ("tokenizer.json", tokenizer_json(normalizer={"type": "Lowercase"}), "of the kind WordPiece after Lowercase"),
    ("tokenizer.json", "[" * 100_000, "tokenizer.json: "),
    ("tokenizer.json", tokenizer_json(normalizer={"strip_accents": False}), "expected accents to go"),
    ("tokenizer.json", tokenizer_json(added_tokens=[{"content": "x-y", "special": False}]), "adds the token 'x-y'"),
    ("tokenizer.json", tokenizer_json(normalizer={"handle_chinese_chars": False}), "handle_chinese_chars true"),
]


@pytest.mark.parametrize(("name", "content", "fragment"), BAD)
def test_bad_files(name, content, fragment, tmp_path):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=fragment) as caught:
        load_vocabulary(path)
    assert str(path) in str(caught.value)


def test_missing_files(tmp_path):
    for path in (tmp_path, tmp_path / "vocab.txt"):
        with pytest.raises(FileNotFoundError, match=r"vocab\.txt: no such file; expected BERT's vocab\.txt"):
            load_vocabulary(path)
    with pytest.raises(FileNotFoundError, match=r"vocab\.json: no such file"):
        load_vocabulary(tmp_path / "vocab.json")


def test_absence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"needs tokenizers: pip install 'itm-fast\[text\]'"):
        CaptionTokens.from_captions(["a"], WordPieces(SMALL.pieces))
