"""Ranks of any positives in both directions, collected in somebody else's pass over the tiles."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from itm_fast.choices import Query
from itm_fast.indices import distinct_numbers
from itm_fast.metrics.counting import RankCounter, Ranks, positive_scores
from itm_fast.metrics.query_positives import QueryPositives
from itm_fast.similarities.scorers import IntArray, TileScorer
from itm_fast.similarities.tiles import Tiles
from itm_fast.similarities.two_way import TwoWayScorer, of_query

_QUERIES: tuple[Query, Query] = ("image", "caption")


class SetRanks:
    """Counts the ranks of the positives of image queries, of caption queries, or of both."""

    def __init__(
        self, scorer: TileScorer, n_sims: int, image: QueryPositives | None, caption: QueryPositives | None
    ) -> None:
        """Score the positive pairs; nothing is counted yet.

        Args:
            scorer: similarities by tile.
            n_sims: bound of one tile, in pairs.
            image: captions of image queries, or None for no such queries.
            caption: images of caption queries, or None.

        Raises:
            ValueError: NaN among the scores of the positives.
        """
        pairs: dict[Query, tuple[IntArray, IntArray]] = {}
        if image is not None:
            pairs["image"] = image.owners(), image.items
        if caption is not None:
            pairs["caption"] = caption.items, caption.owners()
        keys = {query: rows * scorer.n_captions + columns for query, (rows, columns) in pairs.items()}
        # The two directions may be annotated apart: each pair of either is scored once, if it has one score.
        distinct = distinct_numbers(np.concatenate(list(keys.values())))
        once = None if isinstance(scorer, TwoWayScorer) else _scores(scorer, n_sims, distinct)
        self._truth = (image, caption)
        self._counters: dict[Query, RankCounter] = {}
        for query, truth in zip(_QUERIES, self._truth, strict=True):
            if truth is None:
                continue
            known = distinct if once is not None else distinct_numbers(keys[query])
            scores = once if once is not None else _scores(of_query(scorer, query), n_sims, known)
            index = torch.from_numpy(truth.padded())
            padded = scores.new_zeros(index.shape)
            padded[index >= 0] = scores[torch.from_numpy(np.searchsorted(known, keys[query])).to(scores.device)]
            self._counters[query] = RankCounter(query, padded, index)

    @property
    def collectors(self) -> list[RankCounter]:
        """What has to see every tile once."""
        return list(self._counters.values())

    def counter(self, query: Query) -> RankCounter:
        """What counts for one direction; KeyError if there are no such queries."""
        return self._counters[query]

    def ranks(self) -> tuple[Ranks | None, Ranks | None]:
        """Ranks of image and of caption queries, once every tile has been seen.

        A query whose positives are all outside the gallery has the rank after the last item; a positive outside counts
        in n_positives.
        """
        image, caption = (
            None if truth is None else _with_unreachable(self._counters[query].ranks(), truth)
            for query, truth in zip(_QUERIES, self._truth, strict=True)
        )
        return image, caption

    def both(self) -> tuple[Ranks, Ranks]:
        """Likewise, where there are queries of both directions."""
        image, caption = self.ranks()
        if image is None or caption is None:
            raise ValueError("there are no queries of one direction")
        return image, caption


def _scores(scorer: TileScorer, n_sims: int, pairs: IntArray) -> Tensor:
    """Scores of pairs given as row · n_captions + column, ascending."""
    rows, columns = np.divmod(pairs, max(1, scorer.n_captions))
    counts = np.bincount(rows, minlength=scorer.n_images)
    padded = np.full((scorer.n_images, int(counts.max(initial=0))), -1, np.int64)
    slots = np.arange(len(pairs)) - (np.cumsum(counts) - counts)[rows]
    padded[rows, slots] = columns
    found = positive_scores(Tiles(scorer), torch.from_numpy(padded), n_sims)
    return found[torch.from_numpy(rows).to(found.device), torch.from_numpy(slots).to(found.device)]


def _with_unreachable(ranks: Ranks, truth: QueryPositives) -> Ranks:
    n_unreachable = torch.from_numpy(truth.n_unreachable)
    missed = (ranks.n_positives == 0) & (n_unreachable > 0)
    return Ranks(
        ranks.optimistic.masked_fill(missed, truth.n_items),
        ranks.pessimistic.masked_fill(missed, truth.n_items),
        ranks.best.masked_fill(missed, truth.n_items),
        ranks.positives,
        ranks.n_positives + n_unreachable,
        ranks.n_candidates,
        ranks.best_item,
        ranks.best_score,
    )
