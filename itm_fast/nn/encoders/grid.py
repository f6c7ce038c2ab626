"""Images to the cells of a grid: pretrained ResNets and ResNeXts whose batch statistics stay as they are.

The networks are written here in plain torch: half of them (`detector`, `imagenet*`) have Caffe's strides, which
torchvision's do not, and tests run where torchvision does not. torchvision gives ImageNet's weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from itm_fast.choices import BackboneSource
from itm_fast.errors import DataError
from itm_fast.files.torch_files import load_weights_only, why_unread
from itm_fast.nn.encoders.regions import initialised_linear
from itm_fast.ops import _checks
from itm_fast.shown import named_options

PIXELS_PER_CELL = 32
_PUBLISHED = "https://download.pytorch.org/models/"
_EXPANSION = 4  # a block's channels per channel of its middle
_INDEXED = {"base.0": "conv1", "base.1": "bn1", "base.4": "layer1", "base.5": "layer2", "base.6": "layer3"}
_INDEXED["top.0"] = "layer4"  # the detector's file numbers its layers


@dataclass(frozen=True)
class Backbone:
    """What a network is made of, and where its weights come from."""

    blocks: tuple[int, int, int, int]
    """Blocks of each of the four stages."""
    has_caffe_strides: bool
    """A stage's stride is in its first 1 x 1 convolution and pooling rounds up; False: torchvision's network."""
    takes_bgr: bool = False
    """Blue first, minus the detector's means, not scaled; False: ImageNet's mean and deviation of RGB / 255."""
    groups: int = 1
    """Groups of the 3 x 3 convolutions."""
    width: int = 64
    """Channels of the first convolution; a cell has 32 times as many."""
    group_width: int = 64
    """Channels of a group in the 3 x 3 convolutions of the first stage."""
    weights: str | None = None
    """torchvision's file of the weights, whose name ends in the start of its SHA-256; None: none without a file."""
    source: str = ""
    """Where the file comes from, for the message that asks for it."""

    @property
    def dim(self) -> int:
        """Numbers per cell."""
        return 8 * self.width * _EXPANSION


