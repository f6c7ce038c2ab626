"""Drop-in for XLearning-SCU/2021-NeurIPS-NCR's model.py and evaluation.py: same names, signatures and results.

from model import EncoderSimilarity, ContrastiveLoss   ->  from itm_fast.compat.ncr import …
from evaluation import i2t, t2i                        ->  from itm_fast.compat.ncr import i2t, t2i
CRCL, DECL and L2RM have this i2t and t2i too.
"""

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from itm_fast.compat._recall import Recalls, recall_of
from itm_fast.compat.sgraf import EncoderSimilarity
from itm_fast.compat.vse_infty import Floats
from itm_fast.ops import _checks
from itm_fast.ops.triplet import triplet_loss
from itm_fast.shown import named_options
from itm_fast.similarities.scorers import as_float_tensor, as_scorer

__all__ = ["ContrastiveLoss", "EncoderSimilarity", "i2t", "t2i"]

SoftMargin = Literal["linear", "exponential", "sin"]
Mode = Literal["train", "warmup", "predict", "eval_loss"]
Ranked = tuple[Any, Any, npt.NDArray[np.int64], list[npt.NDArray[np.int64]]]

_TOP = 5


class ContrastiveLoss(nn.Module):
    """NCR's loss: a bidirectional hinge whose margin may be each pair's own.

    Source:
        Huang et al., Learning with Noisy Correspondence for Cross-modal Matching, NeurIPS 2021, equation 7;
        XLearning-SCU/2021-NeurIPS-NCR, NCR/model.py.
    """

    def __init__(self, margin: float = 0) -> None:
        """Keep the margin, in units of the scores."""
        super().__init__()
        self.margin = margin

    def forward(
        self,
        scores: Tensor,
        hard_negative: bool = True,
        labels: Tensor | None = None,
        soft_margin: SoftMargin = "linear",
        mode: Mode = "train",
    ) -> Tensor:
        """The loss, or what else the mode asks for.

        Args:
            scores: (n, n), pair i on the diagonal.
            hard_negative: In training, the hardest negative of each query; otherwise the mean over all n.
            labels: (n,) from 0 to 1, how much a pair belongs together; None: all do. As in the original the margin of a
                hinge is that of its column's pair.
            soft_margin: What the margin is multiplied by: the label y, (10^y - 1) / 9, or sin(pi y - pi / 2) / 2 + 1/2.
            mode: "train": the loss; "warmup": that of the mean over all negatives; "eval_loss": the same of each pair;
                "predict": of each pair the margin less half of this, over the mean of the largest tenth.

        Returns:
            A scalar; for "eval_loss" and "predict" (n,).

        Raises:
            ValueError: An option is unknown, or the scores are not square.
        """
        _checks.check_choice("mode", mode, Mode)
        if labels is None and mode in ("train", "warmup"):
            hardest = hard_negative and mode == "train"
            loss = triplet_loss(scores, margin=self.margin, max_violation=hardest)
            return loss if hardest else loss / max(1, len(scores))
        _checks.check_sims(scores)
        factor = 1.0 if labels is None else _factor(labels, soft_margin)
        of_images, of_captions = self._hinges(scores, factor)
        if mode == "train" and hard_negative:
            return of_images.max(1).values.sum() + of_captions.max(0).values.sum()
        of_pairs: Tensor = of_images.mean(1) + of_captions.mean(0)
        if mode == "predict":
            clean = (self.margin * factor - of_pairs / 2).clamp(min=0)
            return clean / clean.sort().values[-(len(scores) // 10 + 1) :].mean()
        return of_pairs if mode == "eval_loss" else of_pairs.sum()

    def _hinges(self, scores: Tensor, factor: Tensor | float) -> tuple[Tensor, Tensor]:
        positive, pairs = scores.diagonal(), torch.eye(len(scores), dtype=torch.bool, device=scores.device)
        moved = self.margin * factor + scores
        hinges = ((moved - positive[:, None]).clamp(min=0), (moved - positive).clamp(min=0))
        of_images, of_captions = (hinge.masked_fill(pairs, 0) for hinge in hinges)
        return of_images, of_captions

    def extra_repr(self) -> str:
        """The margin, for print(model)."""
        return named_options(self, "margin")


def _factor(labels: Tensor, soft_margin: SoftMargin) -> Tensor:
    _checks.check_choice("soft_margin", soft_margin, SoftMargin)
    if soft_margin == "exponential":
        return (torch.pow(10, labels) - 1) / 9
    if soft_margin == "sin":
        return torch.sin(math.pi * labels - math.pi / 2) / 2 + 0.5
    return labels


def i2t(
    npts: int, sims: Floats | Tensor, per_captions: int = 1, return_ranks: bool = False
) -> Recalls | tuple[Recalls, Ranked]:
    """Recall of captions for images.

    Args:
        npts: Images that are asked for, the first rows.
        sims: (n_images, per_captions n_images).
        per_captions: Captions per_captions i ... are those of image i.
        return_ranks: Return ranks and retrieved items too.

    Returns:
        (R@1, R@5, R@10, median rank, mean rank): percentages, and ranks from 1. With `return_ranks`: that and (ranks,
        top1, top5, retrieved): float64 (npts,) ranks from 0 and first items, int64 (npts, 5), and a list of all items
        of each query in order. Equal similarities: lower index first; the original's order of them depends on the
        processor.

    Raises:
        ValueError: The matrix hasn't as many captions an image, or not npts images.

    Source:
        XLearning-SCU/2021-NeurIPS-NCR, NCR/evaluation.py, i2t.
    """
    found: Recalls | tuple[Recalls, Ranked] = _recall(npts, sims, per_captions, return_ranks, "image")
    return found


def t2i(
    npts: int, sims: Floats | Tensor, per_captions: int = 1, return_ranks: bool = False
) -> Recalls | tuple[Recalls, Ranked]:
    """Recall of images for captions; as `i2t`, with what is returned of the captions of npts images."""
    found: Recalls | tuple[Recalls, Ranked] = _recall(npts, sims, per_captions, return_ranks, "caption")
    return found


def _recall(
    npts: int, sims: Floats | Tensor, per_captions: int, return_ranks: bool, query: Literal["image", "caption"]
) -> Any:
    scorer = as_scorer(sims)
    if scorer.n_captions != per_captions * scorer.n_images:
        raise ValueError(f"sims must have {per_captions} captions an image, got shape {tuple(sims.shape)}")
    n_queries = npts * (1 if query == "image" else per_captions)
    found: Any = recall_of(scorer, query, per_captions, n_queries, return_ranks)
    if not return_ranks:
        return found
    recalls, (ranks, top1) = found
    given = as_float_tensor(sims)
    of_queries = (given if query == "image" else given.T)[:n_queries]
    order = of_queries.argsort(dim=1, descending=True, stable=True).numpy()
    return recalls, (ranks, top1, order[:, :_TOP].copy(), list(order))
