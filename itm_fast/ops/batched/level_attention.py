"""ESL's similarity of levels: one product for the affinities of a block of pairs, made again for the gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

from itm_fast.ops._candidates import Candidates, Members
from itm_fast.ops._ragged import Batches
from itm_fast.ops.batched.padded import Padded
from itm_fast.ops.batched.products import gradient_product, product, wide

_NEGATIVE_SLOPE = 0.1  # of the leaky ReLU on affinities, as in SCAN
_EPSILON = 1e-8
BLOCK_NUMBERS = 1 << 22  # affinities at a time; about ten temporaries of this size
_GATHERED_NUMBERS = 1 << 26  # of the members of lists, at a time


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
        sims[rows, columns] = _scores(images.part(rows), captions.part(columns), temperature.to(to))
    return sims


def forward_of_given(
    regions: Tensor,
    words: Tensor,
    word_counts: Tensor | None,
    region_counts: Tensor | None,
    candidates: Tensor,
    temperature: Tensor,
    of_captions: bool,
) -> Tensor:
    """Sims of candidates, in their shape and at least float32: some lists at a time, whose members are gathered."""
    to = wide(regions.dtype)
    owners, others = Padded("regions", regions, region_counts), Padded("words", words, word_counts)
    if of_captions:  # nothing tells regions from words
        owners, others = others, owners
    members = Members(Candidates(candidates, of_captions), Batches(regions, words, word_counts, region_counts))
    sims = regions.new_zeros(candidates.shape, dtype=to)
    for rows, columns in _blocks_of_lists(owners, others, candidates):
        some, listed = owners.part(rows), others.part(members.places[rows, columns])
        sims[rows, columns] = _scores(some, listed, temperature.to(to))
    return members.finished(sims)


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
    images, captions = Padded("regions", regions, region_counts), Padded("words", words, word_counts)
    of_regions, of_words = images.sums(need_regions), captions.sums(need_words)
    of_temperature = _sums_of_temperature(temperature, need_temperature, regions.dtype)
    for rows, columns in _blocks(images, captions):
        some, others = images.part(rows), captions.part(columns)
        flat = _gradient(grad[rows, columns], some, others, temperature, of_temperature).flatten(0, 1)
        if need_regions:
            of_regions[rows] += gradient_product(flat, others.vectors.flatten(0, 1)).view(some.vectors.shape)
        if need_words:
            of_words[columns] += gradient_product(flat.T, some.vectors.flatten(0, 1)).view(others.vectors.shape)
    if need_regions:
        of_regions = images.moved_back(of_regions)
    if need_words:
        of_words = captions.moved_back(of_words)
    return of_regions, of_words, of_temperature.to(temperature.dtype)


def backward_of_given(
    grad: Tensor,
    regions: Tensor,
    words: Tensor,
    word_counts: Tensor | None,
    region_counts: Tensor | None,
    candidates: Tensor,
    temperature: Tensor,
    of_captions: bool,
    need_regions: bool,
    need_words: bool,
    need_temperature: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `backward`, of candidates."""
    owners, others = Padded("regions", regions, region_counts), Padded("words", words, word_counts)
    need_owners, need_others = need_regions, need_words
    if of_captions:
        owners, others, need_owners, need_others = others, owners, need_others, need_owners
    members = Members(Candidates(candidates, of_captions), Batches(regions, words, word_counts, region_counts))
    cotangents = members.cotangents(grad)
    of_owners, of_others = owners.sums(need_owners), others.sums(need_others)
    of_temperature = _sums_of_temperature(temperature, need_temperature, regions.dtype)
    for rows, columns in _blocks_of_lists(owners, others, candidates):
        places = members.places[rows, columns]
        some, listed = owners.part(rows), others.part(places)
        flat = _gradient(cotangents[rows, columns], some, listed, temperature, of_temperature)
        if need_owners:
            of_owners[rows] += gradient_product(flat, listed.vectors.flatten(1, 2))
        if need_others:  # sorted first, on a device: sums have an order
            of_listed = gradient_product(flat.mT, some.vectors).view(listed.vectors.shape)
            of_others.index_put_((places,), of_listed, accumulate=True)
    if need_owners:
        of_owners = owners.moved_back(of_owners)
    if need_others:
        of_others = others.moved_back(of_others)
    of_regions, of_words = (of_others, of_owners) if of_captions else (of_owners, of_others)
    return of_regions, of_words, of_temperature.to(temperature.dtype)


