"""LAPS's similarity: weights of an image's patches for a block of pairs, of which products with the words are made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

from itm_fast.ops.batched.padded import Padded
from itm_fast.ops.batched.products import gradient_product, product, wide

_NEGATIVE_SLOPE = 0.1  # of the leaky ReLU on cosines, as in SCAN
_EPSILON = 1e-12  # below it a vector is not brought to unit length
BLOCK_NUMBERS = 1 << 24  # of patches' weights in tokens at a time


class _Given(NamedTuple):
    """What both passes begin with; the class token, where there is one, is the first row and the first token."""

    regions: Tensor  # (n_images, rows, dim)
    captions: Padded
    lengths: Tensor  # (n_captions, max_words), of the words, at least epsilon
    scores: Tensor  # (n_images, n_captions, n_patches)
    logits: Tensor  # (n_images, n_patches, n_aggregated)
    n_kept: int
    class_token: bool


class _Block(NamedTuple):
    """Of some images and captions, in `wide`."""

    weights: Tensor  # (images, captions, rows, tokens)
    sims: Tensor  # (images, captions, rows, words), with words of unit length
    gram: Tensor  # (images, rows, rows)
    gram_weights: Tensor  # (images, captions, rows, tokens)
    squared: Tensor  # (images, captions, tokens), of a token's length
    length: Tensor  # likewise, at least epsilon
    cosines: Tensor  # (images, captions, tokens, words), before the leaky ReLU


def forward(
    regions: Tensor,
    words: Tensor,
    scores: Tensor,
    logits: Tensor,
    word_counts: Tensor | None,
    n_kept: int,
    class_token: bool,
) -> Tensor:
    """Sims (n_images, n_captions) in at least float32."""
    given = _given(regions, words, scores, logits, word_counts, n_kept, class_token)
    sims = scores.new_empty(scores.shape[:2])
    for images, captions in _blocks(given):
        some = given.captions.part(captions)
        cosines = leaky_relu(_make(given, images, captions).cosines, _NEGATIVE_SLOPE)
        of_words = cosines.amax(2).masked_fill_(some.missing, 0).sum(2) / some.counts
        of_tokens = cosines.masked_fill(some.missing[:, None], -torch.inf).amax(3).mean(2)
        sims[images, captions] = of_words + of_tokens
    return sims


def backward(
    grad: Tensor,
    regions: Tensor,
    words: Tensor,
    scores: Tensor,
    logits: Tensor,
    word_counts: Tensor | None,
    n_kept: int,
    class_token: bool,
    need_regions: bool,
    need_words: bool,
    need_logits: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of regions, words and logits; of what is not needed a tensor without numbers."""
    given = _given(regions, words, scores, logits, word_counts, n_kept, class_token)
    of_regions, of_units, of_logits = (
        x.new_zeros(x.shape if needed else (0,), dtype=wide(regions.dtype))
        for x, needed in ((regions, need_regions), (words, need_words), (logits, need_logits))
    )
    for images, captions in _blocks(given):
        block, some = _make(given, images, captions), given.captions.part(captions)
        of_products = _through_cosines(block, some, grad[images, captions].to(scores.dtype))
        of_squared = -(of_products * block.cosines).sum(3) / (2 * block.length)
        of_squared.masked_fill_(block.squared < _EPSILON**2, 0)
        if need_logits:
            of_weights = block.sims @ of_products.transpose(2, 3)
            of_weights += 2 * of_squared[:, :, None] * block.gram_weights
            of_logits[images] += _through_softmax(given, block, of_weights)
        of_sims = (block.weights @ of_products).transpose(1, 2).flatten(2)  # (images, rows, captions words)
        if need_regions:
            flat = (block.weights * of_squared[:, :, None]).transpose(1, 2).flatten(2)
            of_gram = flat @ block.weights.transpose(1, 2).flatten(2).transpose(1, 2)  # symmetric
            of_regions[images] += 2 * (of_gram @ regions[images].to(of_gram.dtype))
            of_rows = of_sims.view(*of_sims.shape[:2], *some.missing.shape) / given.lengths[captions]
            of_some = gradient_product(of_rows.flatten(0, 1).flatten(1), some.vectors.flatten(0, 1))
            of_regions[images] += of_some.view(regions[images].shape)
        if need_words:
            of_some = gradient_product(of_sims.flatten(0, 1).T, regions[images].flatten(0, 1))
            of_units[captions] += of_some.view(some.vectors.shape)
    of_words = _through_unit_length(of_units, given) if need_words else of_units
    return of_regions.to(regions.dtype), of_words.to(words.dtype), of_logits.to(logits.dtype)


