"""Concepts of captions, counted again by hand; the original's files and GloVe's; what is no such file is refused."""

import json
import os
import pickle

import numpy as np
import pytest

from itm_fast.data import CaptionTokens, Vocabulary
from itm_fast.data.readers.concept_files import read_arrays, read_concepts, read_word_vectors
from itm_fast.data.text.concepts import Concepts, singular
from itm_fast.errors import DataError

CAPTIONS = [
    "a dog runs and runs .",
    "the dog sees a cat",
    "two dogs run",
    "a cat sits on the grass",
    "grass and a dog",
    "a red kite",
    "the t-shirt 42 n't of",
]


@pytest.fixture
def made():
    split = [caption.split() for caption in CAPTIONS]
    vocabulary = Vocabulary.build(split, threshold=1)
    return CaptionTokens.from_captions(CAPTIONS, vocabulary, "split"), vocabulary


def built(made, captions=range(7), n_concepts=4, dim=3):
    return Concepts.of_captions(*made[:1], captions, made[1], n_concepts, dim)


def test_counts_of_captions(made):
    concepts = built(made, n_concepts=10)
    holding = {word: {n for n, c in enumerate(CAPTIONS) if word in c.split()} for word in concepts.words}
    assert concepts.words[:3] == ("dog", "cat", "grass")  # by frequency, then by the vocabulary's order
    assert concepts.words[3:] == ("runs", "sees", "dogs", "run", "sits", "red", "kite")
    np.testing.assert_array_equal(concepts.counts, [len(holding[word]) for word in concepts.words])
    want = [[len(holding[a] & holding[b]) if a != b else 0 for b in concepts.words] for a in concepts.words]
    np.testing.assert_array_equal(concepts.together, want)


def test_only_the_captions_asked_for_count(made):
    concepts = built(made, captions=np.array([3, 5]), n_concepts=5)
    assert set(concepts.words) == {"cat", "sits", "grass", "red", "kite"}
    with pytest.raises(ValueError, match="hold only 5 different content words; give --n-concepts 5 or fewer"):
        built(made, captions=[3, 5], n_concepts=6)


def test_function_words_numbers_and_marks_are_no_concepts(made):
    words = built(made, n_concepts=11).words
    assert "t-shirt" in words
    assert not {"a", "the", "and", "of", "on", "two", "42", ".", "n't"} & set(words)


def test_blocks_of_captions_add_up(made, monkeypatch):
    want = built(made).together
    monkeypatch.setattr("itm_fast.data.text.concepts._BLOCK", 2)
    np.testing.assert_array_equal(built(made).together, want)


def test_vectors_factorise_what_words_say_about_each_other(made):
    concepts = built(made, n_concepts=4, dim=9)
    n, together = concepts.counts, concepts.together + np.diag(concepts.counts)
    want = np.array(
        [[max(np.log(max(together[i, j], 1e-300) * 7 / (n[i] * n[j])), 0) for j in range(4)] for i in range(4)]
    )
    # what a product of vectors with themselves can be: the matrix without its negative directions
    values, directions = np.linalg.eigh(want)
    nearest = directions * np.maximum(values, 0) @ directions.T
    np.testing.assert_allclose(concepts.vectors @ concepts.vectors.T, nearest, atol=1e-12)
    assert concepts.vectors.shape == (4, 9)
    np.testing.assert_array_equal(concepts.vectors[:, 4:], 0)
    assert built(made, dim=2).vectors.shape == (4, 2)


def test_edges():
    n = np.array([10.0, 4.0, 50.0])
    together = np.array([[0, 4.0, 1], [4, 0, 2], [1, 2, 0]])
    concepts = Concepts(("a", "b", "c"), n, together, np.eye(3))
    found = concepts.adjacency()
    for i in range(3):
        for j in range(3):
            into = [5 ** (together[k, j] / n[k] - 0.02) - 5 ** (-0.02) >= 0.3 for k in range(3)]
            want = (0.25 if into[i] else 0) / (sum(into) + 1e-6) + (i == j)
            assert found[i, j] == pytest.approx(want, abs=1e-15)
    assert found[0, 1] > 0  # 4 of 10, but not the other way round
    assert found[2, 0] == 0


