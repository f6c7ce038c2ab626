"""SCAN's cross-attention similarity as one operator: public function, fake kernel, autograd."""

from typing import Any

import torch
from torch import Tensor

from itm_fast.choices import AggFunc, CrossAttn, RawFeatureNorm
from itm_fast.ops import _checks, _library
from itm_fast.ops._counts import Counts, counted
from itm_fast.ops._gradients import differentiable, once_only

_library.load()


def cross_attention_similarity(
    regions: Tensor,
    words: Tensor,
    word_counts: Counts = None,
    region_counts: Counts = None,
    *,
    cross_attn: CrossAttn = "t2i",
    raw_feature_norm: RawFeatureNorm = "clipped_l2norm",
    agg_func: AggFunc = "LogSumExp",
    lambda_softmax: float = 9.0,
    lambda_lse: float = 6.0,
) -> Tensor:
    """Cross-attention similarity of every image with every caption.

    With queries Q and contexts C (t2i: words attend to regions; i2t: regions attend to words) and S = C Q^T:
    A = softmax over the context of lambda_softmax * norm(S), r_q = cos(Q_q, (A^T C)_q), aggregated over the queries.
    Computed from S and the Gram matrix of the context: no attended context is ever formed, S stays in the cache.

    Args:
        regions: (n_images, max_regions, dim) float32, float64, bfloat16 or float16; any strides.
        words: (n_captions, max_words, dim), dtype and device of `regions`.
        word_counts: (n_captions,) integers, 1 ... max_words, as a list, array or tensor: words of each caption; what
            lies beyond is never read. Or a boolean mask (n_captions, max_words), True at words, padded on either side.
            None: all are valid.
        region_counts: (n_images,) or (n_images, max_regions), likewise for the regions.
        cross_attn: Who attends: "t2i" words to regions, "i2t" regions to words.
        raw_feature_norm: First normalisation of S, per context vector over the queries ("clipped": leaky ReLU of slope
            0.1 before it).
        agg_func: "LogSumExp" = log(sum exp(lambda_lse r)) / lambda_lse, "Mean", "Sum", "Max" over the queries.
        lambda_softmax: Inverse temperature of the attention. SCAN: 9 for t2i, 4 for i2t.
        lambda_lse: Inverse temperature of LogSumExp, above 0. SCAN: 6 for t2i, 5 (Flickr30K) or 20 (COCO) for i2t.

    Returns:
        (n_images, n_captions) float32, or float64 for float64 inputs. Sums run in at least float32. Differentiable once
        in `regions` and `words`; gradients come in their dtype. A vector that is all zero has similarity 0 and gradient
        0. NaN in a vector reaches the scores of its image or caption, and no others. Deterministic.

    Raises:
        ValueError: Shapes, devices, counts or options do not fit; the message names the argument. On CUDA nothing waits
            for the device to look at counts: one out of range gives NaN scores and gradient 0 instead.
        TypeError: A dtype is not supported, or the two differ.

    Source:
        Lee et al., Stacked Cross Attention for Image-Text Matching, ECCV 2018, equations 1-9; kuanghuei/SCAN, model.py.

    Example:
        >>> regions = torch.nn.functional.normalize(torch.randn(2, 36, 64), dim=-1)
        >>> words = torch.nn.functional.normalize(torch.randn(3, 12, 64), dim=-1)
        >>> cross_attention_similarity(regions, words, torch.tensor([12, 5, 1])).shape
        torch.Size([2, 3])
    """
    _checks.check_choice("cross_attn", cross_attn, CrossAttn)
    _checks.check_choice("raw_feature_norm", raw_feature_norm, RawFeatureNorm)
    _checks.check_choice("agg_func", agg_func, AggFunc)
    lambda_softmax = _checks.check_finite("lambda_softmax", lambda_softmax, positive=False)
    lambda_lse = _checks.check_finite("lambda_lse", lambda_lse, positive=True)
    if isinstance(regions, Tensor) and isinstance(words, Tensor):
        regions, words = _checks.autocast(regions, words)
    _checks.check_vectors(regions, words)
    words, word_counts = counted("word_counts", word_counts, "words", words)
    regions, region_counts = counted("region_counts", region_counts, "regions", regions)
    _checks.check_device("cross_attention_similarity", regions.device)
    scores: Tensor = _scored(
        regions,
        words,
        word_counts,
        region_counts,
        cross_attn,
        raw_feature_norm,
        agg_func,
        lambda_softmax,
        lambda_lse,
    )
    return scores


@torch.library.register_fake("itm_fast::cross_attention")  # type: ignore[untyped-decorator]
def _fake(regions: Tensor, words: Tensor, *_: Any) -> Tensor:
    dtype = torch.float64 if regions.dtype == torch.float64 else torch.float32
    return regions.new_empty((regions.shape[0], words.shape[0]), dtype=dtype)


@torch.library.register_fake("itm_fast::cross_attention_backward")  # type: ignore[untyped-decorator]
def _fake_backward(_grad: Tensor, regions: Tensor, words: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    need_regions, need_words = options[-2:]
    return (
        regions.new_empty(regions.shape if need_regions else (0,)),
        words.new_empty(words.shape if need_words else (0,)),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    regions, words, word_counts, region_counts, *options = inputs
    ctx.save_for_backward(regions, words, word_counts, region_counts)
    ctx.options = options


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    need_regions, need_words = ctx.needs_input_grad[:2]
    grad_regions, grad_words = _gradients(grad, *ctx.saved_tensors, *ctx.options, need_regions, need_words)
    none_for_the_rest = (None,) * (2 + len(ctx.options))
    return grad_regions if need_regions else None, grad_words if need_words else None, *none_for_the_rest


_scored = differentiable("cross_attention", _backward, _setup_context)
_gradients = once_only("cross_attention_backward")
