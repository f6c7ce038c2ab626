"""Checkpoints of VSE-infinity and ESL with BERT, as DataParallel and old transformers write them."""

import argparse

import numpy as np
import pytest
import tiny_bert
import torch

from itm_fast.cli import main as cli
from itm_fast.data import Vocabulary, WordPieces, make_data
from itm_fast.errors import DataError
from itm_fast.models import load_model, model_class, presets, save_model
from itm_fast.originals import load_original

pytest.importorskip("transformers")

PIECES = tiny_bert.word_pieces(["a dog runs", "two cats sleep"])
CASES = {
    "vse_infty": ("vse_infty", {"embed_size": 16}),
    "esl, adaptive": ("esl", {"embed_size": 256}),
    "esl, heuristic": ("esl", {"embed_size": 256, "heuristic_strategy": True}),
}


def made(case, pieces=PIECES, dim=12):
    name, options = CASES[case]
    torch.manual_seed(0)
    kind = model_class(name)
    config = kind.config_class(text_enc_type="bert", bert_config=tiny_bert.config(pieces), img_dim=dim, **options)
    model = kind(config, pieces)
    for module in model.modules():  # so that the statistics matter
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.uniform_(-1, 1)
            module.weight.data.uniform_(0.5, 1)
    return model.eval()


def write(path, model, change=lambda content: None):
    parts = [model.img_enc.state_dict(), model.txt_enc.state_dict()]
    parts += [model.sim_enc.state_dict()] if model.name == "esl" else []
    n = model.config.bert_config["max_position_embeddings"]
    parts[1]["bert.embeddings.position_ids"] = torch.arange(n)[None]  # transformers 4.4
    state = [{f"module.{key}": value for key, value in part.items()} for part in parts]
    flags = {"margin": 0.3, "max_violation": True, "embed_size": model.config.embed_size, "precomp_enc_type": "basic"}
    options = argparse.Namespace(**flags, img_dim=2048, word_dim=300, num_layers=1, no_imgnorm=False, kernel_size=2)
    content = {"epoch": 7, "model": state, "best_rsum": np.float64(401.5), "opt": options, "Eiters": 123}
    change(content)
    torch.save(content, path)


def scores(model):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 7, 12, generator=generator)
    tokens, counts = torch.tensor([[3, 14, 15, 4], [3, 16, 4, 0]]), torch.tensor([4, 3])
    with torch.no_grad():
        return model.similarity(model.encode_images(images), model.encode_captions(tokens, counts), counts)


@pytest.mark.parametrize("case", CASES)
def test_round_trip(case, tmp_path):
    model = made(case)
    write(tmp_path / "model_best.pth", model)
    loaded = load_original(tmp_path / "model_best.pth", PIECES)
    assert type(loaded) is type(model)
    assert (loaded.config.margin, loaded.config.max_violation, loaded.training) == (0.3, True, False)
    torch.testing.assert_close(scores(loaded), scores(model), rtol=0, atol=0)
    save_model(loaded, tmp_path / "ours")
    torch.testing.assert_close(scores(load_model(tmp_path / "ours")), scores(model), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["vse_infty", "esl"])
def test_the_published_architecture(name):
    """What is read off the shapes of bert-base is its own configuration, but for what is no shape."""
    from transformers import BertConfig

    from itm_fast.originals.parts import encoder_sizes

    preset = next(preset.model for key, preset in presets(name).items() if key.endswith("-bert"))
    kind = model_class(name)
    pieces = WordPieces([*tiny_bert.SPECIALS, *map(str, range(30516))])
    with torch.device("meta"):
        model = kind(kind.config_class(embed_size=preset.embed_size, text_enc_type="bert", bert_config=BASE), pieces)
    found = encoder_sizes(model.txt_enc.state_dict())["bert_config"]
    assert BertConfig(**found).to_dict() == BertConfig().to_dict()


BASE = {"model_type": "bert"}
LAYER = "module.bert.encoder.layer.1.output.dense.weight"


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (lambda c: c["model"][1].pop(LAYER), r"taken for \w+, but its txt_enc does not fit: (.|\n)*Missing key"),
        (lambda c: c["model"][1].update({"module.bert.more": torch.zeros(1)}), r"Unexpected key(.|\n)*bert\.more"),
        (lambda c: c["model"][1].update({"module.position_ids": torch.zeros(1)}), r"Unexpected key(.|\n)*position_ids"),
        (lambda c: c["model"][1].update({LAYER: torch.zeros(2, 2)}), r"size mismatch for bert\.encoder\.layer\.1"),
        (lambda c: c["model"].__setitem__(1, {}), "has no tensor 'embed.weight'"),
    ],
)
@pytest.mark.parametrize("case", ["vse_infty", "esl, adaptive"])
def test_what_is_refused(case, change, fragment, tmp_path):
    write(tmp_path / "bad.pth", made(case), change)
    with pytest.raises(DataError, match=fragment):
        load_original(tmp_path / "bad.pth", PIECES)


@pytest.mark.parametrize(
    "vocabulary",
    [
        Vocabulary(["<pad>", "<start>", "<end>", "<unk>"]),
        WordPieces([*PIECES.pieces, "more"]),
    ],
)
def test_another_vocabulary(vocabulary, tmp_path):
    write(tmp_path / "model.pth", made("vse_infty"))
    with pytest.raises(DataError, match=f"of {len(PIECES)} words, but the one given has {len(vocabulary)} word"):
        load_original(tmp_path / "model.pth", vocabulary)


def test_as_many_words_as_pieces(tmp_path):
    write(tmp_path / "model.pth", made("vse_infty"))
    words = Vocabulary(["<pad>", "<start>", "<end>", "<unk>", *map(str, range(len(PIECES) - 4))])
    with pytest.raises(ValueError, match='text_enc_type is "bert", but the vocabulary is of'):
        load_original(tmp_path / "model.pth", words)


@pytest.mark.parametrize("form", ["folder", "vocab.txt"])
def test_itm_fast_evaluate_understands_it(form, tmp_path, capsys):
    make_data(tmp_path / "data", n_train=5, n_dev=1, n_test=4, max_regions=7, dim=12)
    captions = (tmp_path / "data" / "test_caps.txt").read_text().splitlines()
    pieces = tiny_bert.word_pieces(captions)
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(pieces.pieces) + "\n")
    write(tmp_path / "model.pth", made("vse_infty", pieces))
    vocab = tmp_path / "bert" if form == "folder" else tmp_path / "bert" / form
    flags = ["--checkpoint", str(tmp_path / "model.pth"), "--vocab", str(vocab), "--data", str(tmp_path / "data")]
    assert cli.main(["evaluate", *flags, "--json"]) == 0
    assert '"rsum"' in capsys.readouterr().out
