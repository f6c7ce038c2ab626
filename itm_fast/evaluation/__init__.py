"""Evaluation of image-text retrieval: protocols, streaming, reports, runs."""

from itm_fast.evaluation.evaluate import evaluate
from itm_fast.evaluation.ids import Ids, read_ids
from itm_fast.evaluation.protocols.positives import RelevantPairs
from itm_fast.evaluation.report import Report
from itm_fast.evaluation.run import Run, load_run, save_run
from itm_fast.evaluation.run_keeper import RunKeeper

__all__ = ["Ids", "RelevantPairs", "Report", "Run", "RunKeeper", "evaluate", "load_run", "read_ids", "save_run"]
