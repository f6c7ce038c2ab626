"""The page: what is shown of the runs, filled into the templates, in one file that needs nothing else."""

from __future__ import annotations

import base64
import functools
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from itm_fast.errors import DataError
from itm_fast.files.reading import read_array
from itm_fast.files.writing import written_aside
from itm_fast.report import charts
from itm_fast.report.comparable import check_runs, order_notes
from itm_fast.report.examples import AttentionMap, attention_maps, changed_queries, make_examples
from itm_fast.report.head import facts, is_generated
from itm_fast.report.page_tables import page_tables
from itm_fast.report.pictures import Pictures
from itm_fast.report.plots import N_COLOURS, legend_line
from itm_fast.report.queries import DIRECTION_NAMES, DIRECTIONS
from itm_fast.report.requirements import missing
from itm_fast.runs.folder import Run

if TYPE_CHECKING:
    from jinja2 import Environment, Template

DEFAULT_EXAMPLES = 60
DEFAULT_IMAGE_BYTES = 8_000_000
_BEYOND = 1.02  # times the size of an image that boxes may reach: rounding, and no more
_THUMBNAIL_HEIGHT = 200
_N_CHANGES = 50  # queries gained and lost that are listed
_OPEN_MAPS = 4  # attention maps that are not folded away
_OPEN_EXAMPLES = 20  # and as many more each time that they are asked for


@dataclass(frozen=True)
class PageOptions:
    """What a page shows beside the figures.

    Attributes:
        title: of the page; the names of the runs unless given.
        examples: how many queries of each direction.
        images_folder: where the files are that the runs' image names name, or the set that holds them (parquet, .tar);
            None shows no images.
        link_images: link the files, relative to the page, and keep no thumbnails in it.
        image_bytes: how much of the page thumbnails may be.
        boxes: .npy of (n_images, n_regions, 4): left, top, right, bottom of each region in pixels of the files, to draw
            attention over the images; needs ``images_folder``.
    """

    title: str | None = None
    examples: int = DEFAULT_EXAMPLES
    images_folder: str | os.PathLike[str] | None = None
    link_images: bool = False
    image_bytes: int = DEFAULT_IMAGE_BYTES
    boxes: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.examples < 0:
            raise ValueError(f"examples is {self.examples}, expected 0 or more queries a direction")
        if self.image_bytes < 0:
            raise ValueError(f"image_bytes is {self.image_bytes}, expected 0 or more")
        if self.images_folder is None and (self.boxes is not None or self.link_images):
            raise ValueError("boxes and link_images are of images, but images_folder is not given")


def write_page(runs: Sequence[Run], path: str | os.PathLike[str], options: PageOptions | None = None) -> None:
    """Write a page of one run, or of several side by side.

    Args:
        runs: evaluations of the same images and captions; the first is what the others are compared with.
        path: the HTML file; one of that name is replaced once the new one is complete.
        options: what else it shows.

    Raises:
        ValueError: the runs are of different queries; the message names them.
        DataError: a run lacks what a page shows, or the boxes do not fit the images.
        FileNotFoundError: the folder of ``path``, that of the images, or an image of a folder that has none of them.
        ImportError: jinja2 or matplotlib (or Pillow, for images) is not installed.

    Example:
        >>> write_page([load_run("runs/scan")], "page.html")  # doctest: +SKIP
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder to write {path.name} into")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder, expected the file to write the page to")
    page = render_page(runs, options, link_from=path.parent.resolve())
    with written_aside(path) as aside:
        aside.write_text(page, encoding="utf-8")


def render_page(runs: Sequence[Run], options: PageOptions | None = None, *, link_from: Path | None = None) -> str:
    """The page as text; arguments and errors as of `write_page`.

    Args:
        runs: the runs.
        options: what else it shows.
        link_from: the folder that links to images are relative to; the working directory unless given.

    Returns:
        HTML.
    """
    options = options or PageOptions()
    check_runs(runs)
    page = template("page.html")
    runs = _with_distinct_names(runs)
    examples = make_examples(runs, options.examples)
    maps = attention_maps(runs)
    pictures = _pictures(runs, options, link_from or Path.cwd())
    boxes = _boxes(options, runs[0].n_images)
    if pictures is not None:
        for one in maps:
            pictures.add(one.image)
        for example in examples:
            shown = [item.number for answer in example.answers for item in (*answer.items, answer.positive) if item]
            for image in [example.number] if example.direction == "i2t" else shown:
                pictures.add(image)
        if not pictures.made() and pictures.not_found:
            raise FileNotFoundError(
                f"{options.images_folder}: has none of the {len(pictures.not_found)} images that the page shows, such "
                f"as {pictures.not_found[0]!r}"
            )
    script = _asset("page.js")
    tables = page_tables(runs)
    notes = list(dict.fromkeys(note for run in runs for note in run.report["conditions"].get("notes", [])))
    return page.render(
        title=options.title or " · ".join(run.name for run in runs),
        runs=runs,
        facts=facts(runs),
        generated=any(is_generated(run) for run in runs),
        n_colours=N_COLOURS,
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        directions=DIRECTION_NAMES,
        headline=tables["recall"],
        relevance=tables.get("relevance"),
        annotations=tables.get("annotations"),
        published=[table for name, table in tables.items() if name.startswith("published")],
        comparison=tables.get("comparison"),
        changes=[
            (series, [(d, *changed_queries(runs[0], run, d)) for d in DIRECTIONS])
            for series, run in enumerate(runs[1:], start=1)
        ],
        n_changes=_N_CHANGES,
        failures=tables["misses"],
        recall_figures=charts.recall_figures(runs),
        relevance_figures=charts.relevance_figures(runs),
        semantic_figures=charts.semantic_recall_figures(runs),
        rank_figures=charts.rank_figures(runs),
        legend_line=legend_line,
        examples=examples,
        n_open_examples=_OPEN_EXAMPLES,
        maps=[(one, _scaled_boxes(one, boxes, pictures)) for one in maps],
        n_open_maps=_OPEN_MAPS,
        picture=(lambda image: None) if pictures is None else pictures.add,
        pictures=[] if pictures is None else [p for p in pictures.made() if not p.linked],
        n_not_found=0 if pictures is None else len(pictures.not_found),
        n_beyond_budget=0 if pictures is None else pictures.beyond_budget,
        notes=[*order_notes(runs), *notes],
    )


def template(name: str) -> Template:
    """A template, which knows the style and the version.

    Args:
        name: of its file.

    Raises:
        ImportError: jinja2 is not installed.
    """
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise missing("jinja2") from error
    return _environment().get_template(name, globals={"style": _asset("style.css"), "version": _version()})


@functools.cache
def _environment() -> Environment:
    """One for all pages of a process: it keeps the templates, which take a tenth of a second to compile."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(str(files("itm_fast.report") / "templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _asset(name: str) -> str:
    return (files("itm_fast.report") / "templates" / name).read_text(encoding="utf-8")


