"""Queries of runs side by side: whether runs may be compared, hits, curves over k, histograms; makes no tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from itm_fast.errors import DataError
from itm_fast.runs.folder import QueryResults, Run

Direction = Literal["i2t", "t2i"]
DIRECTIONS: tuple[Direction, Direction] = ("i2t", "t2i")
DIRECTION_NAMES = {"i2t": "image → caption", "t2i": "caption → image"}

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_EDGES = (1, 2, 3, 6, 11, 21, 51, 101, 201, 501, 1001, 2001, 5001, 10001, 20001, 50001)  # first ranks of the bins
_CURVE_POINTS = 120


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
    ks = conditions.get("ks")
    if not isinstance(ks, list) or not ks or not all(isinstance(k, int) and k > 0 for k in ks):
        raise DataError(f"{where}: conditions.ks is {ks!r:.60}, expected a list of cut-offs")
    for direction in DIRECTIONS:
        figures = report.get(direction)
        lacking = [f"R@{k}" for k in ks if not isinstance(figures, dict) or not number(figures.get(f"R@{k}"))]
        if lacking:
            raise DataError(f"{where} lacks the figure {lacking[0]} of {direction}")
    if not number(report.get("rsum")):
        raise DataError(
            f"{where} lacks the figure rsum, which orders the page; itm-fast evaluate leaves it out where a query "
            "has fewer than 10 candidates"
        )


def headline_ranks(run: Run, direction: Direction) -> Integers:
    """0-based ranks that the headline figures count: inside folds where it is their mean.

    Args:
        run: the run.
        direction: whose queries.

    Returns:
        (n,) int64; -1: not a query.
    """
    results: QueryResults = getattr(run, direction)
    folds = results.fold_ranks if run.report["headline"] == "fold_mean" else None
    return numbers(results.ranks if folds is None else folds)


def query_groups(run: Run, direction: Direction) -> Integers:
    """The image of every query: captions of one image are no independent samples.

    Args:
        run: the run.
        direction: whose queries.

    Returns:
        (n,) int64; a caption without an image is a group of its own.
    """
    if direction == "i2t":
        return np.arange(run.n_images)
    owners = numbers(run.caption_to_image)
    return np.where(owners < 0, run.n_images + np.arange(len(owners)), owners)


def numbers(tensor: torch.Tensor) -> Integers:
    """A tensor of integers as an array."""
    array: Integers = tensor.numpy().astype(np.int64)
    return array


def hits(run: Run, direction: Direction, ks: Sequence[int]) -> Floats:
    """Of how many cut-offs each query has a positive among the first k, times 100: the mean is R@k, or their sum.

    Args:
        run: the run.
        direction: whose queries.
        ks: cut-offs.

    Returns:
        (n,) float64; NaN: not a query.
    """
    from itm_fast.runs.statistics import query_recall

    return query_recall(headline_ranks(run, direction), ks)


def recall_curve(run: Run, direction: Direction) -> tuple[list[float], list[float]]:
    """R@k for cut-offs from 1 to where it reaches 100 %, spaced evenly in their logarithm.

    Args:
        run: the run.
        direction: whose queries.

    Returns:
        The cut-offs and the percentages.
    """
    ranks = np.sort(_of_queries(run, direction))
    if not len(ranks):
        return [1.0], [0.0]
    last = max(10, int(ranks[-1]) + 1)
    ks = np.unique(np.geomspace(1, last, _CURVE_POINTS).round().astype(np.int64))
    shares = 100 * np.searchsorted(ranks, ks, side="left") / len(ranks)
    return ks.astype(float).tolist(), shares.tolist()


def rank_bins(runs: Sequence[Run], direction: Direction) -> tuple[list[str], list[list[float]]]:
    """How many queries have their best positive in which range of ranks.

    Args:
        runs: the runs.
        direction: whose queries.

    Returns:
        A name for each range, the first rank being 1, and for each run the percentages.
    """
    ranks = [_of_queries(run, direction) + 1 for run in runs]
    largest = max((int(of_run.max()) for of_run in ranks if len(of_run)), default=1)
    edges = [edge for edge in _EDGES if edge <= largest]
    names = [
        str(edge) if following - edge == 1 else f"{edge}–{following - 1}"
        for edge, following in zip(edges, (*edges[1:], _EDGES[min(len(edges), len(_EDGES) - 1)]), strict=True)
    ]
    if len(edges) == len(_EDGES):
        names[-1] = f"{edges[-1]} …"
    counts = [np.histogram(of_run, [*edges, max(largest + 1, edges[-1] + 1)])[0] for of_run in ranks]
    return names, [(100 * of_run / max(1, of_run.sum())).tolist() for of_run in counts]


def _of_queries(run: Run, direction: Direction) -> Integers:
    ranks = headline_ranks(run, direction)
    return ranks[ranks >= 0]


def forgiven(results: QueryResults, share: float = 1.0) -> torch.Tensor | None:
    """Queries whose first retrieved item is no annotated positive, but by φ as relevant as the best annotated one.

    Args:
        results: of a direction.
        share: how much of that positive's φ the item needs.

    Returns:
        (n,) bool, or None without φ.
    """
    if results.relevance is None or results.positive_relevance is None or not results.relevance.shape[1]:
        return None
    found = results.relevance[:, 0]
    return (
        (results.ranks > 0) & (results.best_positive >= 0) & (found > 0) & (found >= share * results.positive_relevance)
    )


def annotated_misses(results: QueryResults) -> torch.Tensor | None:
    """Queries whose first retrieved item only the further annotations call positive.

    Args:
        results: of a direction.

    Returns:
        (n,) bool, or None without such annotations.
    """
    if results.annotated is None or not results.annotated.shape[1]:
        return None
    return (results.ranks > 0) & results.annotated[:, 0]


def curves_of(run: Run) -> dict[str, Any] | None:
    """The curves of a run with φ, checked.

    Args:
        run: the run.

    Returns:
        What `Run.curves` describes, or None without φ.

    Raises:
        DataError: they are not of that form.
    """
    if not run.curves:
        return None
    ks, ncs, recall = (run.curves.get(key) for key in ("ks", "ncs", "semantic_recall"))

    def listed(values: object, n: int) -> bool:
        return isinstance(values, list) and len(values) == n and all(isinstance(v, (int, float)) for v in values)

    fits = isinstance(ks, list) and isinstance(ncs, dict) and all(listed(ncs.get(d), len(ks)) for d in DIRECTIONS)
    if fits and recall is not None:
        fits = isinstance(recall, dict) and all(isinstance(recall.get(key), list) for key in ("m", "k", *DIRECTIONS))
        fits = fits and all(
            len(recall[d]) == len(recall["k"]) and all(listed(of_k, len(recall["m"])) for of_k in recall[d])
            for d in DIRECTIONS
        )
    if not fits:
        raise DataError(f"run {run.name!r}: run.json: curves are not of the form that itm-fast evaluate writes")
    return run.curves
