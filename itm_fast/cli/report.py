"""``itm-fast report``: a page of one run, or of several side by side."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itm_fast.cli.console import print_json
from itm_fast.cli.export import ExportFlags

if TYPE_CHECKING:
    from itm_fast.runs.folder import Run

_BYTES = 1_000_000


@dataclass(frozen=True)
class ReportPage(ExportFlags):
    """Make an HTML page of runs: tables, curves, examples, attention; one file that needs no network."""

    runs: tuple[Path, ...]
    """Folders that itm-fast evaluate --run wrote, of the same images and captions; the first is what the others are
    compared with."""

    output: Path = Path("report.html")
    """The page; a file of that name is replaced."""

    title: str | None = None
    """Title of the page; the names of the runs unless given."""

    examples: int = 60
    """Queries of each direction to show: the worst failures first, then others at random."""

    images_folder: Path | None = None
    """Folder with the image files that the runs' image names name, or the parquet or web-dataset .tar that holds them:
    thumbnails of the images shown go into the page."""

    link_images: bool = False
    """Link the files of --images-folder, relative to the page, instead of keeping thumbnails in it."""

    image_budget: float = 8.0
    """Thumbnails that the page may hold, in MB; images beyond it are not shown."""

    boxes: Path | None = None
    """Boxes of the regions, .npy of (n_images, n_regions, 4): left, top, right, bottom in pixels of the image files;
    attention is drawn over the images."""

    open: bool = False
    """Open the page in the browser."""

    json: bool = False
    """Print what was written as JSON."""


def run(args: ReportPage) -> int:
    """Write the page and return the exit code."""
    from itm_fast.report import PageOptions, page_tables, write_page
    from itm_fast.runs.figure_tables import figure_table, latex_table
    from itm_fast.runs.folder import load_run

    args.check_export(json=args.json)
    if not args.runs:
        raise ValueError("no run given; expected one or more folders written by itm-fast evaluate --run")
    options = PageOptions(
        title=args.title,
        examples=args.examples,
        images_folder=args.images_folder,
        link_images=args.link_images,
        image_bytes=round(args.image_budget * _BYTES),
        boxes=args.boxes,
    )
    runs = [load_run(folder) for folder in args.runs]
    write_page(runs, args.output, options)
    if args.open:
        open_page(args.output)
    reports = _by_name(runs)
    if args.exported(
        lambda: figure_table(reports),
        lambda: latex_table(reports),
        further=lambda: {name: table.as_plain() for name, table in page_tables(runs).items()},
    ):
        return 0
    size = args.output.stat().st_size
    if args.json:
        print_json({"page": str(args.output), "bytes": size, "runs": [one.name for one in runs]})
    else:
        print(f"{args.output}: {', '.join(one.name for one in runs)}, {size / _BYTES:.1f} MB")
    return 0


def open_page(page: Path) -> None:
    """Open the page in the browser, or say where it is: a machine without one has it all the same."""
    import webbrowser

    address = page.resolve().as_uri()
    if not webbrowser.open(address):
        print(f"no browser could be started here: open {address} in one", file=sys.stderr)


def _by_name(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """The reports of runs; those of one name are told apart by a number."""
    names = [run.name for run in runs]
    found = {}
    for number, run in enumerate(runs):
        again = names[:number].count(run.name)
        found[f"{run.name} ({again + 1})" if again else run.name] = run.report
    return found
