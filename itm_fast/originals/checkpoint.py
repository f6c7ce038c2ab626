"""Checkpoints of the original repositories, understood by what is in them; nothing is trusted.

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
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itm_fast.data.text.caption_vocabulary import CaptionVocabulary
from itm_fast.errors import DataError
from itm_fast.models.base import MatchingModel
from itm_fast.originals import cvse, esl, scan, sgraf, vse_infty, vsepp, vsrn
from itm_fast.originals.parts import Options, Parts
from itm_fast.registry import model_class

# One file each; a reader recognises its checkpoints and says what their tensors say of the configuration; with
# `named_parts` it leaves out what the model here has no place for.
_READERS: dict[str, ModuleType] = {
    "cvse": cvse,
    "sgraf": sgraf,
    "vsrn": vsrn,
    "vse_infty": vse_infty,
    "esl": esl,
    "scan": scan,
    "vsepp": vsepp,
}
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
_NUMBERS = "bert.embeddings.position_ids"  # 0 … 511, a buffer that old transformers wrote
_PARTS = ("img_enc", "txt_enc", "sim_enc")


def load_original(
    path: str | Path, vocabulary: CaptionVocabulary, *, concepts: str | Path | None = None
) -> MatchingModel:
    """Reads a checkpoint of an original repository; every tensor must find its place.

    Args:
        path: The file, as torch.save wrote it under any version, from Python 2 as well.
        vocabulary: The one that it was trained with.
        concepts: Folder with the files of concepts of a CVSE checkpoint, as `read_concepts` takes it.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        FileNotFoundError: There is no such file.
        DataError: The file is damaged, asks for more than tensors and options, is of a model that is not known here,
            or was trained with another vocabulary.
        ValueError: A CVSE checkpoint without `concepts`, or with those of another; any other checkpoint with some.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a checkpoint such as model_best.pth.tar")
    parts, options = _read(path)
    name, reader = _reader(path, parts, options)
    kind = model_class(name)
    try:
        config = _config(path, kind, reader, parts, options)
        n_words = reader.n_words(parts)
    except KeyError as error:
        raise DataError(f"{path}: taken for {name}, but it has no tensor {error}") from error
    if n_words != len(vocabulary):
        raise DataError(
            f"{path}: trained with a vocabulary of {n_words} words, but the one given has {vocabulary.fingerprint}"
        )
    model = kind(config, vocabulary)
    if hasattr(reader, "set_concepts"):
        reader.set_concepts(model, concepts)
    elif concepts is not None:
        raise ValueError(f"concepts is for CVSE's checkpoints, but {path} is of {name}")
    for part_name, weights in _named(path, reader, parts).items():
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
    parts = [{key.removeprefix("module."): part[key] for key in part if not key.endswith(_NUMBERS)} for part in found]
    return parts, dict(vars(options)) if isinstance(options, argparse.Namespace) else {}


def _reader(path: Path, parts: Parts, options: Options) -> tuple[str, ModuleType]:
    for name, reader in _READERS.items():
        if reader.recognises(parts, options):
            return name, reader
    raise DataError(
        f"{path}: of no model known here ({', '.join(_READERS)}); its image part begins with "
        f"{', '.join(sorted(parts[0])[:4])} and its options have neither cross_attn nor measure"
    )


def _config(path: Path, kind: type[MatchingModel], reader: ModuleType, parts: Parts, options: Options) -> Any:
    """The options that the configuration knows, over which goes what the tensors say."""
    known = {field.name for field in dataclasses.fields(kind.config_class)}
    try:
        found = {**options, **reader.config(parts, options)}
        return kind.config_class(**{name: value for name, value in found.items() if name in known})
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: taken for {kind.name}, but its options do not fit: {error}") from error


def _named(path: Path, reader: ModuleType, parts: Parts) -> dict[str, dict[str, Tensor]]:
    """The state dicts by the parts of the model that they belong to."""
    if not hasattr(reader, "named_parts"):
        return dict(zip(_PARTS, parts, strict=False))
    try:
        named: dict[str, dict[str, Tensor]] = reader.named_parts(parts)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    return named


def _with_counters(weights: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With the BatchNorms' counters of batches that torch before 0.4.1 did not write; nothing computes with them."""
    counters = {key: value for key, value in wanted.items() if key.endswith("num_batches_tracked")}
    return {**counters, **weights}
