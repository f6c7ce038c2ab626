"""Drop-in for Paranioar/RCAR's lib/loss.py and lib/evaluation.py: same names, signatures and results.

from lib.loss import ContrastiveLoss        ->  from itm_fast.compat.rcar import ContrastiveLoss
from lib.evaluation import i2t, t2i         ->  from itm_fast.compat.rcar import i2t, t2i
"""

from itm_fast.compat.esl import ContrastiveLoss, i2t, t2i

__all__ = ["ContrastiveLoss", "i2t", "t2i"]
