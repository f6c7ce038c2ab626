"""Drop-in for kuanghuei/SCAN's model.py and evaluation.py: same names, signatures and flags, fused behind them.

from model import xattn_score_t2i        ->  from itm_fast.compat.scan import xattn_score_t2i
from evaluation import i2t, t2i          ->  from itm_fast.compat.scan import i2t, t2i
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from itm_fast.choices import CrossAttn
from itm_fast.compat import vse_infty
from itm_fast.compat._recall import Recalls, Retrieved
from itm_fast.ops import _checks
from itm_fast.ops.cross_attention import cross_attention_similarity
from itm_fast.ops.triplet import triplet_loss
from itm_fast.shown import named_options


def xattn_score_t2i(images: Tensor, captions: Tensor, cap_lens: Sequence[int] | Tensor, opt: Any) -> Tensor:
    """Text-to-image cross attention of every image with every caption.

    Args:
        images: (n_images, n_regions, dim).
        captions: (n_captions, max_words, dim).
        cap_lens: Number of words of each caption: list or tensor, as the GRU's packing returns it.
        opt: Anything with SCAN's flags: raw_feature_norm, agg_func, lambda_softmax, and lambda_lse for LogSumExp.

    Returns:
        (n_images, n_captions).

    Raises:
        ValueError: A flag has a value the original does not know, or the shapes do not fit.
        AttributeError: `opt` lacks a flag.

    Source:
        kuanghuei/SCAN, model.py, xattn_score_t2i.
    """
    return _score(images, captions, cap_lens, opt, "t2i")


def xattn_score_i2t(images: Tensor, captions: Tensor, cap_lens: Sequence[int] | Tensor, opt: Any) -> Tensor:
    """Image-to-text cross attention; arguments and result as in `xattn_score_t2i`."""
    return _score(images, captions, cap_lens, opt, "i2t")


def _score(
    images: Tensor, captions: Tensor, cap_lens: Sequence[int] | Tensor, opt: Any, cross_attn: CrossAttn
) -> Tensor:
    agg_func = _flag(opt, "agg_func")
    return cross_attention_similarity(
        images,
        captions,
        cap_lens,
        cross_attn=cross_attn,
        raw_feature_norm=_flag(opt, "raw_feature_norm"),
        agg_func=agg_func,
        lambda_softmax=_flag(opt, "lambda_softmax"),
        lambda_lse=_flag(opt, "lambda_lse") if agg_func == "LogSumExp" else 1.0,
    )


def _flag(opt: Any, name: str) -> Any:
    if not hasattr(opt, name):
        raise AttributeError(f"opt has no {name}; SCAN's train.py sets it with --{name}")
    return getattr(opt, name)


class ContrastiveLoss(nn.Module):
    """SCAN's loss: cross-attention scores of the batch and the bidirectional hinge, summed.

    Source:
        kuanghuei/SCAN, model.py, ContrastiveLoss.
    """

    def __init__(self, opt: Any, margin: float = 0, max_violation: bool = False) -> None:
        """Keep the flags.

        Args:
            opt: SCAN's flags; cross_attn chooses the direction.
            margin: In units of the scores.
            max_violation: Only the hardest negative of each query counts.

        Raises:
            ValueError: opt.cross_attn is neither "t2i" nor "i2t".
        """
        super().__init__()
        cross_attn = _flag(opt, "cross_attn")
        _checks.check_choice("opt.cross_attn", cross_attn, CrossAttn)
        self.opt, self.margin, self.max_violation = opt, margin, max_violation

    def forward(self, im: Tensor, s: Tensor, s_l: Sequence[int] | Tensor) -> Tensor:
        """Images (n, n_regions, dim), captions (n, max_words, dim), their lengths -> scalar."""
        scores = _score(im, s, s_l, self.opt, self.opt.cross_attn)
        return triplet_loss(scores, margin=self.margin, max_violation=self.max_violation)

    def extra_repr(self) -> str:
        """The options, for print(model)."""
        flags = ("cross_attn", "raw_feature_norm", "agg_func", "lambda_softmax", "lambda_lse")
        of_opt = named_options(self.opt, *(flag for flag in flags if hasattr(self.opt, flag)))
        return f"{of_opt}, {named_options(self, 'margin', 'max_violation')}"


def i2t(
    images: vse_infty.Floats | Tensor,
    captions: object,
    caplens: object,
    sims: vse_infty.Floats | Tensor,
    npts: int | None = None,
    return_ranks: bool = False,
) -> Recalls | tuple[Recalls, Retrieved]:
    """Recall of captions for images.

    Args:
        images: (n, ...), whatever they are; only how many counts.
        captions: Not read, as in the original.
        caplens: Not read, as in the original.
        sims: (n, 5 n); captions 5 i ... 5 i + 4 are those of image i.
        npts: Not read, as in the original.
        return_ranks: Return ranks and first items too.

    Returns:
        As `vse_infty.i2t`.

    Source:
        kuanghuei/SCAN, evaluation.py, i2t; Paranioar/SGRAF has the same.
    """
    return vse_infty.i2t(images.shape[0], sims, return_ranks)


def t2i(
    images: vse_infty.Floats | Tensor,
    captions: object,
    caplens: object,
    sims: vse_infty.Floats | Tensor,
    npts: int | None = None,
    return_ranks: bool = False,
) -> Recalls | tuple[Recalls, Retrieved]:
    """Recall of images for captions; as `i2t`, with ranks and top1 of the captions."""
    return vse_infty.t2i(images.shape[0], sims, return_ranks)
