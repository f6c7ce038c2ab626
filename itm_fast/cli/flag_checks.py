"""What flags must not be, given the others: read by nothing, or the name of a file that is both read and written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from itm_fast.cli.console import print_warning


def check_unread(args: Any, names: Iterable[str], goes_with: str) -> None:
    """Raise ValueError for a flag that would change the figures, if anything read it.

    Args:
        args: the flags of a command.
        names: of those that are not read.
        goes_with: what they go with.
    """
    if flags := _given(args, names):
        raise ValueError(f"{flags[0]} goes with {goes_with}")


def warn_of_unread(args: Any, names: Iterable[str], goes_with: str) -> None:
    """Say on stderr which flags are given although nothing reads them; arguments as of ``check_unread``."""
    if flags := _given(args, names):
        print_warning(f"{', '.join(flags)}: no effect without {goes_with}")


def _given(args: Any, names: Iterable[str]) -> list[str]:
    defaults = {flag.name: flag.default for flag in fields(args)}
    return [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) != defaults[name]]


def check_inputs_stay(args: Any, written: Iterable[str]) -> None:
    """Raise ValueError for a file to write that another flag reads.

    Args:
        args: the flags of a command.
        written: names of those whose files are written; others than the command's are left out.
    """
    outputs = {name: vars(args)[name] for name in written if vars(args).get(name) is not None}
    for name, value in vars(args).items():
        for read in value if isinstance(value, tuple) else (value,):
            if name in outputs or not isinstance(read, (str, Path)) or not Path(read).is_file():
                continue
            over = next((flag for flag, path in outputs.items() if path.resolve() == Path(read).resolve()), None)
            if over is not None:
                over, by = (flag.replace("_", "-") for flag in (over, name))
                raise ValueError(f"{over} is {read}, which {by} reads: give another name")
