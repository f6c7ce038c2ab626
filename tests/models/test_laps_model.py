"""LAPS: the original's tensors, its schedule, its checkpoints of a ViT and of a Swin transformer."""

import argparse
import dataclasses
import re

import pytest
import tiny_bert
import tiny_vit
import torch

from itm_fast.config import TrainingConfig
from itm_fast.data.collate import Batch
from itm_fast.errors import DataError
from itm_fast.models import load_model, model_class, presets, save_model
from itm_fast.models.laps import LAPS, LAPSConfig
from itm_fast.originals import load_original
from itm_fast.training.steps import Steps

pytest.importorskip("transformers")

PIECES = tiny_bert.word_pieces(["a dog runs", "two cats sleep"])
IMAGENET = {"mean": [0.485, 0.456, 0.406], "deviation": [0.229, 0.224, 0.225]}
TOWERS = {
    "vit": {"model_type": "vit", **tiny_vit.SIZES, "num_attention_heads": 1},
    "swin": {
        "model_type": "swin",
        **{"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "window_size": 4},
    },
}
OLD = [  # as transformers wrote them before its fifth version
    (r"^layers\.", "encoder.layer.", "vit"),
    (r"attention\.([qkv])_proj", r"attention.attention.\1", "vit"),
    (r"attention\.([qkv])_proj", r"attention.self.\1", "swin"),
    (r"attention\.relative_position_bias\.", "attention.self.", "swin"),
    (r"attention\.(attention|self)\.q\.", r"attention.\1.query.", ""),
    (r"attention\.(attention|self)\.k\.", r"attention.\1.key.", ""),
    (r"attention\.(attention|self)\.v\.", r"attention.\1.value.", ""),
    (r"attention\.o_proj", "attention.output.dense", ""),
    (r"mlp\.fc1", "intermediate.dense", ""),
    (r"mlp\.fc2", "output.dense", ""),
]


def config(kind="vit", **options):
    towers = {
        "backbone_config": {"architecture": TOWERS[kind], **tiny_vit.PIXELS},
        "bert_config": tiny_bert.config(PIECES),
    }
    chosen = {"image_encoder": "patches", "text_encoder": "bert", "embed_size": 20, "num_patches": 16}
    return LAPSConfig(**{**towers, **chosen, **options})


def made(kind="vit", **options):
    torch.manual_seed(0)
    return LAPS(config(kind, **options), PIECES).eval()


def old_name(name, kind):
    for pattern, before, of in OLD:
        if of in ("", kind):
            name = re.sub(pattern, before, name)
    return name


def write(path, model, kind, change=lambda content: None):
    """One state dict with the names that the original's had, its own options, the buffers of old transformers."""
    state = {}
    for key, value in model.state_dict().items():
        first, _, rest = key.partition("img_enc.visual_encoder.")
        state[key if first else f"img_enc.visual_encoder.{old_name(rest, kind)}"] = value
    state["txt_enc.bert.embeddings.position_ids"] = torch.arange(80)[None]
    if kind == "swin":
        state["img_enc.visual_encoder.encoder.layers.0.blocks.0.attention.self.relative_position_index"] = torch.ones(
            4, 4
        )
    options = {"embed_size": 20, "sparse_ratio": 0.5, "aggr_ratio": 0.4, "vit_type": kind, "img_res": 32}
    options |= {"num_patches": 16, "loss": "vse", "lr_schedules": [9, 15, 20, 25], "decay_rate": 0.3, "margin": 0.3}
    options |= {"attention_weight": 0.8, "ratio_weight": 2.0, "multi_gpu": 0, "f30k_img_path": "/x", "max_word": 90}
    content = {"model": state, "opt": argparse.Namespace(**options), "epoch": 3, "best_rsum": 500.0, "Eiters": 7}
    change(content)
    torch.save(content, path)


def scores(model):
    images = 255 * torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    tokens, counts = torch.tensor([[3, 14, 15, 4], [3, 16, 4, 0]]), torch.tensor([4, 3])
    with torch.no_grad():
        return model.similarity(model.encode_images(images), model.encode_captions(tokens, counts), counts)


@pytest.mark.parametrize("kind", TOWERS)
def test_checkpoints_of_the_original(kind, tmp_path):
    model = made(kind)
    write(tmp_path / "model_best.pth", model, kind)
    names = torch.load(tmp_path / "model_best.pth", weights_only=False)["model"]
    layer = "encoder.layer.0.attention.attention" if kind == "vit" else "encoder.layers.0.blocks.0.attention.self"
    assert f"img_enc.visual_encoder.{layer}.query.weight" in names
    loaded = load_original(tmp_path / "model_best.pth", PIECES)
    assert (loaded.config.margin, loaded.config.num_patches, loaded.config.image_size) == (0.3, 16, 32)
    torch.testing.assert_close(scores(loaded), scores(model), rtol=0, atol=0)
    save_model(loaded, tmp_path / "ours")
    torch.testing.assert_close(scores(load_model(tmp_path / "ours")), scores(model), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (lambda c: c["model"].update({"criterion.weight": torch.ones(2)}), r"Unexpected key(.|\n)*criterion\.weight"),
        (lambda c: c["model"].pop("img_enc.vision_proj.weight"), "Missing key(.|\n)*vision_proj.weight"),
        (lambda c: setattr(c["opt"], "loss", "contrastive"), "option loss is 'contrastive'"),
        (lambda c: setattr(c["opt"], "gate", 2), "gate"),
    ],
)
def test_what_is_refused(change, fragment, tmp_path):
    write(tmp_path / "model.pth", made(), "vit", change)
    with pytest.raises(DataError, match=fragment):
        load_original(tmp_path / "model.pth", PIECES)


