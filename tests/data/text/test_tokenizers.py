import sys
import types

import pytest

from itm_fast.data.text import tokenizers
from itm_fast.data.text.caption_tokens import CaptionTokens
from itm_fast.data.text.tokenizers import resolve_tokenizer, tokenize
from itm_fast.data.text.vocabulary import Vocabulary


@pytest.fixture(autouse=True)
def _forget_what_nltk_has():
    tokenizers._nltk_tokenizer.cache_clear()
    yield
    tokenizers._nltk_tokenizer.cache_clear()


@pytest.fixture
def fake_nltk(monkeypatch):
    """nltk's two functions as far as they matter here; `punkt` says whether its data was downloaded."""

    def install(punkt):
        class NLTKWordTokenizer:
            def tokenize(self, text):
                text = text.removesuffix(".") + " ." if text.endswith(".") else text
                return text.replace(",", " ,").split()

        def word_tokenize(text):
            if not punkt:
                raise LookupError("Resource punkt_tab not found.\n  Please use the NLTK Downloader")
            sentences = text.replace(". ", ".\n").split("\n")
            return [token for sentence in sentences for token in NLTKWordTokenizer().tokenize(sentence)]

        module = types.SimpleNamespace(word_tokenize=word_tokenize, NLTKWordTokenizer=NLTKWordTokenizer)
        monkeypatch.setitem(sys.modules, "nltk", types.SimpleNamespace(tokenize=module))
        monkeypatch.setitem(sys.modules, "nltk.tokenize", module)

    return install


CAPTIONS = ["A dog. It runs.", "Mr. Smith, in the U.S. army.", "One sentence, one stop.", "No stop", "."]


def test_nltk_with_its_data(fake_nltk):
    fake_nltk(punkt=True)
    ready = resolve_tokenizer("nltk")
    assert ready.name == "nltk"
    assert ready("A Dog. It runs.") == ["a", "dog", ".", "it", "runs", "."]
    assert not ready.leaves_stop_attached(["a", "dog.", "it"])


def test_nltk_without_its_data_counts_the_captions_that_may_differ(fake_nltk):
    fake_nltk(punkt=False)
    ready = resolve_tokenizer("nltk")
    assert ready.name == "nltk-without-punkt_tab"
    assert ready("A dog. It runs.") == ["a", "dog.", "it", "runs", "."]
    assert not ready.leaves_stop_attached(["a", "dog."])  # at the end nltk cuts it off, or the caption has it so
    assert [ready.leaves_stop_attached(ready(caption)) for caption in CAPTIONS] == [True, True, False, False, False]
    vocabulary = Vocabulary.build(map(ready, CAPTIONS), threshold=1)
    assert CaptionTokens.from_captions(CAPTIONS, vocabulary, "nltk").n_attached_stops == 2
    assert CaptionTokens.from_captions(CAPTIONS, vocabulary, "split").n_attached_stops == 0


def test_absent_nltk_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk", None)
    monkeypatch.setitem(sys.modules, "nltk.tokenize", None)
    with pytest.raises(ImportError, match=r"pip install 'itm-fast\[text\]'"):
        tokenize("a dog")


def test_real_nltk():
    pytest.importorskip("nltk", reason="nltk is not installed")
    assert tokenize("A man's hat, isn't it.") == ["a", "man", "'s", "hat", ",", "is", "n't", "it", "."]
    inner = tokenize("A dog. It runs.")
    ready = resolve_tokenizer("nltk")
    assert inner == (
        ["a", "dog", ".", "it", "runs", "."] if ready.finds_sentences else ["a", "dog.", "it", "runs", "."]
    )


def test_split_lowers_and_a_callable_gets_the_caption_as_written():
    assert tokenize("A  Dog É .", "split") == ["a", "dog", "é", "."]
    assert tokenize("A  Dog", lambda caption: [caption]) == ["A  Dog"]
    assert resolve_tokenizer(str.split).name == "callable"


BAD = [
    ("ptb", ValueError, 'tokenizer is \'ptb\'; expected "nltk", "split" or a callable'),
    (None, ValueError, "tokenizer is None"),
    (lambda caption: caption, TypeError, "tokenizer returned 'a dog' for 'a dog'; expected a list of str"),
    (lambda caption: [1], TypeError, "tokenizer returned [1]"),
]


@pytest.mark.parametrize(("tokenizer", "exception", "fragment"), BAD)
def test_bad_tokenizers(tokenizer, exception, fragment):
    with pytest.raises(exception) as caught:
        tokenize("a dog", tokenizer)
    assert fragment in str(caught.value)
