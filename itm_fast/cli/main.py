"""The command line ``itm-fast``: finds the command, parses its flags, and turns errors into one line and a code.

A command is a module with a frozen dataclass (its fields are the flags) and ``run(args) -> int``, the exit code.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from itm_fast.choices import in_order, perhaps
from itm_fast.cli.console import print_error, print_warning
from itm_fast.cli.failures import BAD_INPUT, explained
from itm_fast.cli.flags import choice_rules, flags_of
from itm_fast.cli.help import about_of, asks_for_help, print_help, usage_of
from itm_fast.cli.signals import Stopped, signals_unwind
from itm_fast.errors import DataWarning

_INTERRUPTED, _BROKEN_PIPE = 130, 141
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Command(NamedTuple):
    """Where a command lives, imported only when it is called: torch takes seconds, ``--help`` should not."""

    module: str
    arguments: str
    summary: str


COMMANDS = {
    "demo": Command("itm_fast.cli.demo", "Demo", "make a small data set, train, evaluate, compare with the reference"),
    "make-data": Command("itm_fast.cli.make_data", "MakeData", "make a synthetic data set in SCAN's layout"),
    "inspect": Command("itm_fast.cli.inspect", "Inspect", "what a file or folder is: images, captions, what is odd"),
    "train": Command("itm_fast.cli.train", "Train", "train a model on a data set in SCAN's layout"),
    "evaluate": Command("itm_fast.cli.evaluate", "Evaluate", "recall, ranks and NCS of scores, embeddings or a model"),
    "rerank": Command("itm_fast.cli.rerank", "Rerank", "the best of a fast model, put in order by a slow one"),
    "ensemble": Command("itm_fast.cli.ensemble", "Ensemble", "the mean of the similarities of several models"),
    "embed": Command("itm_fast.cli.embed", "Embed", "embeddings of an image-text model, to a folder for evaluate"),
    "search": Command("itm_fast.cli.search", "Search", "images for a text, captions for an image: exact, re-ranked"),
    "index": Command("itm_fast.cli.index", "Index", "embeddings as indices of faiss, and their recall against exact"),
    "report": Command("itm_fast.cli.report", "ReportPage", "an HTML page of runs: tables, curves, examples, attention"),
    "cider": Command("itm_fast.cli.cider", "CiderMatrix", "relevance φ (CIDEr) of every image and caption, to a file"),
    "correlate": Command("itm_fast.cli.correlate", "Correlate", "relevance against human judgement: Pearson's r"),
    "models": Command("itm_fast.cli.models", "Models", "the models there are: paper, similarity, presets"),
    "protocols": Command("itm_fast.cli.protocols", "Protocols", "the protocols there are: what, sizes, annotations"),
    "bench": Command("itm_fast.cli.bench", "Bench", "time an operator at your shape, beside plain torch and the GEMM"),
    "completion": Command("itm_fast.cli.completion", "Completion", "completion of commands and flags for a shell"),
    "info": Command("itm_fast.cli.info", "Info", "what is built, which devices there are, what runs and why"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments without the program's name; None takes those of the process, and its signals too.

    Returns:
        Exit code: 0, 1 on an error that should not happen, 2 on bad input, 130 on Ctrl-C (143 on SIGTERM, 129 on
        SIGHUP), 141 if the reader of stdout has left. With ITM_FAST_DEBUG=1 errors are raised instead.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # as stderr's: files name what no encoding has, half of a pair, say
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with signals_unwind() if argv is None else contextlib.nullcontext(), _warnings_in_one_line():
            exit_code = _run(arguments)
            sys.stdout.flush()  # so that a closed pipe shows here
            return exit_code
    except KeyboardInterrupt as stop:
        print_error("interrupted")
        return stop.exit_code if isinstance(stop, Stopped) else _INTERRUPTED
    except BrokenPipeError:  # the reader (head, less) has seen enough; keep Python's last flush quiet
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except Exception as error:
        if os.environ.get("ITM_FAST_DEBUG") == "1":
            raise
        message, exit_code = explained(error)
        print_error(message)
        return exit_code


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """The package's own warnings as a line on stderr, without the place in the code, which is nothing to its users."""
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, DataWarning):
                if os.environ.get("RANK", "0") == "0":  # of several processes that train, one speaks
                    print_warning(str(message))
            else:
                others(message, category, *place, **more)

        warnings.showwarning = show
        warnings.simplefilter("always", DataWarning)
        yield


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else BAD_INPUT
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"itm-fast {version('itm-fast')}")
        return 0
    name = arguments[0].replace("_", "-")
    if name not in COMMANDS:
        near, names = perhaps(name, COMMANDS), ", ".join(in_order(COMMANDS))
        print_error(f"no command {arguments[0]!r}{near}; commands: {names} (see itm-fast --help)")
        return BAD_INPUT
    return _run_command(name, arguments[1:])


