"""Checkpoints of the original repositories, understood by what is in them; nothing is trusted.

All of them are {"epoch", "model": [image, caption (, similarity) state dicts], "best_rsum", "opt": Namespace,
"Eiters"}; LAPS's "model" is one state dict, and some of those after NCR have other names for it, or two of them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from itm_fast.data.text.caption_vocabulary import CaptionVocabulary, check_is_vocabulary
from itm_fast.errors import DataError
from itm_fast.files.torch_files import SkippedArray, read_torch
from itm_fast.models.base import MatchingModel
from itm_fast.models.mean import MeanOfModels
from itm_fast.models.promised_size import check_promised_size
from itm_fast.originals import chan, crcl, cvse, decl, esl, l2rm, laps, ncr, scan, sgraf, vse_infty, vsepp, vsrn
from itm_fast.originals.options import Options, check_options, options_of
from itm_fast.originals.parts import Parts
from itm_fast.registry import model_class

# One file each; a reader recognises its checkpoints and says what their tensors say of the configuration. FIXED are
# the options that the model here has no choice in, READ those that go by another name here. With `named_parts` it
# leaves out what the model here has no place for. MODEL, or model(parts), is the model here where it is called
# otherwise; ENTRIES are the names that its models lie under; BESIDE hold weights that are no part of them; PARTS are
# the beginnings of names in a model that is one state dict; SCORING are options that are said where they are missing.
_READERS: dict[str, ModuleType] = {
    "cvse": cvse,
    "laps": laps,
    "chan": chan,
    "ncr": ncr,
    "l2rm": l2rm,
    "crcl": crcl,
    "decl": decl,
    "sgraf": sgraf,
    "vsrn": vsrn,
    "vse_infty": vse_infty,
    "esl": esl,
    "scan": scan,
    "vsepp": vsepp,
}
_NUMBERS = "bert.embeddings.position_ids"  # 0 … 511, a buffer that old transformers wrote
_PARTS = ("img_enc", "txt_enc", "sim_enc")
_MODEL = ("model",)
_WRAPPED = re.compile(r"^(?:module\.|_orig_mod\.)+")  # what DataParallel and torch.compile put before a name
_OF_KIND = ("precomp_enc_type", "text_enc_type", "module_name")  # options that the tensors must agree with
_BESIDE = ("optim", "sched", "scaler", "amp", "criterion", "loss", "rng")  # entries of training, by a part of the name


def load_original(
    path: str | Path,
    vocabulary: CaptionVocabulary,
    *,
    concepts: str | Path | None = None,
    as_released: bool = True,
    ignore_options: Collection[str] = (),
) -> MatchingModel:
    """Reads a checkpoint of an original repository; every tensor and every option must find its place.

    Args:
        path: The file, as torch.save wrote it under any version, from Python 2 as well.
        vocabulary: The one that it was trained with.
        concepts: Folder with the files of concepts of a CVSE checkpoint, as `read_concepts` takes it.
        as_released: Read and label the captions of a CVSE checkpoint as its released code does; otherwise as they
            are, each labelled by its own words alone.
        ignore_options: Options that are unknown here and have no effect on scores.

    Returns:
        The model in evaluation mode, on the CPU; what was left out is in its `notes`.

    Raises:
        FileNotFoundError: There is no such file.
        DataError: The file is damaged, asks for more than tensors and options, is of a model that is not known here,
            holds a tensor or an option that the model here has no place for, or was trained with another vocabulary.
        TypeError: `vocabulary` is none, such as the path of one.
        ValueError: A CVSE checkpoint without `concepts`, or with those of another; any other checkpoint with some.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a checkpoint such as model_best.pth.tar")
    check_is_vocabulary(vocabulary)
    if isinstance(ignore_options, str):
        raise TypeError(f"ignore_options is {ignore_options!r}; expected a list of names")
    entries, models, options = _read(path)
    name, reader = _reader(path, entries, models, options)
    made = [
        _made(path, name, reader, parts, options, vocabulary, concepts, as_released, ignore_options) for parts in models
    ]
    return made[0] if len(made) == 1 else _mean(path, made)


def _mean(path: Path, models: list[MatchingModel]) -> MatchingModel:
    try:
        mean = MeanOfModels(models)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    mean.notes.append(f"the checkpoint holds {len(models)} models: similarities are the mean of theirs")
    return mean.eval()


