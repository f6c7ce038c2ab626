"""``evaluate``: similarities, embeddings or a tile scorer in, and φ if there is any; a report out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import torch

from itm_fast.evaluation.protocols import ProtocolName, find_protocol
from itm_fast.evaluation.protocols._protocol import Headline
from itm_fast.evaluation.report import Report, named
from itm_fast.evaluation.semantics import Semantics
from itm_fast.metrics.counting import Ranks
from itm_fast.metrics.positives import make_positives
from itm_fast.metrics.ranks import stream_ranks
from itm_fast.metrics.recall import checked_ks, mean_rank, median_rank, recall_of_all, recall_of_ranks, rsum
from itm_fast.metrics.scorers import Sims, as_scorer
from itm_fast.metrics.semantic_lists import Relevance
from itm_fast.metrics.tiles import CHUNK_BYTES, Progress

_RSUM_KS = (1, 5, 10)


def evaluate(
    sims: Sims,
    relevance: Relevance | None = None,
    *,
    ks: Sequence[int] = _RSUM_KS,
    m: int | None = None,
    captions_per_image: int | None = None,
    caption_to_image: npt.ArrayLike | torch.Tensor | None = None,
    folds: int | None = None,
    protocol: ProtocolName | None = None,
    n_images: int | None = None,
    n_captions: int | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    progress: Progress | None = None,
) -> Report:
    """Recall, median and mean rank of both directions, and rsum, in one streaming pass; with φ also NCS and nsum.

    R@k = 100 mean(rank of the best positive < k), rank 0-based; higher score first, then lower index.
    NCS@k = 100 mean(sum of φ over the first k / the largest such sum).

    Args:
        sims: one of (n_images, n_captions) similarities, a tensor or array of real numbers, higher is better;
            a pair (images (n_images, dim), captions (n_captions, dim)) of embeddings, compared by dot product in at
            least float32; a callable (rows, columns) -> tile, see ``itm_fast.metrics.scorers.Tile``.
            Beside a matrix that is given, memory stays at a few chunk_bytes and vectors of n_images and n_captions.
            Equal embeddings are equal scores up to the rounding of the product, which may depend on the tile.
        relevance: φ of every image and caption, (n_images, n_captions), also memory-mapped; or a corpus encoded by
            ``Cider.encode``, whose matrix is never made. None: no NCS.
        ks: cut-offs, at least 1 each.
        m: also report Semantic Recall SR@k with the m captions (or images) of largest φ as the relevant ones.
        captions_per_image: caption c belongs to image c // captions_per_image (default 5).
        caption_to_image: (n_captions,) integers, instead of that rule. Images without captions are no queries, but stay
            in the gallery.
        folds: cut the set into that many folds of n_images / folds images, in file order; the quoted figures are the
            mean over the folds, each with its own gallery.
        protocol: "flickr30k-1k" (1000 images), "coco-1k" (mean of five 1K folds of the 5000 images) or "coco-5k" (the
            5000 images at once; the folds are reported beside): sizes are checked, folds are set.
        n_images: images, if ``sims`` is a callable without that attribute.
        n_captions: captions, likewise.
        chunk_bytes: bound of a tile of similarities, counted as 8 bytes each.
        progress: called with (pairs done, pairs in all), first with (0, pairs in all).

    Returns:
        The report: ``report["i2t"]["R@1"]``, ``report["t2i"]["medr"]``, ``report["rsum"]``; ``print(report)``.
        With φ: ``report["i2t"]["NCS@10"]``, ``report["nsum"]`` and, with the query's own captions or image left out of
        both lists, ``report["i2t"]["NCS(N)@10"]``, ``report["nsum(N)"]``. In folds both axes of φ are cut, as in the
        paper's 1K figures: ``report["folds"][0]``.

    Raises:
        ValueError: NaN in sims or φ (row and column are named), sizes that do not fit each other or the protocol.
        TypeError: sims or φ of an unsupported type.

    Source: kuanghuei/SCAN evaluation.py (i2t, t2i, five folds); fold means are true means, not its summary lines. NCS:
        Biten et al., Is An Image Worth Five Sentences?, WACV 2022; furkanbiten/ncs_metric.

    Example:
        >>> report = evaluate(torch.tensor([[0.9, 0.2, 0.4, 0.3], [0.8, 0.1, 0.7, 0.6]]), captions_per_image=2)
        >>> report["i2t"]["R@1"], report["t2i"]["medr"]
        (50.0, 1.0)
    """
    started = time.perf_counter()
    ks = checked_ks(ks)
    scorer = as_scorer(sims, n_images, n_captions)
    headline: Headline = "full" if folds is None else "fold_mean"
    if protocol is not None:
        rules = find_protocol(protocol)
        if folds not in (None, rules.folds):
            raise ValueError(
                f"folds is {folds}, but protocol {protocol} has {rules.folds or 'no'} folds; leave folds out"
            )
        rules.check(scorer.n_images, scorer.n_captions)
        folds, headline = rules.folds, rules.headline
    positives = make_positives(
        scorer.n_images, scorer.n_captions, captions_per_image=captions_per_image, caption_to_image=caption_to_image
    )
    if not positives.n_captions:
        raise ValueError(f"sims is {scorer.n_images} x 0: without captions there is nothing to evaluate")
    if m is not None and relevance is None:
        raise ValueError(f"m is {m}, but there is no relevance to take the relevant items from")
    semantics = None if relevance is None else Semantics(relevance, scorer, positives, ks, m)
    first, second = (progress, None) if semantics is None else _two_passes(progress)
    n_listed = 0 if semantics is None else semantics.n_retrieved
    both = stream_ranks(scorer, positives, k=n_listed, folds=folds, chunk_bytes=chunk_bytes, progress=first)
    scopes = [(both.image, both.caption), *zip(both.image_folds, both.caption_folds, strict=True)]
    figures = [_section(*scope, ks) for scope in scopes]
    if semantics is not None:
        more = semantics.figures(both, folds, chunk_bytes=chunk_bytes, progress=second)
        figures = [_joined(ranks, of_phi) for ranks, of_phi in zip(figures, more, strict=True)]
    sections = _sections(figures)
    conditions = {
        "n_images": scorer.n_images,
        "n_captions": scorer.n_captions,
        "protocol": protocol,
        "folds": folds,
        "ks": list(ks),
        "m": m,
        "dtype": str(both.dtype).removeprefix("torch."),
        "seconds": time.perf_counter() - started,
    }
    return Report({**sections[headline], "headline": headline, **sections, "conditions": conditions})


def _two_passes(progress: Progress | None) -> tuple[Progress | None, Progress | None]:
    """Progress of the pass over sims and of the pass over φ, each half of the whole."""
    if progress is None:
        return None, None
    return lambda done, total: progress(done, 2 * total), lambda done, total: progress(total + done, 2 * total)


def _sections(scopes: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of the whole gallery and, if there are folds, of each and their mean."""
    full, *folds = scopes
    return {"full": full, **({"fold_mean": _mean(folds), "folds": folds} if folds else {})}


