"""Metrics of image-text retrieval, from similarities, embeddings or tile scorers."""

from itm_fast.metrics.counting import Ranks
from itm_fast.metrics.graded_ranks import JudgedRanks, judged_ranks
from itm_fast.metrics.judged_runs import judged_run
from itm_fast.metrics.judgements import Judgements, judgements_by_id
from itm_fast.metrics.ncs import ncs_at_k, nsum
from itm_fast.metrics.positives import Positives, make_positives
from itm_fast.metrics.precision import hit_rate_at_k, map_at_r, pmrp, r_precision
from itm_fast.metrics.query_positives import QueryPositives, positives_by_id, query_positives
from itm_fast.metrics.ranks import ranks
from itm_fast.metrics.recall import mean_rank, median_rank, recall_at_k, rsum
from itm_fast.metrics.retrieved import TopK
from itm_fast.metrics.semantic_recall import semantic_recall_at_k
from itm_fast.similarities.region_word_scorer import RegionWordScorer
from itm_fast.similarities.two_way import TwoWayScorer

__all__ = [
    "JudgedRanks",
    "Judgements",
    "Positives",
    "QueryPositives",
    "Ranks",
    "RegionWordScorer",
    "TopK",
    "TwoWayScorer",
    "hit_rate_at_k",
    "judged_ranks",
    "judged_run",
    "judgements_by_id",
    "make_positives",
    "map_at_r",
    "mean_rank",
    "median_rank",
    "ncs_at_k",
    "nsum",
    "pmrp",
    "positives_by_id",
    "query_positives",
    "r_precision",
    "ranks",
    "recall_at_k",
    "rsum",
    "semantic_recall_at_k",
]