def _made(
    path: Path,
    name: str,
    reader: ModuleType,
    parts: Parts,
    options: Options,
    vocabulary: CaptionVocabulary,
    concepts: str | Path | None,
    as_released: bool,
    ignore_options: Collection[str],
) -> MatchingModel:
    """One model of a checkpoint, strictly filled, in evaluation mode."""
    kind = model_class(reader.model(parts) if hasattr(reader, "model") else getattr(reader, "MODEL", name))
    try:
        config, off = _config(path, name, kind, reader, parts, options, ignore_options)
        n_words = reader.n_words(parts)
    except KeyError as error:
        raise DataError(f"{path}: taken for {name}, but it has no tensor {error}") from error
    except (IndexError, TypeError) as error:  # of a shape, a length
        raise DataError(f"{path}: taken for {name}, but a tensor has too few axes: {error}") from error
    if not as_released and hasattr(reader, "PLAIN"):
        config = dataclasses.replace(config, **reader.PLAIN)
    if len(vocabulary) not in n_words:
        raise DataError(
            f"{path}: trained with a vocabulary of {n_words[0]} words, but the one given has {vocabulary.fingerprint}"
        )
    try:
        check_promised_size(
            kind, config, vocabulary, {str((n, key)): part[key] for n, part in enumerate(parts) for key in part}
        )
    except ValueError as error:
        raise DataError(f"{path}: taken for {name}, but {error}") from error
    model = kind(config, vocabulary)
    if hasattr(reader, "set_concepts"):
        reader.set_concepts(model, concepts)
    elif concepts is not None:
        raise ValueError(f"concepts is for CVSE's checkpoints, but {path} is of {name}")
    for part_name, weights in _named(path, reader, parts, len(vocabulary)).items():
        part = model.get_submodule(part_name)
        try:
            part.load_state_dict(_with_counters(weights, part.state_dict()), strict=True)
        except RuntimeError as error:
            raise DataError(f"{path}: taken for {name}, but its {part_name} does not fit: {error}") from error
        for key, value in part.state_dict().items():
            if key in weights and weights[key].is_floating_point() != value.is_floating_point():
                found = weights[key].dtype
                raise DataError(f"{path}: taken for {name}, but {part_name}.{key} is {found}; expected {value.dtype}")
    if not options:
        model.notes.append("the checkpoint holds no options: the original's defaults were taken")
    if options and (missing := [option for option in getattr(reader, "SCORING", ()) if option not in options]):
        taken = ", ".join(f"{option}={getattr(config, option)}" for option in missing)
        model.notes.append(f"the options of the checkpoint lack some that scores hang on; taken for them: {taken}")
    if off:
        model.notes.append(f"options of the checkpoint that are unknown here and off in it: {', '.join(off)}")
    ignored = [option for option in ignore_options if option in options]
    if ignored:
        model.notes.append(f"options of the checkpoint that were ignored: {', '.join(ignored)}")
    return model.eval()


def _read(path: Path) -> tuple[tuple[str, ...], list[Parts], dict[str, Any]]:
    """Names of the entries that hold models, the parts of each, and the options."""
    content = read_torch(path)
    found: Mapping[Any, Any] = content if isinstance(content, Mapping) else {}
    if str(found.get("format")).startswith("itm-fast "):
        raise DataError(f"{path}: {found['format']!s:.60}, of no original repository; give {path.parent / 'best'}")
    entries: tuple[str, ...] = _MODEL
    beside: tuple[str, ...] = ()
    for reader in () if "model" in found else (ncr, l2rm):
        if all(name in found for name in reader.ENTRIES):
            entries, beside = reader.ENTRIES, getattr(reader, "BESIDE", ())
    models = [_parts(path, name, found.get(name), content) for name in entries]
    for name, value in found.items():
        is_known = name in (*entries, *beside) or any(part in str(name).lower() for part in _BESIDE)
        if not is_known and _holds_weights(value):
            raise DataError(
                f"{path}: holds weights under {str(name)!r:.60} beside those of {entries[0]!r}, which no model known "
                "here has; if they are no part of the model, save the file without them"
            )
    try:
        return entries, models, options_of(found)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def _parts(path: Path, entry: str, found: object, content: object) -> Parts:
    """The state dicts of the parts of a model."""
    if isinstance(found, Mapping) and entry in l2rm.ENTRIES:
        found = _by_part(found, l2rm.PARTS)
    elif isinstance(found, Mapping) and any(str(key).startswith("cross_net.") for key in found):
        found = _by_part(found, laps.PARTS)
    if not isinstance(found, (list, tuple)) or len(found) < 2 or not all(isinstance(part, Mapping) for part in found):
        raise DataError(
            f'{path}: expected {{"{entry}": [image, caption (, similarity) state dicts], "opt": ...}}, found '
            f"{_in_words(content, entry)}"
        )
    for number, part in enumerate(found):
        for key, value in part.items():
            if not isinstance(key, str) or not isinstance(value, Tensor):
                what = "a NumPy array" if isinstance(value, SkippedArray) else f"a {type(value).__name__}"
                raise DataError(f"{path}: {entry}[{number}][{key!r:.60}] is {what}; expected a tensor under a name")
    return [{_WRAPPED.sub("", key): part[key] for key in part if not key.endswith(_NUMBERS)} for part in found]


