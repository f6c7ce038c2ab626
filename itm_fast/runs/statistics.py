"""How sure figures are: bootstrap intervals of one run, paired tests of two runs on the same queries.

The five captions of an image are one draw, not five: an odd image makes all of them easy or hard. Whole images are
therefore resampled, with their captions (cluster bootstrap); single captions would make intervals too narrow and
p-values too small. Say which image a caption belongs to with `groups`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from itm_fast.files.owners import OwnersLike, as_owners

FloatArray = npt.NDArray[np.float64]

_BATCH, _BATCH_GROUPS = 20, 50_000  # resamples drawn at a time, and groups at least: 25,000 captions stay in the cache
_SIGN_BATCH = 200
_ROUNDING = 1e-12  # of the sum of absolute differences: sums that differ by less are equal


@dataclass(frozen=True)
class Interval:
    """A figure and its confidence interval, in the unit of the figure."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedResult:
    """First run minus second: the difference, its confidence interval, and p of no difference (two-sided)."""

    difference: float
    low: float
    high: float
    p_value: float


def query_recall(ranks: npt.ArrayLike, ks: Sequence[int] = (1,)) -> FloatArray:
    """What every query adds to R@k, or to the sum of several: the mean over the queries is the figure.

    Args:
        ranks: (n,) int, rank of the best positive, first = 0; -1: not a query.
        ks: cut-offs; (1, 5, 10) for one direction's share of rsum.

    Returns:
        (n,) float64: 100 for every k that the rank is below; NaN: not a query.

    Raises:
        ValueError: ranks that are no vector of whole numbers, cut-offs below 1.

    Example:
        >>> query_recall([0, 7, -1], ks=(1, 10)).tolist()
        [200.0, 100.0, nan]
    """
    array = np.asarray(ranks)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"ranks has shape {array.shape} and dtype {array.dtype}, expected (n,) whole numbers")
    if not ks or min(ks) < 1:
        raise ValueError(f"ks is {tuple(ks)}, expected cut-offs of at least 1")
    hits = sum((100.0 * (array < k) for k in ks), np.zeros(len(array)))
    return np.where(array < 0, np.nan, hits)


def both_directions(
    i2t: npt.ArrayLike, t2i: npt.ArrayLike, caption_to_image: OwnersLike
) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Figures of image and of caption queries as one sample, whose mean is the sum of their two means, as in rsum.

    Both directions share their images, so an image is resampled with its captions in both.

    Args:
        i2t: (n_images,) figure of every image query; NaN: not a query.
        t2i: (n_captions,) figure of every caption query; NaN: not a query.
        caption_to_image: row of the image of every caption, in any form of ``as_owners``.

    Returns:
        (n_images + n_captions,) values and groups, for ``bootstrap_interval`` and ``paired_test``.

    Raises:
        ValueError: sizes that do not fit, an image that does not exist, a direction without queries.

    Example:
        >>> ranks = query_recall([0, 1], (1, 5, 10)), query_recall([0, 0, 0, 20], (1, 5, 10))
        >>> values, groups = both_directions(*ranks, [0, 0, 1, 1])
        >>> groups.tolist()
        [0, 1, 0, 0, 1, 1]
        >>> bootstrap_interval(values, groups=groups).estimate
        475.0
    """
    parts = [_vector(i2t, "i2t"), _vector(t2i, "t2i")]
    owners = as_owners(caption_to_image, len(parts[0]), len(parts[1]))
    # A mean over all queries weighs directions by their size; a sum of means weighs them alike.
    n_queries = [np.count_nonzero(~np.isnan(part)) for part in parts]
    if not all(n_queries):
        raise ValueError(f"i2t has {n_queries[0]} queries and t2i has {n_queries[1]}, expected some of both")
    scaled = [part * (sum(n_queries) / n) for part, n in zip(parts, n_queries, strict=True)]
    return np.concatenate(scaled), np.concatenate([np.arange(len(parts[0])), owners])


def bootstrap_interval(
    values: npt.ArrayLike,
    *,
    groups: npt.ArrayLike | None = None,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of the mean over queries.

    Where every query has the same value, R@10 = 100 for instance, so has every resample: the interval is that point.

    Args:
        values: (n,) figure of every query, such as ``query_recall(ranks, (1,))``; NaN: not a query.
        groups: (n,) image of every query, drawn as a whole; None: every query by itself.
        confidence: share of the samples whose interval holds the true mean.
        n_resamples: samples drawn with replacement.
        seed: of the draws (numpy's default_rng).

    Returns:
        The mean and the ends of its interval.

    Raises:
        ValueError: values that are no finite vector, groups of another size, fewer than two groups, a confidence or a
            number of resamples out of range.
        ImportError: scipy is not installed.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13.

    Example:
        >>> interval = bootstrap_interval([100.0, 0.0] * 500)
        >>> interval.estimate, 46 < interval.low < 48, 52 < interval.high < 54
        (50.0, True, True)
    """
    _check_draws(confidence, n_resamples)
    sums, counts = _per_group(_vector(values, "values"), groups)
    low, high = _interval(sums, counts, confidence, n_resamples, seed)
    return Interval(float(sums.sum() / counts.sum()), low, high)


