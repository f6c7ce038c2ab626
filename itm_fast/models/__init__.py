"""Models of the field: encoders + similarity + loss, and their folders on disk."""

from itm_fast.models.card import load_model, save_model
from itm_fast.models.scan import PRESETS, SCAN, SCANConfig

__all__ = ["PRESETS", "SCAN", "SCANConfig", "load_model", "save_model"]