def _by_part(weights: Mapping[Any, Any], names: tuple[str, ...]) -> list[dict[Any, Any]]:
    """One state dict as those of its parts; what belongs to none of them is left to the last to refuse."""
    parts: list[dict[Any, Any]] = [{} for _ in names]
    for key, value in weights.items():
        first, _, rest = _WRAPPED.sub("", str(key)).partition(".")
        place = names.index(first) if first in names else len(parts) - 1
        parts[place][rest if first in names else key] = value
    return parts


def _in_words(content: object, entry: str) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    names = ", ".join(repr(name)[:40] for name in list(content)[:6]) or "nothing"
    return f"{type(content.get(entry)).__name__} under {entry!r}, among {names}" if entry in content else names


def _holds_weights(value: object) -> bool:
    """Whether it is a state dict, or a list of such."""
    if isinstance(value, (list, tuple)):
        return any(isinstance(item, Mapping) and _holds_weights(item) for item in value)
    return isinstance(value, Mapping) and any(isinstance(item, Tensor) and item.ndim for item in value.values())


def _reader(path: Path, entries: tuple[str, ...], models: list[Parts], options: Options) -> tuple[str, ModuleType]:
    for name, reader in _READERS.items():
        if getattr(reader, "ENTRIES", _MODEL) == entries and all(reader.recognises(one, options) for one in models):
            return name, reader
    parts = models[0]
    with_options = {"cross_attn", "measure"} & set(options)
    beside = f"it has {len(parts)} parts" if with_options else "its options have neither cross_attn nor measure"
    raise DataError(
        f"{path}: of no model known here ({', '.join(_READERS)}); its image part begins with "
        f"{', '.join(sorted(parts[0])[:4]) or 'nothing'} and {beside}"
    )


def _config(
    path: Path,
    name: str,
    kind: type[MatchingModel],
    reader: ModuleType,
    parts: Parts,
    options: Options,
    ignore: Collection[str],
) -> tuple[Any, list[str]]:
    """The options that the configuration knows, over which goes what the tensors say; and those that are off."""
    known = {field.name for field in dataclasses.fields(kind.config_class)}
    considered = {name: value for name, value in options.items() if name not in ignore}
    try:
        off = check_options(considered, known | getattr(reader, "READ", frozenset()), getattr(reader, "FIXED", {}))
        said = reader.config(parts, considered)
        for option in _OF_KIND:
            if option in said and considered.get(option, said[option]) != said[option]:
                given = considered[option]
                raise ValueError(f"option {option} is {given!r:.60}, but its tensors are of {said[option]!r}")
        found = {**considered, **said}
        return kind.config_class(**{name: value for name, value in found.items() if name in known}), off
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: taken for {name}, but its options do not fit: {error}") from error


def _named(path: Path, reader: ModuleType, parts: Parts, n_words: int) -> dict[str, dict[str, Tensor]]:
    """The state dicts by the parts of the model that they belong to."""
    if not hasattr(reader, "named_parts"):
        return dict(zip(_PARTS, parts, strict=False))
    try:
        named: dict[str, dict[str, Tensor]] = reader.named_parts(parts, n_words)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    return named


def _with_counters(weights: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With the BatchNorms' counters of batches that torch before 0.4.1 did not write; nothing computes with them."""
    counters = {key: value for key, value in wanted.items() if key.endswith("num_batches_tracked")}
    return {**counters, **weights}
