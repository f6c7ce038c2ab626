"""Drop-in for woodfrog/vse_infty's lib/loss.py and lib/evaluation.py: same names, signatures and results.

from lib.loss import ContrastiveLoss                   ->  from itm_fast.compat.vse_infty import ContrastiveLoss
from lib.evaluation import compute_sim, i2t, t2i       ->  from itm_fast.compat.vse_infty import compute_sim, i2t, t2i
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from itm_fast.compat._hinge import Hinge
from itm_fast.compat._recall import Recalls, Retrieved, recall_of
from itm_fast.similarities.scorers import as_scorer

Floats = npt.NDArray[np.floating[Any]]
Mode = Literal["coco", "f30k"]


class ContrastiveLoss(Hinge):
    """VSE∞'s loss: dot products of the batch's embeddings and the bidirectional hinge, summed.

    Source:
        Chen et al., CVPR 2021; woodfrog/vse_infty, lib/loss.py.
    """

    def __init__(self, opt: Any = None, margin: float = 0, max_violation: bool = False) -> None:
        """Keep the options; `opt` is not read, as in the original."""
        super().__init__(margin, max_violation)
        self.opt = opt

    def forward(self, im: Tensor, s: Tensor) -> Tensor:
        """Embeddings of n images (n, dim) and of their captions (n, dim) -> scalar."""
        return self.of_scores(im @ s.T)


def compute_sim(images: Floats, captions: Floats) -> Floats:
    """Dot products of (n, dim) and (m, dim) embeddings: (n, m)."""
    sims: Floats = np.matmul(images, captions.T)
    return sims


def i2t(
    npts: int, sims: Floats | Tensor, return_ranks: bool = False, mode: Mode = "coco"
) -> Recalls | tuple[Recalls, Retrieved]:
    """Recall of captions for images.

    Args:
        npts: Images that are asked for, the first rows.
        sims: (n_images, 5 n_images), or (n_images, n_images) for a mode other than "coco".
        return_ranks: Return ranks and first items too.
        mode: "coco": captions 5 i ... 5 i + 4 are those of image i; otherwise caption i alone.

    Returns:
        (R@1, R@5, R@10, median rank, mean rank): percentages, and ranks from 1. With `return_ranks`: that and (ranks,
        top1), float64 (npts,), ranks from 0. Equal similarities: lower index first; the original's order of them
        depends on the processor.

    Raises:
        ValueError: The matrix hasn't as many captions an image as the mode says, or not npts images.

    Source:
        woodfrog/vse_infty, lib/evaluation.py, i2t.
    """
    return _recall(npts, sims, return_ranks, mode, "image")


def t2i(
    npts: int, sims: Floats | Tensor, return_ranks: bool = False, mode: Mode = "coco"
) -> Recalls | tuple[Recalls, Retrieved]:
    """Recall of images for captions; as `i2t`, with ranks and top1 of the captions of npts images."""
    return _recall(npts, sims, return_ranks, mode, "caption")


def _recall(
    npts: int, sims: Floats | Tensor, return_ranks: bool, mode: Mode, query: Literal["image", "caption"]
) -> Recalls | tuple[Recalls, Retrieved]:
    per_image = 5 if mode == "coco" else 1
    scorer = as_scorer(sims)
    if scorer.n_captions != per_image * scorer.n_images:
        raise ValueError(
            f"sims must have {per_image} captions an image for mode {mode!r}, got shape {tuple(sims.shape)}"
        )
    n_queries = npts * (1 if query == "image" else per_image)
    return recall_of(scorer, query, per_image, n_queries, return_ranks)
