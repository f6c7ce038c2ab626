"""Late interaction as one operator: public function and registration."""

from typing import Any

import torch
from torch import Tensor

from itm_fast.choices import AggFunc, CandidatesOf, CrossAttn
from itm_fast.ops import _checks, _library, _ragged
from itm_fast.ops._candidates import Candidates, as_candidates, lists_are_streamed, on_tensor_cores
from itm_fast.ops._counts import Counts
from itm_fast.ops._gradients import differentiable, once_only
from itm_fast.ops._ragged import Batches, Groups, as_batches
from itm_fast.ops._similarity import Scored, backward_of_given
from itm_fast.ops.batched.kernels import register_one

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
    regions are (CHAN's THA). No dot product leaves the cache. A call with gradients keeps 4 bytes a query vector and
    context: where its maximum is (on the CPU 8 for "Max" and "LogSumExp", its value too). On CUDA float64, and
    everything before compute capability 8.0, keeps nothing and makes the products again.

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
            for the device to look at counts: one out of range gives NaN scores and gradient 0 instead; NaN for a
            candidate that is out of range, too.
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


class _LateInteraction(Scored):
    """Keeps where the maxima are if gradients may be asked for: they are sums of these vectors then, no products."""

    def __call__(self, batches: Batches, candidates: Candidates | None, *options: Any) -> Tensor:
        regions = batches.regions
        trained = torch.is_grad_enabled() and (regions.requires_grad or batches.words.requires_grad)
        native = regions.device.type in _ragged.PACKED_ON
        if candidates is not None or not trained or not (native or on_tensor_cores(regions)):
            return super().__call__(batches, candidates, *options)

        def scores(some: Batches) -> Tensor:
            found: Tensor = _kept(*some, *options)[0]
            return found

        return scores(batches) if native else _ragged.in_padded_runs(scores, batches)


@torch.library.register_fake("itm_fast::max_similarity_kept")  # type: ignore[untyped-decorator]
def _fake(
    regions: Tensor,
    words: Tensor,
    word_counts: Tensor | None,
    region_counts: Tensor | None,
    cross_attn: str,
    agg_func: str,
    _lambda_lse: float,
) -> tuple[Tensor, Tensor, Tensor]:
    n_images, n_captions = Batches(regions, words, word_counts, region_counts).shape
    dtype = torch.float64 if regions.dtype == torch.float64 else torch.float32
    n_contexts, query = (n_images, words) if cross_attn == "t2i" else (n_captions, regions)
    shape = (n_contexts, query.shape[:-1].numel())
    scores = regions.new_empty((n_images, n_captions), dtype=dtype)
    keeps_values = agg_func in ("LogSumExp", "Max") and regions.device.type in _ragged.PACKED_ON
    values = shape if keeps_values else (0,)
    return scores, regions.new_empty(shape, dtype=torch.int32), regions.new_empty(values, dtype=dtype)


@torch.library.register_fake("itm_fast::max_similarity_kept_backward")  # type: ignore[untyped-decorator]
def _fake_backward(_grad: Tensor, regions: Tensor, words: Tensor, *others: Any) -> tuple[Tensor, ...]:
    sides = zip((regions, words), others[-2:], strict=True)
    return tuple(x.new_empty(x.shape if needed else (0,)) for x, needed in sides)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.cross_attn, ctx.agg_func, ctx.lambda_lse = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*tensors, *output[1:])


def _backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    needed = ctx.needs_input_grad[:2]
    found = _gradients(grad, *ctx.saved_tensors, ctx.cross_attn, ctx.agg_func, ctx.lambda_lse, *needed)
    of_sides = (gradient if need else None for gradient, need in zip(found, needed, strict=True))
    return (*of_sides, None, None, None, None, None)


register_one("max_similarity_candidates_backward", backward_of_given("max_similarity"))
scored = _LateInteraction("max_similarity", takes_lists=lists_are_streamed)
_kept = differentiable("max_similarity_kept", _backward, _setup_context)
_gradients = once_only("max_similarity_kept_backward")
