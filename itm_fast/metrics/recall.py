"""Recall at k, median and mean rank, rsum: formulas over ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from itm_fast.choices import Query, perhaps
from itm_fast.files.owners import OwnersLike
from itm_fast.metrics.counting import Ranks
from itm_fast.metrics.ranks import ranks
from itm_fast.similarities.scorers import Sims

PositivesKind: TypeAlias = Literal["any", "all"]


def recall_at_k(
    sims: Sims,
    ks: Sequence[int],
    *,
    query: Query = "image",
    positives: PositivesKind = "any",
    captions_per_image: int | None = None,
    caption_to_image: OwnersLike | None = None,
    remove_gt: bool = False,
) -> Tensor:
    """Recall at k in percent, mean over the queries.

    "any" (R^V): 1 if any positive is among the first k. "all" (R): |first k and positives| / |positives|, so that R@1
    of an image with five captions is at most 20 %. For caption queries, with one positive each, both are the same.

    Args:
        sims: (n_images, n_captions) similarities; or a pair of embeddings, or a tile scorer (``as_scorer``).
        ks: cut-offs, at least 1 each.
        query: "image" retrieves captions (i2t), "caption" images (t2i).
        positives: "any" or "all".
        captions_per_image: caption c belongs to image c // captions_per_image (default 5).
        caption_to_image: the row of each caption's image, instead of that rule: (n_captions,) integers, or as
            {caption: image} or {image: [captions]}. Images without captions are no queries.
        remove_gt: must be False. It is here because the metrics that read a relevance matrix have it.

    Returns:
        (len(ks),) float64, percent; NaN if there is no query. Equal scores: lower index first.

    Raises:
        ValueError: NaN in sims, sizes that do not fit, a cut-off below 1, unknown query or positives, remove_gt.
        TypeError: unsupported types.

    Source: R^V: fartashf/vsepp and kuanghuei/SCAN evaluation.py; R and R^V: Eq. 1 and 2 of the SAM/NCS paper.

    Example:
        >>> sims = torch.tensor([[0.9, 0.2, 0.4, 0.3], [0.8, 0.1, 0.7, 0.6]])
        >>> recall_at_k(sims, (1, 2, 3), captions_per_image=2)
        tensor([ 50., 100., 100.], dtype=torch.float64)
        >>> recall_at_k(sims, (1, 2, 3), positives="all", captions_per_image=2)
        tensor([25., 50., 75.], dtype=torch.float64)
    """
    if remove_gt:
        raise ValueError(
            "remove_gt=True leaves recall_at_k no positives to find: a query's own captions or image are all it has. "
            "Use semantic_recall_at_k, which takes its positives from a relevance matrix"
        )
    check_positives(positives)
    ks = checked_ks(ks)
    found = ranks(sims, query=query, captions_per_image=captions_per_image, caption_to_image=caption_to_image)
    return recall_of_ranks(found.best, ks) if positives == "any" else recall_of_all(found, ks)


def checked_ks(ks: Sequence[int]) -> tuple[int, ...]:
    """The cut-offs as plain integers; ValueError or TypeError unless they are integers of at least 1."""
    if not hasattr(ks, "__len__"):
        raise TypeError(f"ks is {ks!r:.60}, expected cut-offs such as (1, 5, 10)")
    if not len(ks):
        raise ValueError("ks is empty, expected cut-offs such as (1, 5, 10)")
    for k in ks:
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)):
            raise TypeError(f"ks holds {k!r}, expected integers")
        if k < 1:
            raise ValueError(f"ks holds {k}, expected at least 1")
    return tuple(int(k) for k in ks)


def check_positives(positives: str) -> None:
    """Raise ValueError unless ``positives`` is "any" or "all"."""
    if positives not in ("any", "all"):
        near = perhaps(positives, ("any", "all"))
        raise ValueError(f'positives is {positives!r}, expected "all" (R) or "any" (R^V){near}')


def recall_of_ranks(best: Tensor, ks: Sequence[int]) -> Tensor:
    """R^V@k = 100 mean(rank < k), over the queries that have a positive.

    Args:
        best: (n_queries,) int64, 0-based rank of the best positive, -1 where a query has none.
        ks: cut-offs.

    Returns:
        (len(ks),) float64, percent.

    Example:
        >>> recall_of_ranks(torch.tensor([0, 3, -1, 7, 1]), (1, 5))
        tensor([25., 75.], dtype=torch.float64)
    """
    queries = best[best >= 0]
    return 100.0 * torch.stack([(queries < k).double().mean() for k in ks])


def recall_of_all(ranks: Ranks, ks: Sequence[int]) -> Tensor:
    """R@k = 100 mean(positives found among the first k / positives).

    Args:
        ranks: ranks of every positive.
        ks: cut-offs.

    Returns:
        (len(ks),) float64, percent.

    Example:
        >>> from itm_fast.metrics import ranks
        >>> recall_of_all(ranks(torch.eye(2), captions_per_image=1), (1,))
        tensor([100.], dtype=torch.float64)
    """
    queries = ranks.n_positives > 0
    positives, n_positives = ranks.positives[queries], ranks.n_positives[queries]
    found = [((positives >= 0) & (positives < k)).sum(1) for k in ks]
    return 100.0 * torch.stack([(n.double() / n_positives).mean() for n in found])


def median_rank(best: Tensor | npt.ArrayLike) -> float:
    """Median rank, 1-based: floor(median) + 1.

    Args:
        best: (n_queries,) 0-based ranks; negative ones (queries without a positive) are left out.

    Returns:
        The median rank, NaN without queries.

    Source: kuanghuei/SCAN evaluation.py.

    Example:
        >>> median_rank([0, 1, 2, 9])
        2.0
    """
    queries = _queries(best)
    return math.floor(np.median(queries.numpy())) + 1.0 if len(queries) else math.nan


def mean_rank(best: Tensor | npt.ArrayLike) -> float:
    """Mean rank, 1-based: mean + 1.

    Args:
        best: (n_queries,) 0-based ranks; negative ones (queries without a positive) are left out.

    Returns:
        The mean rank, NaN without queries.

    Source: kuanghuei/SCAN evaluation.py.

    Example:
        >>> mean_rank([0, 1, 2, 9])
        4.0
    """
    return float(_queries(best).mean() + 1)


def rsum(i2t: Tensor | npt.ArrayLike, t2i: Tensor | npt.ArrayLike) -> float:
    """Sum of the recalls of both directions: at most 600 for R@1, R@5 and R@10.

    Args:
        i2t: (3,) percent, recall at 1, 5 and 10 of image queries.
        t2i: (3,) percent, of caption queries.

    Returns:
        The sum.

    Example:
        >>> rsum([50.0, 70.0, 80.0], [40.0, 60.0, 75.0])
        375.0
    """
    return sum(float(torch.as_tensor(recalls, dtype=torch.float64).sum()) for recalls in (i2t, t2i))


def _queries(best: Tensor | npt.ArrayLike) -> Tensor:
    """The ranks of queries that have a positive, float64."""
    values = torch.as_tensor(best).double().cpu()
    return values[values >= 0]
