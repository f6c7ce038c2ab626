"""ESL's similarity of levels: one product for the affinities of a block of pairs, made again for the gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

from itm_fast.ops._candidates import Candidates, Members
from itm_fast.ops._ragged import Batches
from itm_fast.ops.batched.listed import ListedProducts, Lists
from itm_fast.ops.batched.padded import Padded, Sizes
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
    tanh: Tensor
    over_regions: _Side
    over_words: _Side
    live: Tensor  # neither the region's affinities nor the word's are all 0


def forward(
    regions: Tensor, words: Tensor, word_counts: Tensor | None, region_counts: Tensor | None, temperature: Tensor
) -> Tensor:
    """Sims (n_images, n_captions) in at least float32."""
    images, captions = Padded("regions", regions, region_counts), Padded("words", words, word_counts)
    sims = regions.new_empty(len(regions), len(words), dtype=wide(regions.dtype))
    for rows, columns in _blocks(images, captions):
        affinities = _affinities(images, captions, rows, columns)
        sims[rows, columns] = _scores(affinities, images.sizes.part(rows), captions.sizes.part(columns), temperature)
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
    """Sims of candidates, in their shape and at least float32: some lists at a time."""
    owners, others = Padded("regions", regions, region_counts), Padded("words", words, word_counts)
    if of_captions:  # nothing tells regions from words
        owners, others = others, owners
    members = Members(Candidates(candidates, of_captions), Batches(regions, words, word_counts, region_counts))
    sims = regions.new_zeros(candidates.shape, dtype=wide(regions.dtype))
    products = ListedProducts(owners.vectors, others.vectors)
    for some, places, pairs in _blocks_of_lists(products, members, others):
        sizes = owners.sizes.part(some), others.sizes.part(places)
        sims.view(-1)[pairs] = _scores(products.of(some, places), *sizes, temperature)
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
        affinities = _affinities(images, captions, rows, columns)
        sizes = images.sizes.part(rows), captions.sizes.part(columns)
        of_affinities = _gradient(grad[rows, columns], affinities, *sizes, temperature, of_temperature)
        flat, some, others = of_affinities.flatten(2).flatten(0, 1), images.vectors[rows], captions.vectors[columns]
        if need_regions:
            of_regions[rows] += gradient_product(flat, others.flatten(0, 1)).view(some.shape)
        if need_words:
            of_words[columns] += gradient_product(flat.T, some.flatten(0, 1)).view(others.shape)
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
    products = ListedProducts(owners.vectors, others.vectors)
    for some, places, pairs in _blocks_of_lists(products, members, others):
        sizes = owners.sizes.part(some), others.sizes.part(places)
        affinities = products.of(some, places)
        of_affinities = _gradient(cotangents.flatten()[pairs], affinities, *sizes, temperature, of_temperature)
        if need_owners:
            products.add_to_owners(of_affinities, some, places, of_owners)
        if need_others:
            products.add_to_members(of_affinities, some, places, of_others)
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
    for first in range(0, len(images.vectors), n_images):
        for start in range(0, len(captions.vectors), n_captions):
            yield slice(first, first + n_images), slice(start, start + n_captions)


def _blocks_of_lists(
    products: ListedProducts, members: Members, others: Padded
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Owners, members and pairs of the lists whose affinities are in memory at a time; none without members."""
    if not len(others.vectors):
        return
    places = members.places.flatten()
    for owners, pairs in Lists.in_rows(members.places).blocks(products.most_pairs(BLOCK_NUMBERS)):
        yield owners, places[pairs], pairs


def _sums_of_temperature(temperature: Tensor, needed: bool, dtype: torch.dtype) -> Tensor:
    return temperature.new_zeros(() if needed else (0,), dtype=wide(dtype))


def _scores(affinities: Tensor, images: Sizes, captions: Sizes, temperature: Tensor) -> Tensor:
    """Sims (images, captions), of all captions or of an image's own: sizes of (captions,) or (images, captions)."""
    block = _attend(affinities, images, captions, temperature.to(affinities.dtype))
    of_words = (affinities * block.over_regions.weights).sum((1, 3)) / captions.counts
    of_regions = (affinities * block.over_words.weights).sum((1, 3)) / images.counts[:, None]
    return of_words + of_regions


def _gradient(
    grad: Tensor, affinities: Tensor, images: Sizes, captions: Sizes, temperature: Tensor, of_temperature: Tensor
) -> Tensor:
    """Gradient of the affinities from that of `_scores`.

    That of the temperature is added to `of_temperature` if it has a number.
    """
    to = affinities.dtype
    tau = temperature.to(to)
    block = _attend(affinities, images, captions, tau)
    cotangent = grad.to(to)[:, None, :, None]
    of_words_mean = cotangent * captions.shares[..., None, :, None]
    of_regions_mean = cotangent * images.shares[:, None, None, None]
    of_affinities = block.over_regions.weights * of_words_mean + block.over_words.weights * of_regions_mean
    of_activated = torch.zeros_like(of_affinities)
    for side, mean, (over, along) in (
        (block.over_regions, of_words_mean, (1, 3)),
        (block.over_words, of_regions_mean, (3, 1)),
    ):
        of_weights = affinities * mean
        of_logits = (of_weights - (of_weights * side.weights).sum(over, keepdim=True)).mul_(side.weights)
        if of_temperature.numel():
            of_temperature += (of_logits * side.direction).sum()
        of_direction = of_logits.mul_(tau)
        of_activated += _through_direction(side, of_direction, along)
    of_tanh = torch.where(block.tanh > 0, of_activated, _NEGATIVE_SLOPE * of_activated)
    of_affinities += of_tanh * (1 - block.tanh.square())
    return torch.where(block.live, of_affinities, 0)


def _attend(affinities: Tensor, images: Sizes, captions: Sizes, temperature: Tensor) -> _Block:
    live = (affinities != 0).any(1, keepdim=True) & (affinities != 0).any(3, keepdim=True)
    tanh = affinities.tanh()
    activated = leaky_relu(tanh, _NEGATIVE_SLOPE)
    over_regions = _side(activated, temperature, images.missing[..., None, None], 1, 3)
    over_words = _side(activated, temperature, captions.missing[..., None, :, :], 3, 1)
    return _Block(tanh, over_regions, over_words, live)


def _affinities(images: Padded, captions: Padded, rows: slice, columns: slice) -> Tensor:
    """Of all pairs of some images and captions; 0 where there is no region or no word."""
    some, others = images.vectors[rows], captions.vectors[columns]
    found = product(some.flatten(0, 1), others.flatten(0, 1).T)
    return found.view(*some.shape[:2], *others.shape[:2])


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
