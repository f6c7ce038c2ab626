"""Transformers of the library of that name as encoders: made from an architecture, filled from a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from itm_fast.errors import DataError
from itm_fast.pretrained import quiet_transformers, text_library

# No AutoModel knows these, which are parts of larger ones.
_PARTS = {"siglip_text_model": "SiglipTextModel", "siglip2_text_model": "Siglip2TextModel"}
_UNASKED = ("pooler.", "head.")  # what makes one vector of all states


def transformers_library(purpose: str) -> Any:
    """The library transformers; ImportError says what it is needed for."""
    return text_library("transformers", purpose)


def made_transformer(config: Mapping[str, Any], argument: str, what: str, purpose: str) -> Any:
    """A transformer with random weights, float32.

    Args:
        config: Options, as its config.json has them.
        argument: What errors call them.
        what: It is to be an encoder of: "text" or "images".
        purpose: Needs the library, for its error.

    Raises:
        ValueError: The options are those of no encoder.
        ImportError: transformers is not installed.
    """
    transformers = transformers_library(purpose)
    try:
        options = transformers.AutoConfig.for_model(**config)
        if options.model_type in _PARTS:
            module = getattr(transformers, _PARTS[options.model_type])(options).float()
        else:
            module = transformers.AutoModel.from_config(options, dtype=torch.float32, trust_remote_code=False)
    except Exception as error:  # transformers checks little, and late
        reason = str(error).strip().partition(" Should contain one of")[0].partition("Model type should be one of")[0]
        raise ValueError(f"{argument}: transformers makes no model of it: {reason}") from error
    if getattr(options, "is_encoder_decoder", False) or not (
        hasattr(options, "hidden_size") or hasattr(options, "hidden_sizes")
    ):
        example = "bert" if what == "text" else "vit"
        raise ValueError(f"{argument}: {options.model_type} is no encoder of {what}; expected one such as {example}")
    return module


def load_transformer(module: Any, folder: Path, what: Literal["text", "image"]) -> None:
    """Give a transformer the weights of a folder, which may be that of a larger model, as CLIP is of both its towers.

    Args:
        module: As `made_transformer` makes it.
        folder: As transformers' save_pretrained leaves it.
        what: It encodes.

    Raises:
        DataError: There are no weights, or those of another architecture.
    """
    try:
        with quiet_transformers():
            pretrained, report = type(module).from_pretrained(
                folder,
                config=_own_config(folder, module.config.model_type),
                local_files_only=True,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
            )
        # What is not in the file is random; only what makes one vector is never asked.
        missing = sorted(name for name in report["missing_keys"] if not name.startswith(_UNASKED))
        if missing:
            raise ValueError(f"its weights lack {', '.join(missing[:3])} and {len(missing)} in all")
        if report["mismatched_keys"]:
            raise ValueError(f"its weights have another shape for {min(map(str, report['mismatched_keys']))}")
        module.load_state_dict(pretrained.state_dict(), strict=True)
    except Exception as error:  # a damaged file raises nearly every kind of exception
        raise DataError(f"{folder}: not the weights of this {what} encoder: {error}") from error


def _own_config(folder: Path, model_type: str) -> Any:
    """The configuration in a folder, or the part of it that is of this kind."""
    found = transformers_library("a transformer").AutoConfig.from_pretrained(folder, local_files_only=True)
    parts = (getattr(found, name, None) for name in ("text_config", "vision_config"))
    return next((part for part in parts if getattr(part, "model_type", None) == model_type), found)
