"""Drop-in for LuminosityX/HAT's meter/modules/objectives.py: its cross attention, with the same signatures.

from meter.modules.objectives import xattn_score_t2i, xattn_score_i2t   ->  from itm_fast.compat.hat import …
"""

from collections.abc import Sequence

from torch import Tensor

from itm_fast.choices import CrossAttn
from itm_fast.ops.cross_attention import cross_attention_similarity


def xattn_score_t2i(
    images: Tensor, captions: Tensor, cap_lens: Sequence[int] | Tensor, lambda_softmax: float
) -> Tensor:
    """Text-to-image cross attention: SCAN's with "clipped_l2norm" and "Mean".

    Args:
        images: (n_images, n_regions, dim).
        captions: (n_captions, max_words, dim).
        cap_lens: Words of each caption: list or tensor.
        lambda_softmax: Inverse temperature of the attention.

    Returns:
        (n_images, n_captions).

    Source:
        LuminosityX/HAT, meter/modules/objectives.py, xattn_score_t2i.
    """
    return mean_cosine(images, captions, cap_lens, lambda_softmax, "t2i")


def xattn_score_i2t(
    images: Tensor, captions: Tensor, cap_lens: Sequence[int] | Tensor, lambda_softmax: float
) -> Tensor:
    """Image-to-text cross attention; arguments and result as in `xattn_score_t2i`."""
    return mean_cosine(images, captions, cap_lens, lambda_softmax, "i2t")


def mean_cosine(
    images: Tensor, captions: Tensor, cap_lens: Sequence[int] | Tensor, smooth: float, cross_attn: CrossAttn
) -> Tensor:
    """SCAN's similarity of either direction with the flags that its successors fixed."""
    return cross_attention_similarity(
        images,
        captions,
        cap_lens,
        cross_attn=cross_attn,
        raw_feature_norm="clipped_l2norm",
        agg_func="Mean",
        lambda_softmax=smooth,
    )
