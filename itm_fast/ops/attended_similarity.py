"""Similarity vectors of words and what they attend to (SGR, SAF): public function, fake kernel, autograd."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from itm_fast.choices import CandidatesOf
from itm_fast.ops import _checks, _library, _ragged
from itm_fast.ops._candidates import as_candidates
from itm_fast.ops._counts import Counts, packed_counts
from itm_fast.ops._gradients import differentiable, once_only
from itm_fast.ops._ragged import Batches, Groups, packed_regions, packed_words, padded, take
from itm_fast.ops.batched import attended_similarity as batched
from itm_fast.ops.batched.kernels import as_multiplied, register
from itm_fast.ops.batched.products import wide

_library.load()


def attended_similarity(
    regions: Groups,
    words: Groups,
    word_counts: Counts,
    weight: Tensor,
    bias: Tensor,
    *,
    lambda_softmax: float = 9.0,
    candidates: Tensor | None = None,
    candidates_of: CandidatesOf = "images",
) -> Tensor:
    """Similarity vector of every word with what it attends to in every image.

    u = attended context (text to image, "clipped_l2norm", see `cross_attention_similarity`) at unit length;
    y = weight (u - word)^2 + bias, the square taken number by number; result y / (|y| + 1e-8).
    On the CPU no attended context is ever kept, neither here nor for the gradients, which make them again. On other
    devices batched products, some images and words at a time, made again for the gradients as well; nothing there waits
    for the host, and 16-bit vectors, those of autocast among them, are multiplied as such and summed in float32.

    Args:
        regions: (n_images, n_regions, dim) floating, as all but the counts; or `Packed`, or a list of matrices, whose
            images are scored together where they have as many regions (their counts are read on the host).
        words: (n_words, dim), the words of all captions one after another, without padding; or `Packed`, or a list of
            matrices, with word_counts None.
        word_counts: (n_captions,) integers, at least 1, as a list, array or tensor: words of each caption; they sum to
            n_words.
        weight: (width, dim).
        bias: (width,).
        lambda_softmax: Inverse temperature of the attention.
        candidates: (n_images, k) int64, captions of each image: vectors of these pairs only; -1: none. None: all pairs.
            Vectors are found where they lie (on CUDA before compute capability 8.0 and of float64: gathered, several
            lists at a time); packed images are padded first on a device. It is waited for once, for how many words
            these pairs have and whether all indices are in range.
        candidates_of: "captions": candidates are (n_captions, k) images of each caption.

    Returns:
        (n_images, n_words, width), dtype of the inputs. With candidates (1, words of these pairs, width): pair by pair
        in the order of the candidates, those that are none left out, as `graph_reasoning` takes them. Differentiable
        once in all but the counts; where the original divides by the root of 0 (similarities of a region that are all
        0, a context or a vector of length 0), the gradient through it is 0. Deterministic.

    Raises:
        ValueError: Shapes, devices or counts do not fit; the message names the argument. On CUDA nobody waits for the
            device to look at counts: where they do not fit, all vectors are NaN and all gradients 0.
        TypeError: A dtype is not supported, or they differ.

    Source:
        Diao et al., Similarity Reasoning and Filtration for Image-Text Matching, AAAI 2021, equations 1-4;
        Paranioar/SGRAF, model.py.

    Example:
        >>> regions, words = torch.randn(2, 36, 64), torch.randn(7, 64)
        >>> attended_similarity(regions, words, torch.tensor([4, 3]), torch.randn(16, 64), torch.zeros(16)).shape
        torch.Size([2, 7, 16])
    """
    lambda_softmax = _checks.check_finite("lambda_softmax", lambda_softmax, positive=False)
    words, word_counts = packed_words(words, word_counts)
    regions, region_counts = packed_regions(regions)
    _check(regions, words, weight, bias, "(n_images, n_regions, dim)" if region_counts is None else "(total, dim)")
    dtype, (regions, words, weight, bias) = as_multiplied(regions, words, weight, bias)
    word_counts = packed_counts("word_counts", word_counts, "words")
    batches = Batches(regions, words, word_counts, region_counts)
    given = as_candidates(candidates, candidates_of, batches)

    def score(regions: Tensor, words: Tensor, word_counts: Tensor) -> Tensor:
        similarities: Tensor
        similarities, _ = _attended(regions, words, word_counts, weight, bias, lambda_softmax)
        return similarities.to(dtype)

    if given is not None:
        if region_counts is not None and regions.device.type not in _ragged.PACKED_ON:
            regions, region_counts = padded(regions, region_counts)
        lists = (region_counts, given.indices, weight, bias, given.of_captions)
        of_pairs: Tensor = _of_candidates(regions, words, word_counts, *lists, lambda_softmax)[0]
        return of_pairs.to(dtype)
    return score(regions, words, word_counts) if region_counts is None else _by_count(score, batches)


def _by_count(score: Callable[[Tensor, Tensor, Tensor], Tensor], batches: Batches) -> Tensor:
    """Of packed regions: images with as many of them together."""
    regions, words, word_counts, region_counts = batches
    assert word_counts is not None
    assert region_counts is not None
    images = range(len(region_counts))
    counts: list[int] = region_counts.tolist()
    parts, order = [regions.new_empty(0, 0)], []
    for count, group in itertools.groupby(sorted(images, key=counts.__getitem__), counts.__getitem__):
        some = list(group)
        padded, _ = take(regions, region_counts, torch.tensor(some, device=regions.device), count)
        parts.append(score(padded, words, word_counts))
        order += some
    if not order:
        return score(regions.reshape(0, 1, regions.shape[1]), words, word_counts)
    return torch.cat(parts[1:])[torch.tensor(order, device=regions.device).argsort()]


def _check(regions: Tensor, words: Tensor, weight: Tensor, bias: Tensor, of_regions: str) -> None:
    given = {"regions": regions, "words": words, "weight": weight, "bias": bias}
    shapes = {"regions": of_regions, "words": "(n_words, dim)"}
    shapes |= {"weight": "(width, dim)", "bias": "(width,)"}
    for name, tensor in given.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
        if tensor.ndim != shapes[name].count(",") + (name != "bias"):
            raise ValueError(f"{name} must have shape {shapes[name]}, got {tuple(tensor.shape)}")
        if tensor.dtype not in _checks.FLOAT_DTYPES or tensor.dtype != regions.dtype:
            raise TypeError(
                f"{', '.join(given)} must all be float32, float64, bfloat16 or float16, and all the same; {name} is "
                f"{tensor.dtype}, regions are {regions.dtype}"
            )
        if tensor.device != regions.device:
            raise ValueError(f"{name} must be on the device of regions, {regions.device}, got {tensor.device}")
    if not regions.shape[-1] == words.shape[1] == weight.shape[1] or len(bias) != len(weight):
        raise ValueError(
            "regions, words and weight must have the same dim, and weight and bias the same width, got "
            + ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in given.items())
        )
    if weight.numel() == 0:
        raise ValueError(f"weight has no numbers, got shape {tuple(weight.shape)}")


@torch.library.register_fake("itm_fast::attended_similarity")  # type: ignore[untyped-decorator]
def _fake(regions: Tensor, words: Tensor, _word_counts: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    shape = (regions.shape[0], words.shape[0])
    return regions.new_empty((*shape, weight.shape[0])), regions.new_empty(shape, dtype=wide(regions.dtype))


def _fake_of_operands(regions: Tensor, words: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    shapes = (regions.shape, words.shape, weight.shape, weight.shape[:1])  # the last: of the bias
    return tuple(regions.new_empty(shape) for shape in shapes)


@torch.library.register_fake("itm_fast::attended_similarity_backward")  # type: ignore[untyped-decorator]
def _fake_backward(
    _grad: Tensor,
    _similarities: Tensor,
    _lengths: Tensor,
    regions: Tensor,
    words: Tensor,
    _word_counts: Tensor,
    weight: Tensor,
    *_: Any,
) -> tuple[Tensor, ...]:
    return _fake_of_operands(regions, words, weight)


@torch.library.register_fake("itm_fast::attended_similarity_candidates")  # type: ignore[untyped-decorator]
def _fake_of_candidates(
    regions: Tensor,
    _words: Tensor,
    _word_counts: Tensor,
    _region_counts: Tensor | None,
    _candidates: Tensor,
    weight: Tensor,
    *_: Any,
) -> tuple[Tensor, Tensor]:
    n_rows = torch.library.get_ctx().new_dynamic_size()  # the words of what the lists name
    shape = (1, n_rows)
    return regions.new_empty((*shape, weight.shape[0])), regions.new_empty(shape, dtype=wide(regions.dtype))


@torch.library.register_fake("itm_fast::attended_similarity_candidates_backward")  # type: ignore[untyped-decorator]
def _fake_of_candidates_backward(
    _grad: Tensor,
    _similarities: Tensor,
    _lengths: Tensor,
    regions: Tensor,
    words: Tensor,
    _word_counts: Tensor,
    _region_counts: Tensor | None,
    _candidates: Tensor,
    weight: Tensor,
    *_: Any,
) -> tuple[Tensor, ...]:
    return _fake_of_operands(regions, words, weight)


@torch.library.register_fake("itm_fast::attended_vectors_")  # type: ignore[untyped-decorator]
@torch.library.register_fake("itm_fast::attended_words_")  # type: ignore[untyped-decorator]
def _fake_in_place(*_: Tensor) -> None:
    pass


@torch.library.register_fake("itm_fast::attended_gradients")  # type: ignore[untyped-decorator]
def _fake_gradients(grad: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    _, _, weights, _, words, *_ = others
    widths = (grad.shape[1], words.shape[1], words.shape[1])
    return tuple(words.new_empty((*weights.shape[:2], width)) for width in widths)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    regions, words, word_counts, weight, _, ctx.lambda_softmax = inputs
    similarities, lengths = output
    ctx.mark_non_differentiable(lengths)
    ctx.save_for_backward(similarities, lengths, regions, words, word_counts, weight)


def _backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
    regions, words, weight, bias = _gradients(grad, *ctx.saved_tensors, ctx.lambda_softmax)
    return regions, words, None, weight, bias, None


def _keep_of_candidates(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, weight, _, ctx.of_captions, ctx.lambda_softmax = inputs
    similarities, lengths = output
    ctx.mark_non_differentiable(lengths)
    ctx.save_for_backward(similarities, lengths, *tensors, weight)


def _backward_of_candidates(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
    found = _gradients_of_candidates(grad, *ctx.saved_tensors, ctx.of_captions, ctx.lambda_softmax)
    regions, words, weight, bias = found
    return regions, words, None, None, None, weight, bias, None, None


register("attended_similarity", batched.forward, batched.backward)
register("attended_similarity_candidates", batched.forward_of_given, batched.backward_of_given)
_attended = differentiable("attended_similarity", _backward, _setup_context)
_gradients = once_only("attended_similarity_backward")
_of_candidates = differentiable("attended_similarity_candidates", _backward_of_candidates, _keep_of_candidates)
_gradients_of_candidates = once_only("attended_similarity_candidates_backward")
