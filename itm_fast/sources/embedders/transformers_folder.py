"""Parts of a model of transformers from a folder of this machine: all of it, or an error that says what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from itm_fast.errors import DataError
from itm_fast.pretrained import quiet_transformers
from itm_fast.sources.embedders.encoder import ModelDtype


def load_whole(auto: Any, folder: Path, dtype: ModelDtype) -> Any:
    """A model in evaluation mode whose every parameter is in the folder.

    Args:
        auto: class of transformers with ``from_pretrained``.
        folder: with config.json and weights.
        dtype: of the parameters.

    Raises:
        DataError: the folder has no such model, or weights that do not fill it.
        ImportError: a library that the model needs is not installed.
    """
    model, report = from_folder(auto, folder, dtype=getattr(torch, dtype), output_loading_info=True)
    for key, what in (("missing_keys", "lack"), ("mismatched_keys", "have another shape for")):
        if report[key]:
            raise DataError(
                f"{folder}: its weights {what} {len(report[key])} parameters of {type(model).__name__}, which would "
                f"be random, such as {min(map(str, report[key]))}: not the weights of this model"
            )
    return model.eval()


def from_folder(auto: Any, folder: Path, **options: Any) -> Any:
    """What a class of transformers makes of a folder; nothing is downloaded, no code of the folder is run.

    Raises:
        DataError: it can make nothing of it.
        ImportError: a library that it needs is not installed.
    """
    try:
        with quiet_transformers():
            return auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
    except ImportError as error:
        raise ImportError(f"{folder}: {' '.join(str(error).split())}") from error
    except Exception as error:  # a damaged or foreign folder raises nearly every kind of exception
        reason = " ".join(str(error).split())
        raise DataError(f"{folder}: {auto.__name__} of transformers cannot read it: {reason:.300}") from error


def check_vocabulary(tokenizer: Any, folder: Path) -> None:
    """DataError where a folder holds no vocabulary: transformers then makes a tokenizer without words."""
    names = sorted({"tokenizer.json", *getattr(tokenizer, "vocab_files_names", {}).values()})
    if not any((folder / name).is_file() for name in names):
        raise DataError(f"{folder} holds no vocabulary of a {type(tokenizer).__name__}: none of {', '.join(names)}")
