"""Model folders: what is saved is what is loaded; files that are missing, damaged or strange."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from itm_fast.data import Vocabulary
from itm_fast.errors import DataError
from itm_fast.models import SCAN, SCANConfig, load_model, save_model

CONFIG = SCANConfig(img_dim=10, word_dim=5, embed_size=8, bi_gru=True, cross_attn="i2t", margin=0.3)
FILES = ["config.json", "model.safetensors", "vocab.json"]  # what a model is loaded from


@pytest.fixture
def folder(tmp_path, vocabulary):
    torch.manual_seed(0)
    save_model(SCAN(CONFIG, vocabulary), tmp_path / "new" / "model")
    return tmp_path / "new" / "model"


def edit_card(folder, **config):
    card = json.loads((folder / "config.json").read_text())
    card["config"].update(config)
    (folder / "config.json").write_text(json.dumps(card))


def test_round_trip(tmp_path, vocabulary):
    model = SCAN(CONFIG, vocabulary)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert (loaded.config, loaded.vocabulary, loaded.training) == (model.config, model.vocabulary, False)
    images, tokens, word_counts = torch.randn(2, 3, 10), torch.tensor([[1, 4, 2], [1, 2, 0]]), torch.tensor([3, 2])

    def scores(scan):
        return scan.similarity(scan.encode_images(images), scan.encode_captions(tokens, word_counts), word_counts)

    torch.testing.assert_close(scores(loaded), scores(model), rtol=0, atol=0)


def test_saving_again_replaces_and_leaves_nothing_aside(folder, vocabulary):
    model = SCAN(CONFIG, vocabulary)
    save_model(model, folder)
    torch.testing.assert_close(load_model(folder).img_enc.fc.weight, model.img_enc.fc.weight, rtol=0, atol=0)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", *FILES]


def test_a_save_that_fails_leaves_the_old_weights(folder, vocabulary, monkeypatch):
    before = (folder / "model.safetensors").read_bytes()

    def full_disk(tensors, path):
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr("itm_fast.models.card.save_file", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save_model(SCAN(CONFIG, vocabulary), folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", *FILES]


@pytest.mark.parametrize("name", FILES)
def test_missing_files(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name}: not found; a model folder holds config\.json"):
        load_model(folder)


@pytest.mark.parametrize("name", FILES)
def test_truncated_files(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=name):
        load_model(folder)


def test_weights_that_are_no_safetensors(folder):
    torch.save({}, folder / "model.safetensors")
    with pytest.raises(DataError, match="not a safetensors file"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"embed_size": 9}, "size mismatch for img_enc.fc.weight"),
        ({"bi_gru": False}, "Unexpected key.*reverse"),
        ({"num_layers": 2}, "Missing key.*weight_ih_l1"),
        (
            {"embed_sise": 3},
            "config.json: config has 'embed_sise', which is no setting of .*perhaps you meant embed_size",
        ),
        ({"cross_attn": "both"}, "config.json: cross_attn must be one of"),
        ({"embed_size": "8"}, "config.json: embed_size must be an integer"),
    ],
)
def test_cards_that_do_not_fit(folder, change, fragment):
    edit_card(folder, **change)
    with pytest.raises(DataError, match=fragment):
        load_model(folder)


@pytest.mark.parametrize("card", ["[]", "{}", '{"model": "clip", "config": {}}', '{"model": "scan", "config": 3}'])
def test_cards_of_something_else(folder, card):
    (folder / "config.json").write_text(card)
    with pytest.raises(DataError, match=r'config\.json: expected \{"model": NAME'):
        load_model(folder)


def test_a_card_of_another_format(folder):
    card = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**card, "format": "itm-fast model 2"}))
    with pytest.raises(DataError, match=r"format is 'itm-fast model 2'; expected 'itm-fast model 1'; is it of a newer"):
        load_model(folder)


def test_settings_that_a_card_lacks_are_said(folder):
    assert load_model(folder).notes == []
    card = json.loads((folder / "config.json").read_text())
    del card["config"]["cross_attn"], card["config"]["lambda_lse"], card["vocabulary"]
    (folder / "config.json").write_text(json.dumps(card))
    (note,) = load_model(folder).notes
    assert note.endswith("config.json lacks settings of scan; taken for them: cross_attn='t2i', lambda_lse=6.0")


def test_a_vocabulary_of_as_many_other_words(folder, vocabulary):
    words = [vocabulary.token(number) for number in range(len(vocabulary))]
    Vocabulary([*words[:-2], words[-1], words[-2]]).save(folder / "vocab.json")
    with pytest.raises(DataError, match=r"vocab\.json: has \d+ words, sha256 .* it was saved with \d+ words"):
        load_model(folder)


def test_weights_that_were_made_integers(folder):
    weights = load_file(folder / "model.safetensors")
    weights["img_enc.fc.weight"] = (127 * weights["img_enc.fc.weight"]).to(torch.int8)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(DataError, match=r"img_enc\.fc\.weight is torch\.int8; expected torch\.float32"):
        load_model(folder)


def test_weights_that_git_did_not_fetch(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n")
    with pytest.raises(DataError, match=r"model\.safetensors: a pointer of Git LFS"):
        load_model(folder)


def test_another_vocabulary(folder):
    Vocabulary(["<pad>", "<start>", "<end>", "<unk>", "a"]).save(folder / "vocab.json")
    with pytest.raises(DataError, match=r"model\.safetensors: does not fit config\.json and vocab\.json"):
        load_model(folder)


def test_a_tensor_too_many(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "extra": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(DataError, match=r"Unexpected key.*extra"):
        load_model(folder)
