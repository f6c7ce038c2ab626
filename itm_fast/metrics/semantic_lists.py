"""What NCS and Semantic Recall read: of every query the retrieved items, their φ, and the items of most φ."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from itm_fast.choices import Query
from itm_fast.metrics.positives import Positives
from itm_fast.metrics.ranks import BothTopK
from itm_fast.metrics.retrieved import TopK
from itm_fast.ops.ranking import NO_ITEM
from itm_fast.similarities.scorers import Array, MatrixScorer, TileScorer, as_float_tensor

_CHUNK_PAIRS = 1 << 22  # of comparisons (query, retrieved item, relevant item) held at a time


class RelevanceSource(TileScorer, Protocol):
    """Relevance by tile and by pair; ``itm_fast.relevance.Corpus`` is one."""

    def pairs(self, image_ids: Tensor, caption_ids: Tensor, dtype: torch.dtype = ..., /) -> Tensor:
        """φ of image image_ids[i] and caption caption_ids[i]."""
        ...


Relevance: TypeAlias = Array | RelevanceSource


class _MatrixRelevance(MatrixScorer):
    """A matrix of φ that exists already; ``smallest`` is what was seen of it."""

    smallest = 0.0

    def __call__(self, rows: slice, columns: slice) -> Tensor:
        tile = as_float_tensor(super().__call__(rows, columns))
        if tile.numel():
            smallest, largest = (float(bound) for bound in tile.aminmax())
            if math.inf in (-smallest, largest):
                row, column = torch.nonzero(tile.isinf())[0].tolist()
                place = f"row (image) {rows.start + row}, column (caption) {columns.start + column}"
                raise ValueError(f"relevance is {float(tile[row, column])} at {place}; φ is finite")
            self.smallest = min(self.smallest, smallest)
        return tile

    def pairs(self, image_ids: Tensor, caption_ids: Tensor, dtype: torch.dtype = torch.float64, /) -> Tensor:
        if isinstance(self.sims, torch.Tensor):
            return self.sims[image_ids.to(self.sims.device), caption_ids.to(self.sims.device)].cpu().to(dtype)
        return as_float_tensor(np.asarray(self.sims[image_ids.numpy(), caption_ids.numpy()])).to(dtype)


def as_relevance(
    relevance: Relevance, n_images: int, n_captions: int, *, uncut_captions: bool = False
) -> RelevanceSource:
    """The source of φ of whatever a user may pass as ``relevance``.

    Args:
        relevance: (n_images, n_captions) matrix, tensor or array, also memory-mapped; or an encoded corpus.
        n_images: images of the similarities.
        n_captions: captions of the similarities.
        uncut_captions: whether ``relevance`` may hold captions beyond those of the similarities.

    Returns:
        A source with tiles and pairs.

    Raises:
        TypeError: anything else.
        ValueError: sizes that are not those of the similarities.
    """
    source: RelevanceSource
    if isinstance(relevance, (torch.Tensor, np.ndarray)):
        if relevance.ndim != 2:
            raise ValueError(f"relevance has shape {tuple(relevance.shape)}, expected (n_images, n_captions)")
        source = _MatrixRelevance(relevance)
    elif hasattr(relevance, "pairs") and isinstance(relevance, TileScorer):
        source = relevance
    else:
        raise TypeError(
            f"relevance is a {type(relevance).__name__}, expected a (n_images, n_captions) tensor or array, or a "
            "corpus encoded by Cider.encode"
        )
    given, wanted = (source.n_images, source.n_captions), (n_images, n_captions)
    if given == wanted or (uncut_captions and given[0] == n_images and given[1] >= n_captions):
        return source
    turned = "; it looks transposed: rows are images, so pass relevance.T" if given == wanted[::-1] else ""
    raise ValueError(f"relevance is {given[0]} x {given[1]}, but sims is {n_images} x {n_captions}{turned}")


@dataclass(frozen=True, eq=False)
class SemanticLists:
    """Lists of every query of one direction; numbers are of the whole set.

    Attributes:
        retrieved: (n_queries, k) int64, items by descending similarity; NO_ITEM where the gallery has fewer.
        phi: (n_queries, k) float64, their φ; 0 where there is none.
        ideal: items of largest φ, (n_queries, k'), descending.
    """

    retrieved: Tensor
    phi: Tensor
    ideal: TopK


def own_items(positives: Positives, query: Query) -> Tensor:
    """Items that belong to each query, (n_queries, most) int64, -1 where it has fewer."""
    if query == "image":
        return torch.from_numpy(positives.padded())
    return torch.from_numpy(positives.caption_to_image)[:, None]


def semantic_lists(
    query: Query,
    top: BothTopK,
    ideal: BothTopK,
    source: RelevanceSource,
    queries: slice,
    *,
    k: int,
    own: Tensor | None,
) -> SemanticLists:
    """Lists of the queries of one direction.

    Args:
        query: the direction.
        top: items by similarity, at least k beside the own ones of a query.
        ideal: items by φ.
        source: φ of pairs.
        queries: numbers of the queries that ``top`` and ``ideal`` hold.
        k: items to keep of ``top``.
        own: (n_queries, most) items to leave out of both (``own_items``), or None to keep all.

    Returns:
        The lists.
    """
    by_similarity = top.image if query == "image" else top.caption
    by_phi = ideal.image if query == "image" else ideal.caption
    if own is not None:
        by_similarity, by_phi = without(by_similarity, own), without(by_phi, own)
    retrieved = by_similarity.indices[:, :k]
    missing = retrieved == NO_ITEM
    asking = torch.arange(queries.start, queries.stop)[:, None].expand_as(retrieved)
    pairs = (asking, retrieved) if query == "image" else (retrieved, asking)
    images, captions = (ids.masked_fill(missing, 0).flatten() for ids in pairs)
    phi = source.pairs(images, captions, torch.float64).cpu().reshape(retrieved.shape).masked_fill(missing, 0)
    values = by_phi.values.double().masked_fill(by_phi.indices == NO_ITEM, 0)
    return SemanticLists(retrieved, phi, TopK(values, by_phi.indices))


def without(top: TopK, own: Tensor) -> TopK:
    """The lists without each query's own items; what remains keeps its order, places at the end become NO_ITEM.

    Args:
        top: lists of every query.
        own: (n_queries, most) int64 (``own_items``), -1 where a query has fewer.
    """
    owned = (top.indices[:, :, None] == own[:, None, :]).any(2)
    order = owned.to(torch.uint8).argsort(dim=1, stable=True)
    indices = top.indices.masked_fill(owned, NO_ITEM).gather(1, order)
    return TopK(top.values.gather(1, order), indices)


def hits(retrieved: Tensor, relevant: Tensor) -> Tensor:
    """Which retrieved items are relevant: (n_queries, k) bool.

    Args:
        retrieved: (n_queries, k) int64, NO_ITEM where there is none.
        relevant: (n_queries, m) int64, -1 or NO_ITEM where there are fewer.
    """
    relevant = relevant.masked_fill(relevant == NO_ITEM, -1)
    step = max(1, _CHUNK_PAIRS // max(1, retrieved.shape[1] * relevant.shape[1]))
    chunks = zip(torch.split(retrieved, step), torch.split(relevant, step), strict=True)
    found = [(some[:, :, None] == ours[:, None, :]).any(2) for some, ours in chunks]
    return torch.cat(found) if found else torch.zeros(retrieved.shape, dtype=torch.bool)
