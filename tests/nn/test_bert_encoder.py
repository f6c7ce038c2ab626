"""BERT as an encoder: beside transformers itself, padding, gradients, names, other transformers, what is refused."""

import json
import sys

import pytest
import tiny_bert
import torch

from itm_fast.errors import DataError
from itm_fast.nn.encoders.bert import BERTEncoder
from itm_fast.pretrained import pretrained_folder, read_config

pytest.importorskip("transformers")

PIECES = tiny_bert.word_pieces(["a dog runs", "two cats sleep"])
TOKENS = torch.tensor([[3, 9, 10, 8, 4], [3, 12, 4, 0, 0], [3, 4, 0, 0, 0]])
COUNTS = torch.tensor([5, 3, 2])


def encoder(dtype=torch.float32, **options):
    torch.manual_seed(0)
    return BERTEncoder(tiny_bert.config(PIECES), 8, **options).to(dtype).eval()


def test_words_are_the_last_hidden_states_after_a_linear_map():
    made = encoder(no_txtnorm=True)
    with torch.no_grad():
        found = made(TOKENS, COUNTS)
        for row, count in enumerate(COUNTS.tolist()):  # each alone, without padding or mask
            alone = made.linear(made.bert(input_ids=TOKENS[row : row + 1, :count]).last_hidden_state)
            torch.testing.assert_close(found[row, :count], alone[0])
            assert not found[row, count:].any()


def test_unit_vectors():
    with torch.no_grad():
        found = encoder()(TOKENS, COUNTS)
    valid = torch.arange(5) < COUNTS[:, None]
    torch.testing.assert_close(found.norm(dim=-1), valid.float())


def test_what_pads_a_caption_changes_nothing():
    made = encoder(torch.float64)
    padded = torch.nn.functional.pad(TOKENS, (0, 3))
    padded[torch.arange(8) >= COUNTS[:, None]] = 7
    with torch.no_grad():
        found, wanted = made(padded, COUNTS), made(TOKENS, COUNTS)
    torch.testing.assert_close(found[:, :5], wanted)
    assert not found[:, 5:].any()


def test_gradients_reach_all_but_the_pooler():
    made = encoder().train()
    made(TOKENS, COUNTS).pow(3).sum().backward()
    without = {name for name, value in made.named_parameters() if value.grad is None or not value.grad.any()}
    assert without == {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}


def test_names_and_shapes_of_bert_base():
    with torch.device("meta"):
        made = BERTEncoder({"model_type": "bert"}, 1024)
    found = {name: tuple(value.shape) for name, value in made.state_dict().items()}
    assert len([name for name in found if name.startswith("bert.")]) == 199
    assert found["bert.embeddings.word_embeddings.weight"] == (30522, 768)
    assert found["bert.embeddings.position_embeddings.weight"] == (512, 768)
    assert found["bert.embeddings.token_type_embeddings.weight"] == (2, 768)
    assert found["bert.encoder.layer.11.intermediate.dense.weight"] == (3072, 768)
    assert found["bert.pooler.dense.weight"] == (768, 768)
    assert {name: found[name] for name in found if not name.startswith("bert.")} == {
        "linear.weight": (1024, 768),
        "linear.bias": (1024,),
    }


