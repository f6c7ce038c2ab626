"""Drop-in for CrossmodalGroup/ESL's lib/vse.py, lib/loss.py and lib/evaluation.py: same names, signatures and results.

from lib.loss import ContrastiveLoss        ->  from itm_fast.compat.esl import ContrastiveLoss
from lib.evaluation import i2t, t2i         ->  from itm_fast.compat.esl import i2t, t2i
class Sim_vec of lib/vse.py                 ->  from itm_fast.compat.esl import Sim_vec
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from itm_fast.compat._hinge import Hinge
from itm_fast.compat.vse_infty import i2t, t2i
from itm_fast.nn.similarity.esl import ESLSimilarity

__all__ = ["ContrastiveLoss", "Sim_vec", "i2t", "t2i"]


class ContrastiveLoss(Hinge):
    """ESL's loss: the bidirectional hinge of a matrix of scores, summed.

    Source:
        CrossmodalGroup/ESL, lib/loss.py.
    """

    def __init__(self, opt: Any = None, margin: float = 0, max_violation: bool = False) -> None:
        """Keep the options; `opt` is not read, as in the original."""
        super().__init__(margin, max_violation)
        self.opt = opt

    def forward(self, scores: Tensor) -> Tensor:
        """Scores (n, n), pair i on the diagonal -> scalar."""
        return self.of_scores(scores)


class Sim_vec(ESLSimilarity):  # the original's name
    """ESL's similarity of every image with every caption, with the original's state dict; see `ESLSimilarity`.

    Source:
        CrossmodalGroup/ESL, lib/vse.py, Sim_vec.
    """

    def __init__(self, embed_size: int, opt: Any = None, *, heuristic_strategy: bool = False) -> None:
        """Initialise as the original does.

        Args:
            embed_size: Numbers per region and word, a multiple of 256.
            opt: Its `kernel_size`, if it has one, must be 2: a level is half as wide as the last.
            heuristic_strategy: The original's switch of this name, which it has at the head of the file.

        Raises:
            ValueError: `embed_size` or `opt.kernel_size` is another.
        """
        kernel_size = int(getattr(opt, "kernel_size", 2))
        if kernel_size != 2:
            raise ValueError(f"opt.kernel_size must be 2, got {kernel_size}")
        super().__init__(embed_size, heuristic=heuristic_strategy)

    def forward(  # type: ignore[override]  # the original's names and result
        self,
        img_emb: Tensor,
        cap_emb: Tensor,
        cap_lens: Sequence[int] | Tensor,
        is_Train: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Similarities of all pairs, twice.

        Args:
            img_emb: (n_images, n_regions, embed_size).
            cap_emb: (n_captions, max_words, embed_size).
            cap_lens: Words of each caption: list or tensor.
            is_Train: Not read, as in the original.

        Returns:
            (n_images, n_captions), and the same again.
        """
        sims = super().forward(img_emb, cap_emb, cap_lens)
        return sims, sims
