"""Drop-in for CrossmodalGroup/HREM's lib/loss.py and lib/evaluation.py: same names, signatures and results.

from lib.loss import ContrastiveLoss                   ->  from itm_fast.compat.hrem import ContrastiveLoss
from lib.evaluation import compute_sim, i2t, t2i       ->  from itm_fast.compat.hrem import compute_sim, i2t, t2i
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from itm_fast.compat import vse_infty
from itm_fast.compat._hinge import Hinge
from itm_fast.compat._recall import Recalls, Retrieved, recalls_of
from itm_fast.compat.vse_infty import Floats, Mode, compute_sim

__all__ = ["ContrastiveLoss", "compute_sim", "i2t", "t2i"]


class ContrastiveLoss(Hinge):
    """HREM's loss: dot products of the batch's embeddings and the bidirectional hinge, summed.

    Source:
        CrossmodalGroup/HREM, lib/loss.py.
    """

    def __init__(self, opt: Any, margin: float = 0.2, max_violation: bool = False) -> None:
        """Keep the options.

        Args:
            opt: HREM's flags; with mask_repeat pairs of the same image are no negatives.
            margin: In units of the similarities.
            max_violation: Only the hardest negative of each query counts.
        """
        super().__init__(margin, max_violation)
        self.opt, self.mask_repeat = opt, bool(opt.mask_repeat)

    def forward(self, im: Tensor, s: Tensor, img_ids: Tensor | Sequence[int] | None = None) -> Tensor:
        """Embeddings of n images (n, dim) and of their captions (n, dim), ids of the images (n,) -> scalar.

        Raises:
            ValueError: opt.mask_repeat is set and there are no ids.
        """
        if self.mask_repeat and img_ids is None:
            raise ValueError("img_ids is None, but opt.mask_repeat is set: say which pairs are of the same image")
        return self.of_scores(im @ s.T, img_ids if self.mask_repeat else None)


def i2t(
    npts: int,
    sims: Floats | Tensor,
    return_ranks: bool = False,
    mode: Mode = "coco",
    special_list: Sequence[int] | None = None,
) -> Recalls | tuple[Recalls, Retrieved]:
    """Recall of captions for images.

    Args:
        npts: Images that are asked for, the first rows.
        sims: (n_images, 5 n_images), or (n_images, n_images) for a mode other than "coco".
        return_ranks: Return ranks and first items too.
        mode: "coco": captions 5 i ... 5 i + 4 are those of image i; otherwise caption i alone.
        special_list: Only these queries count in the figures and ranks; None: all.

    Returns:
        As `vse_infty.i2t`; first items are of all queries, as in the original.

    Source:
        CrossmodalGroup/HREM, lib/evaluation.py, i2t.
    """
    found: Recalls | tuple[Recalls, Retrieved] = _of_some(
        vse_infty.i2t(npts, sims, True, mode), return_ranks, special_list
    )
    return found


def t2i(
    npts: int,
    sims: Floats | Tensor,
    return_ranks: bool = False,
    mode: Mode = "coco",
    special_list: Sequence[int] | None = None,
) -> Recalls | tuple[Recalls, Retrieved]:
    """Recall of images for captions; as `i2t`, with ranks and top1 of the captions of npts images."""
    found: Recalls | tuple[Recalls, Retrieved] = _of_some(
        vse_infty.t2i(npts, sims, True, mode), return_ranks, special_list
    )
    return found


def _of_some(found: Any, return_ranks: bool, special_list: Sequence[int] | None) -> Any:
    recalls, (ranks, top1) = found
    if special_list is not None:
        ranks = ranks[list(special_list)]
        recalls = recalls_of(torch.from_numpy(ranks))
    return (recalls, (ranks, top1)) if return_ranks else recalls