@pytest.mark.parametrize("model_type", ["distilbert", "electra"])
def test_other_transformers_of_word_pieces(model_type):
    sizes = {"distilbert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 8}}
    small = sizes.get(model_type, {k: v for k, v in tiny_bert.SIZES.items() if k != "model_type"})
    made = BERTEncoder({"model_type": model_type, "vocab_size": len(PIECES), **small}, 8).eval()
    assert made(TOKENS, COUNTS).shape == (3, 5, 8)


def test_pretrained_weights(tmp_path):
    saved = tiny_bert.write_folder(tmp_path, PIECES)
    made = BERTEncoder(read_config(tmp_path), 8)
    before = made.linear.weight.clone()
    made.load_pretrained(tmp_path)
    assert made.bert.state_dict().keys() == saved.state_dict().keys()
    for name, value in saved.state_dict().items():
        torch.testing.assert_close(made.bert.state_dict()[name], value, rtol=0, atol=0)
    torch.testing.assert_close(made.linear.weight, before, rtol=0, atol=0)


def test_weights_of_16_bits_become_float32(tmp_path):
    tiny_bert.write_folder(tmp_path, PIECES)
    from transformers import AutoModel

    AutoModel.from_pretrained(tmp_path, dtype=torch.float16).save_pretrained(tmp_path)
    assert read_config(tmp_path)["dtype"] == "float16"
    made = BERTEncoder(read_config(tmp_path), 8)
    made.load_pretrained(tmp_path)
    assert {value.dtype for value in made.state_dict().values()} == {torch.float32}


def test_weights_that_do_not_fit(tmp_path):
    from safetensors.torch import load_file, save_file

    tiny_bert.write_folder(tmp_path, PIECES)
    with pytest.raises(DataError, match="not the weights of this text encoder"):
        BERTEncoder(tiny_bert.config(PIECES, num_hidden_layers=1), 8).load_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"lack encoder\.layer\.1\.output\.dense\.weight and 1 in all"):
        BERTEncoder(read_config(tmp_path), 8).load_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"half")
    with pytest.raises(DataError, match="not the weights"):
        BERTEncoder(read_config(tmp_path), 8).load_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(DataError, match="not the weights"):
        BERTEncoder(read_config(tmp_path), 8).load_pretrained(tmp_path)


def test_without_the_pooler_that_nobody_asks(tmp_path):
    from safetensors.torch import load_file, save_file

    tiny_bert.write_folder(tmp_path, PIECES)
    weights = {k: v for k, v in load_file(tmp_path / "model.safetensors").items() if "pooler" not in k}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    BERTEncoder(read_config(tmp_path), 8).load_pretrained(tmp_path)


def test_a_caption_longer_than_the_positions():
    with pytest.raises(ValueError, match="a caption has 81 word pieces, but the text encoder has only 80 positions"):
        encoder()(torch.full((1, 81), 7), torch.tensor([81]))


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"model_type": "no-such"}, "Unrecognized model identifier: no-such"),
        ({"model_type": "bert", "hidden_size": 10, "num_attention_heads": 3}, "not a multiple of the number"),
        ({"model_type": "bert", "hidden_size": "wide"}, "transformers makes no model of it"),
        ({}, "transformers makes no model of it: .*model_type"),
        ({"model_type": "t5", "d_model": 8, "num_layers": 1, "num_heads": 1, "d_ff": 8}, "t5 is no encoder of text"),
    ],
)
def test_bad_options(options, fragment):
    with pytest.raises(ValueError, match=f"bert_config: .*{fragment}|bert_config: {fragment}") as caught:
        BERTEncoder(options, 8)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["bert-base-of-nobody", "a b", "", "/nowhere/bert"])
def test_nothing_is_downloaded(name, monkeypatch):
    asked = []

    def refused(*arguments, **options):
        asked.append(arguments)
        raise OSError("no network")

    monkeypatch.setattr("socket.socket.connect", refused)
    monkeypatch.setattr("socket.getaddrinfo", refused)
    with pytest.raises(FileNotFoundError) as caught:
        pretrained_folder(name)
    assert f"bert_path is {name!r}: no folder here" in str(caught.value)
    assert f"hf download {name}" in str(caught.value)
    assert not asked


def test_a_name_in_the_cache(tmp_path, monkeypatch):
    cached = tmp_path / "models--someone--bert"
    (cached / "snapshots" / "abc").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    tiny_bert.write_folder(cached / "snapshots" / "abc", PIECES)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert pretrained_folder("someone/bert") == cached / "snapshots" / "abc"


@pytest.mark.parametrize("content", ["[", "[]", "{}", '{"model_type": 3}'])
def test_folders_of_something_else(content, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json: no such file; expected the folder"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(DataError, match=r"config\.json: (not JSON|expected \{\"model_type\")"):
        read_config(tmp_path)


def test_the_folder_a_config_came_from_is_forgotten(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "_name_or_path": "/home/someone"}))
    assert read_config(tmp_path) == {"model_type": "bert"}


@pytest.mark.parametrize(
    ("module", "call"),
    [
        ("transformers", lambda: encoder()),
        ("huggingface_hub", lambda: pretrained_folder("bert-base-uncased")),
    ],
)
def test_absence_names_the_extra(module, call, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"needs {module}: pip install 'itm-fast\[text\]'"):
        call()
