"""Byte pairs and unigrams in place of words: ids as transformers makes them, a file of their own, what is refused."""

import json

import numpy as np
import pytest
import tiny_clip

from itm_fast.data.text.caption_vocabulary import load_vocabulary, pretrained_pieces, tokenizer_note
from itm_fast.data.text.subwords import Subwords
from itm_fast.data.text.vocabulary import Vocabulary
from itm_fast.errors import DataError

pytest.importorskip("transformers")

CAPTIONS = ["a dog runs", "Two cats, asleep.", "", "caf\u00e9 \u4e2d"]


def write_roberta(folder):
    """Byte pairs with the blank before a word, <s> and </s> around a caption, a mask."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    letters = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocab = {token: number for number, token in enumerate([*specials, *sorted(letters), "\u0120d", "og"])}
    tokenizer = Tokenizer(models.BPE(vocab, [("\u0120", "d"), ("o", "g")], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {
        "cls_token": "<s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    options = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(options))


WRITERS = {"clip": tiny_clip.write_clip, "siglip": tiny_clip.write_siglip, "roberta": write_roberta}


@pytest.fixture(params=WRITERS)
def folder(request, tmp_path):
    WRITERS[request.param](tmp_path)
    return tmp_path


def test_ids_are_those_of_transformers(folder):
    from transformers import AutoTokenizer

    subwords, expected = pretrained_pieces(folder), AutoTokenizer.from_pretrained(folder)
    assert isinstance(subwords, Subwords)
    for caption in CAPTIONS:
        assert subwords.encode(subwords.split(caption)) == expected(caption)["input_ids"]
    assert [subwords.token(index) for index in range(len(subwords))] == expected.convert_ids_to_tokens(
        range(len(subwords))
    )


def test_a_file_of_its_own(folder):
    subwords = Subwords.of_folder(folder)
    subwords.save(folder / "vocab.json")
    loaded = load_vocabulary(folder / "vocab.json")
    assert loaded == subwords
    assert (loaded.fingerprint, loaded.tokenizer) == (subwords.fingerprint, "subwords")
    assert [loaded.encode(loaded.split(text)) for text in CAPTIONS] == [
        subwords.encode(subwords.split(text)) for text in CAPTIONS
    ]
    assert tokenizer_note(loaded, "nltk") is None
    assert loaded != Vocabulary(["<pad>", "<start>", "<end>", "<unk>"])


def test_which_subwords_continue_a_word(tmp_path):
    write_roberta(tmp_path)
    subwords = Subwords.of_folder(tmp_path)
    pieces = subwords.split("dog")
    assert pieces == ["\u0120d", "og"]
    ids = [subwords.encode([piece])[1] for piece in pieces]
    assert subwords.continues[ids].tolist() == [False, True]
    assert isinstance(subwords.continues, np.ndarray)
    assert (subwords.mask_id, subwords.unknown_id, subwords.start_id, subwords.end_id) == (4, 3, 0, 2)


def test_a_caption_that_is_not_split(tmp_path):
    write_roberta(tmp_path)
    with pytest.raises(TypeError, match="tokens is the string 'a dog'; expected a list of subwords"):
        Subwords.of_folder(tmp_path).encode("a dog")


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (lambda c: c.update(end_id=9999), "end_id is 9999; expected 0"),
        (lambda c: c.update(end_id=None), "end_id is None"),
        (lambda c: c.update(mask_id=True), "mask_id is True"),
        (lambda c: c.update(start_id=-1), "start_id is -1"),
        (lambda c: c.pop("unknown_id"), "'unknown_id'"),
        (lambda c: c.update(subwords={"model": 3}), "no tokenizer that the library tokenizers knows"),
        (lambda c: c.update(subwords=[]), "no tokenizer that the library tokenizers knows"),
        (lambda c: c["subwords"]["model"]["vocab"].update(x=10**9), "have ids up to 1000000000"),
    ],
)
def test_damaged_files(change, fragment, tmp_path):
    write_roberta(tmp_path)
    Subwords.of_folder(tmp_path).save(tmp_path / "vocab.json")
    content = json.loads((tmp_path / "vocab.json").read_text())
    change(content)
    (tmp_path / "vocab.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=fragment):
        load_vocabulary(tmp_path / "vocab.json")


def test_a_folder_without_a_tokenizer(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE"}}))
    with pytest.raises(DataError, match="no tokenizer of captions"):
        pretrained_pieces(tmp_path)
