"""What a protocol reports beside plain recall: other positives of the same pass, pairs of it, and passes of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from itm_fast.choices import Query
from itm_fast.evaluation.figures import (
    check_ranks,
    check_retrieved,
    mean_figures,
    precision_figures,
    rank_figures,
    section,
)
from itm_fast.evaluation.sampled_correlation import FloatArray, sampled_spearman
from itm_fast.metrics.counting import Ranks
from itm_fast.metrics.precision import hits_of_lists, r_precision
from itm_fast.metrics.query_positives import QueryPositives
from itm_fast.metrics.retrieved import TopKeeper
from itm_fast.metrics.set_ranks import SetRanks
from itm_fast.similarities.scorers import DotProductScorer, IntArray, TileScorer, Vectors, as_float_tensor
from itm_fast.similarities.selection import Part, select
from itm_fast.similarities.tiles import Collector, Progress, Tiles, tile_sims
from itm_fast.sources.pairs import PairScores

_PMRP_CUT = 50  # of the "modified" PMRP of the ECCV Caption paper


class Extra(Protocol):
    """Sections of a report that a pass over the similarities, and perhaps more passes, come to."""

    @property
    def n_pairs(self) -> int:
        """Pairs scored in passes of its own, after the common one."""
        ...

    def collectors(self, scorer: TileScorer, n_sims: int, /) -> Sequence[Collector]:
        """What has to see every tile of the common pass; n_sims bounds a tile, in pairs."""
        ...

    def sections(self, chunk_bytes: int, progress: Progress | None, /) -> dict[str, Any]:
        """The sections, once the common pass is over."""
        ...


@dataclass
class RankedSets:
    """Recall and ranks with other positives than a caption's own image, by counting."""

    name: str
    image: QueryPositives
    caption: QueryPositives
    ks: Sequence[int]
    n_pairs: int = 0
    _ranks: SetRanks | None = field(default=None, init=False)

    def collectors(self, scorer: TileScorer, n_sims: int) -> Sequence[Collector]:
        """Counters of both directions."""
        self._ranks = SetRanks(scorer, n_sims, self.image, self.caption)
        return self._ranks.collectors

    def sections(self, chunk_bytes: int, progress: Progress | None) -> dict[str, Any]:
        """{name: {"i2t", "t2i", "rsum", "n_pairs"}}."""
        image, caption = (None, None) if self._ranks is None else self._ranks.ranks()
        if image is None or caption is None:
            return {}
        return {self.name: section(image, caption, self.ks)}


@dataclass
class RetrievedSets:
    """mAP@R, R-Precision and recall of few queries with many positives, from lists as deep as the largest R."""

    name: str
    image: QueryPositives
    caption: QueryPositives
    ks: Sequence[int]
    n_pairs: int = 0
    _keepers: list[TopKeeper] = field(default_factory=list, init=False)

    def collectors(self, scorer: TileScorer, n_sims: int) -> Sequence[Collector]:
        """Lists of the queries that have positives, no others."""
        dtype = Tiles(scorer).dtype()
        self._keepers = []
        sides: tuple[tuple[Query, QueryPositives], ...] = (("image", self.image), ("caption", self.caption))
        for query, truth in sides:
            depth = min(max(int(truth.n_relevant.max(initial=0)), *self.ks), truth.n_items)
            self._keepers.append(TopKeeper(query, len(truth.queries), depth, dtype))
        image, caption = self._keepers
        return [Part(self.image.queries, None, [image]), Part(None, self.caption.queries, [caption])]

    def sections(self, chunk_bytes: int, progress: Progress | None) -> dict[str, Any]:
        """{name: {"i2t", "t2i"}}."""
        figures = {}
        for direction, keeper, truth in zip(("i2t", "t2i"), self._keepers, (self.image, self.caption), strict=True):
            top, n_relevant = keeper.topk(), torch.from_numpy(truth.n_relevant[truth.queries])
            check_retrieved(top, n_relevant.clamp(min=max(self.ks)), f"mAP@R of {self.name}", keeper.query)
            hits = hits_of_lists(truth, truth.queries, top.indices)
            figures[direction] = precision_figures(hits, truth, self.ks)
        return {self.name: figures}


