"""Late interaction as one operator: public function and registration."""

from torch import Tensor

from itm_fast.choices import AggFunc, CandidatesOf, CrossAttn
from itm_fast.ops import _checks, _library
from itm_fast.ops._candidates import as_candidates
from itm_fast.ops._counts import Counts
from itm_fast.ops._ragged import Groups, as_batches
from itm_fast.ops._similarity import Scored

_library.load()


def max_similarity(
    regions: Groups,
    words: Groups,
    word_counts: Counts = None,
    region_counts: Counts = None,
    *,
    cross_attn: CrossAttn = "t2i",
    agg_func: AggFunc = "Sum",
    lambda_lse: float = 10.0,
    candidates: Tensor | None = None,
    candidates_of: CandidatesOf = "images",
) -> Tensor:
    """Late interaction: each query vector's largest dot product with the context, aggregated over the queries.

    score = agg_q max_c <query_q, context_c>; "t2i": words are the queries (ColBERT, FILIP t2i, CHAN's VHA), "i2t":
    regions are (CHAN's THA). No dot product leaves the cache.

    Args:
        regions: (n_images, max_regions, dim) float32, float64, bfloat16 or float16; any strides; or `Packed`, or
            a list of matrices, without counts. For text retrieval: the documents.
        words: (n_captions, max_words, dim), or likewise, dtype and device of `regions`. For text retrieval: the
            queries.
        word_counts: (n_captions,) integers, 1 ... max_words, as a list, array or tensor: words of each caption; what
            lies beyond is never read. Or a boolean mask (n_captions, max_words), True at words, padded on either side.
            None: all are valid.
        region_counts: (n_images,) or (n_images, max_regions), likewise for the regions.
        cross_attn: "t2i": per word the best region; "i2t": per region the best word.
        agg_func: "Sum" (ColBERT), "Mean" (FILIP), "Max" or "LogSumExp" = log(sum exp(lambda_lse r)) / lambda_lse over
            the queries.
        lambda_lse: Inverse temperature of LogSumExp, above 0. CHAN: 10 (and no division by it).
        candidates: (n_images, k) int64, captions of each image: score these pairs only; -1: none. None: all pairs.
        candidates_of: "captions": candidates are (n_captions, k) images of each caption.

    Returns:
        (n_images, n_captions), or the shape of `candidates` with -inf where there is none; float32, or float64 for
        float64 inputs. Differentiable once in `regions` and `words`; the
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
        >>> import torch
        >>> documents, query = torch.eye(3).reshape(1, 3, 3), torch.tensor([[[0.5, 2.0, 0.0]]])
        >>> max_similarity(documents, query)
        tensor([[2.]])
    """
    _checks.check_choice("cross_attn", cross_attn, CrossAttn)
    _checks.check_choice("agg_func", agg_func, AggFunc)
    lambda_lse = _checks.check_finite("lambda_lse", lambda_lse, positive=True)
    batches = as_batches(regions, words, word_counts, region_counts)
    given = as_candidates(candidates, candidates_of, batches)
    _checks.check_device("max_similarity", batches.regions.device)
    return scored(batches, given, cross_attn, agg_func, lambda_lse)


scored = Scored("max_similarity")
