"""What `--help` prints: usage, a paragraph, and the flags under their headings, in the width that there is."""

from __future__ import annotations

import inspect
import itertools
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from itm_fast.cli.console import wants_colour
from itm_fast.cli.flags import Flag

_INDENT = 26  # columns before the text of a flag
_WIDTHS = (40, 100)
_HELP = Flag("help", "", "Show this text and exit.")


def print_help(usage: str, about: str, flags: Sequence[Flag]) -> None:
    """Print the help of a command to stdout.

    Args:
        usage: The command line, such as "itm-fast info [FLAGS]".
        about: What the command does; blank lines divide paragraphs.
        flags: In order; those of one group are printed together, where the first of them stands.
    """
    width, bold = 80, ("", "")
    if sys.stdout.isatty():
        width = min(max(shutil.get_terminal_size().columns, _WIDTHS[0]), _WIDTHS[1])
    if wants_colour(sys.stdout):
        bold = ("\x1b[1m", "\x1b[0m")
    lines = [*_wrapped(f"usage: {usage}", width, "", " " * 7), ""]
    for paragraph in inspect.cleandoc(about).split("\n\n"):
        lines += [*_wrapped(" ".join(paragraph.split()), width), ""]
    groups: dict[str, list[Flag]] = {}
    for flag in flags:
        groups.setdefault("Arguments" if flag.is_positional else flag.group, []).append(flag)
    for heading, members in sorted(groups.items(), key=lambda group: group[0] != "Arguments"):
        lines += [
            *(f"{bold[0]}{line}{bold[1]}" for line in _wrapped(heading, width)),
            *itertools.chain(*(_of(flag, width, bold) for flag in members)),
            "",
        ]
    print("\n".join([*lines, *_of(_HELP, width, bold)]))


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether -h or --help is among a command's arguments."""
    return "-h" in arguments or "--help" in arguments


def usage_of(command: str, flags: Sequence[Flag]) -> str:
    """The usage line of a command whose arguments without a name stand first."""
    places = [flag.name.upper() for flag in flags if flag.is_positional]
    return " ".join([f"itm-fast {command}", *places, "[FLAGS]"])


def about_of(arguments: type[Any]) -> str:
    """What a command's dataclass says of it."""
    return inspect.getdoc(arguments) or ""


def _of(flag: Flag, width: int, bold: tuple[str, str]) -> list[str]:
    name = flag.name.upper() if flag.is_positional else f"--{'[no-]' if flag.default == 'on' else ''}{flag.name}"
    value = "" if flag.is_positional or not flag.metavar else f" {flag.metavar}{' ...' * flag.takes_many}"
    text = flag.help
    if flag.choices:
        text += f" One of: {', '.join(flag.choices)}."
    if flag.default:
        text += f" (default: {flag.default})"
    first = f"  {bold[0]}{name}{bold[1]}{value}"
    length = 2 + len(name) + len(value)
    indent = " " * min(_INDENT, width // 3)
    below = _wrapped(text, width, indent, indent)
    if length + 2 > len(indent) or not below:
        return [first, *below]
    return [first + " " * (len(indent) - length) + below[0].lstrip(), *below[1:]]


def _wrapped(text: str, width: int, first: str = "", others: str = "") -> list[str]:
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=others, break_on_hyphens=False)
