"""The figures of an evaluation that read φ: NCS, NCS(N), Semantic Recall, their sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from itm_fast.choices import Query
from itm_fast.evaluation.figures import check_retrieved, fewest_candidates, left_out, named
from itm_fast.metrics.ncs import ncs_of_lists, ncs_of_queries, nsum, spare_items
from itm_fast.metrics.positives import Positives
from itm_fast.metrics.ranks import BothRanks, BothTopK, stream_topk
from itm_fast.metrics.semantic_lists import Relevance, as_relevance, own_items, semantic_lists, without
from itm_fast.metrics.semantic_recall import check_m, paper_hits, recall_of_hits
from itm_fast.ops.ranking import NO_ITEM
from itm_fast.similarities.scorers import TileScorer
from itm_fast.similarities.tiles import Progress

_SUM_KS = (1, 5, 10)
N_OTHERS = 10  # most relevant items of other images that a run folder keeps the φ of
CURVE_MS = (1, 2, 3, 4, 5, 7, 10, 15, 20, 25, 30)
_DIRECTIONS: tuple[tuple[str, Query], ...] = (("i2t", "image"), ("t2i", "caption"))


class Semantics:
    """What has to be retrieved for these figures, and the figures.

    Attributes:
        n_retrieved: items that the pass over the similarities has to list for every query.
        source: φ of pairs.
        notes: what ``figures`` left out.
        by_query: once ``figures`` was called, of the whole gallery and of each fold {"i2t": {"ncs": (n_queries, n_ks)
            float64, percent, "ncs_own_left_out": likewise}, "t2i": ...}.
    """

    def __init__(
        self,
        relevance: Relevance,
        scorer: TileScorer,
        positives: Positives,
        ks: Sequence[int],
        m: int | None,
        n_curve: int = 0,
    ) -> None:
        """Check the arguments.

        Args:
            relevance: (n_images, n_captions) φ, or an encoded corpus.
            scorer: the similarities, for their sizes.
            positives: which pairs are positive.
            ks: cut-offs.
            m: relevant items of Semantic Recall, or None for none.
            n_curve: last cut-off of ``curves``; 0: no curves.

        Raises:
            ValueError: sizes that are not those of the similarities, m below 1.
            TypeError: unsupported types.
        """
        self.source = as_relevance(relevance, scorer.n_images, scorer.n_captions)
        items = (("image -> caption", scorer.n_captions), ("caption -> image", scorer.n_images))
        self.notes = [
            f"SR@k, {way}: m is {m}, but there are {n} items: at most {100 * n / m:.1f} %."
            for way, n in items
            if m is not None and m > n
        ]
        self.by_query: list[dict[str, dict[str, torch.Tensor]]] = []
        self._positives, self._ks, self._m = positives, ks, None if m is None else check_m(m)
        self._k, spare = max(*ks, *_SUM_KS), spare_items(positives)
        self.n_retrieved = max(self._k + spare, n_curve)
        self._n_ideal = max(self._k + spare, (m or 0) + spare, *(CURVE_MS if n_curve else ()), n_curve)

    def ideal(
        self, folds: int | None, *, chunk_bytes: int, progress: Progress | None
    ) -> tuple[BothTopK, tuple[BothTopK, ...]]:
        """The items of most φ of every query, of the whole gallery and of each fold: one pass over φ.

        Args:
            folds: as in the pass over the similarities.
            chunk_bytes: bound of one tile.
            progress: called with (pairs done, pairs in all).
        """
        bounds = self._positives.fold_bounds(1 if folds is None else folds)
        return stream_topk(
            self.source,
            self._n_ideal,
            None if folds is None else bounds,
            chunk_bytes=chunk_bytes,
            progress=progress,
            what="relevance",
        )

    def figures(
        self, both: BothRanks, folds: int | None, ideal: tuple[BothTopK, tuple[BothTopK, ...]]
    ) -> list[dict[str, Any]]:
        """The figures of lists.

        Args:
            both: the pass over the similarities, with n_retrieved items listed.
            folds: as in that pass.
            ideal: the pass over φ.

        Returns:
            {"i2t": {...}, "t2i": {...}, "nsum": ..., "nsum(N)": ...} of the whole gallery, then of each fold; without
            the sums where a query has too few candidates for them.
        """
        bounds = self._positives.fold_bounds(1 if folds is None else folds)
        sizes = self._positives.n_images, self._positives.n_captions
        self.by_query = []
        scopes = [self._scope(slice(0, sizes[0]), slice(0, sizes[1]), both.top, ideal[0])]
        rows, columns = (cut.tolist() for cut in bounds)
        for fold, (top, of_fold) in enumerate(zip(both.top_folds, ideal[1], strict=True)):
            images, captions = slice(*rows[fold : fold + 2]), slice(*columns[fold : fold + 2])
            scopes.append(self._scope(images, captions, top, of_fold))
        return scopes

    def curves(self, top: BothTopK, ideal: BothTopK, n_curve: int) -> dict[str, Any]:
        """NCS@k against k, and Semantic Recall against m, of the whole gallery.

        Args:
            top: lists by similarity, as deep as n_curve or as the gallery.
            ideal: lists by φ.
            n_curve: last cut-off; the curves end before items that were no candidates (-inf).

        Returns:
            {"ks": [...], "ncs": {"i2t": [a score a k], "t2i": ...}, "semantic_recall": {"m": [...], "k": [...], "i2t":
            [[a score an m] a k], "t2i": ...}}, percent.
        """
        n_candidates = min(fewest_candidates(top.image), fewest_candidates(top.caption))
        ks, recall_ks = list(range(1, min(n_curve, n_candidates) + 1)), [k for k in _SUM_KS if k <= n_candidates]
        ms = [m for m in CURVE_MS if m <= min(self._positives.n_images, self._positives.n_captions)]
        ncs, recall = {}, {}
        for direction, query in _DIRECTIONS:
            queries = slice(0, self._positives.n_images if query == "image" else self._positives.n_captions)
            lists = semantic_lists(query, top, ideal, self.source, queries, k=max(*ks, *_SUM_KS), own=None)
            ncs[direction] = ncs_of_lists(lists, ks).tolist()
            of_ms = [recall_of_hits(paper_hits(lists, m), m, recall_ks, "all") for m in ms]
            recall[direction] = torch.stack(of_ms, dim=1).tolist()
        return {"ks": ks, "ncs": ncs, "semantic_recall": {"m": ms, "k": recall_ks, **recall}}

    def kept(self, ideal: BothTopK, *, of_folds: bool) -> dict[str, dict[str, torch.Tensor]]:
        """What a run folder keeps of every query, once ``figures`` was called: fields of ``QueryResults``.

        Args:
            ideal: lists by φ of the whole gallery.
            of_folds: whether NCS is that of a query's fold.

        Returns:
            {"i2t": {"ncs", "ncs_own_left_out", "others_relevance"}, "t2i": ...}.
        """
        scopes = self.by_query[1:] if of_folds else self.by_query[:1]
        found = {}
        for direction, query in _DIRECTIONS:
            by_phi = ideal.image if query == "image" else ideal.caption
            others = without(by_phi, own_items(self._positives, query))
            values = others.values.double().masked_fill(others.indices == NO_ITEM, 0)[:, :N_OTHERS]
            ncs = {name: torch.cat([scope[direction][name] for scope in scopes]) for name in scopes[0][direction]}
            found[direction] = {**ncs, "others_relevance": values}
        return found

    def _scope(self, images: slice, captions: slice, top: BothTopK, ideal: BothTopK) -> dict[str, Any]:
        figures: dict[str, Any] = {}
        sums: dict[str, list[torch.Tensor]] = {"nsum": [], "nsum(N)": []}
        by_query: dict[str, dict[str, torch.Tensor]] = {}
        is_short = False
        for direction, query in _DIRECTIONS:
            queries = images if query == "image" else captions
            own_most = int(self._positives.captions_of_image[images].max(initial=0)) if query == "image" else 1
            listed = top.image if query == "image" else top.caption
            check_retrieved(listed, max(self._ks) + own_most, f"NCS(N)@{max(self._ks)}", query)
            if fewest_candidates(listed) < max(_SUM_KS) + own_most:
                short = (listed.values > -torch.inf).sum(1)
                number, needed = int(short.argmin()), max(_SUM_KS) + own_most
                self.notes = [left_out("nsum", query, queries.start + number, int(short[number]), needed)]
                is_short = True
            figures[direction], by_query[direction] = {}, {}
            for mark, own in (("", None), ("(N)", own_items(self._positives, query)[queries])):
                lists = semantic_lists(query, top, ideal, self.source, queries, k=self._k, own=own)
                figures[direction] |= named(f"NCS{mark}", self._ks, ncs_of_lists(lists, self._ks))
                sums[f"nsum{mark}"].append(ncs_of_lists(lists, _SUM_KS))
                kept = "ncs_own_left_out" if mark else "ncs"
                by_query[direction][kept] = 100 * torch.stack(ncs_of_queries(lists, self._ks), dim=1)
                if self._m is not None:
                    recall = recall_of_hits(paper_hits(lists, self._m), self._m, self._ks, "all")
                    figures[direction] |= named(f"SR{mark}", self._ks, recall)
        self.by_query.append(by_query)
        return {**figures, **({} if is_short else {name: nsum(*both) for name, both in sums.items()})}
