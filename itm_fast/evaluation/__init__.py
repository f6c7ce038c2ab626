"""Evaluation of image-text retrieval: protocols, streaming, reports, runs."""

from itm_fast.evaluation.ensemble import EnsembleScorer
from itm_fast.evaluation.evaluate import evaluate
from itm_fast.evaluation.ids import Ids, read_ids
from itm_fast.evaluation.protocols.positives import RelevantPairs
from itm_fast.evaluation.report import Report
from itm_fast.evaluation.rerank import AlphaSearch, rerank, search_alpha
from itm_fast.evaluation.run import Run, load_run, save_run
from itm_fast.evaluation.run_keeper import RunKeeper
from itm_fast.evaluation.weight_search import WeightSearch, search_weights

__all__ = [
    "AlphaSearch",
    "EnsembleScorer",
    "Ids",
    "RelevantPairs",
    "Report",
    "Run",
    "RunKeeper",
    "WeightSearch",
    "evaluate",
    "load_run",
    "read_ids",
    "rerank",
    "save_run",
    "search_alpha",
    "search_weights",
]
