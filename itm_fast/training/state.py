"""The state of a run in one file, replaced as a whole: what a killed run goes on from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from itm_fast.errors import DataError
from itm_fast.files.torch_files import load_weights_only, why_unread
from itm_fast.files.writing import written_aside

_FORMAT = "itm-fast training state 1"


def save_checkpoint(path: Path, state: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Write aside and rename: a reader finds the last state or this one, never half of it.

    Args:
        path: The file; its folder exists.
        state: Tensors, numbers, strings and None in dicts and lists.
        settings: What the run depends on; compared when it is resumed.

    Raises:
        OSError: The disk is full, or the folder cannot be written to; the last state is still there.
    """
    with written_aside(path) as aside:
        try:
            torch.save({"format": _FORMAT, "settings": dict(settings), "state": dict(state)}, aside)
        except RuntimeError as error:  # torch's writer says so when the disk is full
            raise OSError(f"{path}: could not be written, the last checkpoint stays: {_first_line(error)}") from error


def load_checkpoint(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read a state; only tensors and plain values are unpickled.

    Args:
        path: The file.
        settings: Those of the run that goes on; each must be what the file has, where an older file has it.

    Raises:
        FileNotFoundError: There is no such file.
        DataError: The file is damaged, or was written under other settings.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; nothing to resume from")
    try:
        content = load_weights_only(path)
    except Exception as error:  # garbage raises nearly every kind of exception
        raise DataError(f"{path}: not a training state: {why_unread(error)}") from error
    is_state = isinstance(content, dict) and all(isinstance(content.get(key), dict) for key in ("settings", "state"))
    if not is_state or content.get("format") != _FORMAT:
        raise DataError(f'{path}: expected a training state, "{_FORMAT}"')
    try:
        before = _one_by_one(content["settings"])
    except ValueError as error:
        raise DataError(f"{path}: its settings are no JSON: {error}") from error
    for name, value in _one_by_one(settings).items():
        if before.get(name, value) != value:
            raise DataError(
                f"{path}: {name} was {before[name]!r}, but now is {value!r}; a run is resumed with the flags that it "
                "was started with (or started anew in another folder)"
            )
    state: dict[str, Any] = content["state"]
    return state


def _one_by_one(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by name, with those that stand together as a JSON object."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        together = isinstance(value, str) and value.startswith("{")
        found |= json.loads(value) if together else {name: value}
    return found


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
