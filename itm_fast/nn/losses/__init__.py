"""The losses as modules."""

from itm_fast.nn.losses.semantic_margin import SemanticMarginLoss
from itm_fast.nn.losses.triplet import TripletLoss

__all__ = ["SemanticMarginLoss", "TripletLoss"]
