"""The figures of a run that was read from a file: what was retrieved beside what is relevant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from itm_fast.files.trec import Qrels, TrecRun
from itm_fast.metrics.graded_ranks import JudgedRanks, Ties, of_places, trec_order
from itm_fast.metrics.judgements import judgements_by_id
from itm_fast.metrics.recall import checked_ks
from itm_fast.similarities.scorers import IntArray


def judged_run(run: TrecRun, qrels: Qrels, ks: Sequence[int] = (1, 5, 10), *, ties: Ties = "index") -> JudgedRanks:
    """nDCG@k, recall@k, average precision and reciprocal rank of every query of a run.

    Args:
        run: ``read_trec_run``. What it does not list was not retrieved.
        qrels: ``read_qrels``. A query that the run lacks has 0 throughout, as of trec_eval -c; queries that nothing is
            relevant to are left out, and so are those of the run that are not judged.
        ks: cut-offs, at least 1 each.
        ties: "index": equal scores in the order of the file. "trec": as trec_eval: scores as float32, equal ones by id
            as text, the higher first.

    Returns:
        The figures; ``queries`` are numbers in the order of ``qrels``.

    Raises:
        ValueError: no query of the run is judged, nothing relevant was retrieved by any, a cut-off below 1.

    Source: usnistgov/trec_eval; cvangysel/pytrec_eval.
    """
    ks = checked_ks(ks)
    if ties not in ("index", "trec"):
        raise ValueError(f'ties is {ties!r}, expected "index" or "trec"')
    queries = list(qrels)
    number = {query: place for place, query in enumerate(queries)}
    of_run = np.array([number.get(query, -1) for query in run.queries], dtype=np.int64)
    if not (of_run >= 0).any():
        raise ValueError(
            f"no query of the run, such as {run.queries[0]!r}, is among those judged, such as {queries[0]!r}: are run "
            "and qrels of one test set, and of the same direction?"
        )
    judged = judgements_by_id(qrels, queries, run.items)  # type: ignore[arg-type]  # strings are hashable
    kept = of_run[run.owners] >= 0
    owners, items, scores = of_run[run.owners[kept]], run.retrieved[kept], run.scores[kept]
    if ties == "trec":
        last = np.empty(len(run.items), dtype=np.int64)
        last[trec_order(run.items)] = np.arange(len(run.items))
        order = np.lexsort((last[items], -scores.astype(np.float32), owners))
    else:
        order = np.lexsort((-scores, owners))  # stable: equal scores stay in the order of the file
    owners, items = owners[order], items[order]
    padded = judged.positives.padded()
    return of_places(_places(owners, items, padded, len(run.items)), padded, judged, ks)


def _places(owners: IntArray, items: IntArray, wanted: IntArray, n_items: int) -> IntArray:
    """0-based places of the wanted items (n_queries, slots) in lists (n,) grouped by query; -1 where not listed."""
    starts = np.searchsorted(owners, np.arange(len(wanted)))
    keys = owners * n_items + items
    order = np.argsort(keys)
    asked = np.arange(len(wanted))[:, None] * n_items + wanted
    found = np.searchsorted(keys[order], asked).clip(max=len(keys) - 1)
    there = (wanted >= 0) & (keys[order][found] == asked)
    places: IntArray = np.where(there, order[found] - starts[:, None], -1)
    return places
