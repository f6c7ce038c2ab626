"""Ranks of the positives in both directions, in one pass over the tiles of a similarity matrix; no percentages here."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from itm_fast.choices import Query, perhaps
from itm_fast.files.owners import OwnersLike
from itm_fast.metrics.counting import RankCounter, Ranks, positive_scores
from itm_fast.metrics.positives import Positives, positives_of
from itm_fast.metrics.retrieved import TopK, TopKeeper
from itm_fast.similarities.scorers import IntArray, Sims, TileScorer, as_scorer
from itm_fast.similarities.tiles import CHUNK_BYTES, Collector, Progress, Tiles, everything, tile_sims
from itm_fast.similarities.two_way import TwoWayScorer, of_query


@dataclass(frozen=True, eq=False)
class BothTopK:
    """The best items of both directions: captions for images, and images for captions; numbers are of the whole set."""

    image: TopK
    caption: TopK


@dataclass(frozen=True, eq=False)
class BothRanks:
    """What one pass over the matrix yields.

    Attributes:
        image: ranks of the captions for image queries (i2t), whole gallery.
        caption: ranks of the image for caption queries (t2i), whole gallery.
        image_folds: as ``image``, one entry a fold, gallery and queries of that fold; empty without folds.
        caption_folds: as ``caption``, likewise.
        top: the k best items of every query, whole gallery.
        top_folds: likewise of each fold; a fold with fewer than k items leaves the last places at NO_ITEM.
        dtype: the type in which the similarities were compared.
    """

    image: Ranks
    caption: Ranks
    image_folds: tuple[Ranks, ...]
    caption_folds: tuple[Ranks, ...]
    top: BothTopK
    top_folds: tuple[BothTopK, ...]
    dtype: torch.dtype


def ranks(
    sims: Sims,
    *,
    query: Query = "image",
    captions_per_image: int | None = None,
    caption_to_image: OwnersLike | None = None,
) -> Ranks:
    """0-based ranks of the positives of every query, by counting instead of sorting.

    rank = number of items before it, higher score first, then lower index.

    Args:
        sims: (n_images, n_captions) real numbers; or a pair of embeddings, or a tile scorer (``as_scorer``).
        query: "image" ranks captions for images (i2t), "caption" images for captions (t2i).
        captions_per_image: caption c belongs to image c // captions_per_image (default 5).
        caption_to_image: the row of each caption's image, instead of that rule: (n_captions,) integers, or as
            {caption: image} or {image: [captions]}.

    Returns:
        Ranks of the best positive (and its bounds under ties) and of all positives.

    Raises:
        ValueError: NaN in sims, sizes that do not fit, an unknown query.
        TypeError: unsupported types.

    Source: the bounds under ties are those of the strict and the weak order; kuanghuei/SCAN evaluation.py lies between.

    Example:
        >>> ranks(torch.tensor([[0.9, 0.1, 0.5, 0.2]]), captions_per_image=4).best
        tensor([0])
    """
    check_query(query)
    scorer = as_scorer(sims)
    positives = positives_of(scorer, captions_per_image, caption_to_image)
    return one_way(scorer, positives, query)[0]


@torch.no_grad()
def one_way(scorer: TileScorer, positives: Positives, query: Query, k: int = 0) -> tuple[Ranks, TopK]:
    """Ranks and the k best items of one direction, in one pass after a first look at the positive pairs.

    Args:
        scorer: similarities by tile.
        positives: which pairs are positive; its sizes are the scorer's.
        query: the direction.
        k: items to list for every query.

    Returns:
        The ranks, and the lists.

    Raises:
        ValueError: NaN in a tile, a tile of a wrong shape.
    """
    n_sims = tile_sims(CHUNK_BYTES)
    captions = torch.from_numpy(positives.padded())
    scores = positive_scores(Tiles(of_query(scorer, query)), captions, n_sims)
    index, n_queries = captions, positives.n_images
    if query == "caption":
        scores, index = _of_captions(scores, captions, positives)
        n_queries = positives.n_captions
    counter, keeper = RankCounter(query, scores, index), TopKeeper(query, n_queries, k, scores.dtype)
    Tiles(scorer).collect(everything(scorer), n_sims, (counter, keeper) if k else (counter,), ())
    return counter.ranks(), keeper.topk()


def _of_captions(scores: Tensor, captions: Tensor, positives: Positives) -> tuple[Tensor, Tensor]:
    """Scores (n_images, slots) of positives turned to caption queries, (n_captions, 1), and their images, likewise."""
    turned = scores.new_empty(positives.n_captions, 1)
    turned[captions[captions >= 0], 0] = scores[captions >= 0]
    return turned, torch.from_numpy(positives.caption_to_image)[:, None]


def check_query(query: str) -> None:
    """Raise ValueError unless ``query`` names a direction."""
    if query not in ("image", "caption"):
        near = perhaps(query, ("caption", "image"))
        raise ValueError(
            f'query is {query!r}, expected "caption" (images are retrieved) or "image" (captions are){near}'
        )


@torch.no_grad()
def stream_ranks(
    scorer: TileScorer,
    positives: Positives,
    *,
    k: int = 0,
    folds: int | None = None,
    also: Sequence[Collector] = (),
    chunk_bytes: int = CHUNK_BYTES,
    progress: Progress | None = None,
) -> BothRanks:
    """Ranks and best items of both directions in one pass over the tiles, after a first look at the positive pairs.

    Args:
        scorer: similarities by tile.
        positives: which pairs are positive; its sizes are the scorer's.
        k: items to list for every query, at most as many as its gallery has; 0: none.
        folds: also rank inside that many folds, in file order; tiles are cut at their borders, nothing is scored twice.
        also: whatever else shall see every tile of this pass.
        chunk_bytes: bound of one tile, counted as 8 bytes a similarity.
        progress: called with (pairs done, pairs in all).

    Returns:
        Ranks and lists of both directions, for the whole gallery and for each fold.

    Raises:
        ValueError: NaN in a tile, a tile of a wrong shape, chunk_bytes too small, folds that do not divide.

    Example:
        >>> both = stream_ranks(as_scorer(torch.eye(4)), positives_of(as_scorer(torch.eye(4)), 1), folds=2)
        >>> both.caption.best, len(both.caption_folds)
        (tensor([0, 0, 0, 0]), 2)
    """
    n_sims = tile_sims(chunk_bytes)
    bounds = positives.fold_bounds(1 if folds is None else folds)
    tiles = Tiles(scorer, progress)
    captions = torch.from_numpy(positives.padded())
    scores = positive_scores(Tiles(of_query(scorer, "image")), captions, n_sims)
    turned = scores
    if isinstance(scorer, TwoWayScorer):
        turned = positive_scores(Tiles(of_query(scorer, "caption")), captions, n_sims)
    dtype = torch.promote_types(scores.dtype, turned.dtype)
    of_captions, owners = _of_captions(turned, captions, positives)

    def counters() -> tuple[RankCounter, RankCounter]:
        return RankCounter("image", scores, captions), RankCounter("caption", of_captions, owners)

    (image, caption), keepers = counters(), top_keepers(scorer, k, dtype)
    if folds is None:
        tiles.collect(bounds, n_sims, (image, caption, *keepers, *also), ())
        return BothRanks(image.ranks(), caption.ranks(), (), (), both_top(keepers), (), dtype)
    fold_counters, fold_keepers = counters(), top_keepers(scorer, k, dtype)
    tiles.collect(bounds, n_sims, (image, caption, *keepers, *also), (*fold_counters, *fold_keepers))
    image_folds, caption_folds = (
        tuple(ranks.subset(fold) for fold in _slices(cut))
        for ranks, cut in zip((counter.ranks() for counter in fold_counters), bounds, strict=True)
    )
    return BothRanks(
        image.ranks(),
        caption.ranks(),
        image_folds,
        caption_folds,
        both_top(keepers),
        _of_folds(both_top(fold_keepers), bounds),
        dtype,
    )


@torch.no_grad()
def stream_topk(
    scorer: TileScorer,
    k: int,
    bounds: tuple[IntArray, IntArray] | None = None,
    *,
    chunk_bytes: int = CHUNK_BYTES,
    progress: Progress | None = None,
    what: str = "sims",
) -> tuple[BothTopK, tuple[BothTopK, ...]]:
    """The k best items of every query of both directions in one pass over the tiles.

    Args:
        scorer: similarities, or relevance, by tile.
        k: items to list for every query.
        bounds: first row and column of each fold and the end of the last (``Positives.fold_bounds``); None: no folds.
        chunk_bytes: bound of one tile, counted as 8 bytes a similarity.
        progress: called with (pairs done, pairs in all).
        what: the name of the argument in errors.

    Returns:
        The lists of the whole set, and of each fold (none without ``bounds``).

    Raises:
        ValueError: NaN in a tile, a tile of a wrong shape, chunk_bytes too small.
    """
    n_sims = tile_sims(chunk_bytes)
    tiles = Tiles(scorer, progress, what)
    dtype = tiles.dtype()
    whole, of_folds = top_keepers(scorer, k, dtype), top_keepers(scorer, k if bounds is not None else 0, dtype)
    tiles.collect(everything(scorer) if bounds is None else bounds, n_sims, whole, of_folds)
    return both_top(whole), () if bounds is None else _of_folds(both_top(of_folds), bounds)


def top_keepers(scorer: TileScorer, k: int, dtype: torch.dtype) -> tuple[TopKeeper, TopKeeper]:
    """What keeps the k best items of every query of both directions, or all of a smaller gallery."""
    return (
        TopKeeper("image", scorer.n_images, min(k, scorer.n_captions), dtype),
        TopKeeper("caption", scorer.n_captions, min(k, scorer.n_images), dtype),
    )


def both_top(keepers: tuple[TopKeeper, TopKeeper]) -> BothTopK:
    """The lists of both directions, once every tile has been added."""
    image, caption = keepers
    return BothTopK(image.topk(), caption.topk())


def _of_folds(both: BothTopK, bounds: tuple[IntArray, IntArray]) -> tuple[BothTopK, ...]:
    folds = zip(_slices(bounds[0]), _slices(bounds[1]), strict=True)
    return tuple(
        BothTopK(
            TopK(both.image.values[rows], both.image.indices[rows]),
            TopK(both.caption.values[columns], both.caption.indices[columns]),
        )
        for rows, columns in folds
    )


def _slices(cut: IntArray) -> list[slice]:
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(cut)]
