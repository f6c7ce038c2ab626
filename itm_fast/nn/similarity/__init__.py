"""Similarities of all images with all captions: of regions and words as modules, of embeddings as a function."""

from itm_fast.nn.similarity.chan import CHANSimilarity
from itm_fast.nn.similarity.cross_attention import CrossAttention
from itm_fast.nn.similarity.embeddings import order_similarity
from itm_fast.nn.similarity.esl import ESLSimilarity
from itm_fast.nn.similarity.laps import LAPSSimilarity
from itm_fast.nn.similarity.sgraf import SGRAFSimilarity

__all__ = ["CHANSimilarity", "CrossAttention", "ESLSimilarity", "LAPSSimilarity", "SGRAFSimilarity", "order_similarity"]
