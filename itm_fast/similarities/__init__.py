"""Where similarities come from, tile by tile: a matrix, embeddings, regions and words, any callable; no figures."""

from itm_fast.similarities.ragged import RaggedScorer, RaggedVectors
from itm_fast.similarities.region_word_scorer import RegionWordScorer
from itm_fast.similarities.scorers import DotProductScorer, MatrixScorer, Sims, Tile, TileScorer, as_scorer
from itm_fast.similarities.selection import select
from itm_fast.similarities.two_way import TwoWayScorer, of_query

__all__ = [
    "DotProductScorer",
    "MatrixScorer",
    "RaggedScorer",
    "RaggedVectors",
    "RegionWordScorer",
    "Sims",
    "Tile",
    "TileScorer",
    "TwoWayScorer",
    "as_scorer",
    "of_query",
    "select",
]
