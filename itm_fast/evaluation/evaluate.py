"""``evaluate``: similarities, embeddings or a tile scorer in, and φ if there is any; a report out."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any

import torch

from itm_fast.choices import Query
from itm_fast.evaluation.beside_recall import Languages
from itm_fast.evaluation.caveats import normalised, rank_notes, relevance_notes, shift_notes, source_notes
from itm_fast.evaluation.chance_levels import chance_levels, chance_notes, told
from itm_fast.evaluation.figures import (
    RSUM_KS,
    UndefinedError,
    judged_figures,
    mean_figures,
    precision_of_ranks,
    section,
    sum_note,
    with_common_sums,
)
from itm_fast.evaluation.paired_choices import choice_sections
from itm_fast.evaluation.plan import NO_SELF, Annotations, Plan, QueryColumn, Request
from itm_fast.evaluation.plans import make_plan
from itm_fast.evaluation.protocols import ProtocolName
from itm_fast.evaluation.protocols.pair_choices import CHOICES
from itm_fast.evaluation.semantics import Semantics
from itm_fast.files.ids import IdsLike
from itm_fast.files.owners import OwnersLike
from itm_fast.metrics.graded_ranks import Ties
from itm_fast.metrics.positives import Positives
from itm_fast.metrics.query_positives import QueryPositives
from itm_fast.metrics.ranks import both_top, stream_ranks, top_keepers
from itm_fast.metrics.recall import checked_ks
from itm_fast.metrics.semantic_lists import Relevance
from itm_fast.metrics.set_ranks import SetRanks
from itm_fast.runs.keeper import RunKeeper
from itm_fast.runs.result import Report
from itm_fast.similarities.scorers import Sims, TileScorer, as_scorer
from itm_fast.similarities.tiles import CHUNK_BYTES, Progress, Tiles, everything, n_pairs, tile_sims


def evaluate(
    sims: Sims,
    relevance: Relevance | None = None,
    *,
    ks: Sequence[int] = RSUM_KS,
    m: int | None = None,
    captions_per_image: int | None = None,
    caption_to_image: OwnersLike | None = None,
    folds: int | None = None,
    protocol: ProtocolName | None = None,
    annotations: Annotations | None = None,
    ids: IdsLike | None = None,
    self_score: float = NO_SELF,
    query_column: QueryColumn = 0,
    ties: Ties = "index",
    normalise: bool = False,
    n_images: int | None = None,
    n_captions: int | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    progress: Progress | None = None,
    keep: RunKeeper | None = None,
) -> Report:
    """Recall, median and mean rank of both directions, and rsum, in one streaming pass; with φ also NCS and nsum.

    R@k = 100 mean(rank of the best positive < k), rank 0-based; higher score first, then lower index.
    NCS@k = 100 mean(sum of φ over the first k / the largest such sum).

    Args:
        sims: one of (n_images, n_captions) similarities, a tensor or array of real numbers, higher is better;
            a pair (images (n_images, dim), captions (n_captions, dim)) of embeddings, compared by dot product in at
            least float32; a ``TwoWayScorer`` of similarities that differ between the directions; a ``RegionWordScorer``
            of regions and words; a callable (rows, columns) -> tile, see ``itm_fast.similarities.Tile``. -inf stands
            for pairs that were no candidates: no medr and meanr where the positives of a query are among them.
            Beside a matrix that is given, memory stays at a few chunk_bytes and vectors of n_images and n_captions.
            Equal embeddings are equal scores up to the rounding of the product, which may depend on the tile.
        relevance: φ of every image and caption, (n_images, n_captions), also memory-mapped; or a corpus encoded by
            ``Cider.encode``, whose matrix is never made. None: no NCS.
        ks: cut-offs, at least 1 each.
        m: also report Semantic Recall SR@k with the m captions (or images) of largest φ as the relevant ones.
        captions_per_image: caption c belongs to image c // captions_per_image (default 5).
        caption_to_image: the row of each caption's image, instead of that rule: (n_captions,) integers, or as
            {caption: image} or {image: [captions]}. Images without captions are no queries, but stay
            in the gallery.
        folds: cut the set into that many folds of n_images / folds images, in file order; the quoted figures are the
            mean over the folds, each with its own gallery.
        protocol: "flickr30k-1k" (1000 images), "coco-1k" (mean of five 1K folds of the 5000 images) or "coco-5k" (the
            5000 images at once; the folds are reported beside): sizes are checked, folds are set. With annotations:
            "eccv": coco-5k, and of the same pass CxC recall and ECCV Caption's mAP@R, R-Precision and recall (and PMRP
            if its ground truth is in the folder); "cxc": image-text, text-text and image-image retrieval, and the STS,
            SIS and SITS correlations, of embeddings; "coco-all": eccv and cxc at once, of one pass;
            "cxc-image-text": what of cxc needs no embeddings; "coco-fg",
            "flickr30k-fg": refined captions against the pool with distractor images; "coco-fg-originals",
            "flickr30k-fg-originals": without distractors; "positives": any ids and positives. Of a public release each,
            from its own files: "urban1k", "docci", "dci", "iiw" (long captions), "xm3600", "xtd10", "multi30k",
            "coco-cn", "flickr30k-cn" (by language), "rococo", "rococo-images" (altered captions, or images, in the
            gallery), "vidore" (pages, nDCG), and "winoground", "sugarcrepe", "sugarcrepe-pp", which compare pairs and
            rank nothing.
        annotations: the folder with the annotation files of the protocol, in their owners' formats; for "positives" a
            .json or .npz file, qrels (``read_relevant_pairs``) or a ``RelevantPairs``. "eccv" finds what is not there
            in the installed package eccv_caption.
        ids: the ids of rows and columns, ``Ids`` or a file (``read_ids``), if they are not in the order of the
            protocol: Karpathy's test order (coco_test_ids.npy), that of the pool's .npy file, or of the annotations.
            Captions and images that the protocol does not have are left out.
        self_score: in text-text and image-image retrieval, the similarity of a query with itself: -inf, so that it is
            no result, or 0 as in woodfrog/vse_infty.
        query_column: which column of the rated pairs is the query of the correlations.
        ties: of protocol "positives": "index", equal scores by index, the lower first; "trec", as trec_eval: scores as
            float32, equal ones by id as text, the higher first.
        normalise: compare embeddings by cosine: each is read at length 1, block by block; memory-mapped ones are not
            copied. Without it, lengths that differ are said in ``report["conditions"]["notes"]``.
        n_images: images, if ``sims`` is a callable without that attribute.
        n_captions: captions, likewise.
        chunk_bytes: bound of a tile of similarities, counted as 8 bytes each.
        progress: called with (pairs done, pairs in all), first with (0, pairs in all).
        keep: is filled with what every query retrieved, in the same pass; ``RunKeeper.run`` makes a run folder of it.

    Returns:
        The report: ``report["i2t"]["R@1"]``, ``report["t2i"]["medr"]``, ``report["rsum"]``; ``print(report)``.
        With φ: ``report["i2t"]["NCS@10"]``, ``report["nsum"]`` and, with the query's own captions or image left out of
        both lists, ``report["i2t"]["NCS(N)@10"]``, ``report["nsum(N)"]``. In folds both axes of φ are cut, as in the
        paper's 1K figures: ``report["folds"][0]``. More sections as the protocol says: ``report["cxc"]["i2t"]["R@1"]``,
        ``report["eccv"]["t2i"]["mAP@R"]``, ``report["t2t"]["R@1"]``, ``report["sits"]["spearman"]``.

    Raises:
        ValueError: NaN in sims or φ (row and column are named), sizes or ids that do not fit each other or the
            protocol; a cut-off beyond the candidates of a query (beyond those of rsum and nsum, they are left out);
            normalise without embeddings.
        FileNotFoundError: an annotation file is missing; says which, and where its owners publish it.
        DataError: an annotation file holds something else, or is cut short.
        TypeError: sims or φ of an unsupported type.

    Source: kuanghuei/SCAN evaluation.py (i2t, t2i, five folds); fold means are true means, not its summary lines. NCS:
        Biten et al., Is An Image Worth Five Sentences?, WACV 2022; furkanbiten/ncs_metric. Protocols: Chun et al., ECCV
        Caption, ECCV 2022; Parekh et al., Crisscrossed Captions, EACL 2021; cwj1412/MSCOCO-Flikcr30K_FG.

    Example:
        >>> report = evaluate(torch.tensor([[0.9, 0.2, 0.4, 0.3], [0.8, 0.1, 0.7, 0.6]]), captions_per_image=2)
        >>> report["i2t"]["R@1"], report["t2i"]["medr"]
        (50.0, 1.0)
    """
    started = time.perf_counter()
    ks = checked_ks(ks)
    if query_column not in (0, 1):
        raise ValueError(f"query_column is {query_column}, expected 0 (the first column of the rated pairs) or 1")
    request = Request(
        ks, captions_per_image, caption_to_image, folds, protocol, annotations, ids, self_score, query_column, ties
    )
    given = as_scorer(sims, n_images, n_captions)
    given = normalised(given) if normalise else given
    if protocol in CHOICES:
        return _of_choices(given, request, (relevance, m, keep), progress, started)
    plan = make_plan(given, request)
    scorer = plan.scorer
    if not scorer.n_captions:
        raise ValueError(f"sims is {scorer.n_images} x 0: without captions there is nothing to evaluate")
    if m is not None and relevance is None:
        raise ValueError(f"m is {m}, but there is no relevance to take the relevant items from")
    stages = _Stages(progress, plan, relevance is not None)
    if isinstance(plan.positives, Positives):
        figures, dtype, notes = _of_owners(plan, plan.positives, relevance, ks, m, chunk_bytes, stages, keep)
    else:
        if relevance is not None:
            raise ValueError(f"relevance has no use with protocol {protocol}; use protocol coco-5k, eccv or coco-all")
        figures, dtype, notes = _of_sets(plan, plan.positives, ks, chunk_bytes, stages, keep)
    sections = _sections(figures)
    more: dict[str, Any] = {}
    for extra in plan.extras:
        more |= extra.sections(chunk_bytes, stages.next(extra.n_pairs) if extra.n_pairs else None)
    conditions: dict[str, Any] = {
        "n_images": scorer.n_images,
        "n_captions": scorer.n_captions,
        "protocol": protocol,
        "folds": plan.folds,
        "ks": list(ks),
        "m": m,
        "dtype": str(dtype).removeprefix("torch."),
        "seconds": time.perf_counter() - started,
        "notes": [*plan.notes, *source_notes(given), *notes],
    }
    headline = plan.headline
    quoted: dict[str, Any] = {**sections, **more}[headline]
    report = {**quoted, "headline": headline, **sections, **more, "conditions": conditions}
    if plan.says_chance:
        conditions["notes"] += _with_chance(report, plan, ks)
    return Report(report)


def _with_chance(report: dict[str, Any], plan: Plan, ks: Sequence[int]) -> list[str]:
    """Adds what a random order would score; says it, and where the figures are no better."""
    parts = [part for extra in plan.extras if isinstance(extra, Languages) for part in extra.parts]
    if not parts:
        report["chance"] = chance_levels(plan.positives, ks)
        return [told(report["chance"]), *chance_notes(report, report["chance"])]
    levels = {part.name: chance_levels((part.image, part.caption), ks) for part in parts if part.image and part.caption}
    report["chance"] = mean_figures(list(levels.values()))
    of_languages = [chance_notes(report["languages"][name], of, name) for name, of in levels.items()]
    return [told(report["chance"]), *itertools.chain.from_iterable(of_languages)]


def _of_choices(
    scorer: TileScorer, request: Request, unused: tuple[object, ...], progress: Progress | None, started: float
) -> Report:
    """The report of a protocol that compares pairs."""
    for name, value in zip(("relevance", "m", "keep (--run, --export mteb or trec)"), unused, strict=True):
        if value is not None:
            raise ValueError(
                f"{name} has no use with protocol {request.protocol}, which compares pairs and ranks nothing"
            )
    found, notes = choice_sections(scorer, request, progress)
    conditions = {
        "n_images": scorer.n_images,
        "n_captions": scorer.n_captions,
        "protocol": request.protocol,
        "folds": None,
        "ks": list(request.ks),
        "m": None,
        "n_pairs": found.pop("n_pairs"),
        "dtype": found.pop("dtype"),
        "seconds": time.perf_counter() - started,
        "notes": [*getattr(scorer, "notes", ()), *source_notes(scorer), *notes],
    }
    return Report({**found["choices"]["all"], "headline": "choices", **found, "conditions": conditions})


class _Stages:
    """Progress of passes one after the other, each a part of the whole."""

    def __init__(self, progress: Progress | None, plan: Plan, with_relevance: bool) -> None:
        self._progress, self._begun = progress, 0
        self.n_pairs, self.n_phi = n_pairs(plan.scorer), plan.scorer.n_images * plan.scorer.n_captions
        self._total = self.n_pairs + with_relevance * self.n_phi + sum(extra.n_pairs for extra in plan.extras)

    def next(self, n_pairs: int) -> Progress | None:
        """Progress of the next pass, over that many pairs."""
        progress, begun, total = self._progress, self._begun, self._total
        self._begun += n_pairs
        if progress is None:
            return None
        return lambda done, _: progress(begun + done, total)


def _of_owners(
    plan: Plan,
    positives: Positives,
    relevance: Relevance | None,
    ks: Sequence[int],
    m: int | None,
    chunk_bytes: int,
    stages: _Stages,
    keep: RunKeeper | None,
) -> tuple[list[dict[str, Any]], torch.dtype, list[str]]:
    """Figures of the whole gallery, then of each fold, where every caption has one image; and notes."""
    if relevance is not None and plan.moved:
        raise ValueError(
            "relevance is read by position, but ids or caption_to_image change which images and captions are where; "
            "put sims and relevance in the order of the protocol first"
        )
    depth, n_listed = (0, 0) if keep is None else (keep.depth, keep.n_listed)
    n_curve = max(depth, *ks) if depth else 0
    semantics = None if relevance is None else Semantics(relevance, plan.scorer, positives, ks, m, n_curve)
    n_sims = tile_sims(chunk_bytes)
    also = [collector for extra in plan.extras for collector in extra.collectors(plan.scorer, n_sims)]
    both = stream_ranks(
        plan.scorer,
        positives,
        k=max(n_listed, depth if semantics is None else semantics.n_retrieved),
        folds=plan.folds,
        also=also,
        chunk_bytes=chunk_bytes,
        progress=stages.next(stages.n_pairs),
    )
    figures = [section(both.image, both.caption, ks)]
    notes = rank_notes(
        both.image, both.caption, positives.n_images, positives.n_captions, beside_chance=plan.says_chance
    )
    notes += shift_notes(both.caption, positives)
    notes += sum_note([(both.image, both.caption), *zip(both.image_folds, both.caption_folds, strict=True)])
    for fold, scope in enumerate(zip(both.image_folds, both.caption_folds, strict=True)):
        try:
            figures.append(section(*scope, ks))
        except UndefinedError as error:
            raise ValueError(
                f"fold {fold} (counted from 0): {error}; without a protocol or folds none is cut"
            ) from error
    by_query = None
    if semantics is not None:
        ideal = semantics.ideal(plan.folds, chunk_bytes=chunk_bytes, progress=stages.next(stages.n_phi))
        more = semantics.figures(both, plan.folds, ideal)
        figures = [_joined(ranks, of_phi) for ranks, of_phi in zip(figures, more, strict=True)]
        notes += [*semantics.notes, *relevance_notes(semantics.source, ideal[0])]
        if keep is not None:
            keep.curves = semantics.curves(both.top, ideal[0], n_curve)
            by_query = semantics.kept(ideal[0], of_folds=plan.headline == "fold_mean")
    if keep is not None:
        folds = (both.image_folds, both.caption_folds)
        source = None if semantics is None else semantics.source
        ranks = (both.image, both.caption)
        keep.take(positives, ranks, both.top, folds, source, plan.annotated, plan.order, by_query)
    return with_common_sums(figures), both.dtype, notes


@torch.no_grad()
def _of_sets(
    plan: Plan,
    positives: tuple[QueryPositives, QueryPositives],
    ks: Sequence[int],
    chunk_bytes: int,
    stages: _Stages,
    keep: RunKeeper | None,
) -> tuple[list[dict[str, Any]], torch.dtype, list[str]]:
    """Figures of the whole gallery with any positives; and notes."""
    n_sims = tile_sims(chunk_bytes)
    tiles = Tiles(plan.scorer, stages.next(stages.n_pairs))
    counted = SetRanks(plan.scorer, n_sims, *positives)
    also = [collector for extra in plan.extras for collector in extra.collectors(plan.scorer, n_sims)]
    keepers = () if keep is None else top_keepers(plan.scorer, max(keep.depth, keep.n_listed), tiles.dtype())
    tiles.collect(everything(plan.scorer), n_sims, [*counted.collectors, *also, *keepers], ())
    image, caption = counted.both()
    if keep is not None and keepers:
        keep.take(
            positives,
            (image, caption),
            both_top(keepers),
            annotated=plan.annotated,
            order=plan.order,
            judged=plan.judged,
        )
    figures = section(image, caption, ks)
    for direction, ranks, truth in zip(("i2t", "t2i"), (image, caption), positives, strict=True):
        if plan.judged is not None:
            query: Query = "image" if direction == "i2t" else "caption"
            figures[direction] |= precision_of_ranks(ranks, query)
            figures[direction] |= judged_figures(counted.counter(query), plan.judged[direction == "t2i"], ks)
        figures[direction]["n_pairs"] = truth.n_pairs
    sizes = plan.scorer.n_images, plan.scorer.n_captions
    notes = rank_notes(image, caption, *sizes, beside_chance=plan.says_chance)
    return [figures], tiles.dtype(), [*notes, *sum_note([(image, caption)])]


def _sections(scopes: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of the whole gallery and, if there are folds, of each and their mean."""
    full, *folds = scopes
    return {"full": full, **({"fold_mean": mean_figures(folds), "folds": folds} if folds else {})}


def _joined(ranks: dict[str, Any], of_phi: dict[str, Any]) -> dict[str, Any]:
    """The figures of a scope from its ranks, with those from its φ."""
    directions = {name: {**ranks[name], **of_phi[name]} for name in ("i2t", "t2i")}
    return {**ranks, **of_phi, **directions}