# Sources are VSE-infinity's; its ImageNet weights, too, go into Caffe's strides, with which they were not trained.
BACKBONES: dict[str, Backbone] = {
    "detector": Backbone(
        (3, 4, 23, 3),
        has_caffe_strides=True,
        takes_bgr=True,
        source="original_updown_backbone.pth, see https://github.com/woodfrog/vse_infty",
    ),
    "wsl": Backbone(
        (3, 4, 23, 3),
        has_caffe_strides=False,
        groups=32,
        group_width=8,
        source="ig_resnext101_32x8, see https://github.com/facebookresearch/WSL-Images",
    ),
    "imagenet": Backbone((3, 4, 23, 3), has_caffe_strides=True, weights="resnet101-63fe2227.pth"),
    "imagenet_res50": Backbone((3, 4, 6, 3), has_caffe_strides=True, weights="resnet50-0676ba61.pth"),
    "imagenet_res152": Backbone((3, 8, 36, 3), has_caffe_strides=True, weights="resnet152-394f9c45.pth"),
    "imagenet_resnext": Backbone(
        (3, 4, 23, 3),
        has_caffe_strides=False,
        groups=32,
        group_width=8,
        weights="resnext101_32x8d-8ba56ff5.pth",
    ),
}


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by the statistics it has, in training as well; weight and bias train."""

    def forward(self, input: Tensor) -> Tensor:
        """(n, channels, height, width) -> the same shape."""
        return nn.functional.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


class _Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions beside an identity, or beside a 1 x 1 convolution where shapes change."""

    def __init__(self, n_in: int, width: int, n_out: int, stride: int, backbone: Backbone) -> None:
        super().__init__()
        strides = (stride, 1) if backbone.has_caffe_strides else (1, stride)
        self.conv1 = nn.Conv2d(n_in, width, 1, strides[0], bias=False)
        self.bn1 = FrozenBatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, strides[1], padding=1, groups=backbone.groups, bias=False)
        self.bn2 = FrozenBatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, n_out, 1, bias=False)
        self.bn3 = FrozenBatchNorm2d(n_out)
        self.downsample: nn.Module | None = None
        if stride > 1 or n_in != n_out:
            self.downsample = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), FrozenBatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_in, height, width) -> (n, n_out, height / stride, width / stride)."""
        beside = x if self.downsample is None else self.downsample(x)
        x = self.bn1(self.conv1(x)).relu_()
        x = self.bn2(self.conv2(x)).relu_()
        mapped: Tensor = self.bn3(self.conv3(x)).add_(beside).relu_()
        return mapped


class ResNet(nn.Module):
    """A ResNet or ResNeXt up to its last stage, without pooling and classes.

    State dict: torchvision's names without `fc`.

    Source:
        He et al., CVPR 2016; Xie et al., CVPR 2017; woodfrog/vse_infty, lib/modules/resnet.py.
    """

    def __init__(self, backbone: Backbone) -> None:
        """Initialise as He et al. do.

        Args:
            backbone: What it is made of.
        """
        super().__init__()
        self.backbone, width = backbone, backbone.width
        self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
        self.bn1 = FrozenBatchNorm2d(width)
        self.maxpool = (
            nn.MaxPool2d(3, 2, ceil_mode=True) if backbone.has_caffe_strides else nn.MaxPool2d(3, 2, padding=1)
        )
        n_in = width
        for stage, n_blocks in enumerate(backbone.blocks):
            inner, n_out = backbone.groups * backbone.group_width << stage, width * _EXPANSION << stage
            blocks = [_Bottleneck(n_in, inner, n_out, 1 if stage == 0 else 2, backbone)]
            blocks += [_Bottleneck(n_out, inner, n_out, 1, backbone) for _ in range(n_blocks - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            n_in = n_out
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (n, 3, height, width) -> (n, dim, height / 32, width / 32)."""
        x: Tensor = self.maxpool(self.bn1(self.conv1(images)).relu_())
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return x

    def normalised(self, images: Tensor) -> Tensor:
        """RGB from 0 to 255, (n, 3, height, width) -> as the weights were trained on."""
        if self.backbone.takes_bgr:
            return images.flip(1) - images.new_tensor([102.9801, 115.9465, 122.7717]).view(3, 1, 1)
        mean, deviation = images.new_tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
        normalised: Tensor = (images / 255 - mean) / deviation
        return normalised

    def train_stages(self, n_fixed: int) -> None:
        """Fix all stages (4), all but the last (3), ... or none (0); the first convolution is fixed with stage 1."""
        for stage in range(1, 5):
            self.get_submodule(f"layer{stage}").requires_grad_(stage > n_fixed)
        for stem in (self.conv1, self.bn1):
            stem.requires_grad_(n_fixed == 0)


class GridTower(nn.Module):
    """A pretrained network's last features: a token a cell.

    State dict: `resnet.*`.
    """

    def __init__(self, backbone_source: BackboneSource) -> None:
        """Initialise at random; `load_backbone` gives the network its weights.

        Args:
            backbone_source: Which network.

        Raises:
            ValueError: `backbone_source` is unknown.
        """
        super().__init__()
        _checks.check_choice("backbone_source", backbone_source, BackboneSource)
        backbone = BACKBONES[backbone_source]
        self.backbone_source, self.dim = backbone_source, backbone.dim
        self.resnet = ResNet(backbone)

    def forward(self, images: Tensor) -> Tensor:
        """RGB from 0 to 255, (n, 3, height, width) -> cells (n, height / 32 * width / 32, dim), row by row."""
        features: Tensor = self.resnet(self.resnet.normalised(images))
        return features.flatten(2).transpose(1, 2)

    def train_stages(self, n_fixed: int) -> None:
        """As `ResNet.train_stages`."""
        self.resnet.train_stages(n_fixed)

    def extra_repr(self) -> str:
        """The options, for print(model)."""
        return named_options(self, "backbone_source")


