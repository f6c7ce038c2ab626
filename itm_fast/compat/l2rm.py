"""Drop-in for hhc1997/L2RM's models.py and evaluation.py: same names, signatures and state dict.

from models import EncoderSimilarity        ->  from itm_fast.compat.l2rm import EncoderSimilarity
from evaluation import i2t, t2i             ->  from itm_fast.compat.l2rm import i2t, t2i
"""

from collections.abc import Sequence

from torch import Tensor

from itm_fast.compat import sgraf
from itm_fast.compat.ncr import i2t, t2i

__all__ = ["EncoderSimilarity", "i2t", "t2i"]


class EncoderSimilarity(sgraf.EncoderSimilarity):
    """SGR or SAF of every image with every caption, and those of the pairs.

    Source:
        hhc1997/L2RM, models.py, EncoderSimilarity.
    """

    def forward(  # type: ignore[override]  # the original's result
        self, img_emb: Tensor, cap_emb: Tensor, cap_lens: Sequence[int] | Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `sgraf.EncoderSimilarity` -> (n_images, n_captions), and its diagonal without gradient."""
        sims = super().forward(img_emb, cap_emb, cap_lens)
        return sims, sims.detach().diagonal()
