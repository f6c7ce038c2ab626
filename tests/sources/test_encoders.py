"""Encoders of every library: known by what is in the folder, with the vectors that the library itself gives."""

import json
import shutil

import pytest
import torch
from PIL import Image

pytest.importorskip("transformers", reason="encoders need transformers, of the extra [text]")
import tiny_bert
import tiny_clip
import tiny_encoders

from itm_fast.errors import DataError
from itm_fast.evaluation import load_encoder
from itm_fast.sources.embedders.dual_encoder import DualEncoder
from itm_fast.sources.embedders.token_encoder import TokenEncoder

# Unit vectors from two layers: about ten sums of at most 24 terms one after the other, each off by 24 * 2^-24 at most.
TOLERANCE = 10 * 24 * 2**-24
CAPTIONS = ["a dog runs", "the cat", "two", "a red cat on the green grass sleeps"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """clip/ and colpali/ of transformers, and images/."""
    place = tmp_path_factory.mktemp("encoders")
    for name, write in (("clip", tiny_clip.write_clip), ("colpali", tiny_encoders.write_colpali)):
        (place / name).mkdir()
        write(place / name)
    tiny_clip.write_images(place / "images", 3)
    return place


@pytest.fixture(scope="module")
def pictures(place):
    return sorted((place / "images").iterdir())


@pytest.fixture(scope="module")
def open_clip(place):
    """(open_clip, folder, the model that was saved)"""
    library = pytest.importorskip("open_clip", reason="needs open_clip_torch, of the extra [open-clip]")
    (place / "open_clip").mkdir()
    return library, place / "open_clip", tiny_encoders.write_open_clip(place / "open_clip")


@pytest.fixture(scope="module")
def sentence(place):
    """Folders of sentence-transformers: dense/ of CLIP, many/ of ColPali; and the models that were saved."""
    pytest.importorskip("sentence_transformers", reason="needs sentence-transformers, of the extra of that name")
    dense = tiny_encoders.write_sentence(place / "dense", place / "clip")
    return place, dense, tiny_encoders.write_sentence(place / "many", place / "colpali", "MultiVectorEncoder")


def one_by_one(model, processor, **inputs):
    with torch.no_grad():
        given = processor(**inputs)
        return model(**given).embeddings[0][given["attention_mask"][0].bool()]


def test_a_vector_a_token_as_the_model_gives_them(place, pictures):
    encoder = load_encoder(place / "colpali")
    assert isinstance(encoder, TokenEncoder)
    model, processor = encoder.model, encoder.processor
    found = encoder.encode_captions(CAPTIONS)
    assert [len(one) for one in found] == [12 + n for n in encoder.token_counts(CAPTIONS)]  # start, question, ten more
    for vectors, caption in zip(found, CAPTIONS, strict=True):
        expected = one_by_one(model, processor, text=[caption])
        torch.testing.assert_close(vectors, expected, rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
    found = encoder.encode_images(encoder.prepare_images(pictures))
    for vectors, path in zip(found, pictures, strict=True):
        assert vectors.shape == (tiny_encoders.N_PATCHES + tiny_encoders.N_PROMPT, 8)
        expected = one_by_one(model, processor, images=[Image.open(path)])
        torch.testing.assert_close(vectors, expected, rtol=0, atol=TOLERANCE)
    assert (found[0] - found[1]).abs().max() > 100 * TOLERANCE  # else the above would hold for any order


def test_open_clip_as_itself(open_clip, pictures):
    library, folder, model = open_clip
    encoder = load_encoder(folder)
    assert (encoder.library, encoder.per_token, encoder.context_length) == ("open-clip", False, tiny_clip.CONTEXT)
    tokens = library.get_tokenizer("ViT-B-32", context_length=tiny_clip.CONTEXT)(CAPTIONS)
    preprocess = library.image_transform(16, is_train=False, mean=(0.4, 0.5, 0.6), std=(0.5, 0.5, 0.5))
    images = torch.stack([preprocess(Image.open(path)) for path in pictures])
    with torch.no_grad():
        texts, seen = model.encode_text(tokens, normalize=True), model.encode_image(images, normalize=True)
    torch.testing.assert_close(encoder.encode_captions(CAPTIONS), texts, rtol=0, atol=TOLERANCE)
    found = encoder.encode_images(encoder.prepare_images(pictures))
    torch.testing.assert_close(found, seen, rtol=0, atol=TOLERANCE)
    assert torch.pdist(found).min() > 100 * TOLERANCE
    assert encoder.token_counts(["a dog runs", "dog " * 30]) == [5, 32]


def test_open_clip_by_architecture_and_weights(open_clip, tmp_path):
    library, folder, model = open_clip
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    for name, dim in (("Tiny-2", 8), ("Tiny-3", 6)):
        (tmp_path / f"{name}.json").write_text(json.dumps({**config, "embed_dim": dim}))
        library.add_model_config(tmp_path / f"{name}.json")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    encoder = load_encoder(f"Tiny-2@{tmp_path / 'weights.pt'}")
    expected = load_encoder(folder).encode_captions(CAPTIONS)
    torch.testing.assert_close(encoder.encode_captions(CAPTIONS), expected, rtol=0, atol=0)
    assert len({encoder.digest(), load_encoder(folder).digest()}) == 2
    with pytest.raises(ValueError, match=r"'ViT-B-33' is no architecture of open_clip .* perhaps you meant ViT-B-32"):
        load_encoder(f"ViT-B-33@{tmp_path / 'weights.pt'}")
    with pytest.raises(DataError, match="cannot read it as Tiny-3"):
        load_encoder(f"Tiny-3@{tmp_path / 'weights.pt'}")


def test_open_clip_without_weights_is_refused(open_clip, tmp_path):
    shutil.copy(open_clip[1] / "open_clip_config.json", tmp_path)
    with pytest.raises(DataError, match="pretrained weights"):
        load_encoder(tmp_path)


@pytest.mark.slow
def test_sentence_transformers_as_itself(sentence, pictures):
    place, dense, many = sentence
    encoder = load_encoder(place / "dense")
    assert (encoder.library, encoder.per_token, encoder.context_length) == ("sentence-transformers", False, 12)
    expected = dense.encode(CAPTIONS, convert_to_tensor=True, normalize_embeddings=True)
    torch.testing.assert_close(encoder.encode_captions(CAPTIONS), expected, rtol=0, atol=TOLERANCE)
    images = [Image.open(path) for path in pictures]
    expected = dense.encode(images, convert_to_tensor=True, normalize_embeddings=True)
    found = encoder.encode_images(encoder.prepare_images(pictures))
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)
    encoder = load_encoder(place / "many")
    assert (encoder.library, encoder.per_token, encoder.context_length) == ("sentence-transformers", True, None)
    for found, expected in (
        (encoder.encode_captions(CAPTIONS), many.encode_query(CAPTIONS)),
        (encoder.encode_images(encoder.prepare_images(pictures)), many.encode_document(images)),
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


def test_vectors_compared_by_dot_product_keep_their_lengths(sentence, tmp_path):
    place, dense, _ = sentence
    shutil.copytree(place / "dense", tmp_path / "dot")
    settings = json.loads((tmp_path / "dot/config_sentence_transformers.json").read_text())
    for similarity, fragment in (("dot", None), ("euclidean", "compares by euclidean; expected cosine or dot")):
        settings["similarity_fn_name"] = similarity
        (tmp_path / "dot/config_sentence_transformers.json").write_text(json.dumps(settings))
        if fragment is not None:
            with pytest.raises(ValueError, match=fragment):
                load_encoder(tmp_path / "dot")
            continue
        found = load_encoder(tmp_path / "dot").encode_captions(CAPTIONS)
        torch.testing.assert_close(found, dense.encode(CAPTIONS, convert_to_tensor=True), rtol=TOLERANCE, atol=0)
        assert (found.norm(dim=1) - 1).abs().min() > 0.01


def test_sentence_transformers_with_random_parts_are_refused(sentence, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(sentence[0] / "dense", tmp_path / "lacking")
    weights = load_file(tmp_path / "lacking/model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, tmp_path / "lacking/model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=r"its weights lack text_projection\.weight"):
        load_encoder(tmp_path / "lacking")


def test_sentence_transformers_of_text_alone_are_refused(sentence, tmp_path):
    (tmp_path / "bert").mkdir()
    tiny_bert.write_folder(tmp_path / "bert", tiny_bert.word_pieces(CAPTIONS))
    tiny_encoders.write_sentence(tmp_path / "text", tmp_path / "bert")
    with pytest.raises(ValueError, match="a model of text; expected one of images and text"):
        load_encoder(tmp_path / "text")


def test_nothing_is_asked_of_the_network(sentence, open_clip, monkeypatch):
    asked = []
    monkeypatch.setattr("socket.getaddrinfo", lambda *arguments, **_: asked.append(arguments))
    monkeypatch.setattr("socket.socket.connect", lambda *arguments: asked.append(arguments))
    for folder in (sentence[0] / "dense", sentence[0] / "many", open_clip[1]):
        load_encoder(folder)
    assert not asked


def test_a_library_can_be_named(place):
    assert isinstance(load_encoder(place / "clip"), DualEncoder)
    assert isinstance(load_encoder(place / "clip", library="transformers"), DualEncoder)


@pytest.mark.parametrize(
    ("model", "library", "exception", "fragment"),
    [
        ("clip", "open-clip", FileNotFoundError, "open_clip_config.json: no such file; expected .* of open-clip"),
        ("clip", "sentence-transformers", FileNotFoundError, r"modules\.json: no such file"),
        ("clip", "timm", ValueError, "library must be one of 'open-clip', 'sentence-transformers', 'transformers'"),
        ("images", None, FileNotFoundError, "none of modules.json, config.json, open_clip_config.json is in it"),
        ("ViT-B-32@none.pt", None, FileNotFoundError, r"none\.pt: no such file of weights"),
        ("ViT-B-32@clip/config.json", "transformers", ValueError, "ARCHITECTURE@WEIGHTS is for open-clip"),
    ],
)
def test_what_is_no_encoder(model, library, exception, fragment, place, monkeypatch):
    monkeypatch.chdir(place)
    with pytest.raises(exception, match=fragment):
        load_encoder(model, library=library)


def test_an_architecture_that_transformers_does_not_know(place, tmp_path):
    shutil.copytree(place / "colpali", tmp_path / "other")
    config = json.loads((tmp_path / "other/config.json").read_text())
    config["architectures"] = ["ColNothingForRetrieval"]
    (tmp_path / "other/config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="its architecture is ColNothingForRetrieval, which transformers"):
        load_encoder(tmp_path / "other")
