"""Queries of runs: hits, NCS, curves over k, histograms, misses that may be none; makes no tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from itm_fast.errors import DataError
from itm_fast.evaluation.figures import RSUM_KS
from itm_fast.report.plots import round_numbers
from itm_fast.runs.folder import Run
from itm_fast.runs.query_results import QueryResults

Direction = Literal["i2t", "t2i"]
DIRECTIONS: tuple[Direction, Direction] = ("i2t", "t2i")
DIRECTION_NAMES = {"i2t": "image → caption", "t2i": "caption → image"}

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_EDGES = (1, 2, 3, 6, 11, 21, 51, 101, 201, 501, 1001, 2001, 5001, 10001, 20001, 50001)  # first ranks of the bins
_CURVE_POINTS = 120
_MOST = 1e9  # of a number in a curve: neither infinite nor NaN
_ROUNDING = 1e-5  # tiles of φ may be of float32, its pairs are of float64


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


def query_ncs(run: Run, direction: Direction, ks: Sequence[int], *, own_left_out: bool = False) -> Floats | None:
    """What every query adds to NCS@k, or to the sum of several: the mean over the queries is the report's figure.

    Args:
        run: the run.
        direction: whose queries.
        ks: cut-offs.
        own_left_out: NCS(N).

    Returns:
        (n,) float64, percent; None where the run has not kept them: without φ, and of earlier versions.
    """
    results: QueryResults = getattr(run, direction)
    kept = results.ncs_own_left_out if own_left_out else results.ncs
    columns = run.report["conditions"]["ks"]
    if kept is None or not set(ks) <= set(columns):
        return None
    figures: Floats = kept.double().numpy()[:, [columns.index(k) for k in ks]].sum(1)
    return figures


def sum_sample(run: Run, i2t: Floats, t2i: Floats) -> tuple[Floats, Integers]:
    """Values of all queries whose mean is the sum of both directions' figures, such as rsum and nsum; their images.

    Args:
        run: the run.
        i2t: (n_images,) figure of every image query; NaN: not a query.
        t2i: (n_captions,) figure of every caption query; NaN: not a query.

    Returns:
        Values and groups; empty where a direction has no query.
    """
    from itm_fast.runs.statistics import both_directions

    if np.isnan(i2t).all() or np.isnan(t2i).all():
        return np.zeros(0), np.zeros(0, dtype=np.int64)
    return both_directions(i2t, t2i, run.caption_to_image.clamp(min=0).numpy())  # captions of no image: no queries


def rsum_sample(run: Run) -> tuple[Floats, Integers]:
    """`sum_sample` of rsum."""
    i2t, t2i = (hits(run, d, RSUM_KS) for d in DIRECTIONS)
    return sum_sample(run, i2t, t2i)


def recall_curve(run: Run, direction: Direction, to: int = 10) -> tuple[list[float], list[float]]:
    """R@k for cut-offs from 1 to where it reaches 100 %, spaced evenly in their logarithm.

    Args:
        run: the run.
        direction: whose queries.
        to: a cut-off that it reaches at least.

    Returns:
        The cut-offs and the percentages.
    """
    ranks = np.sort(_of_queries(run, direction))
    if not len(ranks):
        return [1.0], [0.0]
    last = max(to, int(ranks[-1]) + 1)
    spaced = np.geomspace(1, last, _CURVE_POINTS).round().astype(np.int64)
    ks = np.unique([*spaced, *round_numbers(last)])
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


def most_relevant(results: QueryResults, n: int) -> torch.Tensor | None:
    """Queries whose first retrieved item is no annotated positive, but by φ among the most relevant of other images.

    The φ of a query's own items is no measure: with CIDEr their own text is among those that φ compares with.

    Args:
        results: of a direction.
        n: among how many; 1: it is the most relevant.

    Returns:
        (n_queries,) bool, or None without φ, and of runs of earlier versions.
    """
    others = results.others_relevance
    if results.relevance is None or not results.relevance.shape[1] or others is None or not others.shape[1]:
        return None
    found, least = results.relevance[:, 0], others[:, min(n, others.shape[1]) - 1]
    return (results.ranks > 0) & (found > 0) & (found >= (1 - _ROUNDING) * least)


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
        if not isinstance(values, list) or len(values) != n:
            return False
        return all(isinstance(v, (int, float)) and abs(v) < _MOST for v in values)

    fits = False
    if isinstance(ks, list) and isinstance(ncs, dict):
        fits = listed(ks, len(ks)) and all(listed(ncs.get(d), len(ks)) for d in DIRECTIONS)
    if fits and recall is not None:
        fits = isinstance(recall, dict) and all(isinstance(recall.get(key), list) for key in ("m", "k", *DIRECTIONS))
        fits = fits and listed(recall["m"], len(recall["m"]))
        fits = fits and all(
            len(recall[d]) == len(recall["k"]) and all(listed(of_k, len(recall["m"])) for of_k in recall[d])
            for d in DIRECTIONS
        )
    if not fits:
        raise DataError(f"run {run.name!r}: run.json: curves are not of the form that itm-fast evaluate writes")
    return run.curves
