"""Normalised Cumulative Semantic score: φ of what is retrieved, over the most that could be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy.typing as npt
import torch
from torch import Tensor

from itm_fast.choices import Query, perhaps
from itm_fast.files.owners import OwnersLike
from itm_fast.metrics.positives import Positives, positives_of
from itm_fast.metrics.ranks import BothTopK, check_query, stream_ranks, stream_topk
from itm_fast.metrics.recall import checked_ks, rsum
from itm_fast.metrics.semantic_lists import (
    Relevance,
    RelevanceSource,
    SemanticLists,
    as_relevance,
    hits,
    own_items,
    semantic_lists,
)
from itm_fast.metrics.semantic_recall import check_m, related_images, released_hits
from itm_fast.similarities.scorers import Sims, as_scorer

NCSVariant: TypeAlias = Literal["released", "eq5", "order", "soft"]

_NO_DIVISION_BY_ZERO = 1e-10  # the released code's, on the mean
_NO_DIVISION_BY_ZERO_SOFT = 1e-20  # likewise, on the sum


def ncs_at_k(
    sims: Sims,
    relevance: Relevance,
    ks: Sequence[int],
    *,
    query: Query = "image",
    remove_gt: bool = False,
    variant: NCSVariant = "released",
    m: int | None = None,
    captions_per_image: int | None = None,
    caption_to_image: OwnersLike | None = None,
    uncut_captions: bool = False,
) -> Tensor:
    """Normalised Cumulative Semantic score at k in percent, mean over the queries.

    "released" (all published tables): sum of φ over the first k retrieved / the largest such sum. "order": both sums
    weighted with log2(k - r + 1) for rank r = 0 ... k - 1. "eq5": the numerator runs only over retrieved items that are
    relevant, the denominator over all relevant ones; relevant are the k items of largest φ, or with ``m`` those of the
    released Semantic Recall. "soft": the latter divided once more by the number of relevant items, as the released code
    does.

    Args:
        sims: (n_images, n_captions) similarities; or a pair of embeddings, or a tile scorer.
        relevance: (n_images, n_captions) φ, or a corpus encoded by ``Cider.encode``: then no matrix is made.
        ks: cut-offs, at least 1 each.
        query: "image" retrieves captions (i2t), "caption" images (t2i).
        remove_gt: leave the query's own captions or image out of the retrieved and of the ideal list: NCS(N).
        variant: "released", "eq5", "order" or "soft".
        m: related images of a query, for "eq5" (optional) and "soft" (needed).
        captions_per_image: caption c belongs to image c // captions_per_image (default 5).
        caption_to_image: the row of each caption's image, instead of that rule: (n_captions,) integers, or as
            {caption: image} or {image: [captions]}.
        uncut_captions: ``relevance`` may have captions beyond those of ``sims``, and ideal lists run over all of them,
            as in the released script on the first fold of MSCOCO; image queries then score too low.

    Returns:
        (len(ks),) float64, percent; 0 for a query without relevance. Equal similarities: lower index first.

    Raises:
        ValueError: NaN, sizes that do not fit, a cut-off or m below 1, an unknown option, "soft" without m.
        TypeError: unsupported types.

    Source: Biten et al., Is An Image Worth Five Sentences?, WACV 2022, equation 5; furkanbiten/ncs_metric, metric.py;
        AndresPMD/semantic_adaptive_margin ("order").

    Example:
        >>> sims = torch.tensor([[0.9, 0.1, 0.5, 0.2], [0.1, 0.9, 0.4, 0.3]])
        >>> phi = torch.tensor([[3.0, 2.0, 0.0, 1.0], [0.0, 1.0, 2.0, 3.0]])
        >>> ncs_at_k(sims, phi, (1, 2), captions_per_image=2)
        tensor([66.6667, 60.0000], dtype=torch.float64)
    """
    check_query(query)
    ks = checked_ks(ks)
    if variant not in ("eq5", "order", "released", "soft"):
        near = perhaps(variant, ("eq5", "order", "released", "soft"))
        raise ValueError(f'variant is {variant!r}, expected "eq5", "order", "released" or "soft"{near}')
    if variant == "soft" and m is None:
        raise ValueError('variant "soft" needs m, the number of related images')
    if m is not None and check_m(m) and variant not in ("eq5", "soft"):
        raise ValueError(f'm is {m}, but variant "{variant}" has no related images; leave m out')
    scorer = as_scorer(sims)
    truth = positives_of(scorer, captions_per_image, caption_to_image)
    source = as_relevance(relevance, scorer.n_images, scorer.n_captions, uncut_captions=uncut_captions)
    spare = spare_items(truth)
    top = stream_ranks(scorer, truth, k=max(ks) + spare).top
    ideal, _ = stream_topk(source, max(ks) + spare, what="relevance")
    if uncut_captions:
        caption = ideal.caption
        some = type(caption)(caption.values[: scorer.n_captions], caption.indices[: scorer.n_captions])
        ideal = BothTopK(ideal.image, some)
    own = own_items(truth, query) if remove_gt else None
    n_queries = scorer.n_images if query == "image" else scorer.n_captions
    lists = semantic_lists(query, top, ideal, source, slice(0, n_queries), k=max(ks), own=own)
    if variant in ("released", "order"):
        return ncs_of_lists(lists, ks, by_order=variant == "order")
    if m is None:
        return _eq5_of_best(lists, ks)
    images = related_images(ideal.caption, max(ks), truth, remove_gt=remove_gt)[:, :m]
    return _eq5_of_related(lists, images, truth, source, query, ks, divide_again=variant == "soft")


def spare_items(positives: Positives) -> int:
    """Items to list beyond k so that k remain when a query's own ones are left out."""
    return max(1, int(positives.captions_of_image.max(initial=0)))