def _blocks(images: Padded, captions: Padded) -> Iterator[tuple[slice, slice]]:
    """Images and captions whose affinities are in memory at a time."""
    n_regions, n_words = images.vectors.shape[1], captions.vectors.shape[1]
    n_captions = max(1, min(len(captions.vectors), BLOCK_NUMBERS // (n_regions * n_words)))
    n_images = max(1, BLOCK_NUMBERS // (n_regions * n_words * n_captions))
    return _rectangles(len(images.vectors), len(captions.vectors), n_images, n_captions)


def _blocks_of_lists(owners: Padded, others: Padded, candidates: Tensor) -> Iterator[tuple[slice, slice]]:
    """Lists and places in them whose affinities and gathered vectors are in memory at a time; none without members."""
    if not len(others.vectors) or not candidates.numel():
        return _rectangles(0, 0, 1, 1)
    n_lists, length = candidates.shape
    _, most, dim = others.vectors.shape
    n_pairs = min(BLOCK_NUMBERS // (owners.vectors.shape[1] * most), _GATHERED_NUMBERS // max(1, most * dim))
    n_places = max(1, min(length, n_pairs))
    return _rectangles(n_lists, length, max(1, n_pairs // n_places), n_places)


def _rectangles(n_rows: int, n_columns: int, height: int, width: int) -> Iterator[tuple[slice, slice]]:
    for first in range(0, n_rows, height):
        for start in range(0, n_columns, width):
            yield slice(first, first + height), slice(start, start + width)


def _sums_of_temperature(temperature: Tensor, needed: bool, dtype: torch.dtype) -> Tensor:
    return temperature.new_zeros(() if needed else (0,), dtype=wide(dtype))


def _scores(images: Padded, captions: Padded, temperature: Tensor) -> Tensor:
    """Sims (images, captions) of all captions (captions, words, dim), or of an image's own (images, captions, ...)."""
    block = _attend(images, captions, temperature)
    of_words = (block.affinities * block.over_regions.weights).sum((1, 3)) / captions.counts
    of_regions = (block.affinities * block.over_words.weights).sum((1, 3)) / images.counts[:, None]
    return of_words + of_regions


def _gradient(grad: Tensor, images: Padded, captions: Padded, temperature: Tensor, of_temperature: Tensor) -> Tensor:
    """Gradient of the affinities (images, regions, captions * words) from that of `_scores`.

    That of the temperature is added to `of_temperature` if it has a number.
    """
    to = wide(images.vectors.dtype)
    tau = temperature.to(to)
    block = _attend(images, captions, tau)
    cotangent = grad.to(to)[:, None, :, None]
    of_words_mean = cotangent * captions.shares[..., None, :, None]
    of_regions_mean = cotangent * images.shares[:, None, None, None]
    of_affinities = block.over_regions.weights * of_words_mean + block.over_words.weights * of_regions_mean
    of_activated = torch.zeros_like(of_affinities)
    for side, mean, (over, along) in (
        (block.over_regions, of_words_mean, (1, 3)),
        (block.over_words, of_regions_mean, (3, 1)),
    ):
        of_weights = block.affinities * mean
        of_logits = (of_weights - (of_weights * side.weights).sum(over, keepdim=True)).mul_(side.weights)
        if of_temperature.numel():
            of_temperature += (of_logits * side.direction).sum()
        of_direction = of_logits.mul_(tau)
        of_activated += _through_direction(side, of_direction, along)
    of_tanh = torch.where(block.tanh > 0, of_activated, _NEGATIVE_SLOPE * of_activated)
    of_affinities += of_tanh * (1 - block.tanh.square())
    return torch.where(block.live, of_affinities, 0).flatten(2)


def _attend(images: Padded, captions: Padded, temperature: Tensor) -> _Block:
    affinities = _affinities(images, captions)
    live = (affinities != 0).any(1, keepdim=True) & (affinities != 0).any(3, keepdim=True)
    tanh = affinities.tanh()
    activated = leaky_relu(tanh, _NEGATIVE_SLOPE)
    over_regions = _side(activated, temperature, images.missing[..., None, None], 1, 3)
    over_words = _side(activated, temperature, captions.missing[..., None, :, :], 3, 1)
    return _Block(affinities, tanh, over_regions, over_words, live)


def _affinities(images: Padded, captions: Padded) -> Tensor:
    if captions.vectors.ndim == 3:
        found = product(images.vectors.flatten(0, 1), captions.vectors.flatten(0, 1).T)
    else:
        found = product(images.vectors, captions.vectors.flatten(1, 2).mT)
    return found.view(*images.vectors.shape[:2], *captions.vectors.shape[-3:-1])


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
