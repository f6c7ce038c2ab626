"""Checkpoints of XLearning-SCU/2021-NeurIPS-NCR: two of SGRAF's models, each taught by the other.

Its evaluation takes the mean of both similarities.
"""

from itm_fast.originals.sgraf import SCORING, config, n_words, recognises

__all__ = ["ENTRIES", "MODEL", "READ", "SCORING", "config", "n_words", "recognises"]

MODEL = "sgraf"
ENTRIES = ("model_A", "model_B")
READ = frozenset({"no_co_training", "p_threshold", "soft_margin"})  # of training
