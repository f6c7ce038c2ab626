"""Vocabularies."""

import pickle

from fuzz.case import Case, js, of_file

from itm_fast.data import Vocabulary
from itm_fast.data.text.caption_vocabulary import load_vocabulary

WORDS = ["<pad>", "<start>", "<end>", "<unk>", "a"]
FIELDS = {"word2idx": {word: n for n, word in enumerate(WORDS)}, "idx2word": dict(enumerate(WORDS)), "idx": 5}
_OLD = (
    b"ccopy_reg\n_reconstructor\np0\n(cvocab\nVocabulary\np1\nc__builtin__\nobject\np2\nNtp3\nRp4\n"
    + pickle.dumps(FIELDS, 0)[:-1]
    + b"b."
)
_BYTE_PAIRS = {
    "version": "1.0",
    "normalizer": {"type": "Lowercase"},
    "pre_tokenizer": {"type": "Whitespace"},
    "model": {
        **{"type": "BPE", "unk_token": "</s>", "end_of_word_suffix": "</w>", "fuse_unk": False},
        **{"vocab": {"<s>": 0, "</s>": 1, "a": 2, "b</w>": 3, "ab</w>": 4}, "merges": [["a", "b</w>"]]},
    },
}
_PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b"]
_TOKENIZER = {
    "model": {"type": "WordPiece", "vocab": {piece: n for n, piece in enumerate(_PIECES)}},
    "normalizer": {"type": "BertNormalizer", "lowercase": True},
}
_HELD = lambda words: lambda vocabulary: len(vocabulary) == words  # noqa: E731
VOCABULARIES = {
    "vocabulary of JSON": of_file("v.json", js(FIELDS), Vocabulary.load, _HELD(5)),
    "vocabulary of either kind": of_file("v.json", js(FIELDS), load_vocabulary, _HELD(5)),
    **{
        f"vocabulary pickled by protocol {protocol}": of_file(
            "v.pkl", pickle.dumps(FIELDS, protocol), Vocabulary.load, _HELD(5)
        )
        for protocol in (0, 1, 2, 4)
    },
    "vocabulary of Python 2": of_file("v.pkl", _OLD, Vocabulary.load, _HELD(5)),
    "word pieces of lines": Case(
        lambda: {"vocab.txt": "\n".join(_PIECES).encode(), "tokenizer_config.json": js({"do_lower_case": True})},
        load_vocabulary,
        _HELD(7),
    ),
    "word pieces of tokenizer.json": of_file("tokenizer.json", js(_TOKENIZER), load_vocabulary, _HELD(7)),
    "word pieces as saved": of_file(
        "v.json", js({"word_pieces": _PIECES, "lower_case": True}), load_vocabulary, _HELD(7)
    ),
    "subwords as saved": of_file(
        "v.json",
        js({"subwords": _BYTE_PAIRS, "start_id": 0, "end_id": 1, "unknown_id": 1, "mask_id": 1}),
        load_vocabulary,
        _HELD(5),
    ),
}
