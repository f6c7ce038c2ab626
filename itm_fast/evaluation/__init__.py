"""Evaluation of image-text retrieval: protocols, streaming, reports."""

from itm_fast.evaluation.evaluate import evaluate
from itm_fast.evaluation.ids import Ids, read_ids
from itm_fast.evaluation.protocols.positives import RelevantPairs
from itm_fast.evaluation.report import Report
from itm_fast.evaluation.rerank import AlphaSearch, rerank, search_alpha

__all__ = ["AlphaSearch", "Ids", "RelevantPairs", "Report", "evaluate", "read_ids", "rerank", "search_alpha"]