def test_the_originals_tensors():
    state = made().state_dict()
    parts = {key.split(".")[0] for key in state}
    assert parts == {"img_enc", "txt_enc", "cross_net"}
    assert state["img_enc.vision_proj.weight"].shape == (20, 24)
    assert state["txt_enc.fc.weight"].shape == (20, 16)
    assert state["cross_net.aggr_net.weight.3.weight"].shape == (3, 4)
    same = made(embed_size=24).state_dict()
    assert not any("vision_proj" in key for key in same)
    assert not any(key.startswith("txt_enc.fc") for key in made(embed_size=16).state_dict())


def test_pixels_are_imagenets_unless_asked_otherwise():
    model, other = made(), made(imagenet_pixels=False)
    for found, expected in ((model, IMAGENET), (other, tiny_vit.PIXELS)):
        assert {key: found.config.backbone_config[key] for key in IMAGENET} == {key: expected[key] for key in IMAGENET}
        assert found.tower.mean == expected["mean"]
    assert (model.config.resampling, other.config.resampling) == ("bicubic", "bilinear")


def test_presets_are_those_of_the_repository():
    found = presets("laps")
    assert set(found) == {"f30k-vit", "f30k-swin", "coco-vit", "coco-swin"}
    for name, preset in found.items():
        model, training = preset.model, preset.training
        ratios = (49, 0.8, 0.6) if name.endswith("swin") else (196, 0.5, 0.4)
        assert (model.num_patches, model.sparse_ratio, model.aggr_ratio) == ratios
        assert (model.image_kind, model.text_kind, model.embed_size, model.margin) == ("patches", "bert", 512, 0.2)
        assert (model.backbone_lr_factor, model.bert_lr_factor, model.embedding_warmup_epochs) == (0.1, 0.1, 0)
        assert (training.learning_rate, training.weight_decay, training.num_epochs) == (2e-4, 1e-4, 30)
        assert (training.vse_mean_warmup_epochs, training.lr_schedules) == (1, (9, 15, 20, 25))


class Plan:
    steps_per_epoch = 2

    def __len__(self):
        return 60


def test_the_loss_grows_and_the_learning_rate_falls_as_in_the_original():
    model = made(embedding_warmup_epochs=0, backbone_warmup_epochs=0, backbone_lr_factor=0.1)
    assert [model.follow_schedule(step, 4) for step in range(6)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert all(parameter.requires_grad for parameter in model.parameters())
    schedule = dataclasses.replace(presets("laps")["f30k-vit"].training, learning_rate=1.0)
    run = Steps(model, Plan(), schedule, None, 1.0, argparse.Namespace(size=1, rank=0))
    rates = []
    for epoch in range(30):
        run._follow_schedule(epoch)
        rates.append(sorted({round(group["lr"], 9) for group in run.optimizer.param_groups}))
    for epoch, n_falls in ((0, 0), (8, 0), (9, 1), (14, 1), (15, 2), (20, 3), (25, 4), (29, 4)):
        assert rates[epoch] == [pytest.approx(0.1 * 0.3**n_falls), pytest.approx(0.3**n_falls)]


def test_size_augmentation_leaves_images_alone():
    tokens = torch.tensor([[3, 14, 15, 16, 17, 4]]).repeat(50, 1)
    ids, counts = torch.arange(50), torch.full((50,), 6)
    batch = Batch(torch.rand(50, 3, 32, 32), tokens, counts, ids, ids, torch.ones(50, dtype=torch.int64))
    augmented = made().size_augment()(batch, torch.Generator().manual_seed(0))
    assert augmented.regions is batch.regions
    assert augmented.kept_cells is None
    assert augmented.word_counts.min() < 6


def test_epochs_of_falls_are_positive():
    with pytest.raises(ValueError, match="lr_schedules is \\(0,\\); expected epochs of at least 1"):
        TrainingConfig(lr_schedules=(0,))


def test_regions_and_words_go_too(vocabulary):
    model = model_class("laps")(LAPSConfig(img_dim=6, word_dim=8, embed_size=16), vocabulary).eval()
    regions = torch.randn(2, 5, 6)  # five regions, no class token among them
    with torch.no_grad():
        assert model.encode_images(regions).shape == (2, 5, 16)
        assert not model.cross_net.has_class_token(5)
