"""Backbones: their arithmetic by hand and beside torchvision's, names, frozen statistics, weights from files."""

import dataclasses
import os
from urllib.error import URLError

import pytest
import torch
from torch.nn import functional

from itm_fast.errors import DataError
from itm_fast.nn.encoders.grid import BACKBONES, GridEncoder, ResNet, load_backbone

TINY = {"blocks": (1, 2, 1, 1), "width": 4, "group_width": 4}


def tiny(source, **options):
    groups = BACKBONES[source].groups
    return dataclasses.replace(BACKBONES[source], **{**TINY, "groups": min(groups, 2), **options})


def made(backbone):
    """A network with statistics and affine maps that matter."""
    torch.manual_seed(0)
    resnet = ResNet(backbone)
    for module in resnet.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    return resnet


def by_hand(resnet, images):
    """The network again, from its state dict alone."""
    weights, backbone = resnet.state_dict(), resnet.backbone

    def normed(name, x):
        mean, var, weight, bias = (
            weights[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def convolved(name, x, stride, padding=0, groups=1):
        return functional.conv2d(x, weights[f"{name}.weight"], None, stride, padding, 1, groups)

    x = normed("bn1", convolved("conv1", images, 2, 3)).relu()
    if backbone.has_caffe_strides:  # pooling that rounds up: a column and a row of nothing behind
        x = functional.max_pool2d(functional.pad(x, (0, 1, 0, 1), value=-torch.inf), 3, 2)
    else:
        x = functional.max_pool2d(functional.pad(x, (1, 1, 1, 1), value=-torch.inf), 3, 2)
    for stage, n_blocks in enumerate(backbone.blocks, start=1):
        for block in range(n_blocks):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            first, second = (stride, 1) if backbone.has_caffe_strides else (1, stride)
            y = normed(f"{name}.bn1", convolved(f"{name}.conv1", x, first)).relu()
            y = normed(f"{name}.bn2", convolved(f"{name}.conv2", y, second, 1, backbone.groups)).relu()
            y = normed(f"{name}.bn3", convolved(f"{name}.conv3", y, 1))
            if f"{name}.downsample.0.weight" in weights:
                x = normed(f"{name}.downsample.1", convolved(f"{name}.downsample.0", x, stride))
            x = (x + y).relu()
    return x


@pytest.mark.parametrize("source", ["detector", "wsl"])
def test_the_network_by_hand(source):
    resnet = made(tiny(source)).double()
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    found = resnet(images)
    assert found.shape == (2, 128, 2, 3)
    torch.testing.assert_close(found, by_hand(resnet, images))


@pytest.mark.parametrize("source", BACKBONES)
def test_beside_torchvision(source):
    try:
        from torchvision.models.resnet import Bottleneck
        from torchvision.models.resnet import ResNet as TorchvisionResNet
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision cannot be imported: {error}")
    ours = BACKBONES[source]
    resnet = made(dataclasses.replace(ours, blocks=(1, 1, 2, 1)))
    theirs = TorchvisionResNet(Bottleneck, [1, 1, 2, 1], groups=ours.groups, width_per_group=ours.group_width).eval()
    if ours.has_caffe_strides:
        theirs.maxpool = torch.nn.MaxPool2d(3, 2, ceil_mode=True)
        for stage in (theirs.layer2, theirs.layer3, theirs.layer4):
            stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    missing = theirs.load_state_dict(resnet.state_dict(), strict=False)
    assert (missing.missing_keys, missing.unexpected_keys) == (["fc.weight", "fc.bias"], [])
    theirs.avgpool = theirs.fc = torch.nn.Identity()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(resnet(images).flatten(), theirs(images).flatten())


@pytest.mark.parametrize("source", BACKBONES)
def test_torchvision_has_the_names_of_the_weights_and_of_the_tensors(source):
    try:
        from torchvision.models import get_model
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision cannot be imported: {error}")
    backbone = BACKBONES[source]
    networks = {"detector": "resnet101", "wsl": "resnext101_32x8d"}
    name = networks.get(source) or backbone.weights.partition("-")[0]
    with torch.device("meta"):
        theirs, ours = get_model(name).state_dict(), ResNet(backbone).state_dict()
    shapes = {key: value.shape for key, value in theirs.items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in ours.items()} == shapes


def test_cells():
    with torch.device("meta"):
        encoder = GridEncoder("detector", 16)
        assert encoder(torch.empty(2, 3, 512, 512)).shape == (2, 256, 16)
        assert encoder(torch.empty(1, 3, 256, 256)).shape == (1, 64, 16)


def test_cells_are_the_linear_map_of_the_last_stage_row_by_row(monkeypatch):
    monkeypatch.setitem(BACKBONES, "detector", tiny("detector"))
    encoder = GridEncoder("detector", 6).double()
    images = 255 * torch.rand(2, 3, 64, 96, dtype=torch.float64)
    features = encoder.backbone.resnet(encoder.backbone.resnet.normalised(images))
    cell = encoder.image_encoder["fc"](features[1, :, 1, 0])
    torch.testing.assert_close(encoder(images)[1, 3], cell)


def test_preprocessing():
    images = torch.tensor([255.0, 51.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    detector, imagenet = (ResNet(tiny(source)).normalised(images) for source in ("detector", "imagenet"))
    torch.testing.assert_close(detector[0, :, 1, 0], torch.tensor([-102.9801, 51 - 115.9465, 255 - 122.7717]))
    expected = torch.tensor([(1 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, -0.406 / 0.225])
    torch.testing.assert_close(imagenet[0, :, 1, 0], expected)


def test_statistics_stay_and_affine_maps_train():
    resnet = made(tiny("wsl"))
    images = torch.randn(2, 3, 64, 64)
    before = {key: value.clone() for key, value in resnet.state_dict().items()}
    with torch.no_grad():
        expected = resnet.eval()(images)
    found = resnet.train()(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    found.square().mean().backward()
    assert all(torch.equal(value, before[key]) for key, value in resnet.state_dict().items())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in resnet.named_parameters() if "bn" in n)


@pytest.mark.parametrize("n_fixed", range(5))
def test_stages_train_from_the_last(n_fixed):
    resnet = ResNet(tiny("detector"))
    resnet.train_stages(0 if n_fixed else 4)
    resnet.train_stages(n_fixed)
    training = {name.split(".")[0] for name, parameter in resnet.named_parameters() if parameter.requires_grad}
    expected = {f"layer{stage}" for stage in range(n_fixed + 1, 5)} | ({"conv1", "bn1"} if n_fixed == 0 else set())
    assert training == expected
    fixed = {name.split(".")[0] for name, parameter in resnet.named_parameters() if not parameter.requires_grad}
    assert not training & fixed


INDEXED = {"conv1": ("base", "0"), "bn1": ("base", "1"), "layer1": ("base", "4"), "layer2": ("base", "5")}
INDEXED |= {"layer3": ("base", "6"), "layer4": ("top", "0")}


def as_detector_file(state):
    """As the converted Caffe weights are kept, without the counters that torch 0.3 did not know."""
    content = {"base": {}, "top": {}}
    for key, value in state.items():
        first, _, rest = key.partition(".")
        part, number = INDEXED[first]
        if "num_batches" not in key:
            content[part][f"{number}.{rest}"] = value
    return content


@pytest.mark.parametrize("source", ["detector", "imagenet_res50", "wsl"])
def test_weights_from_a_file(source, tmp_path):
    given, resnet = made(tiny(source)), ResNet(tiny(source))
    state = given.state_dict()
    content = as_detector_file(state) if source == "detector" else {**state, "fc.weight": torch.ones(1000, 128)}
    torch.save(content, tmp_path / "weights.pth")
    load_backbone(resnet, source, str(tmp_path / "weights.pth"))
    assert all(torch.equal(value, resnet.state_dict()[key]) for key, value in state.items())


class Command:
    """What an attacker would write."""

    def __reduce__(self):
        return os.system, ("echo attacked > /dev/null",)


def without(key):
    return {k: v for k, v in ResNet(tiny("wsl")).state_dict().items() if k != key}


@pytest.mark.parametrize(
    ("source", "content", "fragment"),
    [
        ("wsl", lambda: Command(), "not weights that can be read safely"),
        ("wsl", lambda: [torch.zeros(1)], "expected a dict of tensors, got list"),
        ("wsl", lambda: without("layer1.0.conv1.weight"), r"not the weights of .*'wsl'(.|\n)*layer1\.0\.conv1\.weight"),
        ("wsl", lambda: ResNet(tiny("wsl", width=8)).state_dict(), "size mismatch"),
        ("wsl", lambda: {3: torch.zeros(1)}, "not the weights of backbone_source 'wsl'"),
        ("detector", lambda: without(""), r'expected \{"base"'),
        ("detector", lambda: {"base": {}, "top": {}}, "not the weights of backbone_source 'detector'"),
    ],
)
def test_files_that_are_refused(source, content, fragment, tmp_path):
    torch.save(content(), tmp_path / "bad.pth")
    with pytest.raises(DataError, match=r"bad\.pth") as caught:
        load_backbone(ResNet(tiny(source)), source, str(tmp_path / "bad.pth"))
    assert caught.match(fragment)


def test_weights_that_are_not_there(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"backbone_path .*none\.pth: no such file"):
        load_backbone(ResNet(tiny("wsl")), "wsl", str(tmp_path / "none.pth"))
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match=r"cut\.pth: not weights that can be read safely"):
        load_backbone(ResNet(tiny("wsl")), "wsl", str(tmp_path / "cut.pth"))
    with pytest.raises(ValueError, match=r"'wsl' needs backbone_path, a file of weights \(ig_resnext101_32x8"):
        load_backbone(ResNet(tiny("wsl")), "wsl")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def no_network(address, *_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(
        FileNotFoundError, match=r"resnet101-63fe2227\.pth could not be had .*no route.*hub/checkpoints"
    ):
        load_backbone(ResNet(tiny("imagenet")), "imagenet")


def test_imagenet_weights_are_downloaded_once_and_checked(monkeypatch, tmp_path):
    state = made(tiny("imagenet")).state_dict()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    asked = []

    def download(address, file, hash_prefix, progress):
        asked.append((address, hash_prefix))
        torch.save({**state, "fc.bias": torch.zeros(1000)}, file)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        resnet = ResNet(tiny("imagenet"))
        load_backbone(resnet, "imagenet")
    assert asked == [("https://download.pytorch.org/models/resnet101-63fe2227.pth", "63fe2227")]
    assert all(torch.equal(value, resnet.state_dict()[key]) for key, value in state.items())
