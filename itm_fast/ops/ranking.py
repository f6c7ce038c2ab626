"""The kernels behind ranks and top-k: tiles of scores folded into the state of their queries.

Loops over tiles and the public functions are in itm_fast/metrics.
"""

from typing import Any

import torch
from torch import Tensor

from itm_fast.ops import _library

_library.load()

NO_ITEM = torch.iinfo(torch.int64).max  # of a place in a top-k list that nothing has taken yet; after every real item


def dot_products(images: Tensor, captions: Tensor) -> Tensor:
    """Images · captionsᵀ of two sets of embeddings.

    Args:
        images: (n_images, dim) float32 or float64.
        captions: (n_captions, dim), dtype and device of ``images``.

    Returns:
        (n_images, n_captions), the same dtype.
    """
    if images.device.type != "cpu":
        return images @ captions.T
    sims: Tensor = torch.ops.itm_fast.dot_products(images, captions)
    return sims


def dot_products_of_candidates(images: Tensor, captions: Tensor, candidates: Tensor) -> Tensor:
    """Images · captionsᵀ of given pairs, of every vector of an image with the one of a caption.

    Args:
        images: (n_images, n_vectors, dim) floating.
        captions: (n_captions, dim), dtype and device of ``images``.
        candidates: (n_images, k) int64, captions of each image; -1: none.

    Returns:
        (n_images, k, n_vectors), the same dtype; 0 where there is none. No gradient.
    """
    if images.device.type == "cpu" and images.dtype in (torch.float32, torch.float64):
        found: Tensor = torch.ops.itm_fast.dot_products_candidates(images, captions, candidates)
        return found
    products = images.new_empty(*candidates.shape, images.shape[1])
    captions = torch.nn.functional.pad(captions, (0, 0, 0, 1))  # what -1 takes
    for vectors, some, of_image in zip(images, candidates, products, strict=True):
        torch.mm(captions[some], vectors.T, out=of_image)
    return products


def has_kernels(device: torch.device) -> bool:
    """Whether tiles on this device are folded there; others go to the CPU."""
    return device.type == "cpu" or (device.type == "cuda" and _library.no_cuda is None)


def has_nan(tile: Tensor) -> bool:
    """Whether any of the scores (rows, columns), float32 or float64, is NaN."""
    return bool(torch.ops.itm_fast.has_nan(tile))


def count_ranks_(
    tile: Tensor,
    first_query: int,
    first_item: int,
    queries_are_rows: bool,
    *,
    scores: Tensor,
    index: Tensor,
    n_positives: Tensor,
    n_above: Tensor,
    n_at_least: Tensor,
    n_before: Tensor,
) -> None:
    """Add one tile to the counts; every pair must come once.

    Args:
        tile: (rows, columns) float32 or float64 scores without NaN.
        first_query: number of the query of the first row (or column).
        first_item: number of the gallery item of the first column (or row).
        queries_are_rows: whether rows are queries and columns items, or the reverse.
        scores: (n_queries, slots) scores of the positives, best first, dtype of the tile.
        index: (n_queries, slots) int64, their items; equal scores in ascending order.
        n_positives: (n_queries,) int64, slots in use.
        n_above: (n_queries,) int64, increased by the non-positives scored above the best positive.
        n_at_least: (n_queries,) int64, by those scored at least as high.
        n_before: (n_queries, slots) int64, by those before each positive: higher, or equal and of lower index.
    """
    torch.ops.itm_fast.count_ranks_(
        tile, first_query, first_item, queries_are_rows, scores, index, n_positives, n_above, n_at_least, n_before
    )


def keep_topk_(
    tile: Tensor, first_query: int, first_item: int, queries_are_rows: bool, *, values: Tensor, indices: Tensor
) -> None:
    """Offer one tile to the k best of its queries: higher score first, then lower index.

    Args:
        tile: (rows, columns) float32 or float64 scores without NaN.
        first_query: number of the query of the first row (or column).
        first_item: number of the gallery item of the first column (or row).
        queries_are_rows: whether rows are queries and columns items, or the reverse.
        values: (n_queries, k), dtype and device of the tile: a heap on the CPU, a sorted list on CUDA; -inf at first.
        indices: (n_queries, k) int64, NO_ITEM at first.
    """
    torch.ops.itm_fast.keep_topk_(tile, first_query, first_item, queries_are_rows, values, indices)


def sort_topk_(values: Tensor, indices: Tensor) -> None:
    """Put the lists of ``keep_topk_`` in order, best first.

    Args:
        values: (n_queries, k) float32 or float64.
        indices: (n_queries, k) int64.
    """
    torch.ops.itm_fast.sort_topk_(values, indices)


@torch.library.register_fake("itm_fast::dot_products")  # type: ignore[untyped-decorator]
def _fake_dot_products(images: Tensor, captions: Tensor) -> Tensor:
    return images.new_empty((images.shape[0], captions.shape[0]))


@torch.library.register_fake("itm_fast::dot_products_candidates")  # type: ignore[untyped-decorator]
def _fake_dot_products_candidates(images: Tensor, _captions: Tensor, candidates: Tensor) -> Tensor:
    return images.new_empty((*candidates.shape, images.shape[1]))


@torch.library.register_fake("itm_fast::count_ranks_")  # type: ignore[untyped-decorator]
@torch.library.register_fake("itm_fast::keep_topk_")  # type: ignore[untyped-decorator]
@torch.library.register_fake("itm_fast::sort_topk_")  # type: ignore[untyped-decorator]
def _fake_in_place(*_: Any) -> None:
    return None
