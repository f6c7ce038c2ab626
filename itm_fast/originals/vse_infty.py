"""Checkpoints of woodfrog/vse_infty: regions or images, with BERT (branch master) or a BiGRU (branch bigru)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from itm_fast.nn.encoders.grid import layer_name
from itm_fast.originals.options import Options
from itm_fast.originals.parts import Parts, encoder_sizes, n_tokens, region_sizes

_BACKBONE, _CELLS = "backbone.", "image_encoder."
READ = frozenset({"kernel_size"})  # of ESL, whose parser is this one with more


def recognises(parts: Parts, options: Options) -> bool:
    """Whether a checkpoint is VSE-infinity's."""
    return len(parts) == 2 and (_has_regions(parts[0]) or _has_grid(parts[0]))


def n_words(parts: Parts) -> tuple[int, ...]:
    """Sizes of the vocabulary that it may have been trained with."""
    return (n_tokens(parts[1]),)


def config(parts: Parts, options: Options) -> dict[str, Any]:
    """What of the configuration the tensors say."""
    return {**_image_sizes(parts[0]), **encoder_sizes(parts[1])}


def named_parts(parts: Parts, n_words: int) -> dict[str, dict[str, Tensor]]:
    """Without the backbone's second copy, if it is one, and its classes, which nothing computes with."""
    return {"img_enc": _without_copies(parts[0]), "txt_enc": parts[1]}


def _has_regions(image: Mapping[str, Tensor]) -> bool:
    return {"gpool.linear.weight", "mlp.layers.0.weight"} <= set(image)


def _has_grid(image: Mapping[str, Tensor]) -> bool:
    return {f"{_CELLS}gpool.linear.weight", f"{_CELLS}fc.weight", f"{_BACKBONE}resnet.conv1.weight"} <= set(image)


def _image_sizes(image: Mapping[str, Tensor]) -> dict[str, Any]:
    if not _has_grid(image):
        return {**region_sizes(image), "precomp_enc_type": "basic"}
    cells = {key.removeprefix(_CELLS): value for key, value in image.items() if key.startswith(_CELLS)}
    # the path was that of another machine, and the weights are here
    return {**region_sizes(cells), "precomp_enc_type": "backbone", "backbone_path": ""}


def _without_copies(image: Mapping[str, Tensor]) -> dict[str, Tensor]:
    def is_needed(key: str, value: Tensor) -> bool:
        name = layer_name(key.removeprefix(_BACKBONE))
        first = image.get(f"{_BACKBONE}resnet.{name}")
        if key.startswith((f"{_BACKBONE}base.", f"{_BACKBONE}top.")):
            return first is None or not torch.equal(value, first)
        return not key.startswith(f"{_BACKBONE}resnet.fc.")

    return {key: value for key, value in image.items() if is_needed(key, value)}
