"""Encoders, pooling, similarities, losses and decoders as torch modules, with the state dicts of the originals."""

from itm_fast.nn import decoders, encoders, losses, pooling, similarity
from itm_fast.nn.linear import TileLinear

__all__ = ["TileLinear", "decoders", "encoders", "losses", "pooling", "similarity"]
