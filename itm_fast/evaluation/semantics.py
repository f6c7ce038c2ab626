"""The figures of an evaluation that read φ: NCS, NCS(N), Semantic Recall, their sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from itm_fast.evaluation.figures import check_retrieved, named
from itm_fast.metrics.ncs import ncs_of_lists, nsum, spare_items
from itm_fast.metrics.positives import Positives
from itm_fast.metrics.ranks import BothRanks, BothTopK, stream_topk
from itm_fast.metrics.scorers import TileScorer
from itm_fast.metrics.semantic_lists import Relevance, as_relevance, own_items, semantic_lists
from itm_fast.metrics.semantic_recall import check_m, paper_hits, recall_of_hits
from itm_fast.metrics.tiles import Progress, Query

_SUM_KS = (1, 5, 10)
_DIRECTIONS: tuple[tuple[str, Query], ...] = (("i2t", "image"), ("t2i", "caption"))


class Semantics:
    """What has to be retrieved for these figures, and the figures.

    Attributes:
        n_retrieved: items that the pass over the similarities has to list for every query.
    """

    def __init__(
        self, relevance: Relevance, scorer: TileScorer, positives: Positives, ks: Sequence[int], m: int | None
    ) -> None:
        """Check the arguments.

        Args:
            relevance: (n_images, n_captions) φ, or an encoded corpus.
            scorer: the similarities, for their sizes.
            positives: which pairs are positive.
            ks: cut-offs.
            m: relevant items of Semantic Recall, or None for none.

        Raises:
            ValueError: sizes that are not those of the similarities, m below 1.
            TypeError: unsupported types.
        """
        self._source = as_relevance(relevance, scorer.n_images, scorer.n_captions)
        self._positives, self._ks, self._m = positives, ks, None if m is None else check_m(m)
        self._k, spare = max(*ks, *_SUM_KS), spare_items(positives)
        self.n_retrieved = self._k + spare
        self._n_ideal = max(self._k, m or 0) + spare

    def figures(
        self, both: BothRanks, folds: int | None, *, chunk_bytes: int, progress: Progress | None
    ) -> list[dict[str, Any]]:
        """One pass over φ.

        Args:
            both: the pass over the similarities, with n_retrieved items listed.
            folds: as in that pass.
            chunk_bytes: bound of one tile.
            progress: called with (pairs done, pairs in all).

        Returns:
            {"i2t": {...}, "t2i": {...}, "nsum": ..., "nsum(N)": ...} of the whole gallery, then of each fold.
        """
        bounds = self._positives.fold_bounds(1 if folds is None else folds)
        ideal, of_folds = stream_topk(
            self._source,
            self._n_ideal,
            None if folds is None else bounds,
            chunk_bytes=chunk_bytes,
            progress=progress,
            what="relevance",
        )
        sizes = self._positives.n_images, self._positives.n_captions
        scopes = [self._scope(slice(0, sizes[0]), slice(0, sizes[1]), both.top, ideal)]
        rows, columns = (cut.tolist() for cut in bounds)
        for fold, (top, of_fold) in enumerate(zip(both.top_folds, of_folds, strict=True)):
            images, captions = slice(*rows[fold : fold + 2]), slice(*columns[fold : fold + 2])
            scopes.append(self._scope(images, captions, top, of_fold))
        return scopes

    def _scope(self, images: slice, captions: slice, top: BothTopK, ideal: BothTopK) -> dict[str, Any]:
        figures: dict[str, Any] = {}
        sums: dict[str, list[torch.Tensor]] = {"nsum": [], "nsum(N)": []}
        for direction, query in _DIRECTIONS:
            queries = images if query == "image" else captions
            own_most = int(self._positives.captions_of_image[images].max(initial=0)) if query == "image" else 1
            listed = top.image if query == "image" else top.caption
            check_retrieved(listed, self._k + own_most, f"NCS(N)@{self._k}", query)
            figures[direction] = {}
            for mark, own in (("", None), ("(N)", own_items(self._positives, query)[queries])):
                lists = semantic_lists(query, top, ideal, self._source, queries, k=self._k, own=own)
                figures[direction] |= named(f"NCS{mark}", self._ks, ncs_of_lists(lists, self._ks))
                sums[f"nsum{mark}"].append(ncs_of_lists(lists, _SUM_KS))
                if self._m is not None:
                    recall = recall_of_hits(paper_hits(lists, self._m), self._m, self._ks, "all")
                    figures[direction] |= named(f"SR{mark}", self._ks, recall)
        return {**figures, **{name: nsum(*both) for name, both in sums.items()}}