def paired_test(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    groups: npt.ArrayLike | None = None,
    confidence: float = 0.95,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> PairedResult:
    """Whether two runs on the same queries differ: two-sided sign-flip test of the difference of their means.

    If the runs were alike, either could have given either figure of an image: the sign of every image's difference
    is flipped at random. All 2^n signs are tried where they are no more than n_resamples.

    Args:
        first: (n,) figure of every query by one run; NaN: not a query.
        second: (n,) the same by the other run, of the same queries.
        groups: (n,) image of every query, flipped and drawn as a whole; None: every query by itself.
        confidence: of the bootstrap interval of the difference.
        n_resamples: flips of the test and samples of the interval.
        seed: of the draws (numpy's default_rng).

    Returns:
        Mean of first minus mean of second, the ends of its interval, and p; at least 1 / (n_resamples + 1) where signs
        are drawn, 1 for equal runs.

    Raises:
        ValueError: sizes or queries that differ, and as ``bootstrap_interval``.
        ImportError: scipy is not installed.

    Source: Smucker, Allan and Carterette, A Comparison of Statistical Significance Tests for Information Retrieval
        Evaluation, CIKM 2007 (randomisation test); p with the observed sample among the draws: Phipson and Smyth 2010.

    Example:
        >>> better = paired_test([100.0] * 60 + [0.0] * 40, [100.0] * 40 + [0.0] * 60)
        >>> better.difference, better.p_value < 0.001
        (20.0, True)
    """
    _check_draws(confidence, n_resamples)
    one, other = _vector(first, "first"), _vector(second, "second")
    if one.shape != other.shape:
        raise ValueError(f"first has {len(one)} queries, second has {len(other)}: both runs must answer the same ones")
    apart = np.flatnonzero(np.isnan(one) != np.isnan(other))
    if len(apart):
        raise ValueError(f"query {apart[0]} is NaN, not a query, in one run only: both runs must answer the same ones")
    sums, counts = _per_group(one - other, groups)
    low, high = _interval(sums, counts, confidence, n_resamples, seed)
    return PairedResult(float(sums.sum() / counts.sum()), low, high, _sign_flip_p(sums, n_resamples, seed))


def _interval(
    sums: FloatArray, counts: FloatArray, confidence: float, n_resamples: int, seed: int
) -> tuple[float, float]:
    """Groups are drawn with their sum and their size together: the mean is a ratio where sizes differ."""
    # Percentiles, not scipy's default BCa: its jackknife takes n x n numbers.
    found = _scipy_stats().bootstrap(
        (sums, counts),
        _ratio,
        paired=True,
        vectorized=True,
        method="percentile",
        confidence_level=confidence,
        n_resamples=n_resamples,
        batch=max(_BATCH, _BATCH_GROUPS // len(sums)),
        random_state=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _ratio(sums: FloatArray, counts: FloatArray, axis: int) -> Any:
    return sums.sum(axis=axis) / counts.sum(axis=axis)


def _sign_flip_p(differences: FloatArray, n_resamples: int, seed: int) -> float:
    """How often random signs give a sum of differences as large.

    scipy's permutation_test sorts random numbers for every sign, nearly four minutes for 25,000 queries; bits and a
    product do it in a second.
    """
    changed = differences[differences != 0]  # a sign makes no difference to the others
    n = len(changed)
    exact = n < 63 and 2**n <= n_resamples
    n_flips = 2**n if exact else n_resamples
    rng = np.random.default_rng(seed)
    total, slack = changed.sum(), _ROUNDING * np.abs(changed).sum()
    as_large = 0
    for start in range(0, n_flips, _SIGN_BATCH):
        size = min(_SIGN_BATCH, n_flips - start)
        bits: npt.NDArray[np.integer]
        if exact:
            bits = np.arange(start, start + size)[:, None] >> np.arange(n) & 1
        else:
            packed = rng.integers(0, 256, size=(size, (n + 7) // 8), dtype=np.uint8)
            bits = np.unpackbits(packed, axis=1, count=n)
        flipped = 2 * (bits.astype(np.float64) @ changed) - total
        as_large += int(np.count_nonzero(np.abs(flipped) >= abs(total) - slack))
    return as_large / n_flips if exact else (as_large + 1) / (n_flips + 1)


def _per_group(values: FloatArray, groups: npt.ArrayLike | None) -> tuple[FloatArray, FloatArray]:
    """Sum and size of every group, NaN left out."""
    is_query = ~np.isnan(values)
    queries = values[is_query]
    if groups is None:
        group = np.arange(len(queries))
    else:
        group = np.unique(_labels(groups, values, "groups")[is_query], return_inverse=True)[1]
    sums, counts = (np.bincount(group, weights=w).astype(np.float64) for w in (queries, np.ones_like(queries)))
    if len(sums) < 2:
        what = "queries" if groups is None else "groups with queries"
        raise ValueError(f"there are {len(sums)} {what}, expected at least two to resample")
    return sums, counts


def _vector(values: npt.ArrayLike, name: str) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or np.isinf(array).any():
        raise ValueError(f"{name} has shape {array.shape} or holds infinity, expected (n,) finite numbers")
    return array


def _labels(groups: npt.ArrayLike, values: FloatArray, name: str) -> npt.NDArray[Any]:
    array = np.asarray(groups)
    if array.shape != values.shape:
        raise ValueError(f"{name} has shape {array.shape}, expected the image of each of the {len(values)} queries")
    return array


def _check_draws(confidence: float, n_resamples: int) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, expected a share between 0 and 1 such as 0.95")
    if n_resamples < 1:
        raise ValueError(f"n_resamples is {n_resamples}, expected at least 1")


def _scipy_stats() -> Any:
    try:
        import scipy.stats  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError("bootstrap intervals need scipy: pip install 'itm-fast[report]'") from error
    return scipy.stats
