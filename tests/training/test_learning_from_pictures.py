"""Drawn scenes teach what their captions say: representative encoders, models and losses reach five times chance."""

import numpy as np
import pytest
import tiny_bert
import tiny_vit
import torch

from itm_fast.config import DataConfig, SAMConfig, TrainingConfig
from itm_fast.data import make_data, open_split
from itm_fast.evaluation import evaluate
from itm_fast.models import load_model, model_class
from itm_fast.sources.trained_model import ModelScorer
from itm_fast.training.run import RunSettings, run_training

pytest.importorskip("transformers")
pytest.importorskip("PIL.Image")
pytestmark = pytest.mark.learning


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures of 32 x 32 pixels, a ViT and a BERT of one layer that have learnt nothing."""
    folder = tmp_path_factory.mktemp("data")
    make_data(folder, n_train=300, n_dev=20, n_test=100, max_regions=2, dim=8, picture_size=32)
    for name in ("vit", "bert"):
        (folder / name).mkdir()
    tiny_vit.write_folder(folder / "vit", hidden_size=32, num_hidden_layers=1)
    captions = [line for split in ("train", "dev") for line in (folder / f"{split}_caps.txt").read_text().splitlines()]
    pieces = tiny_bert.word_pieces(captions, n_words=10**6)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    tiny_bert.write_folder(folder / "bert", pieces, **sizes)
    return folder


@pytest.mark.parametrize(
    ("name", "text", "sam", "options", "n_epochs"),
    [
        ("vsepp", "bigru", False, {"embed_size": 64}, 8),
        ("scan", "bert", True, {}, 4),
        ("laps", "bert", False, {"num_patches": 16, "imagenet_pixels": False}, 4),
    ],
)
def test_it_learns_from_pictures(name, text, sam, options, n_epochs, data, tmp_path):
    """R@1 at least five times chance, which is 1 %, from the cached tokens of a frozen ViT, evaluated from pixels."""
    paths = {"backbone_path": str(data / "vit"), "bert_path": str(data / "bert")}
    sizes = {"word_dim": 32, "embed_size": 32, "max_violation": True, "backbone_lr_factor": 0.0, "bert_lr_factor": 1.0}
    axes = {"image_encoder": "patches", "text_encoder": text}
    schedule = {"num_epochs": n_epochs, "lr_update": n_epochs - 1, "vse_mean_warmup_epochs": n_epochs}
    given = RunSettings(
        name,
        model_class(name).config_class(**{**paths, **sizes, **axes, **options}),
        DataConfig(data, tokenizer="split", cache_tokens=tmp_path / "tokens"),
        TrainingConfig(batch_size=50, learning_rate=5e-3, val_step=10**6, trackers=(), **schedule),
        SAMConfig(sam=sam),
    )
    run_training(given, tmp_path / "run")
    model = load_model(tmp_path / "run" / "best")
    dataset = open_split(data, "test", model.config.image_size, resampling=model.config.resampling)
    report = evaluate(ModelScorer(model, dataset))
    assert min(report["i2t"]["R@1"], report["t2i"]["R@1"]) >= 5.0


NAMES = "ape ant bat bee bug cat cod cow dog eel elk emu ewe fox gnu hen jay kid owl pig ram rat sow yak"


def test_a_vit_that_trains_learns_to_see(tmp_path):
    """Its map of pixels is zero at first, so that all images are one: whatever tells them apart, its gradient brought.

    Each image has three of the names, which its captions say in any order. Chance is 1.25 %; without the tower's
    gradient R@1 stays there, and with it comes to some twenty times as much.
    """
    data, rng = tmp_path / "data", np.random.default_rng(0)
    images = [rng.choice(NAMES.split(), 3, replace=False) for _ in range(300)]
    captions = [" ".join(rng.permutation(names)) for names in images for _ in range(5)]
    make_data(data, captions=captions, n_train=200, n_dev=20, n_test=80, max_regions=2, dim=8, picture_size=16)
    (data / "vit").mkdir()
    vit = tiny_vit.write_folder(data / "vit", hidden_size=32, num_hidden_layers=1, image_size=16, patch_size=4)
    torch.nn.init.zeros_(vit.embeddings.patch_embeddings.projection.weight)
    vit.save_pretrained(data / "vit")
    config = model_class("chan").config_class(
        image_encoder="patches",
        backbone_path=str(data / "vit"),
        class_token="dropped",  # of random weights it is the best region of every word, and tells no image apart
        backbone_lr_factor=1.0,
        embedding_warmup_epochs=0,
        word_dim=32,
        embed_size=32,
        margin=0.5,
    )
    schedule = {"num_epochs": 3, "lr_update": 2, "vse_mean_warmup_epochs": 3}
    training = TrainingConfig(batch_size=50, learning_rate=1e-2, val_step=10**6, trackers=(), **schedule)
    given = RunSettings("chan", config, DataConfig(data, tokenizer="split"), training, SAMConfig())
    run_training(given, tmp_path / "run")
    model = load_model(tmp_path / "run" / "best")
    report = evaluate(ModelScorer(model, open_split(data, "test", 16, resampling=model.config.resampling)))
    assert min(report["i2t"]["R@1"], report["t2i"]["R@1"]) >= 5 * 1.25
