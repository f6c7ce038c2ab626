"""``rerank``: the best of a fast model for every query, put in order by a slow one, and what that costs."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itm_fast.evaluation.caveats import has_embeddings, normalised, source_notes
from itm_fast.evaluation.figures import RSUM_KS, mean_figures
from itm_fast.evaluation.list_sections import extra_sections, list_section
from itm_fast.evaluation.plan import NO_SELF, Annotations, Plan, Request
from itm_fast.evaluation.plans import make_plan
from itm_fast.evaluation.protocols import ProtocolName
from itm_fast.evaluation.protocols.captioned_sets import SETS
from itm_fast.files.ids import IdsLike
from itm_fast.files.owners import OwnersLike
from itm_fast.metrics.positives import Positives
from itm_fast.metrics.ranks import BothTopK
from itm_fast.metrics.recall import checked_ks
from itm_fast.ops.ranking import NO_ITEM
from itm_fast.runs.keeper import RunKeeper
from itm_fast.runs.result import Report
from itm_fast.runs.retrieved_lists import RetrievedLists
from itm_fast.similarities.scorers import DotProductScorer, MatrixScorer, Sims, TileScorer, as_scorer
from itm_fast.similarities.selection import chosen, select
from itm_fast.similarities.tiles import CHUNK_BYTES, Progress
from itm_fast.sources.agreement import agreement_notes, compared_tile
from itm_fast.sources.candidates import BothCandidates, Scored, score_candidates
from itm_fast.sources.pairs import PairSims, as_pair_scorer

_ARRAYS = (tuple, np.ndarray, Tensor, MatrixScorer, DotProductScorer)
RELATIVE_ALPHAS = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


def rerank(
    coarse: Sims,
    fine: PairSims,
    k: int,
    *,
    alpha: float = 0.0,
    beta: float = 1.0,
    ks: Sequence[int] = RSUM_KS,
    captions_per_image: int | None = None,
    caption_to_image: OwnersLike | None = None,
    folds: int | None = None,
    protocol: ProtocolName | None = None,
    annotations: Annotations | None = None,
    ids: IdsLike | None = None,
    normalise: bool = False,
    chunk_bytes: int = CHUNK_BYTES,
    progress: Progress | None = None,
    keep: RunKeeper | None = None,
) -> Report:
    """Recall of the k best of a fast model, put in order by a slow one.

    final = alpha · coarse + beta · fine on a query's k candidates; everything else comes after them. Each direction has
    candidates of its own: k captions of every image, k images of every caption. Each pair is scored once, whichever
    directions want it; no matrix of all pairs is made. Equal scores, coarse and final: lower index first.

    Args:
        coarse: the fast model's similarities, whatever ``evaluate`` takes.
        fine: the slow model's: an object with ``score_pairs``, such as ``ModelScorer`` of a model with cross-attention;
            a function (rows (n,), columns (n,) int64) -> (n,) similarities; or what ``evaluate`` takes. A tile scorer
            without ``score_pairs`` is asked for all its tiles. Images and captions as in ``coarse``.
        k: candidates of a query, at least the largest cut-off; a smaller gallery is taken whole.
        alpha: factor of the coarse score; 0 leaves it out.
        beta: factor of the fine score.
        ks: cut-offs, at most k.
        captions_per_image: as in ``evaluate``; so are all that follow.
        caption_to_image: likewise.
        folds: likewise; the candidates of a fold are from its own gallery, and only folds are re-ranked.
        protocol: likewise; only the gallery that a protocol quotes is re-ranked: of coco-1k the folds, of coco-5k the
            whole. Of eccv and cxc-image-text the recalls, and mAP@R and R-Precision if k is at least the largest R.
        annotations: likewise.
        ids: likewise, of both stages.
        normalise: likewise, of whichever stages are embeddings.
        chunk_bytes: bound of a tile of coarse similarities, counted as 8 bytes each.
        progress: called with (pairs done, pairs in all), of the coarse stage and then of the fine.
        keep: gets ``lists``, of the k candidates in their new order, if it is to have any.

    Returns:
        The report, as of ``evaluate``, but without median and mean rank, since ranks beyond k are unknown; rsum if k is
        at least 10. ``report["coarse"]`` has the recalls of the coarse stage, and its hit rate at k, ``R@k``, which
        re-ranking cannot exceed. ``report["conditions"]``: k, alpha, beta, n_pairs (of all), n_candidate_pairs,
        n_scored (by ``fine``), seconds_coarse, seconds_fine.

    Raises:
        ValueError: k below a cut-off, NaN in either stage, sizes that differ or do not fit the protocol, a protocol
            that lists of k cannot answer; normalise without embeddings.
        TypeError: arguments of an unsupported type.

    Source: zengyan-97/X-VLM (re-ranking by alpha = 0, beta = 1, on 128 or 256 candidates).

    Example:
        >>> coarse = torch.tensor([[0.8, 0.9, 0.1], [0.2, 0.7, 0.6], [0.3, 0.1, 0.5]])
        >>> report = rerank(coarse, lambda rows, columns: 1.0 * (rows == columns), 2, ks=(1, 2), captions_per_image=1)
        >>> report["i2t"]["R@1"], round(report["coarse"]["i2t"]["R@1"], 1), report["conditions"]["n_scored"]
        (100.0, 66.7, 6)
    """
    started = time.perf_counter()
    ks = checked_ks(ks)
    _check_factors(alpha, beta)
    request = _request(ks, captions_per_image, caption_to_image, folds, protocol, annotations, ids)
    if normalise:
        coarse, fine = _at_unit_length(coarse, fine)
    plan, scored = _scored(coarse, fine, k, request, chunk_bytes, progress)
    finals = [gallery.lists(alpha, beta) for gallery in scored.galleries]
    if keep is not None and keep.n_listed:
        if plan.headline == "fold_mean":
            raise ValueError(f"protocol {protocol} re-ranks folds, which have no list of the whole gallery to export")
        keep.lists = RetrievedLists.of(BothTopK(*finals[0]), plan.judged or plan.positives, plan.order)
    figures = [list_section(plan, one, lists, ks, k) for one, lists in zip(scored.galleries, finals, strict=True)]
    before = [list_section(plan, one, one.coarse_lists(), (*ks, k), k) for one in scored.galleries]
    sections: dict[str, Any] = {"full": figures[0]}
    if plan.headline == "fold_mean":
        sections = {"fold_mean": mean_figures(figures), "folds": figures}
    extras, left_out = extra_sections(plan, finals[0], ks, k)
    n_pairs = plan.scorer.n_images * plan.scorer.n_captions
    conditions = {
        "n_images": plan.scorer.n_images,
        "n_captions": plan.scorer.n_captions,
        "protocol": protocol,
        "folds": plan.folds if plan.headline == "fold_mean" else None,
        "ks": list(ks),
        "m": None,
        "k": k,
        "alpha": alpha,
        "beta": beta,
        "n_pairs": n_pairs,
        "n_candidate_pairs": scored.n_pairs,
        "n_scored": scored.n_scored,
        "seconds_coarse": scored.seconds_coarse,
        "seconds_fine": scored.seconds_fine,
        "dtype": "float64",
        "seconds": time.perf_counter() - started,
        "notes": [
            *dict.fromkeys([*getattr(fine, "notes", []), *plan.notes]),  # of both stages: once
            *_stage_notes(coarse, fine),
            *([] if k >= max(RSUM_KS) else [f"rsum was left out: it needs k of at least {max(RSUM_KS)}, given {k}"]),
            *left_out,
            *(_lowered(figures[0], before[0], ks[0]) or _unlike(coarse, fine)),
            _cost(scored, k, alpha, beta, n_pairs),
        ],
    }
    sections = {**sections[plan.headline], "headline": plan.headline, **sections, "coarse": mean_figures(before)}
    return Report({**sections, **extras, "conditions": conditions})


def _lowered(after: Mapping[str, Any], before: Mapping[str, Any], k: int) -> list[str]:
    """Said of fine scores that lose more than half of what the coarse ones found first."""
    found = [(before[way][f"R@{k}"], after[way][f"R@{k}"]) for way in ("i2t", "t2i")]
    if not all(None not in (first, last) and last < first / 2 for first, last in found):
        return []
    moved = ", ".join(f"from {first:.1f} to {last:.1f}" for first, last in found)
    return [
        f"WARNING: re-ranking lowers R@{k} of both directions, {moved}: are the fine scores of the same set in the "
        "same order, and the higher the better?"
    ]


def _stage_notes(coarse: Sims, fine: PairSims) -> list[str]:
    """What is odd about embeddings or a matrix of either stage, by name."""
    notes = []
    for name, stage in (("coarse", coarse), ("fine", fine)):
        if isinstance(stage, (tuple, np.ndarray, Tensor, TileScorer)):
            notes += [f"{name}: {note}" for note in source_notes(as_scorer(stage))]
    return notes


def _unlike(coarse: Sims, fine: PairSims) -> list[str]:
    """Said of stages that agree on nothing, where their pairs cost nothing: matrices and embeddings."""
    arrays = [(name, of) for name, of in (("coarse", coarse), ("fine", fine)) if isinstance(of, _ARRAYS)]
    return agreement_notes([(name, compared_tile(as_scorer(of))) for name, of in arrays])


def _at_unit_length(coarse: Sims, fine: PairSims) -> tuple[Sims, PairSims]:
    """Both stages, whichever of them are embeddings compared by cosine; ValueError if none is."""
    made: list[Any] = [as_scorer(stage) if isinstance(stage, tuple) else stage for stage in (coarse, fine)]
    if not any(map(has_embeddings, made)):
        raise ValueError(
            "normalise is for embeddings, a pair (images, captions), but neither coarse nor fine is one: leave it out"
        )
    first, second = (normalised(stage) if has_embeddings(stage) else stage for stage in made)
    return first, second


@dataclass(frozen=True)
class AlphaSearch:
    """What a search for alpha found.

    Attributes:
        alpha: the best, the smallest of equally good ones.
        tried: (alpha, rsum) of all, in order.
    """

    alpha: float
    tried: tuple[tuple[float, float], ...]


def search_alpha(
    coarse: Sims,
    fine: PairSims,
    k: int,
    *,
    alphas: Sequence[float] | None = None,
    beta: float = 1.0,
    captions_per_image: int | None = None,
    caption_to_image: OwnersLike | None = None,
    normalise: bool = False,
    chunk_bytes: int = CHUNK_BYTES,
    progress: Progress | None = None,
) -> AlphaSearch:
    """The alpha of ``rerank`` with the best rsum on a validation set; every pair is scored once for all of them.

    Args:
        coarse: as in ``rerank``, of the validation set; so are all that follow.
        fine: likewise.
        k: likewise, at least 10.
        alphas: to try. None: 0, 1/8, 1/4, 1/2, 1, 2, 4, 8 times beta · the standard deviation of the candidates' fine
            scores / that of their coarse scores.
        beta: factor of the fine score.
        captions_per_image: as in ``evaluate``.
        caption_to_image: likewise.
        normalise: as in ``rerank``; so are all that follow.
        chunk_bytes: likewise.
        progress: likewise.

    Returns:
        The best alpha, and the rsum of each.

    Raises:
        ValueError, TypeError: as ``rerank``.

    Example:
        >>> coarse, fine = torch.eye(12), torch.zeros(12, 12)
        >>> search_alpha(coarse, fine, 10, alphas=(0, 1), captions_per_image=1).alpha
        1.0
    """
    for alpha in (0.0,) if alphas is None else alphas:
        _check_factors(alpha, beta)
    if alphas is not None and not len(alphas):
        raise ValueError("alphas is empty, expected numbers to try")
    if normalise:
        coarse, fine = _at_unit_length(coarse, fine)
    request = _request(RSUM_KS, captions_per_image, caption_to_image, None, None, None, None)
    plan, scored = _scored(coarse, fine, k, request, chunk_bytes, progress)
    gallery = scored.galleries[0]
    if alphas is None:
        alphas = [ratio * beta * _spread_ratio(gallery) for ratio in RELATIVE_ALPHAS]
    sections = (list_section(plan, gallery, gallery.lists(alpha, beta), RSUM_KS, k) for alpha in alphas)
    tried = tuple((float(alpha), float(found["rsum"])) for alpha, found in zip(alphas, sections, strict=True))
    best = min(tried, key=lambda one: (-one[1], abs(one[0])))
    return AlphaSearch(best[0], tried)


def _check_factors(alpha: float, beta: float) -> None:
    for name, factor in (("alpha", alpha), ("beta", beta)):
        if isinstance(factor, bool) or not isinstance(factor, (int, float)):
            raise TypeError(f"{name} is {factor!r}, expected a number")
        if not math.isfinite(factor):
            raise ValueError(f"{name} is {factor}, expected a finite number")
    if not alpha and not beta:
        raise ValueError("alpha and beta are both 0: nothing is left to order the candidates by")


def _request(
    ks: Sequence[int],
    captions_per_image: int | None,
    caption_to_image: OwnersLike | None,
    folds: int | None,
    protocol: ProtocolName | None,
    annotations: Annotations | None,
    ids: IdsLike | None,
) -> Request:
    return Request(
        ks=ks,
        captions_per_image=captions_per_image,
        caption_to_image=caption_to_image,
        folds=folds,
        protocol=protocol,
        annotations=annotations,
        ids=ids,
        self_score=NO_SELF,
        query_column=0,
    )


def _scored(
    coarse: Sims, fine: PairSims, k: int, request: Request, chunk_bytes: int, progress: Progress | None
) -> tuple[Plan, Scored]:
    """What is ranked, and its candidates with the scores of both stages."""
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"k is {k!r}, expected an integer")
    if k < max(request.ks):
        raise ValueError(
            f"k is {k}, but R@{max(request.ks)} is asked for: beyond the candidates there is no order; expected k of "
            f"at least {max(request.ks)}"
        )
    if request.protocol in ("cxc", "coco-all"):
        raise ValueError(
            f"protocol {request.protocol} also compares captions with captions and images with images, which is not "
            "re-ranked; use protocol cxc-image-text, or eccv"
        )
    if request.protocol in SETS and SETS[request.protocol].scored == "language":
        raise ValueError(f"protocol {request.protocol} ranks each language by itself, which is not re-ranked")
    if callable(coarse) and not isinstance(coarse, (TileScorer, Tensor)):
        raise ValueError("coarse is a callable without n_images and n_captions: give it these attributes")
    of_all = as_scorer(coarse)
    n_images, n_captions = of_all.n_images, of_all.n_captions
    if not n_images or not n_captions:
        raise ValueError(f"coarse is {n_images} x {n_captions}: there is nothing to re-rank")
    pairs = as_pair_scorer(fine, n_images, n_captions)
    # The plan picks rows and columns; what it picks from one scorer can be picked from both.
    blank = MatrixScorer(np.broadcast_to(np.float32(0), (n_images, n_captions)))
    plan = make_plan(blank, request, of_all)
    selection = chosen(plan.scorer)
    plan = replace(plan, scorer=select(of_all, *selection))
    bounds = None
    if plan.headline == "fold_mean" and plan.folds is not None and isinstance(plan.positives, Positives):
        bounds = plan.positives.fold_bounds(plan.folds)
    return plan, score_candidates(plan.scorer, pairs, k, bounds, selection, chunk_bytes=chunk_bytes, progress=progress)


def _spread_ratio(gallery: BothCandidates) -> float:
    """Standard deviation of the candidates' fine scores / of their coarse scores."""
    sides = (gallery.image, gallery.caption)
    spreads = []
    for name in ("fine", "coarse"):
        scores = torch.cat([getattr(side, name)[side.items != NO_ITEM] for side in sides])
        spreads.append(float(scores[scores.isfinite()].std(correction=0)))
    return spreads[0] / spreads[1] if spreads[0] > 0 and spreads[1] > 0 else 1.0


def _cost(scored: Scored, k: int, alpha: float, beta: float, n_pairs: int) -> str:
    return (
        f"Re-ranked: {k} candidates a query by {alpha:g} · coarse + {beta:g} · fine; the fine stage scored "
        f"{scored.n_scored:,} of {n_pairs:,} pairs ({100 * scored.n_scored / n_pairs:.1f} %).\n"
        f"Coarse stage {scored.seconds_coarse:.2f} s, fine stage {scored.seconds_fine:.2f} s."
    )
