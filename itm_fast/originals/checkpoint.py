"""Checkpoints of SCAN, VSE++, SGRAF, VSRN and VSE-infinity, understood by what is in them; nothing is trusted.

All of them are {"epoch", "model": [image, caption (, similarity) state dicts], "best_rsum", "opt": Namespace,
"Eiters"}.
"""

from __future__ import annotations

import argparse
import codecs
import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itm_fast.data.vocabulary import Vocabulary
from itm_fast.errors import DataError
from itm_fast.models.base import MatchingModel
from itm_fast.registry import model_class

Parts = list[dict[str, Tensor]]

# What an options object and a NumPy score need beside tensors; old names, new objects.
_ALLOWED: list[Any] = [
    argparse.Namespace,
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined]
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),  # type: ignore[attr-defined]
    codecs.encode,
]
_PARTS = ("img_enc", "txt_enc", "sim_enc")


def load_original(path: str | Path, vocabulary: Vocabulary) -> MatchingModel:
    """Reads a checkpoint of an original repository; every tensor must find its place.

    Args:
        path: The file, as torch.save wrote it under any version, from Python 2 as well.
        vocabulary: The one that it was trained with.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        FileNotFoundError: There is no such file.
        DataError: The file is damaged, asks for more than tensors and options, is of a model that is not known here,
            or was trained with another vocabulary.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a checkpoint such as model_best.pth.tar")
    parts, options = _read(path)
    name = _model_name(path, parts, options)
    kind = model_class(name)
    config = _config(path, kind, name, parts, options)
    extra = int(name == "vse_infty")  # the mask of the size augmentation
    n_words = len(parts[1]["embed.weight"]) - extra
    if n_words != len(vocabulary):
        raise DataError(
            f"{path}: trained with a vocabulary of {n_words} words, but the one given has {vocabulary.fingerprint}"
        )
    model = kind(config, vocabulary)
    for part_name, weights in zip(_PARTS, parts, strict=False):
        part = model.get_submodule(part_name)
        try:
            part.load_state_dict(_with_counters(weights, part.state_dict()), strict=True)
        except RuntimeError as error:
            raise DataError(f"{path}: taken for {name}, but its {part_name} does not fit: {error}") from error
    return model.eval()


def _read(path: Path) -> tuple[Parts, dict[str, Any]]:
    try:
        with torch.serialization.safe_globals(_ALLOWED), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "pickle_load_args only works")  # torch passes encoding on all the same
            content = torch.load(path, map_location="cpu", weights_only=True, encoding="latin1")
    except Exception as error:  # garbage raises nearly every kind of exception
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DataError(f"{path}: not a checkpoint that can be read safely: {reason}") from error
    found = content.get("model") if isinstance(content, dict) else None
    if not isinstance(found, (list, tuple)) or len(found) < 2 or not all(isinstance(part, Mapping) for part in found):
        raise DataError(f'{path}: expected {{"model": [image, caption (, similarity) state dicts], "opt": ...}}')
    options = content.get("opt")
    parts = [{key.removeprefix("module."): value for key, value in part.items()} for part in found]
    return parts, dict(vars(options)) if isinstance(options, argparse.Namespace) else {}


def _model_name(path: Path, parts: Parts, options: dict[str, Any]) -> str:
    image, caption = parts[:2]
    if any(key.startswith("bert.") for key in caption):
        raise DataError(
            f"{path}: its captions are encoded by BERT, which is not read yet; region models with a GRU are"
        )
    if len(parts) > 2 and "sim_tranloc_w.weight" in parts[2]:
        return "sgraf"
    if "Rs_GCN_1.g.weight" in image:
        return "vsrn"
    if "gpool.linear.weight" in image and "mlp.layers.0.weight" in image:
        return "vse_infty"
    if len(parts) == 2 and set(image) <= {"fc.weight", "fc.bias", "fc.weight_g", "fc.weight_v"}:
        if "cross_attn" in options:
            return "scan"
        if "measure" in options:
            return "vsepp"
    raise DataError(
        f"{path}: of no model known here (SCAN, VSE++, SGRAF, VSRN, VSE-infinity); its image part begins with "
        f"{', '.join(sorted(image)[:4])} and its options have neither cross_attn nor measure"
    )


def _config(path: Path, kind: type[MatchingModel], name: str, parts: Parts, options: dict[str, Any]) -> Any:
    """The options that the configuration knows, over which goes what the tensors' shapes say."""
    image, caption = parts[:2]
    known = {field.name for field in dataclasses.fields(kind.config_class)}
    found = {key: value for key, value in options.items() if key in known}
    weight = image["fc.weight_v" if "fc.weight_v" in image else "fc.weight"]
    recurrent = "cap_rnn" if name == "sgraf" else "rnn"
    shapes: dict[str, Any] = {
        "img_dim": weight.shape[1],
        "embed_size": weight.shape[0],
        "word_dim": caption["embed.weight"].shape[1],
        "num_layers": sum(key.startswith(f"{recurrent}.weight_ih_l") and "reverse" not in key for key in caption),
        "bi_gru": any("reverse" in key for key in caption),
        "precomp_enc_type": "weight_norm" if "fc.weight_v" in image else "basic",
        "encoder": "f30k_precomp" if "bn.weight" in image else "coco_precomp",
    }
    if name == "sgraf":
        similarity = parts[2]
        steps = {key.split(".")[1] for key in similarity if key.startswith("SGR_module.")}
        shapes |= {
            "sim_dim": len(similarity["sim_tranloc_w.weight"]),
            "module_name": "SGR" if steps else "SAF",
            "n_regions": len(similarity["v_global_w.embedding_local.1.weight"]),
        }
        shapes |= {"sgr_step": len(steps)} if steps else {}
    if name == "vsrn":
        found.pop("max_len", None)  # of the captioning head, which is not in the file
    try:
        return kind.config_class(**{**found, **{key: value for key, value in shapes.items() if key in known}})
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: taken for {name}, but its options do not fit: {error}") from error


def _with_counters(weights: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With the BatchNorms' counters of batches that torch before 0.4.1 did not write; nothing computes with them."""
    counters = {key: value for key, value in wanted.items() if key.endswith("num_batches_tracked")}
    return {**counters, **weights}
