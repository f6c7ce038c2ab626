"""What the commands print: progress and errors on stderr, results on stdout; torch is not imported here."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from rich.console import Console

    from itm_fast.training.loop import Moment

_SECONDS_BETWEEN_LINES = 5.0


def wants_colour(stream: TextIO) -> bool:
    """Whether colours and bold letters may go to a stream: by the environment, else only to terminals.

    Args:
        stream: stdout or stderr.

    Returns:
        NO_COLOR says no, FORCE_COLOR and CLICOLOR_FORCE say yes, CLICOLOR=0 and TERM=dumb say no.
    """
    environment = os.environ.get
    if environment("NO_COLOR"):
        return False
    if any(environment(name, "0") not in ("", "0") for name in ("FORCE_COLOR", "CLICOLOR_FORCE")):
        return True
    return environment("CLICOLOR") != "0" and environment("TERM") != "dumb" and stream.isatty()


def console_of(stream: TextIO) -> Console:
    """What prints tables and bars to a stream, in colours where they are wanted.

    Args:
        stream: stdout or stderr.
    """
    from rich.console import Console

    # Told here what is a terminal: by itself it would count a pipe under FORCE_COLOR as one, and move a cursor there.
    return Console(
        file=stream,
        force_terminal=stream.isatty(),
        color_system="standard" if wants_colour(stream) else None,
        highlight=False,
    )


class Bar(Protocol):
    """What moves a bar."""

    def __call__(self, done: int, total: int, /, *, since: int = 0, status: str = "") -> None:
        """Show how much is done.

        Args:
            done: of the whole.
            total: the whole.
            since: what was done before this began, which took no time of it.
            status: a few words beside it.
        """
        ...


@contextmanager
def progress_bar(description: str) -> Iterator[Bar]:
    """Progress with the time left, on stderr: a bar on a terminal, elsewhere a line every few seconds.

    Args:
        description: what is being done.

    Yields:
        A function to call with (done, total).

    Example:
        >>> with progress_bar("score") as progress:
        ...     progress(1, 2)
    """
    if not sys.stderr.isatty():
        yield _plain_lines(description)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.table import Column

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),  # as wide as there is room
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        TextColumn("left"),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[status]}"),
    )
    with Progress(*columns, console=console_of(sys.stderr), transient=True) as bar:
        task = bar.add_task(description, total=None, status="")

        def move(done: int, total: int, /, *, since: int = 0, status: str = "") -> None:
            # The first update is where the library's estimate begins, so that it knows of `since` by itself.
            bar.update(task, completed=done, total=total, status=status)

        yield move


def show_moment(moment: Moment, bar: Bar) -> None:
    """Show where a training is: the loss of the last step and what the last validation came to, beside the progress.

    Args:
        moment: Of the training.
        bar: Of its steps.
    """
    status = [] if moment.loss is None else [f"loss {moment.loss:.4f}"]
    found = moment.validation or {}
    status += [f"{name} {found[name]:.1f}" for name in ("rsum", "nsum") if name in found]
    bar(moment.step, moment.n_steps, since=moment.first_step, status=", ".join(status))


def _plain_lines(description: str) -> Bar:
    started = last = time.monotonic()

    def progress(done: int, total: int, /, *, since: int = 0, status: str = "") -> None:
        nonlocal started, last
        now = time.monotonic()
        if done <= since:
            started = now
        if now - last < _SECONDS_BETWEEN_LINES or done <= since:
            return
        last = now
        left = (now - started) * (total - done) / (done - since)
        said = ", ".join([f"{description}: {100 * done / total:.0f} %", *filter(None, [status])])
        print(f"{said}, about {left:.0f} s left", file=sys.stderr, flush=True)

    return progress


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> None:
    """Print a table to stdout: the first column to the left, the others to the right.

    Args:
        columns: headings.
        rows: one sequence a row, as long as ``columns``.
        title: a line above.
    """
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console_of(sys.stdout).print(table, soft_wrap=True)


def print_entries(entries: Mapping[str, Sequence[str]]) -> None:
    """Print names with text beside each to stdout, one line a text; longer ones are wrapped on a terminal.

    Args:
        entries: by name.
    """
    width = max(map(len, entries)) + 2
    rest: dict[str, Any] = {"subsequent_indent": " " * (width + 2), "break_on_hyphens": False}
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    for name, texts in entries.items():
        for number, text in enumerate(texts):
            first = ("" if number else name).ljust(width)
            lines = textwrap.wrap(text, max(columns, 2 * width), initial_indent=first, **rest)
            print(*lines, sep="\n")


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object to stdout, for machines: no colours, no wrapping; NaN and infinity, not JSON, are null."""
    print(json.dumps(_finite(value), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def print_warning(message: str) -> None:
    """Print one line to stderr that is no error."""
    print(f"itm-fast: warning: {' '.join(message.split())}", file=sys.stderr, flush=True)


def print_error(message: str) -> None:
    """Print one line to stderr, whatever line breaks the message has."""
    print(f"itm-fast: error: {' '.join(message.split())}", file=sys.stderr)
