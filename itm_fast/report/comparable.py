"""Whether runs may share a page: of the same queries, with the figures that it shows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from itm_fast.errors import DataError
from itm_fast.report.queries import DIRECTIONS
from itm_fast.runs.folder import Run
from itm_fast.runs.query_results import QueryResults

_FEWEST = 20  # images and captions, below which much is in common by chance
_TIMES = 2  # what chance has in common, from which it is no chance


def check_runs(runs: Sequence[Run]) -> None:
    """Check that runs are of the same queries and hold what a page shows.

    Args:
        runs: at least one.

    Raises:
        ValueError: none was given, or two are of other images, captions, pairs, queries or folds; the message names
            both and what differs.
        DataError: the report of a run lacks a figure.
    """
    if not runs:
        raise ValueError("no run given; expected the folder of at least one, written by itm-fast evaluate --run")
    for run in runs:
        _check_report(run)
    first = runs[0]
    for run in runs[1:]:
        difference = _difference(first, run)
        if difference is not None:
            raise ValueError(
                f"runs {first.name!r} and {run.name!r} can not share a page: {difference}; evaluate both on the same "
                "images and captions, in the same order, under the same protocol"
            )


def order_notes(runs: Sequence[Run]) -> list[str]:
    """Said of runs whose captions retrieve other images than those of the first, as of rows in another order.

    Args:
        runs: of one page.
    """
    first, *others = runs
    notes = []
    for run in others:
        if min(run.n_images, run.n_captions) < _FEWEST:
            continue
        depth = 1 + run.n_images // _FEWEST  # so few that chance has them seldom
        own = first.caption_to_image[:, None]
        lists = [of.t2i.retrieved[:, :depth].masked_fill(of.t2i.retrieved[:, :depth] == own, -1) for of in (first, run)]
        n_listed = [(one >= 0).sum(1) for one in lists]
        n_common = int(((lists[0][:, :, None] == lists[1][:, None]) & (lists[0] >= 0)[:, :, None]).sum())
        by_chance = float((n_listed[0] * n_listed[1]).sum()) / (run.n_images - 1)
        if n_common < _TIMES * by_chance:
            notes.append(
                f"WARNING: beside their own image, captions retrieve no more images in common in runs {first.name!r} "
                f"and {run.name!r} than by chance: are both of the same images and captions, in the same order?"
            )
    return notes


def _difference(first: Run, second: Run) -> str | None:
    for name in ("n_images", "n_captions"):
        one, other = getattr(first, name), getattr(second, name)
        if one != other:
            return f"{one} and {other} {name.removeprefix('n_')}"
    for name in ("captions", "image_names"):
        one, other = getattr(first, name), getattr(second, name)
        if one is not None and other is not None and one != other:
            number = next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
            return (
                f"{name.removesuffix('s').replace('_', ' ')} {number} is {one[number]!r:.60} and {other[number]!r:.60}"
            )
    unequal = torch.nonzero(first.caption_to_image != second.caption_to_image)
    if len(unequal):
        number = int(unequal[0])
        images = (int(run.caption_to_image[number]) for run in (first, second))
        return "caption {} belongs to image {} and to image {}".format(number, *images)
    for direction in DIRECTIONS:
        one, other = (getattr(run, direction).ranks == -1 for run in (first, second))
        if not torch.equal(one, other):
            return f"other {direction} queries have positives"
    ks = [run.report["conditions"]["ks"] for run in (first, second)]
    if ks[0] != ks[1]:
        return "their cut-offs are {} and {}".format(*(", ".join(map(str, of_run)) for of_run in ks))
    protocols = [(run.report["conditions"].get("protocol"), run.report["headline"]) for run in (first, second)]
    if protocols[0] != protocols[1]:
        return "their protocols are {} and {}".format(
            *(f"{name or 'none'} ({headline})" for name, headline in protocols)
        )
    return None


def _check_report(run: Run) -> None:
    """Refuse a report.json without the figures of the tables: it is a file that others may have written."""

    def number(value: object) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    report, where = run.report, f"run {run.name!r}: report.json"
    conditions = report.get("conditions")
    if not isinstance(conditions, dict) or not isinstance(report.get("headline"), str):
        raise DataError(f"{where} lacks conditions or headline; expected what itm-fast evaluate writes")
    if report["headline"] not in ("full", "fold_mean"):
        raise DataError(
            f"{where}: its figures are means over languages, each with ranks of its own, but a run keeps those of all "
            "languages together; evaluate a language by itself for a page (--caption-to-image its captions)"
        )
    ks = conditions.get("ks")
    if not isinstance(ks, list) or not ks or not all(isinstance(k, int) and k > 0 for k in ks):
        raise DataError(f"{where}: conditions.ks is {ks!r:.60}, expected a list of cut-offs")
    for direction in DIRECTIONS:
        figures = report.get(direction)
        lacking = [f"R@{k}" for k in ks if not isinstance(figures, dict) or not number(figures.get(f"R@{k}"))]
        if lacking:
            raise DataError(f"{where} lacks the figure {lacking[0]} of {direction}")
        results: QueryResults = getattr(run, direction)
        for name in ("ncs", "ncs_own_left_out"):
            kept = getattr(results, name)
            if kept is not None and kept.shape[1] != len(ks):
                raise DataError(
                    f"run {run.name!r}: queries.safetensors: {direction}.{name} has {kept.shape[1]} columns, expected "
                    f"{len(ks)}, one a cut-off of report.json"
                )
    if not number(report.get("rsum")):
        raise DataError(
            f"{where} lacks the figure rsum, which orders the page; itm-fast evaluate leaves it out where a query "
            "has fewer than 10 candidates"
        )
