"""Late interaction as one operator: public function, fake kernel, autograd."""

from typing import Any

import torch
from torch import Tensor

from itm_fast.choices import AggFunc, CrossAttn
from itm_fast.ops import _checks, _library
from itm_fast.ops._counts import Counts, counted
from itm_fast.ops._gradients import differentiable, once_only

_library.load()


def max_similarity(
    regions: Tensor,
    words: Tensor,
    word_counts: Counts = None,
    region_counts: Counts = None,
    *,
    cross_attn: CrossAttn = "t2i",
    agg_func: AggFunc = "Sum",
    lambda_lse: float = 10.0,
) -> Tensor:
    """Late interaction: each query vector's largest dot product with the context, aggregated over the queries.

    score = agg_q max_c <query_q, context_c>; "t2i": words are the queries (ColBERT, FILIP t2i, CHAN's VHA), "i2t":
    regions are (CHAN's THA). No dot product leaves the cache.

    Args:
        regions: (n_images, max_regions, dim) float32, float64, bfloat16 or float16; any strides. For text retrieval:
            the documents.
        words: (n_captions, max_words, dim), dtype and device of `regions`. For text retrieval: the queries.
        word_counts: (n_captions,) integers, 1 ... max_words, as a list, array or tensor: words of each caption; what
            lies beyond is never read. Or a boolean mask (n_captions, max_words), True at words, padded on either side.
            None: all are valid.
        region_counts: (n_images,) or (n_images, max_regions), likewise for the regions.
        cross_attn: "t2i": per word the best region; "i2t": per region the best word.
        agg_func: "Sum" (ColBERT), "Mean" (FILIP), "Max" or "LogSumExp" = log(sum exp(lambda_lse r)) / lambda_lse over
            the queries.
        lambda_lse: Inverse temperature of LogSumExp, above 0. CHAN: 10 (and no division by it).

    Returns:
        (n_images, n_captions) float32, or float64 for float64 inputs. Differentiable once in `regions` and `words`; the
        gradient of a query goes to the first context vector that reaches its maximum. NaN counts as the maximum.
        Deterministic.

    Raises:
        ValueError: Shapes, devices, counts or options do not fit; the message names the argument. On CUDA nothing waits
            for the device to look at counts: one out of range gives NaN scores and gradient 0 instead.
        TypeError: A dtype is not supported, or the two differ.

    Source:
        Khattab & Zaharia, ColBERT, SIGIR 2020, equation 3; Yao et al., FILIP, ICLR 2022, equations 4-6; Pan et al.,
        Fine-Grained Image-Text Matching by Cross-Modal Hard Aligning Network, CVPR 2023; ppanzx/CHAN.

    Example:
        >>> documents, query = torch.eye(3).reshape(1, 3, 3), torch.tensor([[[0.5, 2.0, 0.0]]])
        >>> max_similarity(documents, query)
        tensor([[2.]])
    """
    _checks.check_choice("cross_attn", cross_attn, CrossAttn)
    _checks.check_choice("agg_func", agg_func, AggFunc)
    lambda_lse = _checks.check_finite("lambda_lse", lambda_lse, positive=True)
    if isinstance(regions, Tensor) and isinstance(words, Tensor):
        regions, words = _checks.autocast(regions, words)
    _checks.check_vectors(regions, words)
    words, word_counts = counted("word_counts", word_counts, "words", words)
    regions, region_counts = counted("region_counts", region_counts, "regions", regions)
    _checks.check_device("max_similarity", regions.device)
    scores: Tensor = _scored(regions, words, word_counts, region_counts, cross_attn, agg_func, lambda_lse)
    return scores


@torch.library.register_fake("itm_fast::max_similarity")  # type: ignore[untyped-decorator]
def _fake(regions: Tensor, words: Tensor, *_: Any) -> Tensor:
    dtype = torch.float64 if regions.dtype == torch.float64 else torch.float32
    return regions.new_empty((regions.shape[0], words.shape[0]), dtype=dtype)


@torch.library.register_fake("itm_fast::max_similarity_backward")  # type: ignore[untyped-decorator]
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


_scored = differentiable("max_similarity", _backward, _setup_context)
_gradients = once_only("max_similarity_backward")
