"""The losses as modules, as they are in `itm_fast.nn.losses`."""

from itm_fast.nn.losses import SemanticMarginLoss, TripletLoss

__all__ = ["SemanticMarginLoss", "TripletLoss"]
