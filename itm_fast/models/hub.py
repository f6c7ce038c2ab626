"""The Hugging Face hub: `hf-hub:owner/name` is a folder of it, kept in a cache on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PREFIX = "hf-hub:"


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
    check_name(name)
    hub = client()
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


def check_name(name: str) -> None:
    """Raise ValueError unless it is "owner/name"."""
    owner, _, rest = name.partition("/")
    if not owner or not rest or not all(part.strip("._-") and part.isascii() for part in (owner, rest)) or "/" in rest:
        raise ValueError(f'{name!r} is no repository of the hub; expected "owner/name"')


def client() -> Any:
    """The library huggingface_hub; ImportError says how to install it."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise ImportError("the hub needs huggingface_hub: pip install 'itm-fast[train]'") from error
    return huggingface_hub
