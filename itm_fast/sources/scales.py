"""The scale of a matrix of similarities, and how matrices of unlike scales are made comparable; streamed by tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from itm_fast.choices import Query, perhaps
from itm_fast.similarities.tiles import Progress, Tiles, everything, tile_sims

Normalisation: TypeAlias = Literal["none", "zscore", "rank"]

_BINS = 1 << 20
_SAMPLED_ROWS, _ROWS_AT_A_PLACE = 256, 16


@dataclass(frozen=True)
class Scale:
    """What values a matrix has; infinite ones are left out.

    Attributes:
        minimum: the smallest.
        maximum: the largest.
        mean: of them.
        std: population standard deviation.
        n: how many were looked at.
    """

    minimum: float
    maximum: float
    mean: float
    std: float
    n: int


class Moments:
    """Collects the scale of a matrix from its tiles, in float64."""

    query: Query = "image"  # of one matrix, which has no directions

    def __init__(self) -> None:
        """Nothing has been seen."""
        self._n, self._mean, self._squares = 0, 0.0, 0.0
        self._minimum, self._maximum = math.inf, -math.inf

    def add(self, tile: Tensor, rows: slice, columns: slice) -> None:
        """Take the scores of some images and captions."""
        values = tile.double().flatten()
        finite = values.isfinite()
        if not bool(finite.all()):
            values = values[finite]
        if not len(values):
            return
        n, mean = len(values), float(values.mean())
        squares = float((values - mean).square_().sum())
        # Two groups as one (Chan, Golub and LeVeque): no difference of large sums.
        total, apart = self._n + n, mean - self._mean
        self._squares += squares + apart**2 * self._n * n / total
        self._mean += apart * n / total
        self._n = total
        self._minimum, self._maximum = min(self._minimum, float(values.min())), max(self._maximum, float(values.max()))

    def scale(self) -> Scale:
        """The scale of all that was added; NaN if that is nothing."""
        if not self._n:
            return Scale(math.nan, math.nan, math.nan, math.nan, 0)
        return Scale(self._minimum, self._maximum, self._mean, math.sqrt(self._squares / self._n), self._n)


def sampled_scale(tiles: Tiles, n_sims: int) -> Scale:
    """The scale of 256 images' similarities, evenly spread over the set; of all if there are no more."""
    moments, scorer = Moments(), tiles.scorer
    n_places = _SAMPLED_ROWS // _ROWS_AT_A_PLACE
    whole = scorer.n_images <= _SAMPLED_ROWS
    starts = np.arange(0, scorer.n_images, _ROWS_AT_A_PLACE)
    if not whole:
        starts = np.linspace(0, scorer.n_images - _ROWS_AT_A_PLACE, n_places).astype(int)
    width = max(1, n_sims // _ROWS_AT_A_PLACE)
    for start in starts.tolist():
        rows = slice(start, min(start + _ROWS_AT_A_PLACE, scorer.n_images))
        for first in range(0, scorer.n_captions, width):
            columns = slice(first, min(first + width, scorer.n_captions))
            moments.add(tiles.score(rows, columns), rows, columns)
    return moments.scale()


class Normaliser(Protocol):
    """Makes similarities comparable."""

    def __call__(self, sims: Tensor, /) -> Tensor:
        """Of any shape -> float64 of the same shape."""
        ...


class _ZScore:
    def __init__(self, scale: Scale) -> None:
        self._mean, self._std = scale.mean, scale.std

    def __call__(self, sims: Tensor, /) -> Tensor:
        return (sims.double() - self._mean).div_(self._std)


class _Histogram:
    """Counts the finite values of a matrix in bins of equal width between its smallest and its largest."""

    query: Query = "image"

    def __init__(self, scale: Scale) -> None:
        self._scale = scale
        self._counts = torch.zeros(_BINS, dtype=torch.int64)

    def add(self, tile: Tensor, rows: slice, columns: slice) -> None:
        places = in_bins(tile[tile.isfinite()].cpu(), self._scale)
        self._counts += torch.bincount(places.long().clamp_(max=_BINS - 1), minlength=_BINS)

    def cumulated(self) -> Tensor:
        """(bins + 1,) float64, the share of the values below each border."""
        counts = self._counts.cumsum(0).double() / self._scale.n
        return torch.cat([counts.new_zeros(1), counts])


def in_bins(sims: Tensor, scale: Scale) -> Tensor:
    """Similarities, of any shape, as places 0 ... bins between the smallest and the largest, float64."""
    places = (sims.double() - scale.minimum).mul_(_BINS / (scale.maximum - scale.minimum))
    return places.clamp_(0, _BINS)


class _Rank:
    def __init__(self, scale: Scale, below: Tensor) -> None:
        self._scale, self._below = scale, below

    def __call__(self, sims: Tensor, /) -> Tensor:
        places = in_bins(sims, self._scale)
        below = self._below.to(places.device)
        bins = places.long().clamp_(max=_BINS - 1)
        # Products and sums apart: a fused one may round equal similarities differently from place to place.
        return (places - bins).mul_(below[bins + 1] - below[bins]).add_(below[bins])


def _as_it_is(sims: Tensor, /) -> Tensor:
    return sims.double()


def fit_normaliser(
    kind: Normalisation, tiles: Tiles, name: str, *, chunk_bytes: int, progress: Progress | None = None
) -> tuple[Normaliser, Scale]:
    """What makes a matrix comparable with others, and its scale.

    Args:
        kind: "none": the similarities as they are, whose scale is then that of a sample (``sampled_scale``); "zscore":
            less the mean of the matrix, over its standard deviation, one pass over it; "rank": the share of the matrix
            that is smaller, 0 to 1, from a histogram of 2^20 bins of equal width, linear within a bin, two passes.
        tiles: the matrix.
        name: what errors call it.
        chunk_bytes: bound of a tile.
        progress: called with (pairs done, pairs in all) of each pass.

    Raises:
        ValueError: an unknown kind; a matrix all of whose finite similarities are equal, which has no spread.
    """
    n_sims = tile_sims(chunk_bytes)
    if kind not in ("none", "zscore", "rank"):
        near = perhaps(kind, ("none", "rank", "zscore"))
        raise ValueError(f'normalise is {kind!r}, expected "none", "rank" or "zscore"{near}')
    if kind == "none":
        return _as_it_is, sampled_scale(tiles, n_sims)
    bounds = everything(tiles.scorer)
    moments = Moments()
    Tiles(tiles.scorer, progress, tiles.what).collect(bounds, n_sims, [moments], ())
    scale = moments.scale()
    if not scale.maximum > scale.minimum:
        raise ValueError(f"{name}: its finite similarities are all equal, so that {kind} has no spread to divide by")
    if kind == "zscore":
        return _ZScore(scale), scale
    histogram = _Histogram(scale)
    Tiles(tiles.scorer, progress, tiles.what).collect(bounds, n_sims, [histogram], ())
    return _Rank(scale, histogram.cumulated()), scale
