"""VSE-infinity's checkpoints with a backbone: its tensors are in them twice, its classes too."""

import argparse
import dataclasses

import pytest
import torch

from itm_fast.data import Vocabulary
from itm_fast.errors import DataError
from itm_fast.models.vse_infty import VSEInfty, VSEInftyConfig
from itm_fast.nn.encoders.grid import BACKBONES
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


def write(path, model, *, prefix="module.", change=lambda content: None):
    """As the original does: a state dict of modules that are members of two others."""
    image = dict(model.img_enc.state_dict())
    for key, value in model.img_enc.backbone.resnet.state_dict().items():
        first, _, rest = key.partition(".")
        image[f"backbone.{COPIES[first]}.{rest}"] = value
    image |= {"backbone.resnet.fc.weight": torch.ones(10, 128), "backbone.resnet.fc.bias": torch.ones(10)}
    parts = [{prefix + key: value for key, value in part.items()} for part in (image, model.txt_enc.state_dict())]
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
