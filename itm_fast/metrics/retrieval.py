"""Top-k and ranks of one direction, from scores, embeddings or a tile scorer; queries are rows, items columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from itm_fast.metrics.counting import RankCounter, positive_scores
from itm_fast.metrics.retrieved import TopK, TopKeeper
from itm_fast.similarities.scorers import Array, Sims, TileScorer, as_scorer
from itm_fast.similarities.tiles import CHUNK_BYTES, Progress, Tiles, everything, tile_sims
from itm_fast.similarities.two_way import of_query

# Items at a time: few queries would otherwise read a gallery of embeddings at once, beside its memory map.
_ITEMS = 8192

PositiveItems: TypeAlias = int | Tensor | npt.NDArray[np.integer] | Sequence[int] | Sequence[Sequence[int]]


class BestRanks(NamedTuple):
    """0-based rank of every query's best positive, -1 where it has none.

    Attributes:
        optimistic: (n_queries,) int64, items scored above it.
        pessimistic: (n_queries,) int64, non-positives scored at least as high.
    """

    optimistic: Tensor
    pessimistic: Tensor


@torch.no_grad()
def topk(
    queries: Sims,
    gallery: Array | int | None = None,
    k: int | None = None,
    *,
    chunk_bytes: int = CHUNK_BYTES,
    progress: Progress | None = None,
) -> TopK:
    """The k best gallery items of every query, exactly, without the matrix of all scores.

    topk(queries, gallery, k) for embeddings, topk(sims, k) for scores or a tile scorer.

    Args:
        queries: (n_queries, dim) embeddings, compared by dot product; or (n_queries, n_items) scores, or a tile scorer
            with ``n_images`` queries and ``n_captions`` items.
        gallery: (n_items, dim) embeddings; or k, where the first argument is scores.
        k: items to list, 1 ... n_items.
        chunk_bytes: bound of a tile of scores, counted as 8 bytes each.
        progress: called with (pairs done, pairs in all).

    Returns:
        values (n_queries, k), float32 or float64, and indices (n_queries, k) int64: higher score first, then lower
        index, on the CPU.

    Raises:
        ValueError: NaN in the scores, shapes that do not fit, k out of range.
        TypeError: unsupported types, k not an integer.

    Example:
        >>> topk(torch.tensor([[0.1, 0.9, 0.9, 0.3]]), k=2).indices
        tensor([[1, 2]])
    """
    if isinstance(gallery, int):
        if k is not None:
            raise TypeError(f"gallery is {gallery}, expected embeddings (n_items, dim) beside k")
        gallery, k = None, gallery
    if k is None:
        raise TypeError("k is missing: topk(queries, gallery, k) or topk(sims, k)")
    scorer = _scorer(queries, gallery)
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"k is {k!r}, expected an integer")
    if not 1 <= k <= scorer.n_captions:
        raise ValueError(f"k is {k}, expected 1 ... {scorer.n_captions}, the items of the gallery")
    tiles = Tiles(scorer, progress)
    keeper = TopKeeper("image", scorer.n_images, k, tiles.dtype())
    n_sims = min(tile_sims(chunk_bytes), max(1, scorer.n_images) * _ITEMS)
    tiles.collect(everything(scorer), n_sims, (keeper,), ())
    return keeper.topk()


@torch.no_grad()
def ranks(
    queries: Sims,
    gallery: Array | PositiveItems | None = None,
    positives: PositiveItems | None = None,
    *,
    chunk_bytes: int = CHUNK_BYTES,
    progress: Progress | None = None,
) -> BestRanks:
    """Rank of every query's best positive, by counting: nothing is sorted, nothing of size n_queries x n_items is made.

    ranks(queries, gallery, positives) for embeddings, ranks(sims, positives) for scores or a tile scorer.

    Args:
        queries: as in ``topk``.
        gallery: (n_items, dim) embeddings; or the positives, where the first argument is scores.
        positives: which items are right. A number p: items p·q ... p·q + p - 1 for query q (five captions an image), or
            item q // p where there are p times as many queries as items. (n_queries,) integers: the item of each query;
            (n_items,) integers: the query of each item. Or a list of items for every query, which may be empty.
        chunk_bytes: bound of a tile of scores, counted as 8 bytes each.
        progress: called with (pairs done, pairs in all).

    Returns:
        optimistic and pessimistic rank, each (n_queries,) int64.

    Raises:
        ValueError: NaN in the scores, shapes that do not fit, an item out of range.
        TypeError: unsupported types.

    Example:
        >>> ranks(torch.tensor([[0.1, 0.9, 0.9, 0.3], [0.8, 0.2, 0.4, 0.6]]), [[2], [1, 3]])
        BestRanks(optimistic=tensor([0, 1]), pessimistic=tensor([1, 1]))
    """
    if positives is None:
        gallery, positives = None, gallery
    if positives is None:
        raise TypeError("positives are missing: ranks(queries, gallery, positives) or ranks(sims, positives)")
    scorer = _scorer(queries, gallery)
    index = _positive_index(positives, scorer.n_images, scorer.n_captions)
    tiles, n_sims = Tiles(scorer, progress), tile_sims(chunk_bytes)
    counter = RankCounter("image", positive_scores(Tiles(of_query(scorer, "image")), index, n_sims), index)
    tiles.collect(everything(scorer), n_sims, (counter,), ())
    found = counter.ranks()
    return BestRanks(found.optimistic, found.pessimistic)


def _scorer(queries: Sims, gallery: object) -> TileScorer:
    if gallery is None:
        return as_scorer(queries)
    if not isinstance(queries, (Tensor, np.ndarray)) or not isinstance(gallery, (Tensor, np.ndarray)):
        kinds = f"{type(queries).__name__} and {type(gallery).__name__}"
        raise TypeError(f"queries and gallery are {kinds}, expected two tensors or arrays of embeddings (n, dim)")
    return as_scorer((queries, gallery))


def _positive_index(positives: PositiveItems, n_queries: int, n_items: int) -> Tensor:
    """Items of every query, (n_queries, most of a query) int64, ascending, -1 where it has fewer."""
    if isinstance(positives, (int, np.integer)) and not isinstance(positives, bool):
        return _by_rule(int(positives), n_queries, n_items)
    if not isinstance(positives, (Tensor, np.ndarray)):
        if not isinstance(positives, Sequence) or isinstance(positives, str):
            raise TypeError(
                f"positives is a {type(positives).__name__}, expected a number, integers, or a list a query"
            )
        if len(positives) and not all(isinstance(item, (int, np.integer)) for item in positives):
            return _by_list(positives, n_queries, n_items)
    mapping = torch.as_tensor(positives).cpu()
    if mapping.ndim != 1 or (len(mapping) and (mapping.is_floating_point() or mapping.dtype == torch.bool)):
        raise TypeError(f"positives has shape {tuple(mapping.shape)} and dtype {mapping.dtype}, expected (n,) integers")
    mapping = mapping.long()
    if len(mapping) == n_queries:
        return _checked(mapping[:, None], n_items)
    if len(mapping) == n_items:
        _checked(mapping[:, None], n_queries)
        lists: list[list[int]] = [[] for _ in range(n_queries)]
        for item, query in enumerate(mapping.tolist()):
            lists[query].append(item)
        return _padded(lists)
    raise ValueError(
        f"positives has {len(mapping)} entries, expected one a query ({n_queries}) or one an item ({n_items})"
    )


def _by_rule(per_query: int, n_queries: int, n_items: int) -> Tensor:
    if per_query >= 1 and n_items == n_queries * per_query:
        return torch.arange(n_items).reshape(n_queries, per_query)
    if per_query >= 1 and n_queries == n_items * per_query:
        return torch.arange(n_queries)[:, None] // per_query
    raise ValueError(
        f"positives is {per_query}, but {n_queries} queries and {n_items} items are not in that proportion; expected "
        f"{per_query} times as many of the one as of the other"
    )


def _by_list(positives: Sequence[Sequence[int]] | Sequence[int], n_queries: int, n_items: int) -> Tensor:
    if len(positives) != n_queries:
        raise ValueError(f"positives has {len(positives)} lists, expected one a query: {n_queries}")
    lists = []
    for query, items in enumerate(positives):
        if isinstance(items, (int, np.integer, str)) or not hasattr(items, "__iter__"):
            raise TypeError(f"positives[{query}] is {items!r:.40}, expected the list of that query's items")
        lists.append(sorted({int(item) for item in items}))
    index = _padded(lists)
    _checked(index.masked_fill(index < 0, 0) if any(lists) else index[:, :0], n_items)
    if any(items and items[0] < 0 for items in lists):
        raise ValueError(f"positives holds a negative item, expected 0 ... {n_items - 1}")
    return index


def _padded(lists: list[list[int]]) -> Tensor:
    width = max(map(len, lists), default=0)
    padded = [items + [-1] * (width - len(items)) for items in lists]
    return torch.tensor(padded, dtype=torch.int64).reshape(len(lists), width)


def _checked(index: Tensor, limit: int) -> Tensor:
    """The index itself, if all of it is inside 0 ... limit - 1."""
    if index.numel() and (int(index.min()) < 0 or int(index.max()) >= limit):
        raise ValueError(f"positives holds {int(index.min())} ... {int(index.max())}, expected 0 ... {limit - 1}")
    return index
