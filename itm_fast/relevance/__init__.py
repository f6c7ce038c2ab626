"""Semantic relevance of captions: CIDEr for all pairs, tokenizers."""

from itm_fast.relevance.cider import Cider
from itm_fast.relevance.corpus import Corpus

__all__ = ["Cider", "Corpus"]
