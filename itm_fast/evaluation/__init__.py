"""Evaluation of image-text retrieval: protocols, streaming, reports."""

from itm_fast.evaluation.evaluate import evaluate
from itm_fast.evaluation.ids import Ids, read_ids
from itm_fast.evaluation.protocols.positives import RelevantPairs
from itm_fast.evaluation.report import Report

__all__ = ["Ids", "RelevantPairs", "Report", "evaluate", "read_ids"]
