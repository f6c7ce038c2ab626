"""Ranks of the positives in both directions, in one pass over the tiles of a similarity matrix; no percentages here."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from itm_fast.metrics.counting import RankCounter, Ranks
from itm_fast.metrics.positives import IntArray, Positives, make_positives
from itm_fast.metrics.scorers import Array, Sims, TileScorer, as_float_tensor, as_scorer

Query: TypeAlias = Literal["image", "caption"]
Progress: TypeAlias = Callable[[int, int], None]

CHUNK_BYTES = 64 << 20
_BYTES_PER_SIM = 8  # float64, or float32 and one temporary of the scorer
# A positive tile of few images wastes little (it scores 5 * 256 captions an image), yet fills the units of a GEMM.
_POSITIVE_IMAGES, _POSITIVE_CAPTIONS = 256, 2048
# A block and its scratch stay in the second-level cache.
_BLOCK_ROWS, _BLOCK_COLUMNS = 128, 2048


@dataclass(frozen=True, eq=False)
class BothRanks:
    """What one pass over the matrix yields.

    Attributes:
        image: ranks of the captions for image queries (i2t), whole gallery.
        caption: ranks of the image for caption queries (t2i), whole gallery.
        image_folds: as ``image``, one entry a fold, gallery and queries of that fold; empty without folds.
        caption_folds: as ``caption``, likewise.
        dtype: the type in which the similarities were compared.
    """

    image: Ranks
    caption: Ranks
    image_folds: tuple[Ranks, ...]
    caption_folds: tuple[Ranks, ...]
    dtype: torch.dtype


def ranks(
    sims: Sims,
    *,
    query: Query = "image",
    captions_per_image: int | None = None,
    caption_to_image: npt.ArrayLike | Tensor | None = None,
) -> Ranks:
    """0-based ranks of the positives of every query, by counting instead of sorting.

    rank = number of items before it, higher score first, then lower index.

    Args:
        sims: (n_images, n_captions) real numbers; or a pair of embeddings, or a tile scorer (``as_scorer``).
        query: "image" ranks captions for images (i2t), "caption" images for captions (t2i).
        captions_per_image: caption c belongs to image c // captions_per_image (default 5).
        caption_to_image: (n_captions,) integers, instead of that rule.

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
    positives = make_positives(
        scorer.n_images, scorer.n_captions, captions_per_image=captions_per_image, caption_to_image=caption_to_image
    )
    both = stream_ranks(scorer, positives)
    return both.image if query == "image" else both.caption


def check_query(query: str) -> None:
    """Raise ValueError unless ``query`` names a direction."""
    if query not in ("image", "caption"):
        raise ValueError(f'query is {query!r}, expected "image" (captions are retrieved) or "caption" (images are)')


@torch.inference_mode()
def stream_ranks(
    scorer: TileScorer,
    positives: Positives,
    *,
    folds: int | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    progress: Progress | None = None,
) -> BothRanks:
    """Ranks of both directions in one pass over the tiles, after a first look at the positive pairs.

    Args:
        scorer: similarities by tile.
        positives: which pairs are positive; its sizes are the scorer's.
        folds: also rank inside that many folds, in file order; tiles are cut at their borders, nothing is scored twice.
        chunk_bytes: bound of one tile, counted as 8 bytes a similarity.
        progress: called with (pairs done, pairs in all).

    Returns:
        Ranks of both directions, for the whole gallery and for each fold.

    Raises:
        ValueError: NaN in a tile, a tile of a wrong shape, chunk_bytes too small, folds that do not divide.

    Example:
        >>> both = stream_ranks(as_scorer(torch.eye(4)), make_positives(4, 4, captions_per_image=1), folds=2)
        >>> both.caption.best, len(both.caption_folds)
        (tensor([0, 0, 0, 0]), 2)
    """
    n_sims = chunk_bytes // _BYTES_PER_SIM
    if n_sims < 1:
        raise ValueError(f"chunk_bytes is {chunk_bytes}, expected at least {_BYTES_PER_SIM}")
    bounds = positives.fold_bounds(1 if folds is None else folds)
    tiles = _Tiles(scorer, scorer.n_images * scorer.n_captions, progress)
    scores = _positive_scores(tiles, positives, n_sims)
    n_scopes = 1 if folds is None else 2
    padded = torch.from_numpy(positives.padded())
    owners = torch.from_numpy(positives.caption_to_image)
    image = RankCounter(scores[padded.clamp(min=0).to(scores.device)], padded, n_scopes)
    caption = RankCounter(scores[:, None], owners[:, None], n_scopes)
    for rows, columns, in_fold in _grid(*bounds, n_sims):
        tile = tiles.score(rows, columns)
        _add_tile(image, caption, tile, rows, columns, positives.caption_to_image, n_scopes if in_fold else 1)
        tiles.advance(tile.numel())
    fold_slices = [[slice(int(a), int(b)) for a, b in itertools.pairwise(cut)] for cut in bounds]
    image_folds, caption_folds = (
        tuple(counter.ranks(1).subset(fold) for fold in slices) if folds is not None else ()
        for counter, slices in zip((image, caption), fold_slices, strict=True)
    )
    return BothRanks(image.ranks(0), caption.ranks(0), image_folds, caption_folds, scores.dtype)


