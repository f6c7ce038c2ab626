"""Every operator in short, plain torch: the oracle of the tests and the baseline of the benches."""

from itm_fast.reference.attended_similarity import attended_similarity
from itm_fast.reference.cider import cider
from itm_fast.reference.cross_attention import cross_attention_closed_form, cross_attention_similarity
from itm_fast.reference.generalised_pooling import generalised_pooling
from itm_fast.reference.graph_reasoning import graph_reasoning
from itm_fast.reference.level_attention import level_attention
from itm_fast.reference.max_similarity import max_similarity
from itm_fast.reference.patch_word_similarity import patch_word_similarity
from itm_fast.reference.semantic_margin import semantic_margin_loss
from itm_fast.reference.triplet import triplet_loss

__all__ = [
    "attended_similarity",
    "cider",
    "cross_attention_closed_form",
    "cross_attention_similarity",
    "generalised_pooling",
    "graph_reasoning",
    "level_attention",
    "max_similarity",
    "patch_word_similarity",
    "semantic_margin_loss",
    "triplet_loss",
]
