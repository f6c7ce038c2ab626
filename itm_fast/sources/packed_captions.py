"""Encoded captions of many lengths without padding, from which any few are taken as a padded tile."""

from __future__ import annotations

import torch
from torch import Tensor

from itm_fast.ops._ragged import Packed
from itm_fast.similarities.scorers import IntArray


class PackedCaptions:
    """Encoded captions one after the other: the words of each, or its one embedding.

    Attributes:
        n_bytes: of what is held.
    """

    def __init__(self) -> None:
        """Nothing is held yet."""
        self.n_bytes = 0
        self._parts: list[tuple[Tensor, Tensor]] = []
        self._are_words = False
        self._offsets = torch.zeros(0, dtype=torch.int64)

    def add(self, encoded: Tensor, word_counts: Tensor) -> None:
        """Append captions.

        Args:
            encoded: (n, max_words, dim) words, or (n, dim) embeddings; of all that are added alike.
            word_counts: (n,) int64.
        """
        self._are_words = encoded.ndim > 2
        if self._are_words:
            encoded = encoded[torch.arange(encoded.shape[1], device=encoded.device) < word_counts[:, None]]
        self.n_bytes += encoded.numel() * encoded.element_size()
        self._parts.append((encoded, word_counts))

    def take(self, places: IntArray) -> tuple[Tensor, Tensor]:
        """Some captions as a tile.

        Args:
            places: (n,) int64, which, in the order in which they were added.

        Returns:
            (n, max_words, dim) words, zero after each caption's end, or (n, dim) embeddings; word_counts (n,) int64.
        """
        encoded, word_counts = self._joined()
        index = torch.from_numpy(places).to(word_counts.device)
        counts = word_counts[index]
        if not self._are_words:
            return encoded[index], counts
        columns = torch.arange(int(counts.max()), device=index.device)
        words = torch.where(columns < counts[:, None], self._offsets[index, None] + columns, len(encoded) - 1)
        # index_select is several times faster than encoded[words]
        return encoded.index_select(0, words.flatten()).view(*words.shape, -1), counts

    def packed(self) -> Packed:
        """All words, where they lie; of captions that were added as words."""
        encoded, word_counts = self._joined()
        return Packed(encoded[:-1], torch.nn.functional.pad(word_counts.cumsum(0), (1, 0)))

    def _joined(self) -> tuple[Tensor, Tensor]:
        """All of them in one piece, after words a row of zeros, which pads tiles."""
        if len(self._parts) > 1 or not len(self._offsets):
            encoded, counts = zip(*self._parts, strict=True)
            word_counts = torch.cat(counts)
            self._offsets = word_counts.cumsum(0) - word_counts
            padding = [encoded[0].new_zeros(1, *encoded[0].shape[1:])] if self._are_words else []
            self._parts = [(torch.cat([*encoded, *padding]), word_counts)]
        return self._parts[0]
