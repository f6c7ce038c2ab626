"""VSE-infinity's and ESL's checkpoints with a backbone: its tensors are in them twice, its classes too."""

import argparse
import dataclasses

import pytest
import tiny_bert
import torch

from itm_fast.data import Vocabulary
from itm_fast.errors import DataError
from itm_fast.models import load_model, save_model
from itm_fast.models.esl import ESL, ESLConfig
from itm_fast.models.vse_infty import VSEInfty, VSEInftyConfig
from itm_fast.nn.encoders.grid import BACKBONES
from itm_fast.nn.encoders.regions import l2_normalise
from itm_fast.originals import load_original

VOCABULARY = Vocabulary(["<pad>", "<start>", "<end>", "<unk>", *"abcdefg"])
COPIES = {"conv1": "base.0", "bn1": "base.1", "layer1": "base.4", "layer2": "base.5", "layer3": "base.6"}
COPIES |= {"layer4": "top.0"}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    for source in ("detector", "wsl"):
        small = dataclasses.replace(
            BACKBONES[source], blocks=(1, 2, 1, 1), width=4, groups=min(BACKBONES[source].groups, 2), group_width=4
        )
        monkeypatch.setitem(BACKBONES, source, small)


def made(source="detector"):
    torch.manual_seed(0)
    config = VSEInftyConfig(
        img_dim=128,
        word_dim=6,
        embed_size=8,
        max_violation=True,
        precomp_enc_type="backbone",
        backbone_source=source,
        input_scale_factor=0.25,
        embedding_warmup_epochs=1,
        backbone_warmup_epochs=0,
    )
    model = VSEInfty(config, VOCABULARY)
    for module in model.modules():  # so that the statistics matter
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            torch.nn.init.uniform_(module.weight, 0.5, 1)
    return model.eval()


def made_esl(pieces, strategy):
    torch.manual_seed(1)
    config = ESLConfig(
        img_dim=128,
        embed_size=256,
        max_violation=True,
        heuristic_strategy=strategy == "h",
        text_enc_type="bert",
        bert_config=tiny_bert.config(pieces),
        precomp_enc_type="backbone",
        input_scale_factor=0.25,
    )
    return ESL(config, pieces).eval()


def write(path, model, *, prefix="module.", change=lambda content: None):
    """As the original does: a state dict of modules that are members of two others."""
    image = dict(model.img_enc.state_dict())
    for key, value in model.img_enc.backbone.resnet.state_dict().items():
        first, _, rest = key.partition(".")
        image[f"backbone.{COPIES[first]}.{rest}"] = value
    image |= {"backbone.resnet.fc.weight": torch.ones(10, 128), "backbone.resnet.fc.bias": torch.ones(10)}
    states = [image, model.txt_enc.state_dict(), *([model.sim_enc.state_dict()] if model.name == "esl" else [])]
    parts = [{prefix + key: value for key, value in part.items()} for part in states]
    flags = {**dataclasses.asdict(model.config), "backbone_path": "/their/weights.pth", "data_name": "f30k"}
    content = {"epoch": 7, "model": parts, "best_rsum": 401.5, "opt": argparse.Namespace(**flags), "Eiters": 123}
    change(content)
    torch.save(content, path)


def embeddings(model):
    images = 255 * torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.encode_images(images)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("source", ["detector", "wsl"])
def test_round_trip(source, prefix, tmp_path):
    model = made(source)
    write(tmp_path / "model_best.pth", model, prefix=prefix)
    loaded = load_original(tmp_path / "model_best.pth", VOCABULARY)
    assert loaded.config == model.config
    torch.testing.assert_close(embeddings(loaded), embeddings(model), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (
            lambda c: c["model"][0].update({"module.backbone.base.0.weight": torch.zeros(4, 3, 7, 7)}),
            r"Unexpected key\(s\)(.|\n)*backbone\.base\.0\.weight",
        ),
        (lambda c: c["model"][0].pop("module.backbone.resnet.layer2.1.conv1.weight"), r"Missing key(.|\n)*layer2\.1"),
        (lambda c: setattr(c["opt"], "backbone_source", "wsl"), "size mismatch"),
        (lambda c: setattr(c["opt"], "backbone_source", "vgg"), "its options do not fit: backbone_source must be"),
        (lambda c: setattr(c["opt"], "input_scale_factor", 0.3), "its options do not fit: input_scale_factor 0.3"),
    ],
)
def test_what_is_refused(change, fragment, tmp_path):
    write(tmp_path / "model.pth", made(), change=change)
    with pytest.raises(DataError, match=fragment):
        load_original(tmp_path / "model.pth", VOCABULARY)


@pytest.mark.parametrize("strategy", ["h", "a"])
def test_esl_of_a_grid(strategy, tmp_path):
    """Loaded strictly, whatever its strategy, which no option says; scores are those of its cells read as regions."""
    pytest.importorskip("transformers")
    pieces = tiny_bert.word_pieces(["a dog runs", "two cats sleep"])
    model = made_esl(pieces, strategy)

    def without_ours(content):
        for name in ("heuristic_strategy", "text_enc_type", "bert_config", "bert_path", "image_encoder"):
            delattr(content["opt"], name)

    write(tmp_path / "model_best.pth", model, change=without_ours)
    loaded = load_original(tmp_path / "model_best.pth", pieces)
    assert loaded.config.heuristic_strategy == (strategy == "h")
    assert (loaded.config.image_kind, loaded.config.image_size) == ("grid", 64)
    images = 255 * torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    tokens, counts = torch.tensor([[3, 14, 15, 4], [3, 16, 4, 0]]), torch.tensor([4, 3])
    with torch.no_grad():
        captions = loaded.encode_captions(tokens, counts)
        found = loaded.similarity(loaded.encode_images(images), captions, counts)
        encoder = model.img_enc
        features = encoder.backbone.resnet(encoder.backbone.resnet.normalised(images)).flatten(2).mT
        cells = l2_normalise(features @ encoder.image_encoder["fc"].weight.T + encoder.image_encoder["fc"].bias)
        levels = model.sim_enc.image_levels(cells), model.sim_enc.caption_levels(model.txt_enc(tokens, counts), counts)
        expected = model.sim_enc.attend(*levels, counts)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    save_model(loaded, tmp_path / "ours")
    assert load_model(tmp_path / "ours").config == loaded.config
