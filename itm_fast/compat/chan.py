"""Drop-in for ppanzx/CHAN's lib/encoders.py, lib/loss.py and lib/evaluation.py: same names, signatures and results.

from lib.encoders import SimsEncoder        ->  from itm_fast.compat.chan import SimsEncoder
from lib.loss import ContrastiveLoss        ->  from itm_fast.compat.chan import ContrastiveLoss
from lib.evaluation import i2t, t2i         ->  from itm_fast.compat.chan import i2t, t2i
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from itm_fast.compat._hinge import Hinge
from itm_fast.compat.vse_infty import i2t, t2i
from itm_fast.nn.similarity.chan import CHANSimilarity, CodingType, PoolingType

__all__ = ["ContrastiveLoss", "SimsEncoder", "i2t", "t2i"]


class ContrastiveLoss(Hinge):
    """CHAN's loss: the bidirectional hinge of a matrix of similarities, summed.

    Source:
        ppanzx/CHAN, lib/loss.py.
    """

    def __init__(self, opt: Any = None, margin: float = 0.2, max_violation: bool = False) -> None:
        """Keep the options; where `opt` is given its margin and max_violation count, as in the original."""
        super().__init__(*((margin, max_violation) if opt is None else (opt.margin, opt.max_violation)))

    def forward(self, sims: Tensor) -> Tensor:
        """Sims (n, n), pair i on the diagonal -> scalar."""
        return self.of_scores(sims)


class SimsEncoder(CHANSimilarity):
    """CHAN's similarity of every image with every caption; see `CHANSimilarity`, also for where it is not the same.

    Source:
        ppanzx/CHAN, lib/encoders.py, SimsEncoder.
    """

    def __init__(self, coding_type: CodingType, pooling_type: PoolingType, *, opt: Any) -> None:
        """Keep the flags; `opt.alpha` and `opt.belta` are the temperatures of VSACoding and of the pooling."""
        super().__init__(coding_type, pooling_type, alpha=opt.alpha, belta=opt.belta)

    def forward(  # type: ignore[override]  # the original's names
        self, img_emb: Tensor, cap_emb: Tensor, img_lens: Sequence[int] | Tensor, cap_lens: Sequence[int] | Tensor
    ) -> Tensor:
        """Similarities of all pairs.

        Args:
            img_emb: (n_images, max_regions, dim), unit vectors.
            cap_emb: (n_captions, max_words, dim), unit vectors.
            img_lens: Regions of each image: list or tensor.
            cap_lens: Words of each caption: list or tensor.

        Returns:
            (n_images, n_captions).
        """
        return super().forward(img_emb, cap_emb, cap_lens, img_lens)
