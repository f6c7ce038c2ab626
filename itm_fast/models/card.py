"""A trained model as a folder: weights in safetensors, its configuration in JSON, its vocabulary."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from itm_fast.choices import WordTokenizer, in_order, perhaps
from itm_fast.data.text.caption_vocabulary import CaptionVocabulary, load_vocabulary
from itm_fast.data.text.vocabulary import Vocabulary
from itm_fast.errors import DataError
from itm_fast.files.plain_text import check_itself
from itm_fast.files.reading import read_json
from itm_fast.files.writing import written_aside
from itm_fast.models.base import MatchingModel
from itm_fast.models.hub import local_folder
from itm_fast.models.promised_size import check_promised_size
from itm_fast.registry import MODELS, model_class

_WEIGHTS, _CARD, _VOCABULARY, _README = "model.safetensors", "config.json", "vocab.json", "README.md"
_FORMAT = "itm-fast model 1"
_CARD_FRONT = """---
library_name: itm-fast
tags:
- image-text-matching
- image-text-retrieval
- {name}
---
"""


def save_model(model: MatchingModel, folder: str | Path, results: Mapping[str, Any] | None = None) -> None:
    """Writes weights, card, vocabulary and a README; each file aside and then renamed, the card last.

    Args:
        model: The model.
        folder: Made if it does not exist; files of an earlier save are replaced.
        results: Of a validation, for the README.

    Raises:
        ValueError: It is the mean of several models.
        OSError: The disk is full, or the folder cannot be written to; the files that are there stay whole.
    """
    if model.name not in MODELS:
        raise ValueError(
            f"a {type(model).__name__} is several models: save each of its `models` into a folder of its own, and "
            "evaluate them by `itm-fast ensemble`"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with written_aside(folder / _WEIGHTS) as aside:
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, aside)
    model.vocabulary.save(folder / _VOCABULARY)
    with written_aside(folder / _README) as aside:
        aside.write_text(_readme(model, results), encoding="utf-8")
    card: dict[str, Any] = {"format": _FORMAT, "model": model.name, "tokenizer": model.vocabulary.tokenizer}
    card |= {"vocabulary": model.vocabulary.fingerprint, "config": dataclasses.asdict(model.config)}
    with written_aside(folder / _CARD) as aside:
        aside.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def load_model(folder: str | Path) -> MatchingModel:
    """Reads what `save_model` wrote; nothing is unpickled.

    Args:
        folder: With model.safetensors, config.json and vocab.json; or "hf-hub:owner/name" of the Hugging Face hub,
            from its cache if it is there.

    Returns:
        The model in evaluation mode, on the CPU; its vocabulary knows what splits captions, where the folder says it.
        Settings that config.json lacks, as of an older version, are in its `notes`.

    Raises:
        FileNotFoundError: A file is missing, or the hub has no such model.
        DataError: A file is damaged, or weights and card do not fit each other.
        ImportError: The hub was asked for and huggingface_hub is not installed.
    """
    folder = local_folder(folder)
    for name in (_CARD, _WEIGHTS, _VOCABULARY):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name}: not found; a model folder holds {_CARD}, {_WEIGHTS}, {_VOCABULARY}"
            )
    card = _read_card(folder / _CARD)
    kind, config = _configuration(folder / _CARD, card)
    vocabulary = load_vocabulary(folder / _VOCABULARY)
    _check_tokenizer(folder, vocabulary, card.get("tokenizer"))
    check_itself(folder / _WEIGHTS)
    try:
        weights = load_file(folder / _WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{folder / _WEIGHTS}: not a safetensors file, or cut short: {error}") from error
    try:
        check_promised_size(kind, config, vocabulary, weights)
    except ValueError as error:
        raise DataError(f"{folder / _CARD}: {error}") from error
    model = kind(config, vocabulary)
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise DataError(f"{folder / _WEIGHTS}: does not fit {_CARD} and {_VOCABULARY} beside it: {error}") from error
    _check_fits(folder, model, weights, card.get("vocabulary"))
    lacking = [field.name for field in dataclasses.fields(config) if field.name not in card["config"]]
    if lacking:
        taken = ", ".join(f"{name}={getattr(config, name)!r}" for name in lacking)
        model.notes.append(f"{folder / _CARD} lacks settings of {model.name}; taken for them: {taken}")
    return model.eval()


def _check_fits(folder: Path, model: MatchingModel, weights: Mapping[str, Tensor], vocabulary: object) -> None:
    """Raise DataError where the vocabulary is not the card's, or a weight is an integer that should be none."""
    if vocabulary not in (None, model.vocabulary.fingerprint):
        raise DataError(
            f"{folder / _VOCABULARY}: has {model.vocabulary.fingerprint}, but {_CARD} beside it says that it was "
            f"saved with {vocabulary!s:.80}"
        )
    for name, tensor in model.state_dict().items():
        if weights[name].is_floating_point() != tensor.is_floating_point():
            raise DataError(f"{folder / _WEIGHTS}: {name} is {weights[name].dtype}; expected {tensor.dtype}")


