"""Every operator in short, plain torch: the oracle of the tests and the baseline of the benches."""

from itm_fast.reference.cider import cider
from itm_fast.reference.cross_attention import cross_attention_closed_form, cross_attention_similarity
from itm_fast.reference.max_similarity import max_similarity
from itm_fast.reference.semantic_margin import semantic_margin_loss
from itm_fast.reference.triplet import triplet_loss

__all__ = [
    "cider",
    "cross_attention_closed_form",
    "cross_attention_similarity",
    "max_similarity",
    "semantic_margin_loss",
    "triplet_loss",
]
