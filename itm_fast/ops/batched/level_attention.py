"""ESL's similarity of levels: one product for the affinities of a block of pairs, made again for the gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

from itm_fast.ops.batched.padded import Padded
from itm_fast.ops.batched.products import gradient_product, product, wide

_NEGATIVE_SLOPE = 0.1  # of the leaky ReLU on affinities, as in SCAN
_EPSILON = 1e-8
BLOCK_NUMBERS = 1 << 22  # affinities at a time; about ten temporaries of this size


class _Side(NamedTuple):
    """Attention of one kind: over regions (dim 1) or words (dim 3) of affinities (images, regions, captions, words)."""

    length: Tensor  # of h along the other dim, kept
    direction: Tensor  # h / (length + epsilon)
    weights: Tensor


class _Block(NamedTuple):
    affinities: Tensor  # 0 where there is no region or no word
    tanh: Tensor
    over_regions: _Side
    over_words: _Side
    live: Tensor  # neither the region's affinities nor the word's are all 0


def forward(
    regions: Tensor, words: Tensor, word_counts: Tensor | None, region_counts: Tensor | None, temperature: Tensor
) -> Tensor:
    """Sims (n_images, n_captions) in at least float32."""
    to = wide(regions.dtype)
    images, captions = Padded("regions", regions, region_counts), Padded("words", words, word_counts)
    sims = regions.new_empty(len(regions), len(words), dtype=to)
    for rows, columns in _blocks(images, captions):
        some, others = images.part(rows), captions.part(columns)
        block = _attend(some, others, temperature.to(to))
        of_words = (block.affinities * block.over_regions.weights).sum((1, 3)) / others.counts
        of_regions = (block.affinities * block.over_words.weights).sum((1, 3)) / some.counts[:, None]
        sims[rows, columns] = of_words + of_regions
    return sims


def backward(
    grad: Tensor,
    regions: Tensor,
    words: Tensor,
    word_counts: Tensor | None,
    region_counts: Tensor | None,
    temperature: Tensor,
    need_regions: bool,
    need_words: bool,
    need_temperature: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of regions, words and temperature; of what is not needed a tensor without numbers."""
    to = wide(regions.dtype)
    images, captions = Padded("regions", regions, region_counts), Padded("words", words, word_counts)
    of_regions, of_words = (
        x.new_zeros(x.shape if needed else (0,), dtype=to)
        for x, needed in ((regions, need_regions), (words, need_words))
    )
    of_temperature = temperature.new_zeros(() if need_temperature else (0,), dtype=to)
    tau = temperature.to(to)
    for rows, columns in _blocks(images, captions):
        some, others = images.part(rows), captions.part(columns)
        block = _attend(some, others, tau)
        cotangent = grad[rows, columns].to(to)[:, None, :, None]
        of_words_mean = cotangent * others.shares[:, None]
        of_regions_mean = cotangent * some.shares[:, None, None, None]
        of_affinities = block.over_regions.weights * of_words_mean + block.over_words.weights * of_regions_mean
        of_activated = torch.zeros_like(of_affinities)
        for side, mean, (over, along) in (
            (block.over_regions, of_words_mean, (1, 3)),
            (block.over_words, of_regions_mean, (3, 1)),
        ):
            of_weights = block.affinities * mean
            of_logits = (of_weights - (of_weights * side.weights).sum(over, keepdim=True)).mul_(side.weights)
            if need_temperature:
                of_temperature += (of_logits * side.direction).sum()
            of_direction = of_logits.mul_(tau)
            of_activated += _through_direction(side, of_direction, along)
        of_tanh = torch.where(block.tanh > 0, of_activated, _NEGATIVE_SLOPE * of_activated)
        of_affinities += of_tanh * (1 - block.tanh.square())
        flat = torch.where(block.live, of_affinities, 0).flatten(2).flatten(0, 1)  # (regions, words) of the block
        if need_regions:
            of_regions[rows] += gradient_product(flat, others.vectors.flatten(0, 1)).view(some.vectors.shape)
        if need_words:
            of_words[columns] += gradient_product(flat.T, some.vectors.flatten(0, 1)).view(others.vectors.shape)
    if need_regions:
        of_regions = images.moved_back(of_regions)
    if need_words:
        of_words = captions.moved_back(of_words)
    return of_regions, of_words, of_temperature.to(temperature.dtype)


def _blocks(images: Padded, captions: Padded) -> Iterator[tuple[slice, slice]]:
    """Images and captions whose affinities are in memory at a time."""
    n_regions, n_words = images.vectors.shape[1], captions.vectors.shape[1]
    n_captions = max(1, min(len(captions.vectors), BLOCK_NUMBERS // (n_regions * n_words)))
    n_images = max(1, BLOCK_NUMBERS // (n_regions * n_words * n_captions))
    for first in range(0, len(images.vectors), n_images):
        for start in range(0, len(captions.vectors), n_captions):
            yield slice(first, first + n_images), slice(start, start + n_captions)


def _attend(images: Padded, captions: Padded, temperature: Tensor) -> _Block:
    shape = (*images.vectors.shape[:2], *captions.vectors.shape[:2])
    affinities = product(images.vectors.flatten(0, 1), captions.vectors.flatten(0, 1).T).view(shape)
    live = (affinities != 0).any(1, keepdim=True) & (affinities != 0).any(3, keepdim=True)
    tanh = affinities.tanh()
    activated = leaky_relu(tanh, _NEGATIVE_SLOPE)
    over_regions = _side(activated, temperature, images.missing[..., None, None], 1, 3)
    over_words = _side(activated, temperature, captions.missing, 3, 1)
    return _Block(affinities, tanh, over_regions, over_words, live)


def _side(activated: Tensor, temperature: Tensor, missing: Tensor, over: int, along: int) -> _Side:
    length = torch.linalg.vector_norm(activated, dim=along, keepdim=True)
    direction = activated / (length + _EPSILON)
    return _Side(length, direction, (direction * temperature).masked_fill_(missing, -torch.inf).softmax(over))


def _through_direction(side: _Side, of_direction: Tensor, along: int) -> Tensor:
    """Gradient of h from that of h / (|h| + epsilon); 0 where h is 0."""
    inverse = 1 / (side.length + _EPSILON)
    total = (of_direction * side.direction).sum(along, keepdim=True)
    # h / |h| = direction (|h| + epsilon) / |h|
    shrunk = torch.where(side.length == 0, 0, total / (side.length * inverse))
    return (of_direction - side.direction * shrunk).mul_(inverse)