def _given(
    regions: Tensor,
    words: Tensor,
    scores: Tensor,
    logits: Tensor,
    word_counts: Tensor | None,
    n_kept: int,
    class_token: bool,
) -> _Given:
    captions = Padded("words", words, word_counts)
    lengths = torch.linalg.vector_norm(captions.vectors, dim=2, dtype=wide(words.dtype)).clamp(min=_EPSILON)
    return _Given(regions, captions, lengths, scores, logits, n_kept, class_token)


def _blocks(given: _Given) -> Iterator[tuple[slice, slice]]:
    """Images and captions whose weights are in memory at a time."""
    n_images, n_captions, _ = given.scores.shape
    of_pair = given.regions.shape[1] * max(given.logits.shape[2] + 2, given.captions.vectors.shape[1])
    columns = max(1, min(n_captions, BLOCK_NUMBERS // of_pair))
    rows = max(1, BLOCK_NUMBERS // (of_pair * columns))
    for first in range(0, n_images, rows):
        for start in range(0, n_captions, columns):
            yield slice(first, first + rows), slice(start, start + columns)


def _make(given: _Given, images: slice, captions: slice) -> _Block:
    regions, words = given.regions[images], given.captions.vectors[captions]
    weights = _weights(given, images, captions)
    sims = product(regions.flatten(0, 1), words.flatten(0, 1).T).view(*regions.shape[:2], *words.shape[:2])
    sims = sims.div_(given.lengths[captions]).transpose(1, 2)
    gram = product(regions, regions.transpose(1, 2))
    gram_weights = gram[:, None] @ weights
    squared = (gram_weights * weights).sum(2)
    length = squared.clamp(min=_EPSILON**2).sqrt()
    cosines = (weights.transpose(2, 3) @ sims).div_(length[..., None])
    return _Block(weights, sims, gram, gram_weights, squared, length, cosines)


def _weights(given: _Given, images: slice, captions: slice) -> Tensor:
    """Of every row of the image in every token: the class token, those of the kept patches, that of the others."""
    scores, logits = given.scores[images, captions], given.logits[images]
    best = scores.argsort(dim=2, descending=True, stable=True)[:, :, : given.n_kept]
    kept = torch.zeros_like(scores, dtype=torch.bool).scatter_(2, best, True)
    aggregated = logits[:, None].masked_fill(~kept[..., None], -torch.inf).softmax(2)
    if given.n_kept < scores.shape[2]:
        extra = scores.masked_fill(kept, -torch.inf).softmax(2)
    else:
        extra = torch.zeros_like(scores)
    weights = torch.cat([aggregated, extra[..., None]], dim=3)
    if given.class_token:
        weights = torch.nn.functional.pad(weights, (1, 0, 1, 0))
        weights[:, :, 0, 0] = 1
    return weights


def _through_cosines(block: _Block, captions: Padded, grad: Tensor) -> Tensor:
    """Gradient of <token, word> (images, captions, tokens, words), lengths of the tokens fixed."""
    cosines = leaky_relu(block.cosines, _NEGATIVE_SLOPE)
    of_words = (grad * captions.shares)[..., None].masked_fill(captions.missing, 0)
    tokens, words = (torch.arange(n, device=grad.device) for n in cosines.shape[2:])
    of_cosines = torch.where(cosines.argmax(2, keepdim=True) == tokens[:, None], of_words[:, :, None], 0)
    best = cosines.masked_fill_(captions.missing[:, None], -torch.inf).argmax(3, keepdim=True)
    of_cosines += torch.where(best == words, (grad / len(tokens))[..., None, None], 0)
    of_cosines = torch.where(block.cosines > 0, of_cosines, _NEGATIVE_SLOPE * of_cosines)
    return of_cosines.div_(block.length[..., None])


def _through_softmax(given: _Given, block: _Block, of_weights: Tensor) -> Tensor:
    """Gradient of the logits (images, n_patches, n_aggregated)."""
    own, n_aggregated = int(given.class_token), given.logits.shape[2]
    weights, of_weights = (x[:, :, own:, own : own + n_aggregated] for x in (block.weights, of_weights))
    along = (of_weights * weights).sum(2, keepdim=True)
    return ((of_weights - along) * weights).sum(1)


def _through_unit_length(of_units: Tensor, given: _Given) -> Tensor:
    """Gradient of the words; 0 beyond the counts, and of a word that is all zero."""
    lengths = given.lengths[..., None]
    units = given.captions.vectors / lengths
    along = torch.where(lengths > _EPSILON, (of_units * units).sum(2, keepdim=True), 0)
    of_words = (of_units - units * along) / lengths
    return of_words.masked_fill_(given.captions.missing[..., None] | (units == 0).all(2, keepdim=True), 0)