def test_words_speak_of_concepts():
    concepts = Concepts(("dog", "dogs", "story", "glass", "leaf", "dog"), np.ones(6), np.zeros((6, 6)), np.eye(6))
    words = ["<pad>", "<start>", "<end>", "<unk>", "dog", "dogs", "stories", "glasses", "leaves", "cats", "s", "glass"]
    numbers = dict(zip(words, concepts.numbers_of(Vocabulary(words)).tolist(), strict=True))
    want = {"dog": 1, "dogs": 1, "stories": 3, "glasses": 4, "leaves": 5, "glass": 4}
    assert numbers == {word: want.get(word, 0) for word in words}


# Words, what WordNet's morphology makes of them as nouns, and what it has to know.
LEMMAS = [
    ("boats", "boat", "boat"),
    ("boats", "boats", "ship"),
    ("horses", "horse", "horse hors"),
    ("cities", "city", "city"),
    ("leaves", "leaf", "leaf"),
    ("glasses", "glass", "glass"),
    ("benches", "bench", "bench"),
    ("dishes", "dish", "dish"),
    ("boxes", "box", "box"),
    ("women", "woman", "woman"),
    ("firemen", "fireman", "fireman"),
    ("men", "men", "man men"),  # a noun of its own, as long as its singular
    ("children", "child", "child"),
    ("children", "children", "boy"),
    ("knives", "knife", "knife"),
    ("grass", "grass", "gras"),
    ("others", "others", "other"),
    ("has", "ha", "ha"),
    ("s", "s", "a"),
]


@pytest.mark.parametrize(("word", "lemma", "known"), LEMMAS)
def test_lemmas(word, lemma, known):
    assert singular(word, set(known.split())) == lemma


@pytest.mark.parametrize("lemmatise", [True, False])
def test_the_first_of_equal_concepts_counts(lemmatise):
    names = ("boat", "women", "children", "boats", "woman", "child", "walks")
    concepts = Concepts(names, np.ones(7), np.zeros((7, 7)), np.eye(7))
    words = ["<pad>", "<start>", "<end>", "<unk>", *sorted(names), "walk"]
    numbers = concepts.numbers_of(Vocabulary(words), lemmatise=lemmatise)
    found = dict(zip(words, numbers.tolist(), strict=True))
    own = {name: number for number, name in enumerate(names, 1)}
    first = {**own, "boats": 1, "woman": 2, "child": 3, "walk": 7}
    assert found == {word: (first if lemmatise else own).get(word, 0) for word in words}


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"counts": np.zeros(2)}, "counts holds a number that is not above 0"),
        ({"together": np.full((2, 2), np.nan)}, "together holds a number that is below 0 or not finite"),
        ({"together": np.zeros((2, 3))}, r"2 concepts, but counts has shape \(2,\), together \(2, 3\)"),
        ({"vectors": np.full((2, 3), np.inf)}, r"vectors has shape \(2, 3\) or holds a number that is not finite"),
    ],
)
def test_bad_concepts(change, fragment):
    good = {"counts": np.ones(2), "together": np.zeros((2, 2)), "vectors": np.eye(2)}
    with pytest.raises(ValueError, match=fragment):
        Concepts(("a", "b"), **{**good, **change})


def write_originals(folder, words=("man", "dog", "grass"), dim=5, **change):
    n = len(words)
    together = np.arange(n * n, dtype=np.int32).reshape(n, n)
    graph = {
        "nums": np.arange(10, 10 + n, dtype=np.int32),
        "adj_O_P": together,
        "adj_O_M": together,
        "adj_all": together,
    }
    vectors = np.random.default_rng(0).normal(size=(n, dim))
    contents = {"f30k_adj_concepts.pkl": graph, "f30k_concepts_glove_word2vec.pkl": vectors, **change}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=3))
    (folder / "category_concepts.json").write_text(json.dumps({word: k for k, word in enumerate(words)}))
    return graph, vectors


