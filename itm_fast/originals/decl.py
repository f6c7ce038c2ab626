"""Checkpoints of QinYang79/DECL: SGRAF's model, trained on evidence of its logits; its scores are SGRAF's, too."""

from itm_fast.originals import sgraf
from itm_fast.originals.options import Options
from itm_fast.originals.parts import Parts
from itm_fast.originals.sgraf import SCORING, config, n_words

__all__ = ["MODEL", "READ", "SCORING", "config", "n_words", "recognises"]

MODEL = "sgraf"
READ = frozenset({"eta", "lambda1", "lambda2", "mu", "tau"})  # of the loss


def recognises(parts: Parts, options: Options) -> bool:
    """Whether a checkpoint is DECL's."""
    return sgraf.recognises(parts, options) and set(options) >= READ