def ncs_of_lists(lists: SemanticLists, ks: Sequence[int], *, by_order: bool = False) -> Tensor:
    """NCS of lists: 100 mean(sum of φ retrieved / sum of φ ideal), (len(ks),) float64.

    Args:
        lists: of every query, at least max(ks) items where the gallery has them.
        ks: cut-offs.
        by_order: weight ranks with log2(k - r + 1).
    """
    return 100.0 * torch.stack([of_queries.mean() for of_queries in ncs_of_queries(lists, ks, by_order=by_order)])


def ncs_of_queries(lists: SemanticLists, ks: Sequence[int], *, by_order: bool = False) -> list[Tensor]:
    """NCS of every query: sum of φ retrieved / sum of φ ideal, (n_queries,) float64 a cut-off, 0 to 1.

    Args:
        lists: of every query, at least max(ks) items where the gallery has them.
        ks: cut-offs.
        by_order: weight ranks with log2(k - r + 1).
    """
    scores = []
    for k in ks:
        found, best = lists.phi[:, :k], lists.ideal.values[:, :k]
        if by_order:
            weights = torch.log2(torch.arange(k, 0, -1, dtype=torch.float64) + 1)
            found, best = found * weights[: found.shape[1]], best * weights[: best.shape[1]]
        scores.append(found.mean(1) / (best.mean(1) + _NO_DIVISION_BY_ZERO))
    return scores


def _eq5_of_best(lists: SemanticLists, ks: Sequence[int]) -> Tensor:
    scores = []
    for k in ks:
        relevant = hits(lists.retrieved[:, :k], lists.ideal.indices[:, :k])
        found = (lists.phi[:, :k] * relevant).sum(1)
        scores.append((found / (lists.ideal.values[:, :k].sum(1) + _NO_DIVISION_BY_ZERO_SOFT)).mean())
    return 100.0 * torch.stack(scores)


def _eq5_of_related(
    lists: SemanticLists,
    images: Tensor,
    positives: Positives,
    source: RelevanceSource,
    query: Query,
    ks: Sequence[int],
    *,
    divide_again: bool,
) -> Tensor:
    relevant, n_relevant = released_hits(lists, images, positives, query)
    found = lists.phi * relevant
    attainable = _phi_of_related(images, positives, source, query) + _NO_DIVISION_BY_ZERO_SOFT
    scores = torch.stack([(found[:, :k].sum(1) / attainable).mean() for k in ks])
    return 100.0 * scores / (n_relevant if divide_again else 1)


def _phi_of_related(images: Tensor, positives: Positives, source: RelevanceSource, query: Query) -> Tensor:
    """φ of each query summed over its related items, (n_queries,) float64."""
    if query == "image":
        captions = torch.from_numpy(positives.padded())[images.clamp(min=0)]  # (n_images, m, T)
        missing = (captions < 0) | (images < 0)[:, :, None]
        asking = torch.arange(len(images))[:, None, None].expand_as(captions)
        pairs = asking, captions
    else:
        related = images[torch.from_numpy(positives.caption_to_image)]  # (n_captions, m)
        missing = related < 0
        pairs = related, torch.arange(len(related))[:, None].expand_as(related)
    rows, columns = (ids.masked_fill(missing, 0).flatten() for ids in pairs)
    phi = source.pairs(rows, columns, torch.float64).cpu().reshape(missing.shape).masked_fill(missing, 0)
    return phi.flatten(1).sum(1)


def nsum(i2t: Tensor | npt.ArrayLike, t2i: Tensor | npt.ArrayLike) -> float:
    """Sum of the NCS of both directions: at most 600 for NCS@1, NCS@5 and NCS@10.

    Args:
        i2t: (3,) percent, NCS at 1, 5 and 10 of image queries.
        t2i: (3,) percent, of caption queries.

    Returns:
        The sum.

    Example:
        >>> nsum([50.0, 55.0, 60.0], [40.0, 45.0, 50.0])
        300.0
    """
    return rsum(i2t, t2i)
