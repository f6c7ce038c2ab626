"""From one evaluation to a run: what its pass over the similarities found, query by query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeAlias

import torch
from torch import Tensor

from itm_fast.choices import Query
from itm_fast.metrics.counting import Ranks
from itm_fast.metrics.positives import Positives
from itm_fast.metrics.precision import hits_of_lists
from itm_fast.metrics.query_positives import QueryPositives
from itm_fast.metrics.ranks import BothTopK
from itm_fast.metrics.retrieved import TopK
from itm_fast.metrics.semantic_lists import RelevanceSource
from itm_fast.ops.ranking import NO_ITEM
from itm_fast.runs.attention import attention_maps, has_attention, shown_pairs
from itm_fast.runs.folder import Attention, Run
from itm_fast.runs.query_results import QueryResults
from itm_fast.runs.result import Report
from itm_fast.runs.retrieved_lists import RetrievedLists, TwoWayJudgements
from itm_fast.similarities.scorers import IntArray
from itm_fast.similarities.selection import Order

TwoWaySets: TypeAlias = tuple[QueryPositives, QueryPositives]  # of image and of caption queries

_DIRECTIONS: tuple[tuple[str, Query], ...] = (("i2t", "image"), ("t2i", "caption"))


class RunKeeper:
    """Given to ``evaluate`` as ``keep``, takes what every query retrieved; then makes a ``Run`` of it.

    Of n_images + n_captions queries it keeps ``depth`` items each, nothing of size n_images x n_captions. Images and
    captions are numbered as the protocol has them, which is as they were given unless ids put them in another order.

    Attributes:
        depth: items kept of every query.
        n_listed: items of every query that ``lists`` has; 0: it stays None.
        lists: what every query retrieved and what is relevant, for files of other tools.
        curves: as ``Run`` has them; empty without φ.

    Example:
        >>> from itm_fast.evaluation import evaluate
        >>> keep = RunKeeper(depth=2)
        >>> sims = torch.tensor([[0.9, 0.2, 0.4, 0.3], [0.8, 0.1, 0.7, 0.6]])
        >>> report = evaluate(sims, captions_per_image=2, keep=keep)
        >>> run = keep.run(report, name="mine", captions=["a dog", "dogs", "a cat", "cats"])
        >>> run.captions[run.i2t.retrieved[1, 0]], int(run.i2t.ranks[1])
        ('a dog', 1)
    """

    def __init__(self, depth: int = 20, n_listed: int = 0) -> None:
        """Nothing is kept yet.

        Args:
            depth: items to keep of every query, at least 1.
            n_listed: items of ``lists``, which are not part of the run.

        Raises:
            ValueError: depth below 1.
        """
        if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
            raise ValueError(f"depth is {depth!r}, expected an integer of at least 1")
        self.depth, self.n_listed = depth, n_listed
        self.lists: RetrievedLists | None = None
        self.curves: dict[str, Any] = {}
        self._results: dict[str, QueryResults] = {}
        self._date = ""
        self._caption_to_image = torch.empty(0, dtype=torch.int64)
        self._order: Order = (None, None)

    def take(
        self,
        positives: Positives | TwoWaySets,
        ranks: tuple[Ranks, Ranks],
        top: BothTopK,
        folds: tuple[Sequence[Ranks], Sequence[Ranks]] = ((), ()),
        source: RelevanceSource | None = None,
        annotated: Sequence[TwoWaySets] = (),
        order: Order = (None, None),
        by_query: Mapping[str, Mapping[str, Tensor]] | None = None,
        judged: TwoWayJudgements | None = None,
    ) -> None:
        """Keep what a pass over the similarities found; ``evaluate`` calls this.

        Args:
            positives: captions of images; or any positives of image and of caption queries.
            ranks: of image and of caption queries.
            top: at least ``depth`` items of every query, or all there are.
            folds: ranks of each fold, likewise.
            source: φ of pairs, or None.
            annotated: positives beside a caption's own image, of image and of caption queries each.
            order: which of the images and captions given were ranked.
            by_query: {"i2t": {...}, "t2i": {...}} of ``QueryResults``: ncs, ncs_own_left_out, others_relevance; None
                without φ.
            judged: graded relevance, where ``positives`` have grades.
        """
        self._order = order
        if self.n_listed:
            self.lists = RetrievedLists.of(top, judged or positives, order)
        self._date = datetime.now().astimezone().isoformat(timespec="seconds")
        self._caption_to_image = _owners(positives)
        for side, (direction, query) in enumerate(_DIRECTIONS):
            listed = top.image if query == "image" else top.caption
            truths = [truth[side] for truth in annotated]
            of_lists = _results(query, ranks[side], listed, folds[side], source, truths, self.depth)
            more = {} if by_query is None else {name: found.float() for name, found in by_query[direction].items()}
            self._results[direction] = replace(of_lists, **more)

    def run(
        self,
        report: Report,
        *,
        name: str,
        captions: Sequence[str] | None = None,
        image_names: Sequence[str] | None = None,
        scorer: object = None,
        source: dict[str, Any] | None = None,
    ) -> Run:
        """The run, once ``evaluate`` has been given this.

        Args:
            report: what ``evaluate`` returned.
            name: what a page shall call it.
            captions: text of every column of sims as it was given, or None.
            image_names: name of every row, likewise.
            scorer: the ``ModelScorer`` that was evaluated: if its model has cross-attention, this is kept for some
                failures (with the first retrieved and with the best positive) and some successes. Others have none.
            source: what was evaluated, plain values.

        Returns:
            The run, to be saved with ``save_run``.

        Raises:
            TypeError: captions or image_names is a single string.
            ValueError: nothing was evaluated yet; not one caption a column or one name a row.
        """
        if not self._results:
            raise ValueError("there is nothing kept yet: pass this to evaluate as keep=")
        i2t, t2i = (self._results[direction] for direction, _ in _DIRECTIONS)
        rows, columns = self._order
        maps: tuple[Attention, ...] = ()
        if has_attention(scorer):
            pairs = shown_pairs(i2t, t2i)
            given = [(_number(image, rows), _number(caption, columns)) for image, caption in pairs]
            maps = attention_maps(scorer, given, numbers=pairs)
        return Run(
            name=name,
            report=report.to_dict(),
            i2t=i2t,
            t2i=t2i,
            caption_to_image=self._caption_to_image,
            captions=_arranged(captions, columns),
            image_names=_arranged(image_names, rows),
            curves=self.curves,
            attention=maps,
            source=source or {},
            date=self._date,
        )


def _results(
    query: Query,
    ranks: Ranks,
    top: TopK,
    folds: Sequence[Ranks],
    source: RelevanceSource | None,
    annotated: Sequence[QueryPositives],
    depth: int,
) -> QueryResults:
    """The results of one direction."""
    values, items = top.values[:, :depth], top.indices[:, :depth]
    # Items at -inf were no candidates: they come after those that were, and are no results.
    items = items.masked_fill(values == -torch.inf, NO_ITEM)
    values = values.masked_fill(items == NO_ITEM, 0).float()
    best = ranks.best_item
    phi = None if source is None else _phi(source, query, items)
    hits = None
    for truth in annotated:
        found = hits_of_lists(truth, torch.arange(len(items)).numpy(), items)
        hits = found if hits is None else hits | found
    n_missing = depth - items.shape[1]
    padding = (0, n_missing)
    return QueryResults(
        ranks=ranks.best,
        fold_ranks=torch.cat([fold.best for fold in folds]) if folds else None,
        retrieved=_padded(items.masked_fill(items == NO_ITEM, -1), padding, -1),
        retrieved_sims=_padded(values, padding, 0),
        best_positive=best,
        best_positive_sims=ranks.best_score.masked_fill(best < 0, 0).float(),
        relevance=None if phi is None else _padded(phi, padding, 0),
        positive_relevance=None if source is None else _phi(source, query, best[:, None])[:, 0],
        annotated=None if hits is None else _padded(hits, padding, False),
    )


def _padded(listed: Tensor, padding: tuple[int, int], value: int) -> Tensor:
    return torch.nn.functional.pad(listed, padding, value=value)


def _phi(source: RelevanceSource, query: Query, items: Tensor) -> Tensor:
    """φ of every query and its items, (n, k) float32; 0 where there is no item."""
    missing = (items < 0) | (items == NO_ITEM)
    asking = torch.arange(len(items))[:, None].expand_as(items)
    known = items.masked_fill(missing, 0)
    images, captions = (asking, known) if query == "image" else (known, asking)
    phi = source.pairs(images.flatten(), captions.flatten(), torch.float64).cpu().reshape(items.shape)
    return phi.masked_fill(missing, 0).float()


def _owners(positives: Positives | TwoWaySets) -> Tensor:
    """The image of every caption, the first of several; -1 where there is none."""
    if isinstance(positives, Positives):
        return torch.from_numpy(positives.caption_to_image).clone()
    of_captions = torch.from_numpy(positives[1].padded())
    return of_captions[:, 0].clone() if of_captions.shape[1] else torch.full((len(of_captions),), -1)


def _arranged(texts: Sequence[str] | None, order: IntArray | None) -> tuple[str, ...] | None:
    """Texts in the order of the protocol."""
    if isinstance(texts, str):
        raise TypeError(f"captions or image_names is the string {texts!r:.40}, expected a list of texts")
    if texts is None or order is None:
        return None if texts is None else tuple(texts)
    if len(order) and int(order.max()) >= len(texts):
        raise ValueError(f"{len(texts)} texts were given, but sims has {int(order.max()) + 1} at least")
    return tuple(texts[number] for number in order.tolist())


def _number(place: int, order: IntArray | None) -> int:
    """The number that an image or caption of the protocol has among those given."""
    return place if order is None else int(order[place])