class GridEncoder(nn.Module):
    """Images to cells: a pretrained network, then a linear map of each cell.

    State dict: `backbone.resnet.*`, `image_encoder.fc.*` (embed_size, dim).

    Source:
        Chen et al., CVPR 2021; woodfrog/vse_infty, lib/encoders.py, EncoderImageFull.
    """

    def __init__(self, backbone_source: BackboneSource, embed_size: int) -> None:
        """Initialise at random; `load_backbone` gives the network its weights.

        Args:
            backbone_source: Which network.
            embed_size: Numbers per embedding.

        Raises:
            ValueError: `backbone_source` is unknown.
        """
        super().__init__()
        self.backbone_source, self.backbone = backbone_source, GridTower(backbone_source)
        self.image_encoder = nn.ModuleDict({"fc": initialised_linear(self.backbone.dim, embed_size)})

    @property
    def tower(self) -> GridTower:
        """The network, by the name that it has where pixels are read."""
        return self.backbone

    def forward(self, images: Tensor) -> Tensor:
        """RGB from 0 to 255, (n, 3, height, width) -> cells (n, height / 32 * width / 32, embed_size), row by row.

        Of cells that the network made before, (n, n_cells, dim), likewise.
        """
        cells: Tensor = self.image_encoder["fc"](self.backbone(images) if images.ndim == 4 else images)
        return cells

    def extra_repr(self) -> str:
        """The options, for print(model)."""
        return named_options(self, "backbone_source")


def load_backbone(resnet: ResNet, backbone_source: BackboneSource, backbone_path: str = "") -> None:
    """Gives a network its pretrained weights.

    Args:
        resnet: The network of `backbone_source`.
        backbone_source: Whose weights.
        backbone_path: File of the weights: of "detector" {"base": ..., "top": ...}, of the others torchvision's names;
            "" takes torchvision's of ImageNet, which are downloaded once into torch.hub's folder.

    Raises:
        ValueError: There are no weights without a file.
        FileNotFoundError: There is no such file, or torchvision's cannot be had.
        DataError: The file is damaged, asks for more than tensors, or has the weights of another network.
    """
    if not backbone_path:
        weights = _imagenet_weights(backbone_source)
    elif not Path(backbone_path).is_file():
        raise FileNotFoundError(f"backbone_path {backbone_path}: no such file; expected weights of {backbone_source}")
    else:
        weights = _read_weights(backbone_path, backbone_source)
    try:
        resnet.load_state_dict({key: value for key, value in weights.items() if not key.startswith("fc.")})
    except (RuntimeError, AttributeError) as error:
        raise DataError(
            f"backbone_path {backbone_path or 'of ImageNet'}: not the weights of backbone_source "
            f"{backbone_source!r}: {error}"
        ) from error


def _imagenet_weights(source: str) -> Mapping[str, Tensor]:
    backbone = BACKBONES[source]
    if backbone.weights is None:
        raise ValueError(f"backbone_source {source!r} needs backbone_path, a file of weights ({backbone.source})")
    address = _PUBLISHED + backbone.weights
    try:
        found: Mapping[str, Tensor] = torch.hub.load_state_dict_from_url(
            address, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:  # no network; a file of another hash
        raise FileNotFoundError(
            f"backbone_source {source!r} without backbone_path: {address} could not be had ({error}); put the file "
            f"into {Path(torch.hub.get_dir()) / 'checkpoints'}, or give it as backbone_path"
        ) from error
    return found


def _read_weights(path: str, source: str) -> dict[str, Tensor]:
    try:
        content: Any = load_weights_only(Path(path))
    except Exception as error:  # garbage raises nearly every kind of exception
        reason = why_unread(error)
        raise DataError(f"backbone_path {path}: not weights that can be read safely: {reason}") from error
    if not isinstance(content, Mapping):
        raise DataError(f"backbone_path {path}: expected a dict of tensors, got {type(content).__name__}")
    if source != "detector":
        return dict(content)
    weights: dict[str, Tensor] = {}
    for name in ("base", "top"):
        part = content.get(name)
        if not isinstance(part, Mapping):
            raise DataError(f'backbone_path {path}: expected {{"base": ..., "top": ...}}, the weights of the detector')
        weights |= {layer_name(f"{name}.{key}"): value for key, value in part.items()}
    return weights


def layer_name(key: str) -> str:
    """The name in the network of what VSE-infinity numbers: "base.4.0.conv1.weight" -> "layer1.0.conv1.weight"."""
    for number, name in _INDEXED.items():
        if key.startswith(f"{number}."):
            return f"{name}{key.removeprefix(number)}"
    return key
