"""Drop-in for LgQu/DIME's loss.py: same name, signature and result.

from loss import ContrastiveLoss        ->  from itm_fast.compat.dime import ContrastiveLoss
"""

from typing import Any

from torch import Tensor

from itm_fast.compat._hinge import Hinge


class ContrastiveLoss(Hinge):
    """DIME's loss: the bidirectional hinge of a matrix of scores, summed.

    Source:
        LgQu/DIME, loss.py.
    """

    def __init__(self, opt: Any, margin: float = 0, measure: str | bool = False, max_violation: bool = False) -> None:
        """Keep the options.

        Args:
            opt: DIME's flags; its extra_stc and extra_img must be 0, as they are by default.
            margin: In units of the scores.
            measure: Not read, as in the original.
            max_violation: Only the hardest negative of each query counts.

        Raises:
            ValueError: Negatives beside the batch's pairs are asked for.
        """
        super().__init__(margin, max_violation)
        for flag in ("extra_stc", "extra_img"):
            if getattr(opt, flag, 0) > 0:
                raise ValueError(f"opt.{flag} must be 0, got {getattr(opt, flag)}: only square scores are taken here")

    def forward(self, scores: Tensor) -> Tensor:
        """Scores (n, n), pair i on the diagonal -> scalar."""
        return self.of_scores(scores)
