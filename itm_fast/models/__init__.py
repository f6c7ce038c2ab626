"""Models of the field: encoders + similarity + loss, and their folders on disk."""

from itm_fast.models.base import EmbeddingModel, Encoded, MatchingModel, Preset
from itm_fast.models.card import load_model, save_model
from itm_fast.models.push import push_model
from itm_fast.models.scan import SCAN, SCANConfig
from itm_fast.registry import MODELS, model_class, presets

__all__ = [
    "MODELS",
    "SCAN",
    "EmbeddingModel",
    "Encoded",
    "MatchingModel",
    "Preset",
    "SCANConfig",
    "load_model",
    "model_class",
    "presets",
    "push_model",
    "save_model",
]
