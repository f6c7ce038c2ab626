"""Crisscrossed Captions' correlation: Spearman's ρ of human scores and similarities, over sampled pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from itm_fast.similarities.scorers import IntArray

FloatArray = npt.NDArray[np.float64]

N_SAMPLES = 1000


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Spearman's ρ: Pearson's r of average ranks, so that equal numbers share the mean of their ranks.

    Args:
        x: (n,) numbers.
        y: (n,) numbers.

    Returns:
        -1 ... 1; NaN where one side does not vary.

    Raises:
        ValueError: sizes that differ, NaN.

    Example:
        >>> round(spearman([1, 2, 2, 3], [1, 2, 3, 4]), 6)
        0.948683
    """
    codes = [_codes(values, name) for values, name in ((x, "x"), (y, "y"))]
    if codes[0].shape != codes[1].shape:
        raise ValueError(f"x has shape {codes[0].shape}, but y has {codes[1].shape}")
    return _of_codes(*codes)


def sampled_spearman(
    similarities: npt.ArrayLike,
    scores: npt.ArrayLike,
    queries: IntArray,
    *,
    n_samples: int = N_SAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Spearman's ρ over a random half of the queries with one random pair each, n_samples times.

    Each time ⌊Q/2⌋ of the Q queries are taken without replacement and one of the pairs of each, so that items in many
    pairs do not dominate.

    Args:
        similarities: (n,) of every rated pair, by the model.
        scores: (n,) of every rated pair, by people.
        queries: (n,) int64, the query of every pair, numbered in order of first appearance.
        n_samples: repetitions.
        seed: of the draws (numpy's default_rng).

    Returns:
        "spearman": mean of ρ x 100; "std": its population standard deviation over the samples x 100, the spread of the
        resampling; "n_queries", "n_sampled" (pairs a sample), "n_pairs", "n_samples", "seed".

    Raises:
        ValueError: not one number a pair, fewer than four queries, NaN.

    Source: Parekh et al., Crisscrossed Captions, EACL 2021; which item is the query, and the draws, are choices of
        this package.

    Example:
        >>> pairs = np.arange(20)
        >>> sampled_spearman(pairs**2, pairs, pairs, n_samples=3)["spearman"]
        100.0
    """
    x, y = _codes(similarities, "similarities"), _codes(scores, "scores")
    if not x.shape == y.shape == queries.shape:
        raise ValueError(
            f"similarities, scores and queries have shapes {x.shape}, {y.shape} and {queries.shape}, expected one "
            "entry a rated pair in each"
        )
    counts = np.bincount(queries)
    n_sampled = len(counts) // 2
    if n_sampled < 2:
        raise ValueError(f"there are {len(counts)} queries, expected at least four: half of them are correlated")
    by_query = np.argsort(queries, kind="stable")
    starts = np.cumsum(counts) - counts
    rng = np.random.default_rng(seed)
    found = np.empty(n_samples)
    for sample in range(n_samples):
        chosen = rng.permutation(len(counts))[:n_sampled]
        pick = (rng.random(n_sampled) * counts[chosen]).astype(np.int64)
        pairs = by_query[starts[chosen] + pick]
        found[sample] = _of_codes(x[pairs], y[pairs])
    return {
        "spearman": float(100 * found.mean()),
        "std": float(100 * found.std()),
        "n_queries": len(counts),
        "n_sampled": n_sampled,
        "n_pairs": len(x),
        "n_samples": n_samples,
        "seed": seed,
    }


def _codes(values: npt.ArrayLike, name: str) -> IntArray:
    """The numbers as 0, 1, 2 ... in their order; equal numbers have the same."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or np.isnan(array).any():
        raise ValueError(f"{name} has shape {array.shape} or holds NaN, expected (n,) numbers")
    return np.unique(array, return_inverse=True)[1].astype(np.int64)


def _of_codes(x: IntArray, y: IntArray) -> float:
    """ρ of numbers given by their order: ranks are counted, nothing is sorted."""
    if len(x) < 2:
        return float("nan")
    a, b = _centred_ranks(x), _centred_ranks(y)
    # Not a @ b: threads of a BLAS cost more than such short sums.
    product, a_squared, b_squared = ((u * v).sum() for u, v in ((a, b), (a, a), (b, b)))
    norm = np.sqrt(a_squared * b_squared)
    return float(product / norm) if norm else float("nan")


def _centred_ranks(codes: IntArray) -> FloatArray:
    counts = np.bincount(codes)
    ranks: FloatArray = (np.cumsum(counts) - counts / 2 - len(codes) / 2)[codes]
    return ranks