def _version() -> str:
    try:
        return version("itm-fast")
    except PackageNotFoundError:
        return ""


def _with_distinct_names(runs: Sequence[Run]) -> list[Run]:
    """The runs, numbered where two have one name."""
    names = [run.name for run in runs]
    return [
        replace(run, name=f"{run.name} ({number})") if names.count(run.name) > 1 else run
        for number, run in enumerate(runs, start=1)
    ]


def _pictures(runs: Sequence[Run], options: PageOptions, link_from: Path) -> Pictures | None:
    if options.images_folder is None:
        return None
    names = next((run.image_names for run in runs if run.image_names is not None), None)
    if names is None:
        raise ValueError(
            f"{options.images_folder}: images can not be found in it, since the runs hold no names of images; evaluate "
            "with --image-names, or with --data that has them"
        )
    return Pictures(
        options.images_folder,
        names,
        budget=options.image_bytes,
        height=_THUMBNAIL_HEIGHT,
        link_from=link_from if options.link_images else None,
    )


def _boxes(options: PageOptions, n_images: int) -> np.ndarray[Any, Any] | None:
    if options.boxes is None:
        return None
    path = Path(options.boxes)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of boxes")
    boxes: np.ndarray[Any, Any] = read_array(path, mapped=True)
    if boxes.ndim != 3 or boxes.shape[0] != n_images or boxes.shape[2] != 4 or boxes.dtype.kind not in "iuf":
        raise DataError(
            f"{path}: {boxes.dtype} of shape {boxes.shape}, expected ({n_images}, n_regions, 4) numbers: left, top, "
            "right, bottom of every region of every image"
        )
    turned = np.argwhere((boxes[..., 2:] < boxes[..., :2]).any(axis=2))
    if len(turned):
        image, region = turned[0].tolist()
        raise DataError(
            f"{path}: region {region} of image {image} is {boxes[image, region].tolist()}, whose right or bottom is "
            "less than its left or top, as in boxes of left, top, width, height; expected left, top, right, bottom"
        )
    if boxes.size and 0 < boxes.max() <= 1:
        raise DataError(f"{path}: all within 0 ... 1, as shares of an image; expected pixels of the image files")
    return boxes


def _scaled_boxes(
    one: AttentionMap, boxes: np.ndarray[Any, Any] | None, pictures: Pictures | None
) -> list[tuple[float, ...]]:
    """The boxes of a map's regions in pixels of its thumbnail: (x, y, width, height) each; empty if unknown."""
    picture = None if pictures is None else pictures.add(one.image)
    if boxes is None or picture is None:
        return []
    of_image = np.asarray(boxes[one.image], dtype=np.float64) * picture.scale
    n_regions = len(one.weights[0])
    if len(of_image) < n_regions or not np.isfinite(of_image).all():
        raise DataError(f"boxes of image {one.image}: {len(of_image)} finite boxes, but attention is over {n_regions}")
    reach = of_image[:n_regions, 2:].max(0, initial=0)
    if (reach > np.array([picture.width, picture.height]) * _BEYOND + 1).any():
        right, bottom, width, height = (round(n / picture.scale) for n in (*reach, picture.width, picture.height))
        raise DataError(
            f"boxes of image {one.image} reach to {right}, {bottom}, but its file has {width} x {height} pixels: "
            "expected pixels of that file, left before top"
        )
    return [
        tuple(round(float(v), 1) for v in (x, y, max(0.0, right - x), max(0.0, bottom - y)))
        for x, y, right, bottom in of_image[:n_regions]
    ]
