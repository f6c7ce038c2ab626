"""SGR's and SAF's similarity vectors: products for the images and words of a block, made again for gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

from itm_fast.ops.batched import attended_vectors
from itm_fast.ops.batched.attended_vectors import Contexts
from itm_fast.ops.batched.products import Captions, gradient_product, product, wide

_NEGATIVE_SLOPE = 0.1  # of the leaky ReLU before the first normalisation, as in SCAN
_EPSILON = 1e-8
BLOCK_NUMBERS = 1 << 24  # of attended contexts, or of similarities, at a time


class _Attention(NamedTuple):
    """Of some images; sizes: words n, captions m, images b, regions r. In `wide`, but for `scaled`."""

    clipped: Tensor  # (n, b r), leaky ReLU of S
    size: Tensor  # (m, b r), its length over the words of a caption
    inverse: Tensor  # (m, b r), 1 / (size + epsilon)
    weights: Tensor  # (b, n, r), softmax over the regions
    gram: Tensor  # (b, r, r)
    gram_weights: Tensor  # (b, n, r), weights gram
    root: Tensor  # (b, n), length of the context; 1 where it is 0
    unit: Tensor  # (b, n), 1 / (root + epsilon); 0 where the length is 0
    scaled: Tensor  # (b, n, r), weights of the unit context, in the type of the inputs


def forward(
    regions: Tensor, words: Tensor, word_counts: Tensor, weight: Tensor, bias: Tensor, lambda_softmax: float
) -> tuple[Tensor, Tensor]:
    """The operator's vectors (n_images, n_words, width), and their lengths before they were brought to unit length."""
    n_images, n_words = len(regions), len(words)
    to = wide(regions.dtype)
    similarities = regions.new_empty(n_images, n_words, len(weight))
    lengths = regions.new_empty(n_images, n_words, dtype=to)
    captions = _captions(regions, words, word_counts)
    if not lengths.numel():
        return similarities, lengths
    for images in _image_blocks(regions, n_words):
        some = regions[images]
        attention = _attend(some, words, captions, lambda_softmax)
        units, of_units = similarities[images], lengths[images]
        for rows, block in _blocks(some, words, weight, backward=False):
            contexts = Contexts(attention.scaled[rows, block], some[rows], words[block], weight)
            attended_vectors.write_vectors(contexts, bias, units[rows, block], of_units[rows, block])
    return similarities, lengths


def backward(
    grad: Tensor,
    similarities: Tensor,
    lengths: Tensor,
    regions: Tensor,
    words: Tensor,
    word_counts: Tensor,
    weight: Tensor,
    lambda_softmax: float,
) -> tuple[Tensor, ...]:
    """Gradients of regions, words, weight and bias."""
    to = wide(regions.dtype)
    of_regions = torch.zeros_like(regions, memory_format=torch.contiguous_format)
    of_words, of_weight, of_bias = (x.new_zeros(x.shape, dtype=to) for x in (words, weight, weight[:, 0]))
    captions = _captions(regions, words, word_counts)
    for images in _image_blocks(regions, len(words)) if grad.numel() else ():
        some = regions[images]
        attention = _attend(some, words, captions, lambda_softmax)
        of_scaled = torch.empty_like(attention.weights, memory_format=torch.contiguous_format)
        of_some = some.new_zeros(some.shape, dtype=to)
        given = grad[images], similarities[images], lengths[images]
        for rows, block in _blocks(some, words, weight, backward=True):
            contexts = Contexts(attention.scaled[rows, block], some[rows], words[block], weight)
            found = attended_vectors.gradients(contexts, *(x[rows, block] for x in given))
            of_vectors, through, squares = found
            of_weight += product(of_vectors.flatten(0, 1).T, squares.flatten(0, 1))
            of_bias += of_vectors.sum((0, 1), dtype=to)
            of_words[block] -= through.sum(0, dtype=to)
            of_scaled[rows, block] = product(through, contexts.regions.transpose(1, 2))
            of_some[rows] += product(contexts.weights.transpose(1, 2), through)
        of_sims, of_gram = _attend_backward(attention, of_scaled, captions, lambda_softmax)
        of_some.baddbmm_(of_gram, some.to(to), alpha=2)  # a symmetric matrix, of which both factors are the regions
        of_some += gradient_product(of_sims.T, words).view(some.shape)
        of_words += gradient_product(of_sims, some.flatten(0, 1))
        of_regions[images] = of_some
    sums = (x.to(words.dtype) for x in (of_words, of_weight, of_bias))
    return tuple(x.masked_fill_(~captions.fit, 0) for x in (of_regions, *sums))


