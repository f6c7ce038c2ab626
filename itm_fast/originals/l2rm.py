"""Checkpoints of hhc1997/L2RM: SGRAF's model as one state dict under "net", and the cost function of its training.

Some were trained with a word more than the file of the vocabulary has, the mask.
"""

from torch import Tensor

from itm_fast.originals.parts import Parts
from itm_fast.originals.sgraf import SCORING, config, recognises

__all__ = ["BESIDE", "ENTRIES", "MODEL", "PARTS", "READ", "SCORING", "config", "n_words", "named_parts", "recognises"]

MODEL = "sgraf"
ENTRIES = ("net",)
PARTS = ("img_enc", "txt_enc", "sim_enc")
BESIDE = ("cost_function",)  # rematches pairs while training
READ = frozenset({"queue_length", "reg", "rho", "tau"})  # of the loss


def n_words(parts: Parts) -> tuple[int, ...]:
    """Sizes of the vocabulary that it may have been trained with."""
    rows = len(parts[1]["embed.weight"])
    return rows, rows - 1


def named_parts(parts: Parts, n_words: int) -> dict[str, dict[str, Tensor]]:
    """Without the mask, if the vocabulary has none."""
    caption = {**parts[1], "embed.weight": parts[1]["embed.weight"][:n_words]}
    return {"img_enc": parts[0], "txt_enc": caption, "sim_enc": parts[2]}
