"""Pretrained transformers on this machine: a local folder, or one in the cache; nothing is ever downloaded."""

import importlib
from pathlib import Path
from typing import Any

from itm_fast.errors import DataError
from itm_fast.files.reading import read_json

CONFIG = "config.json"


def text_library(name: str, purpose: str) -> Any:
    """A library of the extra "text", imported now.

    Args:
        name: Of the module.
        purpose: What it is needed for, to begin a sentence with.

    Returns:
        The module.

    Raises:
        ImportError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{purpose} needs {name}: pip install 'itm-fast[text]'") from error


def pretrained_folder(
    path: str, *, argument: str = "bert_path", files: str = "the weights and vocab.txt or tokenizer.json"
) -> Path:
    """The folder of a pretrained transformer.

    Args:
        path: A local folder, or a name such as "bert-base-uncased" that is in the Hugging Face cache.
        argument: What errors call it.
        files: What the folder holds beside config.json.

    Returns:
        The folder itself, or the one in the cache.

    Raises:
        FileNotFoundError: It is neither.
        ImportError: It is no folder, and huggingface_hub, which knows the cache, is not installed.
    """
    if path and Path(path).is_dir():  # Path("") is where we are
        return Path(path)
    hub = text_library("huggingface_hub", f"{argument} {path!r} is no folder here, and looking in the cache")
    try:
        return Path(hub.snapshot_download(path, local_files_only=True))
    except (OSError, ValueError) as error:  # not in the cache; no possible name
        raise FileNotFoundError(
            f"{argument} is {path!r}: no folder here, and no model of that name in the cache. Nothing is downloaded "
            f"unasked: give a folder with {CONFIG}, {files}, or fetch it once with `hf download {path}`"
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """The architecture of a pretrained transformer, as its config.json has it.

    Args:
        folder: Its folder.

    Returns:
        The options by name, "model_type" among them.

    Raises:
        FileNotFoundError: There is no config.json.
        DataError: It does not describe a transformer.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected the folder of a pretrained transformer")
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("model_type"), str):
        raise DataError(f'{path}: expected {{"model_type": "bert", ...}}, as transformers writes it')
    return {name: value for name, value in found.items() if name != "_name_or_path"}  # where it once was
