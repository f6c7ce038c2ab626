"""Drop-in for fartashf/vsepp's model.py and evaluation.py: same names, signatures and results.

from model import ContrastiveLoss      ->  from itm_fast.compat.vsepp import ContrastiveLoss
from evaluation import i2t, t2i        ->  from itm_fast.compat.vsepp import i2t, t2i
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from itm_fast.compat._recall import Recalls, Retrieved, recall_of
from itm_fast.nn.similarity.embeddings import order_similarity
from itm_fast.ops.triplet import triplet_loss
from itm_fast.shown import named_options
from itm_fast.similarities.scorers import as_float_tensor

Floats = npt.NDArray[np.floating[Any]]

_CAPTIONS_PER_IMAGE = 5


def cosine_sim(im: Tensor, s: Tensor) -> Tensor:
    """Dot products of (n, dim) and (m, dim) embeddings of unit length: (n, m)."""
    return im @ s.T


def order_sim(im: Tensor, s: Tensor) -> Tensor:
    """Minus the order violation of (n, dim) and (m, dim) embeddings: (n, m)."""
    return order_similarity(im, s)


class ContrastiveLoss(nn.Module):
    """VSE++'s loss: similarities of the batch's embeddings and the bidirectional hinge, summed.

    Source:
        Faghri et al., VSE++, BMVC 2018; fartashf/vsepp, model.py.
    """

    def __init__(
        self, margin: float = 0, measure: Literal["order", "cosine"] | bool = False, max_violation: bool = False
    ) -> None:
        """Keep the options.

        Args:
            margin: In units of the similarities.
            measure: "order" for order embeddings, anything else the dot product, as in the original.
            max_violation: Only the hardest negative of each query counts.
        """
        super().__init__()
        self.margin, self.max_violation = margin, max_violation
        self.sim = order_sim if measure == "order" else cosine_sim

    def forward(self, im: Tensor, s: Tensor) -> Tensor:
        """Embeddings of n images (n, dim) and of their captions (n, dim) -> scalar."""
        return triplet_loss(self.sim(im, s), margin=self.margin, max_violation=self.max_violation)

    def extra_repr(self) -> str:
        """The options, for print(model)."""
        measure = "order" if self.sim is order_sim else "cosine"
        return f"{measure}, {named_options(self, 'margin', 'max_violation')}"


def i2t(
    images: Floats | Tensor,
    captions: Floats | Tensor,
    npts: int | None = None,
    measure: str = "cosine",
    return_ranks: bool = False,
) -> Recalls | tuple[Recalls, Retrieved]:
    """Recall of captions for images.

    Args:
        images: (5 n, dim) embeddings, every image five times, as the original repeats them.
        captions: (5 n, dim); captions 5 i ... 5 i + 4 are those of image i.
        npts: Images that are asked for, the first ones; None: all. The captions are always all of them.
        measure: "cosine" or "order".
        return_ranks: Return ranks and first items too.

    Returns:
        (R@1, R@5, R@10, median rank, mean rank): percentages, and ranks from 1. With `return_ranks`: that and (ranks,
        top1), float64 (npts,), ranks from 0. Equal similarities: lower index first; the original's order of them
        depends on the processor.

    Raises:
        ValueError: Shapes, the measure or npts do not fit.

    Source:
        fartashf/vsepp, evaluation.py, i2t.
    """
    return _recall(images, captions, npts, measure, return_ranks, "image")


def t2i(
    images: Floats | Tensor,
    captions: Floats | Tensor,
    npts: int | None = None,
    measure: str = "cosine",
    return_ranks: bool = False,
) -> Recalls | tuple[Recalls, Retrieved]:
    """Recall of images for captions; arguments and result as in `i2t`, ranks and top1 of the 5 npts captions."""
    return _recall(images, captions, npts, measure, return_ranks, "caption")


def _recall(
    images: Floats | Tensor,
    captions: Floats | Tensor,
    npts: int | None,
    measure: str,
    return_ranks: bool,
    query: Literal["image", "caption"],
) -> Recalls | tuple[Recalls, Retrieved]:
    sides = [as_float_tensor(side if isinstance(side, Tensor) else np.asarray(side)) for side in (images, captions)]
    dtype = torch.promote_types(sides[0].dtype, sides[1].dtype)
    scorer = _scorer(sides[0].to(dtype), sides[1].to(dtype), measure)
    n_queries = None if npts is None else npts * (1 if query == "image" else _CAPTIONS_PER_IMAGE)
    return recall_of(scorer, query, _CAPTIONS_PER_IMAGE, n_queries, return_ranks)


class _Scorer:
    """Similarities of one image of every five with all captions, tile by tile; the last tile is kept.

    As in the original, order embeddings are compared in float32.
    """

    def __init__(self, images: Tensor, captions: Tensor, measure: str) -> None:
        if measure == "order":
            images, captions = images.float(), captions.float()
        self.images, self.captions, self._measure = images, captions, measure
        self.n_images, self.n_captions = len(images), len(captions)
        self._last: tuple[slice, slice, Tensor] | None = None

    def __call__(self, rows: slice, columns: slice) -> Tensor:
        images, captions = self.images[rows], self.captions[columns]
        if self._measure == "cosine":
            return cosine_sim(images, captions)
        if self._last is None or self._last[:2] != (rows, columns):
            self._last = rows, columns, order_sim(images, captions)
        return self._last[2]


def _scorer(images: Tensor, captions: Tensor, measure: str) -> _Scorer:
    if measure not in ("cosine", "order"):
        raise ValueError(f"measure must be 'cosine' or 'order', got {measure!r}")
    if images.ndim != 2 or captions.ndim != 2 or images.shape[1] != captions.shape[1]:
        shapes = f"{tuple(images.shape)} and {tuple(captions.shape)}"
        raise ValueError(f"images and captions must be embeddings (5 n, dim), got {shapes}")
    if len(images) != len(captions) or len(images) % _CAPTIONS_PER_IMAGE:
        raise ValueError(
            f"images must have every image five times, as many rows as captions, got {len(images)} and {len(captions)}"
        )
    return _Scorer(images[::_CAPTIONS_PER_IMAGE], captions, measure)
