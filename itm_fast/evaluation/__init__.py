"""Evaluation of image-text retrieval: protocols, plans, figures. It reads from sources and leaves runs."""

from itm_fast.evaluation.evaluate import evaluate
from itm_fast.evaluation.protocols.relevant_pairs import RelevantPairs
from itm_fast.evaluation.rerank import AlphaSearch, rerank, search_alpha
from itm_fast.evaluation.weight_search import WeightSearch, search_weights
from itm_fast.files.ids import Ids, read_ids
from itm_fast.runs.figure_tables import latex_table
from itm_fast.runs.folder import Run, load_run, save_run
from itm_fast.runs.keeper import RunKeeper
from itm_fast.runs.result import Report
from itm_fast.sources.embedders.dual_encoder import DualEncoder, load_dual_encoder
from itm_fast.sources.embedders.encoder import Encoder
from itm_fast.sources.embedders.loading import load_encoder
from itm_fast.sources.embedding_files import EmbeddedSet, read_embeddings
from itm_fast.sources.ensemble import EnsembleScorer
from itm_fast.sources.extraction import extract_embeddings

__all__ = [
    "AlphaSearch",
    "DualEncoder",
    "EmbeddedSet",
    "Encoder",
    "EnsembleScorer",
    "Ids",
    "RelevantPairs",
    "Report",
    "Run",
    "RunKeeper",
    "WeightSearch",
    "evaluate",
    "extract_embeddings",
    "latex_table",
    "load_dual_encoder",
    "load_encoder",
    "load_run",
    "read_embeddings",
    "read_ids",
    "rerank",
    "save_run",
    "search_alpha",
    "search_weights",
]
