"""``evaluate``: similarities, embeddings or a tile scorer in, a report out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import torch

from itm_fast.evaluation.protocols import ProtocolName, find_protocol
from itm_fast.evaluation.protocols._protocol import Headline
from itm_fast.evaluation.report import Report
from itm_fast.metrics.counting import Ranks
from itm_fast.metrics.positives import make_positives
from itm_fast.metrics.ranks import CHUNK_BYTES, BothRanks, Progress, stream_ranks
from itm_fast.metrics.recall import checked_ks, mean_rank, median_rank, recall_of_all, recall_of_ranks, rsum
from itm_fast.metrics.scorers import Sims, as_scorer

_RSUM_KS = (1, 5, 10)


def evaluate(
    sims: Sims,
    *,
    ks: Sequence[int] = _RSUM_KS,
    captions_per_image: int | None = None,
    caption_to_image: npt.ArrayLike | torch.Tensor | None = None,
    folds: int | None = None,
    protocol: ProtocolName | None = None,
    n_images: int | None = None,
    n_captions: int | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    progress: Progress | None = None,
) -> Report:
    """Recall, median and mean rank of both directions, and rsum, in one streaming pass.

    R@k = 100 mean(rank of the best positive < k), rank 0-based; higher score first, then lower index.

    Args:
        sims: one of (n_images, n_captions) similarities, a tensor or array of real numbers, higher is better;
            a pair (images (n_images, dim), captions (n_captions, dim)) of embeddings, compared by dot product in at
            least float32; a callable (rows, columns) -> tile, see ``itm_fast.metrics.scorers.Tile``.
            Beside a matrix that is given, memory stays at a few chunk_bytes and vectors of n_images and n_captions.
            Equal embeddings are equal scores up to the rounding of the product, which may depend on the tile.
        ks: cut-offs of the recalls, at least 1 each.
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

    Raises:
        ValueError: NaN in sims (row and column are named), sizes that do not fit each other or the protocol.
        TypeError: sims of an unsupported type.

    Source: kuanghuei/SCAN evaluation.py (i2t, t2i, five folds); fold means are true means, not its summary lines.

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
    both = stream_ranks(scorer, positives, folds=folds, chunk_bytes=chunk_bytes, progress=progress)
    sections = _sections(both, ks)
    conditions = {
        "n_images": scorer.n_images,
        "n_captions": scorer.n_captions,
        "protocol": protocol,
        "folds": folds,
        "ks": list(ks),
        "dtype": str(both.dtype).removeprefix("torch."),
        "seconds": time.perf_counter() - started,
    }
    return Report({**sections[headline], "headline": headline, **sections, "conditions": conditions})


def _sections(both: BothRanks, ks: Sequence[int]) -> dict[str, Any]:
    """The figures of the whole gallery and, if there are folds, of each and their mean."""
    sections: dict[str, Any] = {"full": _section(both.image, both.caption, ks)}
    if both.image_folds:
        folds = [_section(*fold, ks) for fold in zip(both.image_folds, both.caption_folds, strict=True)]
        sections |= {"fold_mean": _mean(folds), "folds": folds}
    return sections


def _section(image: Ranks, caption: Ranks, ks: Sequence[int]) -> dict[str, Any]:
    recalls = (recall_of_ranks(ranks.best, _RSUM_KS) for ranks in (image, caption))
    return {"i2t": _figures(image, ks), "t2i": _figures(caption, ks), "rsum": rsum(*recalls)}


def _figures(ranks: Ranks, ks: Sequence[int]) -> dict[str, Any]:
    """The figures of one direction."""
    return {
        **_named("R", ks, recall_of_ranks(ranks.best, ks)),
        **_named("R_all", ks, recall_of_all(ranks, ks)),
        "medr": median_rank(ranks.best),
        "meanr": mean_rank(ranks.best),
        "optimistic": _named("R", ks, recall_of_ranks(ranks.optimistic, ks)),
        "pessimistic": _named("R", ks, recall_of_ranks(ranks.pessimistic, ks)),
        "n_queries": int((ranks.n_positives > 0).sum()),
        "n_tied": int((ranks.pessimistic > ranks.optimistic).sum()),
    }


def _named(name: str, ks: Sequence[int], recalls: torch.Tensor) -> dict[str, float]:
    return {f"{name}@{k}": recall for k, recall in zip(ks, recalls.tolist(), strict=True)}


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