@dataclass
class PlausibleMatches:
    """PMRP, in passes of its own: its lists are thousands deep."""

    image: QueryPositives
    caption: QueryPositives
    scorer: TileScorer

    @property
    def n_pairs(self) -> int:
        """Two metrics in two directions."""
        return 4 * self.scorer.n_images * self.scorer.n_captions

    def collectors(self, scorer: TileScorer, n_sims: int) -> Sequence[Collector]:
        """Nothing of the common pass."""
        return ()

    def sections(self, chunk_bytes: int, progress: Progress | None) -> dict[str, Any]:
        """{"pmrp": {"i2t", "t2i"}}."""
        figures: dict[str, Any] = {}
        sides: tuple[tuple[str, Query, QueryPositives], ...] = (
            ("i2t", "image", self.image),
            ("t2i", "caption", self.caption),
        )
        for direction, query, truth in sides:
            full, cut = (
                r_precision(self.scorer, truth, query=query, max_r=max_r, chunk_bytes=chunk_bytes)
                for max_r in (None, _PMRP_CUT)
            )
            figures[direction] = {"PMRP": full, f"PMRP@{_PMRP_CUT}": cut, "n_queries": len(truth.queries)}
        if progress is not None:
            progress(self.n_pairs, self.n_pairs)
        return {"pmrp": figures}


@dataclass
class PartRanks:
    """Recall and ranks in a part of the gallery: of some images, of some captions.

    Attributes:
        name: of the section.
        rows: (n,) ascending numbers of the images, or None for all.
        columns: (m,) ascending numbers of the captions, or None for all.
        image: positives of image queries, numbered within the part; None: images do not ask.
        caption: positives of caption queries, likewise.
        ks: cut-offs.
    """

    name: str
    rows: IntArray | None
    columns: IntArray | None
    image: QueryPositives | None
    caption: QueryPositives | None
    ks: Sequence[int]
    n_pairs: int = 0
    _ranks: SetRanks | None = field(default=None, init=False)

    def collectors(self, scorer: TileScorer, n_sims: int) -> Sequence[Collector]:
        """Counters that see the part."""
        self._ranks = SetRanks(select(scorer, self.rows, self.columns), n_sims, self.image, self.caption)
        return [Part(self.rows, self.columns, [counter]) for counter in self._ranks.collectors]

    def figures(self) -> dict[str, Any]:
        """{"i2t", "t2i", "rsum"}, or the one direction that asks, once the common pass is over."""
        image, caption = (None, None) if self._ranks is None else self._ranks.ranks()
        if image is not None and caption is not None:
            return section(image, caption, self.ks)
        found = {}
        sides: tuple[tuple[str, Query, Ranks | None], ...] = (("i2t", "image", image), ("t2i", "caption", caption))
        for way, query, ranks in sides:
            if ranks is not None:
                check_ranks(ranks, max(self.ks), query)
                found[way] = rank_figures(ranks, self.ks)
        return found

    def sections(self, chunk_bytes: int, progress: Progress | None) -> dict[str, Any]:
        """{name: figures}."""
        return {self.name: self.figures()}


@dataclass
class Languages:
    """Recall by language: the captions of each with all images, and the mean over the languages."""

    parts: Sequence[PartRanks]
    n_pairs: int = 0

    def collectors(self, scorer: TileScorer, n_sims: int) -> Sequence[Collector]:
        """Those of every language."""
        return [collector for part in self.parts for collector in part.collectors(scorer, n_sims)]

    def sections(self, chunk_bytes: int, progress: Progress | None) -> dict[str, Any]:
        """{"language_mean": figures, "languages": {language: figures}}."""
        found = {part.name: part.figures() for part in self.parts}
        return {"language_mean": mean_figures(list(found.values())), "languages": found}


@dataclass
class AlteredFirst:
    """How many queries have an altered item, one that is nobody's, as the first that is retrieved.

    Attributes:
        query: what asks.
        altered: (n_items,) which items are altered.
    """

    query: Query
    altered: npt.NDArray[np.bool_]
    n_pairs: int = 0
    _keeper: TopKeeper | None = field(default=None, init=False)

    def collectors(self, scorer: TileScorer, n_sims: int) -> Sequence[Collector]:
        """The first item of every query."""
        n_queries = scorer.n_images if self.query == "image" else scorer.n_captions
        self._keeper = TopKeeper(self.query, n_queries, 1, Tiles(scorer).dtype())
        return [self._keeper]

    def sections(self, chunk_bytes: int, progress: Progress | None) -> dict[str, Any]:
        """{"altered": {"i2t" or "t2i": {"false rate", "n_queries"}}}."""
        if self._keeper is None:
            return {}
        first = self._keeper.topk().indices[:, 0].numpy()
        rate = float(100 * self.altered[first].mean())
        way = "i2t" if self.query == "image" else "t2i"
        return {"altered": {way: {"false rate": rate, "n_queries": len(first)}}}