def _readme(model: MatchingModel, results: Mapping[str, Any] | None) -> str:
    """The README.md of a model folder, which the hub shows: what it is, how to load it, what it scored.

    Args:
        model: The model.
        results: A validation as `train` has it: sums, and {"i2t": {...}, "t2i": {...}}.
    """
    lines = [_CARD_FRONT.format(name=model.name), f"# {type(model).__name__}", ""]
    lines += [
        str(type(model).__doc__).partition("\n")[0],
        "",
        "```python",
        "from itm_fast.models import load_model",
        "",
    ]
    lines += ['model = load_model("hf-hub:OWNER/NAME")  # or a folder', "```", ""]
    lines += ["    itm-fast evaluate --model hf-hub:OWNER/NAME --data FOLDER", ""]
    if model.vocabulary.tokenizer is not None:
        lines += [f"Captions are split by: {model.vocabulary.tokenizer}.", ""]
    if results:
        lines += ["On the validation split while training:", "", "| | i2t | t2i |", "|---|---|---|"]
        ways = [results.get(way, {}) for way in ("i2t", "t2i")]
        lines += [f"| {name} | {ways[0][name]:.1f} | {ways[1][name]:.1f} |" for name in ways[0] if name in ways[1]]
        sums = [f"{name} {value:.1f}" for name, value in results.items() if name in ("rsum", "nsum", "nsum(N)")]
        lines += ["", ", ".join(sums), ""]
    return "\n".join(lines)


def _check_tokenizer(folder: Path, vocabulary: CaptionVocabulary, tokenizer: object) -> None:
    """Raise DataError unless the card's tokenizer is the vocabulary's; one that knows none gets the card's."""
    if tokenizer is None or tokenizer == vocabulary.tokenizer:
        return
    if vocabulary.tokenizer is not None:
        raise DataError(
            f"{folder / _CARD}: tokenizer is {tokenizer!r:.40}, but that of {_VOCABULARY} beside it is "
            f"{vocabulary.tokenizer!r}; one of the two is another model's"
        )
    known: dict[object, WordTokenizer] = {name: name for name in get_args(WordTokenizer)}
    if not isinstance(tokenizer, str) or tokenizer not in known:
        expected = ", ".join(map(str, known))
        raise DataError(f"{folder / _CARD}: tokenizer is {tokenizer!r:.40}; expected one of {expected}, or null")
    if isinstance(vocabulary, Vocabulary):
        vocabulary.tokenizer = known[tokenizer]


def _read_card(path: Path) -> dict[str, Any]:
    card = read_json(path)
    if not isinstance(card, dict) or card.get("model") not in MODELS or not isinstance(card.get("config"), dict):
        raise DataError(
            f'{path}: expected {{"model": NAME, "config": {{...}}}} with NAME one of {", ".join(in_order(MODELS))}'
        )
    if card.get("format", _FORMAT) != _FORMAT:
        raise DataError(f"{path}: format is {card['format']!r:.60}; expected {_FORMAT!r}; is it of a newer itm-fast?")
    return card


def _configuration(path: Path, card: Mapping[str, Any]) -> tuple[type[MatchingModel], Any]:
    kind = model_class(card["model"])
    known = [field.name for field in dataclasses.fields(kind.config_class)]
    for name in card["config"]:
        if name not in known:
            raise DataError(
                f"{path}: config has {name!r}, which is no setting of {card['model']}{perhaps(name, known)}; is it "
                "of a newer itm-fast?"
            )
    try:
        return kind, kind.config_class(**card["config"])
    except (TypeError, ValueError) as error:  # a value of another kind or out of range
        raise DataError(f"{path}: {error}") from error
