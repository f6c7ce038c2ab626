"""The level that the recall of a run is to be read against: that of a random order of its gallery."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from itm_fast.evaluation.chance_levels import chance_recall as of_random_order
from itm_fast.report.queries import Direction, headline_ranks, numbers
from itm_fast.runs.folder import Run


def chance_recall(run: Run, direction: Direction, ks: Sequence[int]) -> list[float] | None:
    """R@k of a random order, the mean over the queries, inside folds where the headline is their mean.

    Args:
        run: the run.
        direction: whose queries.
        ks: cut-offs.

    Returns:
        Percent, one a cut-off; None where a query has positives that the run does not name, as under protocols with
        several images a caption.
    """
    owners = numbers(run.caption_to_image)
    owned = owners[owners >= 0]
    if run.report[direction].get("n_pairs", len(owned)) != len(owned):
        return None
    n_folds = run.report["conditions"].get("folds") if run.report["headline"] == "fold_mean" else 1
    if not isinstance(n_folds, int) or n_folds < 1 or run.n_images % n_folds:
        return None
    fold_of_image = np.arange(run.n_images) * n_folds // max(1, run.n_images)
    if direction == "i2t":
        in_fold = np.bincount(fold_of_image[owned], minlength=n_folds) if n_folds > 1 else np.array([run.n_captions])
        n_items, n_positives = in_fold[fold_of_image], np.bincount(owned, minlength=run.n_images)
    else:
        n_items = np.full(run.n_captions, run.n_images // n_folds)
        n_positives = (owners >= 0).astype(np.int64)
    is_query = headline_ranks(run, direction) >= 0
    if not is_query.any():
        return None
    return of_random_order(n_items[is_query], n_positives[is_query], ks)
