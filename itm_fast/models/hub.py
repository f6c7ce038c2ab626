"""Model folders on the Hugging Face hub: `hf-hub:owner/name` is one, and any folder can be pushed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from itm_fast.models.base import MatchingModel

PREFIX = "hf-hub:"
_CARD_FRONT = """---
library_name: itm-fast
tags:
- image-text-matching
- image-text-retrieval
- {name}
---
"""


def local_folder(folder: str | Path) -> Path:
    """A folder on this machine: the one given, or the cached or downloaded copy of `hf-hub:owner/name`.

    Args:
        folder: A path, or PREFIX and the name of a repository, optionally with @revision.

    Raises:
        FileNotFoundError: The repository is neither in the cache nor to be reached.
        ImportError: huggingface_hub is not installed.
        ValueError: What follows the prefix is no name of a repository.
    """
    if not str(folder).startswith(PREFIX):
        return Path(folder)
    name, _, revision = str(folder).removeprefix(PREFIX).partition("@")
    _check_name(name)
    hub = _hub()
    try:
        return Path(hub.snapshot_download(name, revision=revision or None, local_files_only=True))
    except hub.errors.LocalEntryNotFoundError:
        pass  # not in the cache
    try:
        return Path(hub.snapshot_download(name, revision=revision or None))
    except (hub.errors.HfHubHTTPError, hub.errors.LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"{folder}: not in the cache ({hub.constants.HF_HUB_CACHE}) and not to be had from the hub: "
            f"{str(error).strip().partition(chr(10))[0]}"
        ) from error


def push_model(folder: str | Path, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload a folder that `save_model` wrote; the repository is made if it does not exist.

    Args:
        folder: With model.safetensors, config.json and vocab.json.
        repo_id: "owner/name".
        private: Of a repository that is made now.
        token: Access token; None takes the one that `hf auth login` kept.

    Returns:
        Address of the commit.

    Raises:
        DataError: The folder is no model that can be loaded.
        FileNotFoundError: A file of it is missing.
        ImportError: huggingface_hub is not installed.
        ValueError: `repo_id` is no name of a repository.
    """
    from itm_fast.models.card import load_model

    _check_name(repo_id)
    hub = _hub()
    load_model(folder)  # what cannot be loaded here is not given to others
    api = hub.HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repo_id, folder_path=str(folder), ignore_patterns=[".*"], commit_message="itm-fast model"
    )
    return str(commit.commit_url)


def readme(model: MatchingModel, results: Mapping[str, Any] | None) -> str:
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
    if results:
        lines += ["On the validation split while training:", "", "| | i2t | t2i |", "|---|---|---|"]
        ways = [results.get(way, {}) for way in ("i2t", "t2i")]
        lines += [f"| {name} | {ways[0][name]:.1f} | {ways[1][name]:.1f} |" for name in ways[0] if name in ways[1]]
        sums = [f"{name} {value:.1f}" for name, value in results.items() if name in ("rsum", "nsum", "nsum(N)")]
        lines += ["", ", ".join(sums), ""]
    return "\n".join(lines)


def _check_name(name: str) -> None:
    owner, _, rest = name.partition("/")
    if not owner or not rest or not all(part.strip("._-") and part.isascii() for part in (owner, rest)) or "/" in rest:
        raise ValueError(f'{name!r} is no repository of the hub; expected "owner/name"')


def _hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise ImportError("the hub needs huggingface_hub: pip install 'itm-fast[train]'") from error
    return huggingface_hub
