"""The best items of every query: exact, in a fixed order, kept as tiles arrive."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from itm_fast.choices import Query
from itm_fast.ops.ranking import NO_ITEM, keep_topk_, sort_topk_


class TopK(NamedTuple):
    """The k best items of every query, best first; equal scores: lower index first.

    Attributes:
        values: (n_queries, k) scores.
        indices: (n_queries, k) int64, their items.
    """

    values: Tensor
    indices: Tensor


class TopKeeper:
    """Keeps, for one direction, the k best items of every query, as tiles arrive."""

    def __init__(self, query: Query, n_queries: int, k: int, dtype: torch.dtype) -> None:
        """Start with nothing.

        Args:
            query: the direction: whether the rows (images) or the columns (captions) of the tiles are the queries.
            n_queries: queries.
            k: items to keep; no query may get fewer.
            dtype: float32 or float64, that of the tiles.
        """
        self.query, self._begun = query, False
        self._values = torch.full((n_queries, k), -torch.inf, dtype=dtype)
        self._indices = torch.full((n_queries, k), NO_ITEM)

    def add(self, tile: Tensor, rows: slice, columns: slice) -> None:
        """Offer the scores (n_rows, n_columns) of some images and captions, without NaN."""
        queries, items = (rows, columns) if self.query == "image" else (columns, rows)
        if not self._begun:  # the lists stay where the first tile is
            self._values, self._indices = self._values.to(tile.device), self._indices.to(tile.device)
            self._begun = True
        keep_topk_(
            tile.to(self._values),
            queries.start,
            items.start,
            self.query == "image",
            values=self._values,
            indices=self._indices,
        )

    def topk(self) -> TopK:
        """The lists once every tile has been added, on the CPU."""
        sort_topk_(self._values, self._indices)
        return TopK(self._values.cpu(), self._indices.cpu())