def _run_command(name: str, arguments: list[str]) -> int:
    command = COMMANDS[name]
    module = importlib.import_module(command.module)
    if hasattr(module, "parse"):  # its flags depend on its first argument
        parsed = _said_in_one_line(lambda: module.parse(arguments), name)
    else:
        parsed = _parse(getattr(module, command.arguments), name, arguments)
    if isinstance(parsed, int):
        return parsed
    exit_code: int = module.run(parsed)
    return exit_code


def _parse(arguments_class: type[Any], name: str, arguments: list[str]) -> Any:
    """The parsed flags, or an exit code after ``--help`` or a bad flag."""
    if asks_for_help(arguments):
        flags = flags_of(arguments_class)
        print_help(usage_of(name, flags), about_of(arguments_class), flags)
        return 0
    import tyro

    return _said_in_one_line(
        lambda: tyro.cli(
            arguments_class,
            prog=f"itm-fast {name}",
            args=arguments,
            registry=choice_rules(),
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.PositionalRequiredArgs),
        ),
        name,
    )


def _said_in_one_line(parse: Callable[[], Any], name: str) -> Any:
    """What tyro parsed, or the exit code after the one line that its panel of errors comes to."""
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            return parse()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else BAD_INPUT
        if code:
            message = _flatten(stderr.getvalue()).removeprefix("Error parsing NAME: ")  # of what has no flag
            print_error(f"{message} (see itm-fast {name} --help)")
        return code


def _flatten(panel: str) -> str:
    """The message of tyro's error panel and the flags it suggests, without its frame of lines (or of ASCII)."""
    sections: list[list[str]] = [[]]
    for framed in _COLOUR.sub("", panel).splitlines():  # it has colours where stdout is a terminal
        line = framed.strip("│").rstrip()
        if framed.startswith("╭") or (
            line.strip() and set(line.strip()) <= {"─", "-"}
        ):  # below a title, or between sections
            sections.append([])
        elif not framed.startswith("╰"):
            sections[-1].append(line)
    if len(sections) < 2:
        return panel
    paragraph = itertools.takewhile(bool, sections[1])  # what follows a blank line repeats the reason type by type
    message = " ".join(line.strip() for line in paragraph)
    for first, *others in filter(None, sections[2:]):
        margin = min((len(line) - len(line.lstrip()) for line in others if line), default=0)  # help is indented more
        flags = [line.split()[0] for line in others if line.startswith("--", margin)]
        if first.strip().startswith("Perhaps you meant") and flags:
            message += f"; perhaps you meant {', '.join(flags)}"
    return message


def _usage() -> str:
    width = max(map(len, COMMANDS))
    commands = (f"  {name.ljust(width)}  {command.summary}" for name, command in COMMANDS.items())
    lines = ["usage: itm-fast COMMAND [FLAGS]", "", "Image-text matching: fused operators, training, evaluation."]
    lines += ["", "commands:", *commands, "", "itm-fast COMMAND --help lists the flags with their defaults and units."]
    lines += [
        "",
        "exit codes: 0 done, 2 bad input, 1 any other error, 130 Ctrl-C, 141 the reader",
        "of the output has left. ITM_FAST_DEBUG=1 shows the traceback of an error.",
    ]
    return "\n".join(lines)
