"""Drop-in for QinYang79/DECL's model/SGRAF.py and evaluation.py: same names, signatures and state dict.

from model.SGRAF import EncoderSimilarity   ->  from itm_fast.compat.decl import EncoderSimilarity
from evaluation import i2t, t2i             ->  from itm_fast.compat.decl import i2t, t2i
"""

from typing import cast

from torch import Tensor

from itm_fast.compat import sgraf
from itm_fast.compat.ncr import i2t, t2i
from itm_fast.compat.sgraf import ContrastiveLoss

__all__ = ["ContrastiveLoss", "EncoderSimilarity", "i2t", "t2i"]


class EncoderSimilarity(sgraf.EncoderSimilarity):
    """SGR or SAF of every image with every caption, without the sigmoid at its end: logits.

    Source:
        QinYang79/DECL, 2022-ACMMM-DECL/model/SGRAF.py, EncoderSimilarity.
    """

    def _scores(self, vectors: Tensor) -> Tensor:
        return cast(Tensor, self.sim_eval_w(vectors))[..., 0]
