"""Graph reasoning over the similarity vectors of all pairs (SGR): public function, autograd, and plain torch."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from itm_fast.ops import _library
from itm_fast.ops._counts import Counts, packed_counts
from itm_fast.ops._gradients import differentiable, once_only
from itm_fast.ops.attended_similarity import caption_groups, split_captions, split_words

_library.load()

_BLOCK_NUMBERS = 1 << 20  # of similarity vectors at a time, as many as a cache holds


def graph_reasoning(
    whole: Tensor,
    local: Tensor,
    word_counts: Counts,
    forms: Tensor,
    form_biases: Tensor,
    weights: Tensor,
    biases: Tensor,
) -> Tensor:
    """The whole pair's similarity vector after steps of graph reasoning with the vectors of its words.

    A pair's nodes X are its vector as a whole and those of its words. A step: E = softmax of (X form^T + form_bias) X^T
    along its rows, X <- relu(E X weight^T + bias). The last step is made for the whole pair's node only.
    On the CPU all steps of a block of pairs are made while it is in the cache, and made again for the gradients. On
    other devices: plain torch, some captions at a time.

    Args:
        whole: (n_images, n_captions, width) float32 or float64, as all but the counts.
        local: (n_images, n_words, width), the words of all captions one after another.
        word_counts: (n_captions,) integers, at least 1, as a list, array or tensor: words of each caption; they sum to
            n_words.
        forms: (steps, width, width).
        form_biases: (steps, width).
        weights: (steps, width, width).
        biases: (steps, width).

    Returns:
        (n_images, n_captions, width). Differentiable once in all but the counts; deterministic on the CPU.

    Raises:
        ValueError: Shapes or counts do not fit.
        TypeError: A dtype is not supported, or they differ.

    Source:
        Diao et al., Similarity Reasoning and Filtration for Image-Text Matching, AAAI 2021, equations 6-8.
    """
    word_counts = packed_counts("word_counts", word_counts, "words")
    arguments = (whole, local, word_counts, forms, form_biases, weights, biases)
    if whole.device.type in ("cpu", "meta"):
        vectors: Tensor = _reasoned(*arguments)
        return vectors
    return _plain(*arguments)


def _plain(whole: Tensor, local: Tensor, word_counts: Tensor, *parameters: Tensor) -> Tensor:
    """The operator in plain torch: captions of one length together, made again in the backward pass."""
    counts: list[int] = word_counts.tolist()
    groups = caption_groups(counts, _BLOCK_NUMBERS // max(1, len(whole) * whole.shape[2]))
    results = [whole[:, :0]]
    if groups:
        pairs = zip(split_captions(whole, groups, 1), split_words(local, groups, 1), strict=True)
        for vectors in pairs:
            block = (*vectors, *parameters)
            recomputed = torch.is_grad_enabled()
            results.append(
                checkpoint(_plain_group, *block, use_reentrant=False) if recomputed else _plain_group(*block)
            )
    return torch.cat(results, dim=1)


def _plain_group(
    whole: Tensor, local: Tensor, forms: Tensor, form_biases: Tensor, weights: Tensor, biases: Tensor
) -> Tensor:
    """Captions of one length: local (n_images, n_captions, n_words, width)."""
    nodes = torch.cat([whole[:, :, None], local], dim=2).flatten(0, 1)
    for step in range(len(forms)):
        rows = nodes[:, :1] if step == len(forms) - 1 else nodes
        edges = torch.nn.functional.linear(rows, forms[step], form_biases[step]) @ nodes.transpose(1, 2)
        nodes = torch.nn.functional.linear(edges.softmax(2) @ nodes, weights[step], biases[step]).relu()
    return nodes[:, 0].view(whole.shape)


@torch.library.register_fake("itm_fast::graph_reasoning")  # type: ignore[untyped-decorator]
def _fake(whole: Tensor, *_: Any) -> Tensor:
    return whole.new_empty(whole.shape)


@torch.library.register_fake("itm_fast::graph_reasoning_backward")  # type: ignore[untyped-decorator]
def _fake_backward(
    _grad: Tensor, whole: Tensor, local: Tensor, _word_counts: Tensor, *parameters: Tensor
) -> tuple[Tensor, ...]:
    return tuple(whole.new_empty(x.shape) for x in (whole, local, *parameters))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    whole, local, *parameters = _gradients(grad, *ctx.saved_tensors)
    return whole, local, None, *parameters


_reasoned = differentiable("graph_reasoning", _backward, _setup_context)
_gradients = once_only("graph_reasoning_backward")
