"""The scores that MTEB writes of a retrieval task, by its names, from what every query retrieved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from itm_fast.choices import Query
from itm_fast.metrics.judgements import FloatArray
from itm_fast.runs.retrieved_lists import RetrievedLists

KS = (1, 3, 5, 10, 20, 100, 1000)
_FORMATS = "2.26.24"  # the version of mteb whose fields these are
_TASKS = {
    "coco-5k": ("MSCOCOI2TRetrieval", "MSCOCOT2IRetrieval"),
    "flickr30k-1k": ("Flickr30kI2TRetrieval", "Flickr30kT2IRetrieval"),
}
_RATES = np.linspace(0, 1, 11)[:-1]  # of queries that are not answered
_QUERIES_AT_A_TIME = 1024


def mteb_results(lists: RetrievedLists, report: Mapping[str, Any], dataset: str) -> dict[str, dict[str, Any]]:
    """The two task results, one a direction, as MTEB's TaskResult writes them.

    Args:
        lists: the first 1000 of every query, or all there are.
        report: of the same evaluation.
        dataset: names the tasks unless the protocol has tasks of MTEB.

    Returns:
        {"i2t": ..., "t2i": ...}. The revision of MTEB's data set is not claimed: the data are the user's.

    Source: embeddings-benchmark/mteb, mteb/results/task_result.py and mteb/_evaluators/retrieval_metrics.py.
    """
    conditions = report["conditions"]
    names = _TASKS.get(str(conditions["protocol"]), (f"{dataset}I2TRetrieval", f"{dataset}T2IRetrieval"))
    queries: tuple[Query, Query] = ("image", "caption")
    return {
        way: {
            "dataset_revision": "no_revision_available",
            "task_name": name,
            "mteb_version": _FORMATS,
            "scores": {
                "test": [
                    {
                        **(scores := mteb_scores(lists, query)),
                        "main_score": scores["ndcg_at_10"],
                        "hf_subset": "default",
                        "languages": ["eng-Latn"],
                        "mteb_version": _FORMATS,
                    }
                ]
            },
            "evaluation_time": conditions["seconds"],
            "kg_co2_emissions": None,
            "date": None,
            "evaluation_phases": None,
        }
        for way, name, query in zip(("i2t", "t2i"), names, queries, strict=True)
    }


def mteb_scores(lists: RetrievedLists, query: Query) -> dict[str, float]:
    """MTEB's scores of one direction, fractions rounded as it does; NaN where every query has the same score.

    ndcg, map, recall, precision, mrr and hit_rate at each of its cut-offs, accuracy, and for each score the normalised
    area under the curve of abstention by three measures of confidence.

    Source: Gisserot-Boukhlef et al., Towards Trustworthy Reranking: A Simple yet Effective Abstention Mechanism, 2024.
    """
    judged = lists.side(query)[1]
    queries = judged.positives.queries
    parts = [
        _of_some(lists, query, queries[n : n + _QUERIES_AT_A_TIME]) for n in range(0, len(queries), _QUERIES_AT_A_TIME)
    ]
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
    confidence = {name: values.pop(name) for name in ("max", "std", "diff1")} if parts else {}
    scores = {name: round(float(of.mean()), 6 if name.startswith("mrr") else 5) for name, of in values.items()}
    ordered = {name: scores[name] for kind in ("ndcg", "map", "recall") for name in scores if name.startswith(kind)}
    ordered["accuracy"] = ordered["recall_at_1"]
    ordered |= {name: scores[name] for kind in ("precision", "mrr") for name in scores if name.startswith(kind)}
    for kind in ("ndcg", "map", "recall", "precision", "mrr"):
        for k in KS:
            of = values[f"{kind}_at_{k}"]
            ordered |= {f"nauc_{kind}_at_{k}_{by}": round(_nauc(sure, of), 6) for by, sure in confidence.items()}
    return ordered | {name: value for name, value in scores.items() if name.startswith("hit_rate")}


def _of_some(lists: RetrievedLists, query: Query, some: np.ndarray[Any, Any]) -> dict[str, FloatArray]:
    """The scores of some queries, and how sure their lists are."""
    top, judged = lists.side(query)
    items, values = lists.items(query)[some, : max(KS)], top.values[some, : max(KS)].double().numpy()
    gains = judged.grades_of(items, some)
    hits, ranks = gains > 0, np.arange(items.shape[1])
    n_relevant = judged.positives.n_relevant[some]
    n_hits = hits.cumsum(1)
    precision = (n_hits / (ranks + 1.0) * hits).cumsum(1)
    dcg = (gains / np.log2(ranks + 2.0)).cumsum(1)
    ideal = (judged.best_grades[some] / np.log2(np.arange(judged.best_grades.shape[1]) + 2.0)).cumsum(1)
    first = np.where(hits.any(1), hits.argmax(1), max(KS))
    found: dict[str, FloatArray] = {}
    for k in KS:
        at = min(k, items.shape[1]) - 1
        found[f"ndcg_at_{k}"] = dcg[:, at] / ideal[:, min(k, ideal.shape[1]) - 1]
        found[f"map_at_{k}"] = precision[:, at] / n_relevant
        found[f"recall_at_{k}"] = n_hits[:, at] / n_relevant
        found[f"precision_at_{k}"] = n_hits[:, at] / k
        found[f"mrr_at_{k}"] = np.where(first < k, 1.0 / (first + 1.0), 0.0)
        found[f"hit_rate_at_{k}"] = (first < k).astype(np.float64)
    retrieved = np.where(items >= 0, values, np.nan)
    two = np.nan_to_num(retrieved[:, :2])
    with np.errstate(invalid="ignore"):
        found["std"] = np.nan_to_num(np.nanstd(retrieved, axis=1))
    found["max"] = two[:, 0]
    found["diff1"] = two[:, 0] - two[:, 1] if two.shape[1] > 1 else np.zeros(len(two))
    return found


def _nauc(confidence: FloatArray, scores: FloatArray) -> float:
    """How much the mean score gains when the least sure queries are not answered: 0 nothing, 1 as an oracle would."""
    if scores.min() == scores.max():  # 0 / 0, of which MTEB's rounding may make any number
        return float("nan")
    curve, oracle = _curve(confidence, scores), _curve(scores, scores)
    area, best = (float(((of[1:] + of[:-1]) / 2) @ np.diff(_RATES)) for of in (curve, oracle))
    flat = float(oracle[0] * (_RATES[-1] - _RATES[0]))
    return float("nan") if best == flat else (area - flat) / (best - flat)


def _curve(confidence: FloatArray, scores: FloatArray) -> FloatArray:
    """Mean scores of what is answered at each rate; those of equal confidence count as their mean."""
    order = np.argsort(confidence, kind="stable")
    _, group, counts = np.unique(confidence[order], return_inverse=True, return_counts=True)
    levelled = (np.bincount(group, scores[order]) / counts)[group]
    left_out = [min(round(rate * len(order)), len(order) - 1) for rate in _RATES.tolist()]
    return np.array([levelled[n:].mean() for n in left_out])
