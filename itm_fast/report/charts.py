"""Which figures a page has: recall, NCS and Semantic Recall in curves, ranks in bars."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from itm_fast.report.plots import Line, bars, curves
from itm_fast.report.queries import (
    DIRECTION_NAMES,
    DIRECTIONS,
    curves_of,
    headline_ranks,
    hits,
    rank_bins,
    recall_curve,
)
from itm_fast.runs.folder import Run


def recall_figures(runs: Sequence[Run]) -> list[str]:
    """R@k over k, a panel a direction.

    Args:
        runs: the runs.

    Returns:
        ``<svg>`` elements; all curves of a panel end at the same k.
    """
    made = []
    for d in DIRECTIONS:
        last = max(int(of_run.max(initial=0)) + 1 for of_run in (headline_ranks(run, d) for run in runs))
        last = max(last, *runs[0].report["conditions"]["ks"])
        lines = [Line(*recall_curve(run, d, last), series) for series, run in enumerate(runs)]
        made.append(curves(f"Recall, {DIRECTION_NAMES[d]}", "k (items looked at)", "R@k (%)", lines, log=True))
    return made


def relevance_figures(runs: Sequence[Run]) -> list[str]:
    """NCS@k over k, a panel a direction; none without φ.

    Args:
        runs: the runs.

    Returns:
        ``<svg>`` elements.
    """
    found = {series: known for series, run in enumerate(runs) if (known := curves_of(run)) is not None}
    if not found:
        return []
    return [
        curves(
            f"NCS, {DIRECTION_NAMES[d]}",
            "k (items looked at)",
            "NCS@k (%)",
            [Line(known["ks"], known["ncs"][d], series) for series, known in found.items()],
        )
        for d in DIRECTIONS
    ]


def semantic_recall_figures(runs: Sequence[Run]) -> list[str]:
    """SR@k over m with R@k beside it, a panel a direction and k: Figure 3 of Biten et al., WACV 2022; none without φ.

    Args:
        runs: the runs.

    Returns:
        ``<svg>`` elements.
    """
    found = {series: known["semantic_recall"] for series, run in enumerate(runs) if (known := curves_of(run))}
    found = {series: known for series, known in found.items() if known and known["m"]}
    ks = list(dict.fromkeys(k for known in found.values() for k in known["k"]))
    made = []
    for d in DIRECTIONS:
        for k in ks:
            lines = []
            for series, known in found.items():
                if k in known["k"]:
                    m, recall = known["m"], float(np.nanmean(hits(runs[series], d, [k])))
                    lines.append(Line(m, known[d][known["k"].index(k)], series))
                    lines.append(Line([m[0], m[-1]], [recall, recall], series, faint=True))
            title = f"SR@{k} and R@{k}, {DIRECTION_NAMES[d]}"
            made.append(curves(title, "m (items that count as relevant)", "%", lines))
    return made


def rank_figures(runs: Sequence[Run]) -> list[str]:
    """Ranks of the best positive in logarithmic bins, a panel a direction.

    Args:
        runs: the runs.

    Returns:
        ``<svg>`` elements.
    """
    return [
        bars(
            f"Rank of the best positive, {DIRECTION_NAMES[d]}",
            "rank (first = 1)",
            "% of queries",
            *rank_bins(runs, d),
        )
        for d in DIRECTIONS
    ]
