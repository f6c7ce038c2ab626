"""Evaluation of image-text retrieval: protocols, streaming, reports, runs."""

from itm_fast.evaluation.dual_encoder import DualEncoder, load_dual_encoder
from itm_fast.evaluation.embedding_files import EmbeddedSet, read_embeddings
from itm_fast.evaluation.ensemble import EnsembleScorer
from itm_fast.evaluation.evaluate import evaluate
from itm_fast.evaluation.extraction import extract_embeddings
from itm_fast.evaluation.ids import Ids, read_ids
from itm_fast.evaluation.protocols.positives import RelevantPairs
from itm_fast.evaluation.report import Report
from itm_fast.evaluation.rerank import AlphaSearch, rerank, search_alpha
from itm_fast.evaluation.run import Run, load_run, save_run
from itm_fast.evaluation.run_keeper import RunKeeper
from itm_fast.evaluation.weight_search import WeightSearch, search_weights

__all__ = [
    "AlphaSearch",
    "DualEncoder",
    "EmbeddedSet",
    "EnsembleScorer",
    "Ids",
    "RelevantPairs",
    "Report",
    "Run",
    "RunKeeper",
    "WeightSearch",
    "evaluate",
    "extract_embeddings",
    "load_dual_encoder",
    "load_run",
    "read_embeddings",
    "read_ids",
    "rerank",
    "save_run",
    "search_alpha",
    "search_weights",
]
