"""A trained model scored by several processes, each a share of the captions."""

from __future__ import annotations

import torch
from torch import Tensor

from itm_fast.sources.trained_model import ModelScorer


class ShardedScorer:
    """A scorer whose tiles are made by several processes: each scores a share of the captions, all get the whole tile.

    Every process must ask for the same tiles in the same order, as `evaluate` does.
    """

    def __init__(self, scorer: ModelScorer, rank: int, world_size: int, device: torch.device | str = "cpu") -> None:
        """Share the work.

        Args:
            scorer: of this process.
            rank: of this process.
            world_size: how many there are.
            device: where the scorer's tiles are.
        """
        self.n_images, self.n_captions = scorer.n_images, scorer.n_captions
        self.owners = scorer.owners
        self._scorer, self._rank, self._world_size, self._device = scorer, rank, world_size, torch.device(device)

    @torch.inference_mode()
    def __call__(self, rows: slice, columns: slice, /) -> Tensor:
        """The similarities of a tile, (rows.stop - rows.start, columns.stop - columns.start), on every process."""
        n_rows, n_columns = rows.stop - rows.start, columns.stop - columns.start
        share = -(-n_columns // self._world_size)
        start = min(columns.start + self._rank * share, columns.stop)
        mine = torch.zeros(n_rows, share, device=self._device)
        stop = min(start + share, columns.stop)
        if start < stop:
            mine[:, : stop - start] = self._scorer(rows, slice(start, stop))
        parts = [torch.empty_like(mine) for _ in range(self._world_size)]
        torch.distributed.all_gather(parts, mine)
        return torch.cat(parts, dim=1)[:, :n_columns]
