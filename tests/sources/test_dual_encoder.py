"""CLIP-like models: vectors as the model gives them one by one, padding, cutting, and folders that are refused."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("transformers", reason="CLIP-like models need transformers, of the extra [text]")
import tiny_clip

from itm_fast.errors import DataError
from itm_fast.evaluation import load_dual_encoder
from itm_fast.sources.embedders.encoder import weights_digest

# Unit vectors from two layers: about ten sums of at most 24 terms one after the other, each off by 24 * 2^-24 at most.
TOLERANCE = 10 * 24 * 2**-24
WRITERS = {"clip": tiny_clip.write_clip, "siglip": tiny_clip.write_siglip, "blip": tiny_clip.write_blip}
CAPTIONS = ["a dog runs", "the cat", "two", "a red cat on the green grass sleeps"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module", params=WRITERS)
def written(request, place):
    """(kind, folder, the model that was saved)"""
    folder = place / request.param
    folder.mkdir()
    return request.param, folder, WRITERS[request.param](folder)


@pytest.fixture(scope="module")
def clip_folder(place):
    folder = place / "plain_clip"
    folder.mkdir()
    tiny_clip.write_clip(folder)
    return folder


def test_captions_as_one_by_one(written):
    kind, folder, model = written
    encoder = load_dual_encoder(folder)
    assert encoder.context_length == tiny_clip.CONTEXT
    found = encoder.encode_captions(CAPTIONS)
    assert found.dtype == torch.float32
    for vector, caption in zip(found, CAPTIONS, strict=True):
        padding = {"padding": "max_length", "max_length": 12} if kind == "siglip" else {}
        ids = encoder.tokenizer([caption], truncation=True, return_tensors="pt", **{"max_length": 12, **padding})
        with torch.no_grad():
            if kind == "blip":
                hidden = model.text_encoder(ids["input_ids"], attention_mask=ids["attention_mask"]).last_hidden_state
                expected = model.text_proj(hidden[:, 0])[0]
            else:
                expected = model.get_text_features(**ids).pooler_output[0]
        torch.testing.assert_close(vector, expected / expected.norm(), rtol=0, atol=TOLERANCE)
    assert torch.pdist(found).min() > 100 * TOLERANCE  # else the above would hold for any order


def test_images_as_one_by_one(written, tmp_path):
    kind, folder, model = written
    encoder = load_dual_encoder(folder)
    names = list(tiny_clip.write_images(tmp_path, 3))
    found = encoder.encode_images(encoder.prepare_images([tmp_path / name for name in names]))
    for vector, name in zip(found, names, strict=True):
        pixels = encoder.image_processor(images=Image.open(tmp_path / name), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            if kind == "blip":
                expected = model.vision_proj(model.vision_model(pixels).last_hidden_state[:, 0])[0]
            else:
                expected = model.get_image_features(pixels).pooler_output[0]
        torch.testing.assert_close(vector, expected / expected.norm(), rtol=0, atol=TOLERANCE)
    assert torch.pdist(found).min() > 100 * TOLERANCE


def test_blip_as_its_own_forward(place, tmp_path):
    folder = place / "whole_blip"
    folder.mkdir()
    model = tiny_clip.write_blip(folder)
    encoder = load_dual_encoder(folder)
    names = list(tiny_clip.write_images(tmp_path, 2))
    inputs = encoder.prepare_images([tmp_path / name for name in names])
    tokens = encoder.tokenizer(CAPTIONS[:2], padding=True, return_tensors="pt")
    with torch.no_grad():
        ids = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        expected = model(**ids, **inputs, use_itm_head=False).itm_score
    sims = encoder.encode_images(inputs) @ encoder.encode_captions(CAPTIONS[:2]).T
    torch.testing.assert_close(sims, expected, rtol=0, atol=4 * TOLERANCE)


def test_long_captions_are_cut_and_counted(clip_folder):
    encoder = load_dual_encoder(clip_folder)
    long, longer = " ".join("abcdefghij"), " ".join("abcdefghijklmnop")  # ten words, start and end fill the context
    assert encoder.token_counts([long, longer, "a"]) == [12, 18, 3]
    assert encoder.token_counts([]) == []
    torch.testing.assert_close(*encoder.encode_captions([long, longer]), rtol=0, atol=TOLERANCE)


def test_half_precision_gives_float32_unit_vectors(clip_folder):
    exact, half = (load_dual_encoder(clip_folder, dtype=dtype).encode_captions(CAPTIONS) for dtype in TYPES)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.norm(dim=1), torch.ones(4))
    assert 0 < (exact - half).abs().max() < 10 * 24 * 2**-8


TYPES = ("float32", "bfloat16")


def test_nothing_is_asked_of_the_network(clip_folder, monkeypatch):
    asked = []
    monkeypatch.setattr("socket.getaddrinfo", lambda *arguments, **_: asked.append(arguments))
    monkeypatch.setattr("socket.socket.connect", lambda *arguments: asked.append(arguments))
    load_dual_encoder(clip_folder)
    with pytest.raises(FileNotFoundError, match=r"the model is 'openai/none': no folder here.*preprocessor_config"):
        load_dual_encoder("openai/none")
    assert not asked


def test_every_byte_of_the_weights_is_in_the_digest(clip_folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(clip_folder, copy)
    (copy / "README.md").write_text("a model")
    assert weights_digest(copy) == weights_digest(clip_folder)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert weights_digest(copy) != weights_digest(clip_folder)


def _bert(folder):
    import tiny_bert

    tiny_bert.write_folder(folder, tiny_bert.word_pieces(CAPTIONS))


def _lacking_weights(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _damaged(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:500])


def _without(name):
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("change", "exception", "fragment"),
    [
        (_bert, ValueError, "is a BertModel, which has no get_image_features and get_text_features"),
        (_lacking_weights, DataError, "weights lack 1 parameters of CLIPModel, which would be random"),
        (_damaged, DataError, "cannot read it"),
        (_without("config.json"), FileNotFoundError, "config.json: no such file"),
        (_without("preprocessor_config.json"), DataError, "cannot read it"),
        (_without("tokenizer.json"), DataError, "no vocabulary of a CLIPTokenizer: none of merges.txt"),
        (lambda folder: (folder / "config.json").write_text("{}"), DataError, "model_type"),
    ],
)
def test_folders_that_are_refused(change, exception, fragment, clip_folder, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(clip_folder, folder)
    if change is _bert:
        shutil.rmtree(folder)
        folder.mkdir()
    change(folder)
    with pytest.raises(exception) as caught:
        load_dual_encoder(folder)
    assert str(folder) in str(caught.value)
    assert fragment in str(caught.value)


def test_auto_is_the_cpu_where_there_is_no_device(clip_folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert load_dual_encoder(clip_folder, device="auto").device == torch.device("cpu")


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "meta"])
def test_devices_that_are_not_there(device, clip_folder):
    with pytest.raises(ValueError, match=f"device is '{device}'"):
        load_dual_encoder(clip_folder, device=device)


def test_no_dual_encoder(clip_folder):
    encoder = load_dual_encoder(clip_folder)
    encoder.model.get_text_features = lambda **_: torch.zeros(1, 2, 3)
    with pytest.raises(ValueError, match=r"shape \(1, 2, 3\), expected one vector an input"):
        encoder.encode_captions(["a"])


def test_broken_images_are_named(clip_folder, tmp_path):
    encoder = load_dual_encoder(clip_folder)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.jpg: no image"):
        encoder.prepare_images([tmp_path / "broken.jpg"])


def test_a_roberta_has_two_positions_fewer():
    from transformers import RobertaConfig, RobertaModel

    from itm_fast.sources.embedders.dual_encoder import _context_length

    sizes = {"hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1, "intermediate_size": 8}
    model = RobertaModel(RobertaConfig(vocab_size=9, max_position_embeddings=20, pad_token_id=1, **sizes))
    tokenizer = type("Unlimited", (), {"model_max_length": 10**30})
    assert _context_length(model, tokenizer, None) == 18
    model(torch.full((1, 18), 3))  # the longest that it takes
    assert _context_length(model, tokenizer, 5) == 5
    assert np.isfinite(_context_length(model, tokenizer, None))
