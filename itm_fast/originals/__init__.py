"""Strict readers of the original repositories' checkpoints."""

from itm_fast.originals.checkpoint import load_original

__all__ = ["load_original"]
