"""Evaluation of image-text retrieval: protocols, streaming, reports."""

from itm_fast.evaluation.evaluate import evaluate
from itm_fast.evaluation.report import Report

__all__ = ["Report", "evaluate"]
