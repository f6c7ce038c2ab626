"""Metrics of image-text retrieval, from similarities, embeddings or tile scorers."""

from itm_fast.metrics.counting import Ranks
from itm_fast.metrics.positives import Positives, make_positives
from itm_fast.metrics.ranks import ranks
from itm_fast.metrics.recall import mean_rank, median_rank, recall_at_k, rsum

__all__ = [
    "Positives",
    "Ranks",
    "make_positives",
    "mean_rank",
    "median_rank",
    "ranks",
    "recall_at_k",
    "rsum",
]
