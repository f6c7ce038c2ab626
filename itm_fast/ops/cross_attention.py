"""SCAN's cross-attention similarity as one operator: public function and registration."""

from torch import Tensor

from itm_fast.choices import AggFunc, CandidatesOf, CrossAttn, RawFeatureNorm
from itm_fast.ops import _checks, _library
from itm_fast.ops._candidates import as_candidates
from itm_fast.ops._counts import Counts
from itm_fast.ops._ragged import Groups, as_batches
from itm_fast.ops._similarity import Scored, backward_of_given
from itm_fast.ops.batched.kernels import register_one

_library.load()


def cross_attention_similarity(
    regions: Groups,
    words: Groups,
    word_counts: Counts = None,
    region_counts: Counts = None,
    *,
    cross_attn: CrossAttn = "t2i",
    raw_feature_norm: RawFeatureNorm = "clipped_l2norm",
    agg_func: AggFunc = "LogSumExp",
    lambda_softmax: float = 9.0,
    lambda_lse: float = 6.0,
    candidates: Tensor | None = None,
    candidates_of: CandidatesOf = "images",
) -> Tensor:
    """Cross-attention similarity of every image with every caption.

    With queries Q and contexts C (t2i: words attend to regions; i2t: regions attend to words) and S = C Q^T:
    A = softmax over the context of lambda_softmax * norm(S), r_q = cos(Q_q, (A^T C)_q), aggregated over the queries.
    Computed from S and the Gram matrix of the context: no attended context is ever formed, S stays in the cache.

    Args:
        regions: (n_images, max_regions, dim) float32, float64, bfloat16 or float16; any strides; or `Packed`, or
            a list of matrices, without counts.
        words: (n_captions, max_words, dim), or likewise, dtype and device of `regions`.
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
        candidates: (n_images, k) int64, captions of each image: score these pairs only; -1: none. None: all pairs.
        candidates_of: "captions": candidates are (n_captions, k) images of each caption.

    Returns:
        (n_images, n_captions), or the shape of `candidates` with -inf where there is none; float32, or float64 for
        float64 inputs. Sums run in at least float32. Differentiable once
        in `regions` and `words`; gradients come in their dtype. A vector that is all zero has similarity 0 and gradient
        0. NaN in a vector reaches the scores of its image or caption, and no others. Deterministic.

    Raises:
        ValueError: Shapes, devices, counts or options do not fit; the message names the argument. On CUDA nothing waits
            for the device to look at counts: one out of range gives NaN scores and gradient 0 instead; NaN for a
            candidate that is out of range, too.
        TypeError: A dtype is not supported, or the two differ.

    Source:
        Lee et al., Stacked Cross Attention for Image-Text Matching, ECCV 2018, equations 1-9; kuanghuei/SCAN, model.py.

    Example:
        >>> import torch
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
    batches = as_batches(regions, words, word_counts, region_counts)
    given = as_candidates(candidates, candidates_of, batches)
    _checks.check_device("cross_attention_similarity", batches.regions.device)
    return _scored(batches, given, cross_attn, raw_feature_norm, agg_func, lambda_softmax, lambda_lse)


register_one("cross_attention_candidates_backward", backward_of_given("cross_attention"))
_scored = Scored("cross_attention")
