"""Drop-in for Paranioar/SGRAF's model.py and evaluation.py: same names, signatures and state dict.

from model import EncoderSimilarity, ContrastiveLoss   ->  from itm_fast.compat.sgraf import …
from evaluation import i2t, t2i                        ->  from itm_fast.compat.sgraf import i2t, t2i
"""

from collections.abc import Sequence

from torch import Tensor

from itm_fast.compat._hinge import Hinge
from itm_fast.compat.scan import i2t, t2i
from itm_fast.nn.similarity.sgraf import ModuleName, SGRAFSimilarity
from itm_fast.ops import _checks

__all__ = ["ContrastiveLoss", "EncoderSimilarity", "i2t", "t2i"]


class EncoderSimilarity(SGRAFSimilarity):
    """SGR or SAF of every image with every caption; see `SGRAFSimilarity`.

    Source:
        Paranioar/SGRAF, model.py, EncoderSimilarity.
    """

    def __init__(self, embed_size: int, sim_dim: int, module_name: str = "AVE", sgr_step: int = 3) -> None:
        """Initialise as the original does, with its 36 regions and its dropout of 0.4.

        Args:
            embed_size: Numbers per region and word.
            sim_dim: Numbers per similarity vector.
            module_name: "SGR" or "SAF". The signature's default is the original's, and is refused: it is no model of
                the paper, and none of its checkpoints needs it.
            sgr_step: Steps of graph reasoning.

        Raises:
            ValueError: `module_name` is another, or a size is below 1.
        """
        _checks.check_choice("module_name", module_name, ModuleName)
        super().__init__(embed_size, sim_dim, module_name="SGR" if module_name == "SGR" else "SAF", sgr_step=sgr_step)

    def forward(  # type: ignore[override]  # the original's names
        self, img_emb: Tensor, cap_emb: Tensor, cap_lens: Sequence[int] | Tensor
    ) -> Tensor:
        """Similarities of all pairs.

        Args:
            img_emb: (n_images, 36, embed_size).
            cap_emb: (n_captions, max_words, embed_size).
            cap_lens: Words of each caption: list or tensor, as the GRU's packing returns it.

        Returns:
            (n_images, n_captions).
        """
        return super().forward(img_emb, cap_emb, cap_lens)


class ContrastiveLoss(Hinge):
    """SGRAF's loss: the bidirectional hinge of a matrix of scores, summed.

    Source:
        Paranioar/SGRAF, model.py, ContrastiveLoss.
    """

    def forward(self, scores: Tensor) -> Tensor:
        """Scores (n, n), pair i on the diagonal -> scalar."""
        return self.of_scores(scores)
