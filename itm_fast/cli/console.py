"""What the commands print: progress and errors on stderr, results on stdout; torch is not imported here."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

_SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int], None]]:
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
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _plain_lines(description: str) -> Callable[[int, int], None]:
    started = last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _SECONDS_BETWEEN_LINES or not done:
            return
        last = now
        left = (now - started) * (total - done) / done
        print(f"{description}: {100 * done / total:.0f} %, about {left:.0f} s left", file=sys.stderr, flush=True)

    return progress


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> None:
    """Print a table to stdout: the first column to the left, the others to the right.

    Args:
        columns: headings.
        rows: one sequence a row, as long as ``columns``.
        title: a line above.
    """
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    Console(soft_wrap=True).print(table)


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object to stdout, for machines: no colours, no wrapping."""
    print(json.dumps(value, indent=2))


def print_error(message: str) -> None:
    """Print one line to stderr, whatever line breaks the message has."""
    print(f"itm-fast: error: {' '.join(message.split())}", file=sys.stderr)
