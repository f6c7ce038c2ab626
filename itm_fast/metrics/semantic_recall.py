"""Semantic Recall: which of the items of most relevance φ are retrieved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from itm_fast.choices import Query, perhaps
from itm_fast.files.owners import OwnersLike
from itm_fast.metrics.positives import Positives, positives_of
from itm_fast.metrics.ranks import check_query, stream_ranks, stream_topk
from itm_fast.metrics.recall import PositivesKind, check_positives, checked_ks
from itm_fast.metrics.retrieved import TopK
from itm_fast.metrics.semantic_lists import (
    Relevance,
    SemanticLists,
    as_relevance,
    hits,
    own_items,
    semantic_lists,
)
from itm_fast.ops.ranking import NO_ITEM
from itm_fast.similarities.scorers import Sims, as_scorer

SemanticRecallVariant: TypeAlias = Literal["paper", "released"]


def semantic_recall_at_k(
    sims: Sims,
    relevance: Relevance,
    ks: Sequence[int],
    *,
    m: int,
    query: Query = "image",
    remove_gt: bool = False,
    variant: SemanticRecallVariant = "paper",
    positives: PositivesKind = "all",
    captions_per_image: int | None = None,
    caption_to_image: OwnersLike | None = None,
) -> Tensor:
    """Semantic Recall in percent: |first k and relevant| / |relevant|, mean over the queries.

    "paper": relevant are the m items of largest φ for the query. "released", which works on images: every caption of
    the image (for a caption query: of its image) lists the images of largest φ, as many as the largest cut-off; φ of an
    image in several lists is added; the m best images are relevant (image queries: with all their captions).

    Args:
        sims: (n_images, n_captions) similarities; or a pair of embeddings, or a tile scorer.
        relevance: (n_images, n_captions) φ, or a corpus encoded by ``Cider.encode``.
        ks: cut-offs, at least 1 each.
        m: relevant items ("released": images) of a query, at least 1.
        query: "image" retrieves captions (i2t), "caption" images (t2i).
        remove_gt: leave the query's own captions or image out of the retrieved and of the relevant ones.
        variant: "paper" or "released".
        positives: "all", or "any": 100 where any relevant item is among the first k.
        captions_per_image: caption c belongs to image c // captions_per_image (default 5).
        caption_to_image: the row of each caption's image, instead of that rule: (n_captions,) integers, or as
            {caption: image} or {image: [captions]}.

    Returns:
        (len(ks),) float64, percent. Equal similarities, and equal φ: lower index first.

    Raises:
        ValueError: NaN, sizes that do not fit, a cut-off or m below 1, an unknown option.
        TypeError: unsupported types.

    Source: Biten et al., Is An Image Worth Five Sentences?, WACV 2022; furkanbiten/ncs_metric, metric.py ("hard").

    Example:
        >>> sims = torch.tensor([[0.9, 0.1, 0.5, 0.2], [0.1, 0.9, 0.4, 0.3]])
        >>> phi = torch.tensor([[3.0, 2.0, 0.0, 1.0], [0.0, 1.0, 2.0, 3.0]])
        >>> semantic_recall_at_k(sims, phi, (1, 2), m=2, captions_per_image=2)
        tensor([25., 50.], dtype=torch.float64)
    """
    check_query(query)
    check_positives(positives)
    ks = checked_ks(ks)
    check_m(m)
    if variant not in ("paper", "released"):
        near = perhaps(variant, ("paper", "released"))
        raise ValueError(f'variant is {variant!r}, expected "paper" or "released"{near}')
    scorer = as_scorer(sims)
    truth = positives_of(scorer, captions_per_image, caption_to_image)
    source = as_relevance(relevance, scorer.n_images, scorer.n_captions)
    spare = int(truth.captions_of_image.max(initial=0)) if remove_gt else 0
    top = stream_ranks(scorer, truth, k=max(ks) + spare).top
    ideal, _ = stream_topk(source, max(max(ks), m) + spare, what="relevance")
    n_queries = scorer.n_images if query == "image" else scorer.n_captions
    own = own_items(truth, query) if remove_gt else None
    lists = semantic_lists(query, top, ideal, source, slice(0, n_queries), k=max(ks), own=own)
    if variant == "paper":
        found, n_relevant = paper_hits(lists, m), m
    else:
        images = related_images(ideal.caption, max(ks), truth, remove_gt=remove_gt)[:, :m]
        found, n_relevant = released_hits(lists, images, truth, query)
    return recall_of_hits(found, n_relevant, ks, positives)


def check_m(m: int) -> int:
    """Returns m; ValueError unless it is an integer of at least 1."""
    if isinstance(m, bool) or not isinstance(m, int) or m < 1:
        raise ValueError(f"m is {m!r}, expected an integer of at least 1")
    return m


def paper_hits(lists: SemanticLists, m: int) -> Tensor:
    """Which retrieved items are among the m of largest φ: (n_queries, k) bool."""
    return hits(lists.retrieved, lists.ideal.indices[:, :m])


def related_images(ideal_of_captions: TopK, k: int, positives: Positives, *, remove_gt: bool) -> Tensor:
    """Images by the φ that an image's captions give them, best first.

    Args:
        ideal_of_captions: images of largest φ for every caption, own image included.
        k: how many of them count.
        positives: which captions are whose.
        remove_gt: leave the image itself out.

    Returns:
        (n_images, most captions of an image · k) int64, -1 where there are fewer.

    Source: furkanbiten/ncs_metric, metric.py, get_intersection.
    """
    captions = torch.from_numpy(positives.padded())  # (n_images, T)
    missing = (captions < 0)[:, :, None]
    lists = ideal_of_captions.indices[:, :k][captions.clamp(min=0)].masked_fill(missing, NO_ITEM).flatten(1)
    phi = ideal_of_captions.values[:, :k].double()[captions.clamp(min=0)].flatten(1)
    images, order = lists.sort(dim=1, stable=True)
    first = torch.ones_like(images, dtype=torch.bool)
    first[:, 1:] = images[:, 1:] != images[:, :-1]
    group = first.cumsum(1) - 1  # number of the image among those of its row
    sums = torch.zeros_like(phi).scatter_add_(1, group, phi.gather(1, order))
    members = torch.full_like(images, NO_ITEM).scatter_(1, group, images)
    own = torch.arange(positives.n_images)[:, None]
    dropped = (members == NO_ITEM) | (members == own) if remove_gt else members == NO_ITEM
    order = sums.masked_fill(dropped, -torch.inf).sort(dim=1, descending=True, stable=True).indices
    return members.masked_fill(dropped, -1).gather(1, order)


def released_hits(lists: SemanticLists, images: Tensor, positives: Positives, query: Query) -> tuple[Tensor, int]:
    """Which retrieved items belong to the related images, and how many items those have.

    Args:
        lists: lists of all queries.
        images: (n_images, m) related images of every image.
        positives: which captions are whose.
        query: the direction.

    Returns:
        (n_queries, k) bool, and the number that the released code divides by.
    """
    owners = torch.from_numpy(positives.caption_to_image)
    missing = lists.retrieved == NO_ITEM
    if query == "image":
        of_retrieved = owners[lists.retrieved.masked_fill(missing, 0)].masked_fill(missing, NO_ITEM)
        return hits(of_retrieved, images), images.shape[1] * int(positives.captions_of_image.max(initial=0))
    return hits(lists.retrieved, images[owners]), images.shape[1]


def recall_of_hits(found: Tensor, n_relevant: int, ks: Sequence[int], positives: PositivesKind) -> Tensor:
    """Mean over the queries of hits among the first k / n_relevant ("any": of having one), percent, (len(ks),)."""
    if positives == "any":
        return 100.0 * torch.stack([found[:, :k].any(1).double().mean() for k in ks])
    return 100.0 * torch.stack([found[:, :k].sum(1).double().mean() / n_relevant for k in ks])
