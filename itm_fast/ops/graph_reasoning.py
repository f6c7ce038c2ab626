"""Graph reasoning over the similarity vectors of all pairs (SGR): public function, fake kernel, autograd."""

from typing import Any

import torch
from torch import Tensor

from itm_fast.ops import _checks, _library
from itm_fast.ops._counts import Counts, packed_counts
from itm_fast.ops._gradients import differentiable, once_only
from itm_fast.ops.batched import graph_reasoning as batched
from itm_fast.ops.batched.kernels import as_multiplied, register

_library.load()


def graph_reasoning(
    whole: Tensor,
    local: Tensor,
    word_counts: Counts,
    forms: Tensor,
    form_biases: Tensor,
    weights: Tensor,
    biases: Tensor,
    *,
    max_words: int | None = None,
) -> Tensor:
    """The whole pair's similarity vector after steps of graph reasoning with the vectors of its words.

    A pair's nodes X are its vector as a whole and those of its words. A step: E = softmax of (X form^T + form_bias) X^T
    along its rows, X <- relu(E X weight^T + bias). The last step is made for the whole pair's node only.
    On the CPU all steps of a block of pairs are made while it is in the cache, and made again for the gradients. On
    other devices batched products, some images at a time, made again as well; nothing there waits for the host, and
    16-bit vectors, those of autocast among them, are multiplied as such and summed in float32.

    Args:
        whole: (n_images, n_captions, width) floating, as all but the counts.
        local: (n_images, n_words, width), the words of all captions one after another.
        word_counts: (n_captions,) integers, at least 1, as a list, array or tensor: words of each caption; they sum to
            n_words.
        forms: (steps, width, width).
        form_biases: (steps, width).
        weights: (steps, width, width).
        biases: (steps, width).
        max_words: At least as many as the longest caption has words, on other devices than the CPU, where captions are
            padded to it and nobody waits to look at counts. None: word_counts are on the CPU, where that is looked up.

    Returns:
        (n_images, n_captions, width), dtype of the inputs. Differentiable once in all but the counts; deterministic.

    Raises:
        ValueError: Shapes or counts do not fit, or max_words is missing. On CUDA counts that do not fit, or are above
            max_words, give NaN, and gradient 0.
        TypeError: A dtype is not supported, or they differ.

    Source:
        Diao et al., Similarity Reasoning and Filtration for Image-Text Matching, AAAI 2021, equations 6-8.
    """
    word_counts = packed_counts("word_counts", word_counts, "words")
    if max_words is not None:
        max_words = _checks.check_number("max_words", max_words)
    dtype, given = as_multiplied(whole, local, forms, form_biases, weights, biases)
    vectors: Tensor = _reasoned(*given[:2], word_counts, *given[2:], max_words)
    return vectors.to(dtype)


@torch.library.register_fake("itm_fast::graph_reasoning")  # type: ignore[untyped-decorator]
def _fake(whole: Tensor, *_: Any) -> Tensor:
    return whole.new_empty(whole.shape)


@torch.library.register_fake("itm_fast::graph_reasoning_backward")  # type: ignore[untyped-decorator]
def _fake_backward(
    _grad: Tensor, whole: Tensor, local: Tensor, _word_counts: Tensor, *parameters: Any
) -> tuple[Tensor, ...]:
    return tuple(whole.new_empty(x.shape) for x in (whole, local, *parameters[:-1]))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.max_words = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    whole, local, *parameters = _gradients(grad, *ctx.saved_tensors, ctx.max_words)
    return whole, local, None, *parameters, None


register("graph_reasoning", batched.forward, batched.backward)
_reasoned = differentiable("graph_reasoning", _backward, _setup_context)
_gradients = once_only("graph_reasoning_backward")