class _Tiles:
    """Checked tiles of a scorer, and how far the pass has come."""

    def __init__(self, scorer: TileScorer, total: int, progress: Progress | None) -> None:
        self._scorer, self._progress = scorer, progress
        self._done, self._total = 0, total
        self.advance(0)

    def advance(self, n_pairs: int) -> None:
        self._done += n_pairs
        if self._progress is not None:
            self._progress(self._done, self._total)

    def score(self, rows: slice, columns: slice) -> Tensor:
        """One tile, float32 or float64, without NaN."""
        scored: Array = self._scorer(rows, columns)
        expected = (rows.stop - rows.start, columns.stop - columns.start)
        if tuple(scored.shape) != expected:
            raise ValueError(
                f"the tile scorer returned shape {tuple(scored.shape)} for rows {rows.start}:{rows.stop} and columns "
                f"{columns.start}:{columns.stop}, expected {expected}"
            )
        tile = as_float_tensor(scored)
        # The sum is NaN if anything is (or if inf meets -inf): 20 times as fast as asking every number.
        if torch.isnan(tile.sum()):
            nans = torch.nonzero(torch.isnan(tile))
            if len(nans):
                row, column = (nans[0] + torch.tensor([rows.start, columns.start], device=nans.device)).tolist()
                raise ValueError(f"sims is NaN at row (image) {row}, column (caption) {column}; NaN has no rank")
        return tile


def _positive_scores(tiles: _Tiles, positives: Positives, n_sims: int) -> Tensor:
    """Score of every caption with its own image, (n_captions,)."""
    max_rows = max(1, min(_POSITIVE_IMAGES, math.isqrt(n_sims)))
    found: list[Tensor] = []
    captions: list[IntArray] = []
    for rows, columns, run in positives.tiles(max_rows, max(1, min(_POSITIVE_CAPTIONS, n_sims // max_rows))):
        tile = tiles.score(rows, columns)
        at_rows = torch.from_numpy(positives.caption_to_image[run] - rows.start).to(tile.device)
        at_columns = torch.from_numpy(run - columns.start).to(tile.device)
        found.append(tile[at_rows, at_columns])
        captions.append(run)
    if not found:
        return torch.empty(0)
    order = torch.from_numpy(np.argsort(np.concatenate(captions))).to(found[0].device)
    return torch.cat(found)[order]


def _grid(row_bounds: IntArray, column_bounds: IntArray, n_sims: int) -> Iterator[tuple[slice, slice, bool]]:
    """Tiles of at most n_sims pairs that cover the matrix, never across a fold's border; and if inside a fold."""
    n_images, n_captions = int(row_bounds[-1]), int(column_bounds[-1])
    # As wide as high in units of the whole matrix, so that embeddings are read few times.
    step = max(1, min(n_images, math.isqrt(n_sims * max(1, n_images) // max(1, n_captions))))
    for row_fold, rows in _steps(row_bounds, step):
        width = max(1, n_sims // (rows.stop - rows.start))
        for column_fold, columns in _steps(column_bounds, width):
            yield rows, columns, row_fold == column_fold


def _steps(bounds: IntArray, step: int) -> Iterator[tuple[int, slice]]:
    for fold, (start, stop) in enumerate(itertools.pairwise(bounds.tolist())):
        for first in range(start, stop, step):
            yield fold, slice(first, min(first + step, stop))


def _add_tile(
    image: RankCounter,
    caption: RankCounter,
    tile: Tensor,
    rows: slice,
    columns: slice,
    caption_to_image: IntArray,
    n_scopes: int,
) -> None:
    """Count a tile in both directions, block by block."""
    for top in range(rows.start, rows.stop, _BLOCK_ROWS):
        images = slice(top, min(top + _BLOCK_ROWS, rows.stop))
        band = tile[top - rows.start : images.stop - rows.start]
        for left in range(columns.start, columns.stop, _BLOCK_COLUMNS):
            captions = slice(left, min(left + _BLOCK_COLUMNS, columns.stop))
            block = band[:, left - columns.start : captions.stop - columns.start]
            owners = caption_to_image[captions]
            own = np.flatnonzero((owners >= images.start) & (owners < images.stop))
            if own.size:
                # Masked, so that a pair scored again with another rounding can not count against itself. On a copy:
                # the tile may be the user's matrix.
                block = block.clone()
                block[torch.from_numpy(owners[own] - top), torch.from_numpy(own)] = torch.nan
            holds = bool(own.size)
            image.add(block, images, captions, n_scopes=n_scopes, holds_positives=holds)
            caption.add(block.T, captions, images, n_scopes=n_scopes, holds_positives=holds)