def _joined(ranks: dict[str, Any], of_phi: dict[str, Any]) -> dict[str, Any]:
    """The figures of a scope from its ranks, with those from its φ."""
    directions = {name: {**ranks[name], **of_phi[name]} for name in ("i2t", "t2i")}
    return {**ranks, **of_phi, **directions}


def _section(image: Ranks, caption: Ranks, ks: Sequence[int]) -> dict[str, Any]:
    recalls = (recall_of_ranks(ranks.best, _RSUM_KS) for ranks in (image, caption))
    return {"i2t": _figures(image, ks), "t2i": _figures(caption, ks), "rsum": rsum(*recalls)}


def _figures(ranks: Ranks, ks: Sequence[int]) -> dict[str, Any]:
    """The figures of one direction."""
    return {
        **named("R", ks, recall_of_ranks(ranks.best, ks)),
        **named("R_all", ks, recall_of_all(ranks, ks)),
        "medr": median_rank(ranks.best),
        "meanr": mean_rank(ranks.best),
        "optimistic": named("R", ks, recall_of_ranks(ranks.optimistic, ks)),
        "pessimistic": named("R", ks, recall_of_ranks(ranks.pessimistic, ks)),
        "n_queries": int((ranks.n_positives > 0).sum()),
        "n_tied": int((ranks.pessimistic > ranks.optimistic).sum()),
    }


def _mean(folds: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean of every figure over the folds; numbers of queries (the integers) are summed."""
    mean: dict[str, Any] = {}
    for key, first in folds[0].items():
        values = [fold[key] for fold in folds]
        if isinstance(first, dict):
            mean[key] = _mean(values)
        else:
            mean[key] = sum(values) if isinstance(first, int) else sum(values) / len(values)
    return mean
