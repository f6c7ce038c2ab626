"""What every query of both directions retrieved, beside what is relevant to it: all that other tools' files need."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from itm_fast.choices import Query
from itm_fast.metrics.judgements import Judgements, as_judgements
from itm_fast.metrics.positives import Positives
from itm_fast.metrics.query_positives import QueryPositives
from itm_fast.metrics.ranks import BothTopK
from itm_fast.metrics.retrieved import TopK
from itm_fast.ops.ranking import NO_ITEM
from itm_fast.similarities.scorers import IntArray
from itm_fast.similarities.selection import Order

TwoWayJudgements: TypeAlias = tuple[Judgements, Judgements]  # of image and of caption queries


@dataclass(frozen=True, eq=False)
class RetrievedLists:
    """The best items of every query of a whole gallery.

    Attributes:
        image: of image queries; NO_ITEM, or -inf, where there was no candidate.
        caption: of caption queries.
        judged: what is relevant to image and to caption queries.
        order: which of the images and captions given these are; None for all, as given.
    """

    image: TopK
    caption: TopK
    judged: TwoWayJudgements
    order: Order

    @classmethod
    def of(
        cls, top: BothTopK, relevant: Positives | tuple[QueryPositives | Judgements, QueryPositives | Judgements],
        order: Order,
    ) -> RetrievedLists:  # fmt: skip
        """The lists of a pass over the similarities.

        Args:
            top: the lists.
            relevant: captions of images, or what is relevant to image and to caption queries.
            order: which of the images and captions given were ranked.
        """
        sides = _both_ways(relevant) if isinstance(relevant, Positives) else relevant
        n_images, n_captions = len(top.image.values), len(top.caption.values)
        judged = as_judgements(sides[0], n_images, n_captions), as_judgements(sides[1], n_captions, n_images)
        return cls(top.image, top.caption, judged, order)

    def side(self, query: Query) -> tuple[TopK, Judgements]:
        """The lists of one direction, and what is relevant."""
        return (self.image, self.judged[0]) if query == "image" else (self.caption, self.judged[1])

    def items(self, query: Query) -> IntArray:
        """(n_queries, k) int64, the items of one direction; -1 where there was no candidate."""
        top = self.side(query)[0]
        found: IntArray = top.indices.masked_fill((top.indices == NO_ITEM) | (top.values == -np.inf), -1).numpy()
        return found

    def names(
        self, images: Sequence[Hashable] | None, captions: Sequence[Hashable] | None
    ) -> tuple[list[Hashable], list[Hashable]]:
        """Names of the ranked images and captions, from those of all that were given; "image0", "caption0" without."""
        named = []
        for kind, given, order, n in (
            ("image", images, self.order[0], len(self.image.values)),
            ("caption", captions, self.order[1], len(self.caption.values)),
        ):
            numbers = range(n) if order is None else order.tolist()
            named.append([f"{kind}{number}" if given is None else given[number] for number in numbers])
        return named[0], named[1]


def _both_ways(positives: Positives) -> tuple[QueryPositives, QueryPositives]:
    n_images, n_captions = positives.n_images, positives.n_captions
    return (
        QueryPositives(positives.by_image, positives.offsets, np.zeros(n_images, np.int64), n_captions),
        QueryPositives(positives.caption_to_image, np.arange(n_captions + 1), np.zeros(n_captions, np.int64), n_images),
    )
