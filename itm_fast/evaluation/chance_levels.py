"""What a random order of the gallery would score: the level that recall is to be read against."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from itm_fast.metrics.positives import Positives
from itm_fast.metrics.query_positives import QueryPositives

Levels = dict[str, dict[str, float]]
_SPREAD = 3  # standard deviations of a random order's hits that are no sign of anything
_EASY = 0.5  # share of hits by chance from which recall tells little


def chance_recall(n_items: npt.ArrayLike, n_positives: npt.ArrayLike, ks: Sequence[int]) -> list[float]:
    """R@k of a random order, the mean over the queries.

    Of N items, P of them positive, none is among the first k with probability C(N - P, k) / C(N, k).

    Args:
        n_items: items of the gallery, of each query or of all.
        n_positives: (n_queries,) positives of each query in the gallery.
        ks: cut-offs.

    Returns:
        Percent, one a cut-off.

    Example:
        >>> chance_recall(4, [1, 2], (1, 4))
        [37.5, 100.0]
    """
    of_queries = np.broadcast_arrays(n_items, n_positives)
    kinds, n_alike = np.unique(np.stack(of_queries), axis=1, return_counts=True)
    sizes, found = kinds.astype(np.float64)
    recall = []
    for k in ks:
        taken = np.arange(k)[:, None]
        misses = np.clip((sizes - found - taken) / np.maximum(sizes - taken, 1), 0, 1).prod(axis=0)
        recall.append(float(100 * np.average(1 - misses, weights=n_alike)))
    return recall


def chance_levels(positives: Positives | tuple[QueryPositives, QueryPositives], ks: Sequence[int]) -> Levels:
    """{"i2t": {"R@1": ...}, "t2i": ...}, percent, of the queries that have positives."""
    if isinstance(positives, Positives):
        counts = positives.captions_of_image, np.ones(positives.n_captions, np.int64)
        sizes = positives.n_captions, positives.n_images
        asking = [count > 0 for count in counts]
    else:
        counts = np.diff(positives[0].offsets), np.diff(positives[1].offsets)
        sizes = positives[0].n_items, positives[1].n_items
        asking = [side.n_relevant > 0 for side in positives]
    return {
        way: dict(zip((f"R@{k}" for k in ks), chance_recall(size, count[some], ks), strict=True))
        for way, size, count, some in zip(("i2t", "t2i"), sizes, counts, asking, strict=True)
        if some.any()
    }


def chance_notes(figures: Mapping[str, Any], levels: Levels, what: str = "") -> list[str]:
    """What is said of recall that a random order has as well.

    Args:
        figures: {"i2t": {"R@1": ..., "n_queries": ...}, "t2i": ...}.
        levels: of the same cut-offs.
        what: the part of a report that they are of; "" for all of it.
    """
    at_chance = []
    for way, of in levels.items():
        name, level = list(of.items())[-1]
        n, hits = figures[way]["n_queries"], figures[way][name] / 100
        spread = _SPREAD * math.sqrt(level / 100 * (1 - level / 100) / max(1, n))
        at_chance.append(level / 100 < _EASY and hits <= level / 100 + spread)
    if not at_chance or not all(at_chance):
        return []
    return [
        f"WARNING: {what + ': ' if what else ''}no better than a random order of the gallery, in either direction: are "
        "rows and columns in the order of the set's files, or given with their ids?"
    ]


def told(levels: Levels) -> str:
    """The levels in a line."""
    words = {"i2t": "image -> caption", "t2i": "caption -> image"}
    sides = (f"{words[way]} {', '.join(f'{k} {value:.2f}' for k, value in of.items())}" for way, of in levels.items())
    return f"chance: {'; '.join(sides)}"
