"""Metrics of image-text retrieval, from similarities, embeddings or tile scorers."""

from itm_fast.metrics.counting import Ranks
from itm_fast.metrics.ncs import ncs_at_k, nsum
from itm_fast.metrics.positives import Positives, make_positives
from itm_fast.metrics.ranks import ranks
from itm_fast.metrics.recall import mean_rank, median_rank, recall_at_k, rsum
from itm_fast.metrics.retrieved import TopK
from itm_fast.metrics.semantic_recall import semantic_recall_at_k

__all__ = [
    "Positives",
    "Ranks",
    "TopK",
    "make_positives",
    "mean_rank",
    "median_rank",
    "ncs_at_k",
    "nsum",
    "ranks",
    "recall_at_k",
    "rsum",
    "semantic_recall_at_k",
]