def _captions(regions: Tensor, words: Tensor, word_counts: Tensor) -> Captions:
    if regions.shape[1] == 0:
        raise ValueError(f"regions must have rows, got max_regions = 0 in {tuple(regions.shape)}")
    return Captions(word_counts.to(words.device, non_blocking=True), len(words))


def _image_blocks(regions: Tensor, n_words: int) -> Iterator[slice]:
    """Images whose similarities with all words are in memory at a time."""
    step = max(1, BLOCK_NUMBERS // (regions.shape[1] * n_words))
    return (slice(first, first + step) for first in range(0, len(regions), step))


def _blocks(regions: Tensor, words: Tensor, weight: Tensor, *, backward: bool) -> Iterator[tuple[slice, slice]]:
    """Images, and words, whose differences are in memory at a time: of kernels on the way forward none ever are."""
    n_images, n_words = len(regions), len(words)
    n_columns, step = n_words, n_images
    if backward or not attended_vectors.has_kernels(regions, weight):
        n_columns = max(1, min(n_words, BLOCK_NUMBERS // regions.shape[2]))
        step = max(1, BLOCK_NUMBERS // (n_columns * regions.shape[2]))
    for first in range(0, n_images, step):
        for start in range(0, n_words, n_columns):
            yield slice(first, first + step), slice(start, start + n_columns)


def _attend(regions: Tensor, words: Tensor, captions: Captions, lambda_softmax: float) -> _Attention:
    sims = product(words, regions.flatten(0, 1).T)  # (n_words, images regions): a caption's words are neighbours
    clipped = leaky_relu(sims, _NEGATIVE_SLOPE)
    size = captions.sums(clipped.square()).sqrt_().masked_fill_(~captions.fit, torch.nan)
    inverse = 1 / (size + _EPSILON)
    logits = captions.spread(inverse).mul_(clipped).mul_(lambda_softmax)
    weights = logits.view(len(words), *regions.shape[:2]).softmax(2).transpose(0, 1)
    gram = product(regions, regions.transpose(1, 2))
    gram_weights = weights @ gram
    squared = (gram_weights * weights).sum(2)  # of the context's length, without the context
    live = squared > 0
    root = torch.where(live, squared, 1).sqrt_()
    unit = live / (root + _EPSILON)
    scaled = (weights * unit[..., None]).to(words.dtype)
    return _Attention(clipped, size, inverse, weights, gram, gram_weights, root, unit, scaled)


def _attend_backward(
    attention: _Attention, of_scaled: Tensor, captions: Captions, lambda_softmax: float
) -> tuple[Tensor, Tensor]:
    """Gradients of the similarities (n_words, images regions) and of the Gram matrices."""
    clipped, size, inverse, weights, _, gram_weights, root, unit, _ = attention
    # unit = 1 / (root + epsilon) of root^2 = weights gram weights; unit is 0 where the length is.
    of_squared = (of_scaled * weights).sum(2) * unit.square() / (-2 * root)
    of_weights = of_scaled * unit[..., None] + 2 * of_squared[..., None] * gram_weights
    of_gram = (weights * of_squared[..., None]).transpose(1, 2) @ weights
    along = (of_weights * weights).sum(2, keepdim=True)
    of_normal = of_weights.sub_(along).mul_(weights).mul_(lambda_softmax).transpose(0, 1).flatten(1)
    total = captions.sums(of_normal * clipped)
    live = size != 0
    shrunk = torch.where(live, total * inverse.square() / size, 0)
    of_clipped = captions.spread(inverse * live).mul_(of_normal).sub_(captions.spread(shrunk).mul_(clipped))
    return torch.where(clipped > 0, of_clipped, _NEGATIVE_SLOPE * of_clipped), of_gram