@dataclass
class Correlation:
    """Sampled Spearman correlation of rated pairs of an image and a caption, or of two embeddings of one kind."""

    name: str
    places: tuple[IntArray, IntArray]
    scores: FloatArray
    queries: IntArray
    query_column: str
    embeddings: tuple[Vectors, Vectors] | None
    n_pairs: int = 0

    def __post_init__(self) -> None:
        """Nothing is collected yet."""
        left, right = self.places  # of SITS captions and images
        self._pairs = PairScores(right, left, "image" if self.query_column == "image" else "caption")

    def collectors(self, scorer: TileScorer, n_sims: int) -> Sequence[Collector]:
        """The similarities of the pairs, unless they are cosines of embeddings."""
        return (self._pairs,) if self.embeddings is None else ()

    def sections(self, chunk_bytes: int, progress: Progress | None) -> dict[str, Any]:
        """{name: {"spearman", "std", "query_column", ...}}."""
        similarities = self._pairs.scores if self.embeddings is None else cosines(*self.embeddings, *self.places)
        found = sampled_spearman(similarities, self.scores, self.queries)
        return {self.name: {**found, "query_column": self.query_column}}


def cosines(left: Vectors, right: Vectors, left_places: IntArray, right_places: IntArray) -> FloatArray:
    """Cosines of pairs of embeddings, (n,) float64."""
    step = 4096
    parts = []
    for start in range(0, len(left_places), step):
        a, b = (
            as_float_tensor(side[places[start : start + step]]).cpu().double()
            for side, places in ((left, left_places), (right, right_places))
        )
        parts.append(torch.nn.functional.cosine_similarity(a, b, dim=1, eps=0))
    return torch.cat(parts).numpy() if parts else np.zeros(0)


@dataclass
class IntraModal:
    """Retrieval of captions by captions, or of images by images: the query itself is no result."""

    name: str
    embeddings: Vectors
    truth: QueryPositives
    ks: Sequence[int]
    self_score: float

    @property
    def n_pairs(self) -> int:
        """All items against all."""
        return len(self.embeddings) ** 2

    def collectors(self, scorer: TileScorer, n_sims: int) -> Sequence[Collector]:
        """Nothing of the common pass."""
        return ()

    def sections(self, chunk_bytes: int, progress: Progress | None) -> dict[str, Any]:
        """{name: figures}."""
        n_sims = tile_sims(chunk_bytes)
        scorer = _WithoutSelf(self.embeddings, self.self_score)
        # No item is a positive of itself, so plain products will do for the scores of the positives.
        counted = SetRanks(scorer.products, n_sims, self.truth, None)
        tiles = Tiles(scorer, progress, f"{self.name} similarities")
        tiles.collect_symmetric(n_sims, counted.collectors)
        ranks = counted.ranks()[0]
        if ranks is None:
            return {}
        figures = rank_figures(ranks, self.ks)
        self_score = None if math.isinf(self.self_score) else self.self_score
        return {self.name: {**figures, "n_pairs": self.truth.n_pairs, "self_score": self_score}}


class _WithoutSelf:
    """Dot products of embeddings with each other; of an item with itself: a number given."""

    def __init__(self, embeddings: Vectors, self_score: float) -> None:
        self.products = DotProductScorer(embeddings, embeddings)
        self._self_score = self_score
        self.n_images = self.n_captions = self.products.n_images

    def __call__(self, rows: slice, columns: slice, /) -> Tensor:
        tile = self.products(rows, columns)
        first, last = max(rows.start, columns.start), min(rows.stop, columns.stop)
        if first < last:
            tile[first - rows.start : last - rows.start, first - columns.start : last - columns.start].fill_diagonal_(
                self._self_score
            )
        return tile
