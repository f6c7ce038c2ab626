"""Weights of an ensemble, searched on a validation set by rsum."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from itm_fast.choices import Query
from itm_fast.evaluation.figures import RSUM_KS
from itm_fast.files.owners import OwnersLike
from itm_fast.metrics.counting import RankCounter, positive_scores
from itm_fast.metrics.positives import Positives, make_positives
from itm_fast.metrics.recall import recall_of_ranks, rsum
from itm_fast.similarities.tiles import CHUNK_BYTES, Progress, Tiles, everything, tile_sims
from itm_fast.sources.ensemble import EnsembleScorer, Member, weighted_sum

Weights: TypeAlias = tuple[float, ...]

_MOST_AT_ONCE = 128  # vectors of weights that one pass counts ranks for
_MOST_ROUNDS = 20


@dataclass(frozen=True)
class WeightSearch:
    """What a search for weights found.

    Attributes:
        weights: the best, one a member; of equally good ones those nearest to equal weights.
        rsum: on the validation set, with them.
        tried: (weights, rsum) of all, in order.
        n_passes: how often every member scored all pairs.
        seconds: the search took.
    """

    weights: Weights
    rsum: float
    tried: tuple[tuple[Weights, float], ...]
    n_passes: int
    seconds: float


@torch.no_grad()
def search_weights(
    ensemble: EnsembleScorer,
    *,
    step: float = 0.1,
    captions_per_image: int | None = None,
    caption_to_image: OwnersLike | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    progress: Progress | None = None,
) -> WeightSearch:
    """The weights with the best rsum over the whole gallery of a validation set.

    Weights are multiples of ``step`` of sum 1: all of them, in one pass over the members' similarities, if there are at
    most 128; otherwise from equal weights on, one member's weight at a time is moved, the others keeping their
    proportions, and the best of all such moves is taken, one pass a round, until none is better.

    Args:
        ensemble: the members on the validation set; its own weights have no part.
        step: 1 / an integer.
        captions_per_image: as in ``evaluate``.
        caption_to_image: likewise.
        chunk_bytes: bound of a tile, counted as 8 bytes a similarity.
        progress: called with (pairs done, pairs in all) of each pass.

    Returns:
        The best weights, and what was tried. Use them with ``EnsembleScorer(..., weights=...)`` on the test set.

    Raises:
        ValueError: a step that is not 1 / an integer, sizes that do not fit, NaN in a member.

    Example:
        >>> right, wrong = torch.eye(12), torch.ones(12, 12) - torch.eye(12)
        >>> found = search_weights(EnsembleScorer([right, wrong]), step=0.25, captions_per_image=1)
        >>> found.weights, found.rsum, found.n_passes
        ((0.75, 0.25), 600.0, 1)
    """
    started = time.perf_counter()
    n_steps = round(1 / step) if 0 < step <= 1 else 0
    if not n_steps or not math.isclose(n_steps * step, 1, rel_tol=1e-6):
        raise ValueError(f"step is {step}, expected 1 / an integer, such as 0.1")
    positives = make_positives(
        ensemble.n_images, ensemble.n_captions, captions_per_image=captions_per_image, caption_to_image=caption_to_image
    )
    search = _Search(ensemble, positives, tile_sims(chunk_bytes), progress)
    n_members = len(ensemble.members)
    if math.comb(n_steps + n_members - 1, n_members - 1) <= _MOST_AT_ONCE:
        search.try_all(_simplex(n_members, n_steps))
    else:
        search.try_all([(1 / n_members,) * n_members])
        for _ in range(_MOST_ROUNDS):
            best = search.best()
            search.try_all(list(_moves(best, n_steps)))
            if search.best() == best:
                break
    best = search.best()
    return WeightSearch(
        best, search.tried[best], tuple(search.tried.items()), search.n_passes, time.perf_counter() - started
    )


def _simplex(n_members: int, n_steps: int) -> list[Weights]:
    """All weights that are multiples of 1 / n_steps and sum to 1."""
    borders = itertools.combinations(range(n_steps + n_members - 1), n_members - 1)
    parts = ((-1, *chosen, n_steps + n_members - 1) for chosen in borders)
    return [tuple((b - a - 1) / n_steps for a, b in itertools.pairwise(cut)) for cut in parts]


def _moves(weights: Weights, n_steps: int) -> Iterator[Weights]:
    """One weight set to every step, the others scaled to what is left."""
    for member, weight in enumerate(weights):
        for step in range(n_steps + 1):
            mine = step / n_steps
            others = [1 / (len(weights) - 1)] * len(weights) if weight == 1 else [w / (1 - weight) for w in weights]
            yield tuple(mine if m == member else (1 - mine) * share for m, share in enumerate(others))


class _Search:
    """Tries weights, many in a pass."""

    def __init__(self, ensemble: EnsembleScorer, positives: Positives, n_sims: int, progress: Progress | None) -> None:
        self._members, self._positives = ensemble.members, positives
        self._n_sims, self._progress = n_sims, progress
        self._captions = torch.from_numpy(positives.padded())
        # Once for all passes.
        self._of_positives = [
            member.normalise(positive_scores(member.tiles, self._captions, n_sims)) for member in self._members
        ]
        self.tried: dict[Weights, float] = {}
        self.n_passes = 0

    def best(self) -> Weights:
        equal = 1 / len(self._members)
        return min(self.tried, key=lambda weights: (-self.tried[weights], sum((w - equal) ** 2 for w in weights)))

    def try_all(self, candidates: Sequence[Weights]) -> None:
        """Find the rsum of those weights that have not been tried."""
        new = [weights for weights in dict.fromkeys(candidates) if weights not in self.tried]
        for start in range(0, len(new), _MOST_AT_ONCE):
            some = new[start : start + _MOST_AT_ONCE]
            self.tried |= dict(zip(some, self._rsums(some), strict=True))

    def _rsums(self, candidates: Sequence[Weights]) -> list[float]:
        first, *others = self._members
        counted = [self._counters(weights) for weights in candidates]
        tiles = Tiles(first.tiles.scorer, self._progress, first.tiles.what)
        collector = _Weighted(first, others, candidates, counted)
        tiles.collect(everything(first.tiles.scorer), self._n_sims, [collector], ())
        self.n_passes += 1
        return [rsum(*(recall_of_ranks(counter.ranks().best, RSUM_KS) for counter in counters)) for counters in counted]

    def _counters(self, weights: Weights) -> tuple[RankCounter, RankCounter]:
        scores = _mean(self._of_positives, weights)
        there = self._captions >= 0
        of_captions = scores.new_zeros(self._positives.n_captions, 1)
        of_captions[self._captions[there], 0] = scores[there]
        owners = torch.from_numpy(self._positives.caption_to_image)[:, None]
        return RankCounter("image", scores, self._captions), RankCounter("caption", of_captions, owners)


class _Weighted:
    """Hands the mean of every tile, by each vector of weights, to that vector's counters."""

    query: Query = "image"  # of members without directions

    def __init__(
        self,
        first: Member,
        others: Sequence[Member],
        candidates: Sequence[Weights],
        counted: Sequence[tuple[RankCounter, RankCounter]],
    ) -> None:
        self._first, self._others = first, others
        self._candidates, self._counted = candidates, counted

    def add(self, tile: Tensor, rows: slice, columns: slice) -> None:
        tiles = [self._first.normalise(tile), *(member.score(rows, columns) for member in self._others)]
        for weights, counters in zip(self._candidates, self._counted, strict=True):
            mean = _mean(tiles, weights)
            for counter in counters:
                counter.add(mean, rows, columns)


def _mean(parts: Sequence[Tensor], weights: Weights) -> Tensor:
    return weighted_sum([(weight, part) for weight, part in zip(weights, parts, strict=True) if weight])