def test_the_originals_files(tmp_path):
    graph, vectors = write_originals(tmp_path)
    concepts = read_concepts(tmp_path)
    assert concepts.words == ("man", "dog", "grass")
    np.testing.assert_array_equal(concepts.counts, graph["nums"])
    np.testing.assert_array_equal(concepts.together, graph["adj_all"])
    np.testing.assert_array_equal(concepts.vectors, vectors)


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("dtype", [">i4", "<i8", "f4", "f8"])
def test_arrays(protocol, dtype, tmp_path):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"c": array, "f": np.asfortranarray(array)}, protocol=protocol))
    found = read_arrays(tmp_path / "a.pkl")
    np.testing.assert_array_equal(found["c"], array)
    np.testing.assert_array_equal(found["f"], array)
    assert found["c"].dtype == np.float64


class Command:
    """What an attacker would write."""

    def __reduce__(self):
        return os.system, ("echo attacked > /dev/null",)


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (pickle.dumps(Command()), "refused, nothing was run: the pickle asks for (posix|nt).system"),
        (pickle.dumps({"a": np.array([Command()])}, protocol=3), "refused, nothing was run"),
        (pickle.dumps(np.array([None]), protocol=3), "of other than plain numbers"),
        (pickle.dumps(np.array(["text"]), protocol=3), "of other than plain numbers"),
        (pickle.dumps(np.eye(3), protocol=5), r"asks for numpy.*_frombuffer"),
        (pickle.dumps([1, 2]), "holds a list; expected an array of numbers or a dict of them"),
        (pickle.dumps(np.eye(3), protocol=3)[:-40], "not a pickle of arrays"),
        (b"", "not a pickle of arrays"),
        (b"\x80\x03Nr\xff\xff\xff\x7f.", "memo index 2147483647"),
        (pickle.dumps(np.eye(3), protocol=3).replace(b"K\x03K\x03", b"K\x03K\x04"), "contradicts itself"),
    ],
)
def test_what_is_refused(content, fragment, tmp_path):
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(DataError, match=fragment):
        read_arrays(tmp_path / "a.pkl")


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"f30k_adj_concepts.pkl": np.eye(3)}, "expected a dict with the arrays adj_all and nums"),
        ({"f30k_concepts_glove_word2vec.pkl": {"a": np.eye(3)}}, "expected one array"),
        ({"f30k_concepts_glove_word2vec.pkl": np.eye(4)}, r"3 concepts, but .* vectors \(4, 4\)"),
    ],
)
def test_files_that_do_not_fit(change, fragment, tmp_path):
    write_originals(tmp_path, **change)
    with pytest.raises(DataError, match=fragment):
        read_concepts(tmp_path)


@pytest.mark.parametrize("names", ['{"a": 0, "b": 2, "c": 1, "d": 1}', '{"a": "0"}', "[]", "{"])
def test_names_that_are_none(names, tmp_path):
    write_originals(tmp_path)
    (tmp_path / "category_concepts.json").write_text(names)
    with pytest.raises(DataError, match=r"category_concepts\.json"):
        read_concepts(tmp_path)


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected one file \*_adj_concepts\.pkl, found none"):
        read_concepts(tmp_path)
    write_originals(tmp_path)
    (tmp_path / "category_concepts.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"category_concepts\.json: no such file"):
        read_concepts(tmp_path)


def test_word_vectors(tmp_path):
    path = tmp_path / "glove.txt"
    path.write_text("dog 1 2.5\ncat 3 -4e-1\nthe 0 0\ndog 9 9\n", encoding="utf-8")
    found = read_word_vectors(path, {"dog", "cat", "bird"}, 2)
    assert {word: vector.tolist() for word, vector in found.items()} == {"dog": [1, 2.5], "cat": [3, -0.4]}
    for words, dim, fragment in (
        ({"dog"}, 3, "line 1: 2 numbers; expected 3 finite ones"),
        ({"bird"}, 2, "holds none of the 1 words asked for"),
    ):
        with pytest.raises(DataError, match=fragment):
            read_word_vectors(path, words, dim)
    path.write_text("dog one 2\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 1: could not convert"):
        read_word_vectors(path, {"dog"}, 2)
    with pytest.raises(FileNotFoundError, match="expected word vectors"):
        read_word_vectors(tmp_path / "none.txt", {"dog"}, 2)
