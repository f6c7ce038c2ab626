"""LAPS's similarity: weights of an image's patches for a block of pairs, of which products with the words are made."""

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

_NEGATIVE_SLOPE = 0.1  # of the leaky ReLU on cosines, as in SCAN
_EPSILON = 1e-12  # below it a vector is not brought to unit length
BLOCK_NUMBERS = 1 << 24  # of patches' weights in tokens at a time


class _Given(NamedTuple):
    """What all passes begin with; the class token, where there is one, is the first row and the first token."""

    regions: Tensor  # (n_images, rows, dim)
    captions: Padded
    lengths: Tensor  # (n_captions, max_words), of the words, at least epsilon
    logits: Tensor  # (n_images, n_patches, n_aggregated)
    n_kept: int
    class_token: bool

    @property
    def numbers_of_pair(self) -> int:
        """At most so many are made of a pair at a time."""
        return self.regions.shape[1] * max(self.logits.shape[2] + 2, self.captions.vectors.shape[1])


class _Block(NamedTuple):
    """Of some images, and some captions or captions of their own, in `wide`."""

    weights: Tensor  # (images, captions, rows, tokens)
    sims: Tensor  # (images, captions, rows, words), with words of unit length
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
    given = _given(regions, words, logits, word_counts, n_kept, class_token)
    sims = scores.new_empty(scores.shape[:2])
    for images, captions in _blocks(given):
        block = _of_all(given, scores, images, captions)
        sims[images, captions] = _sims(block, given.captions.sizes.part(captions))
    return sims


def forward_of_given(
    regions: Tensor,
    words: Tensor,
    scores: Tensor,
    logits: Tensor,
    word_counts: Tensor | None,
    candidates: Tensor,
    of_captions: bool,
    n_kept: int,
    class_token: bool,
) -> Tensor:
    """Sims of candidates, in their shape: some lists at a time, those of images whoever they are given for."""
    given = _given(regions, words, logits, word_counts, n_kept, class_token)
    members = _members(regions, words, word_counts, candidates, of_captions)
    products = ListedProducts(regions, given.captions.vectors)
    sims = scores.new_zeros(candidates.numel() + 1)  # the last: of what is no pair
    for images, captions, pairs in _blocks_of_lists(given, products, members, of_captions):
        block = _of_lists(given, products, scores, images, captions, pairs)
        sims[pairs] = _sims(block, given.captions.sizes.part(captions))
    return members.finished(sims[:-1].view(candidates.shape))


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
    given = _given(regions, words, logits, word_counts, n_kept, class_token)
    of_regions, of_units, of_logits = _sums(given, need_regions, need_words, need_logits)
    for images, captions in _blocks(given):
        block = _of_all(given, scores, images, captions)
        of_products, of_squared = _through_block(block, given.captions.sizes.part(captions), grad[images, captions])
        some, others, of_sims = regions[images], given.captions.vectors[captions], _of_sims(block, of_products)
        if need_logits:
            of_logits[images] += _of_logits(given, block, of_products, of_squared)
        if need_regions:
            of_gram = _of_gram(block, of_squared)
            of_regions[images] += 2 * (of_gram @ some.to(of_gram.dtype))
            of_rows = of_sims / given.lengths[captions]
            of_some = gradient_product(of_rows.flatten(2).flatten(0, 1), others.flatten(0, 1))
            of_regions[images] += of_some.view(some.shape)
        if need_words:
            of_some = gradient_product(of_sims.flatten(2).flatten(0, 1).T, some.flatten(0, 1))
            of_units[captions] += of_some.view(others.shape)
    return _finished(given, (of_regions, of_units, of_logits), need_words)


def backward_of_given(
    grad: Tensor,
    regions: Tensor,
    words: Tensor,
    scores: Tensor,
    logits: Tensor,
    word_counts: Tensor | None,
    candidates: Tensor,
    of_captions: bool,
    n_kept: int,
    class_token: bool,
    need_regions: bool,
    need_words: bool,
    need_logits: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `backward`, of candidates."""
    given = _given(regions, words, logits, word_counts, n_kept, class_token)
    members = _members(regions, words, word_counts, candidates, of_captions)
    products = ListedProducts(regions, given.captions.vectors)
    cotangents = torch.nn.functional.pad(members.cotangents(grad).flatten(), (0, 1))  # the last: of what is no pair
    of_regions, of_units, of_logits = _sums(given, need_regions, need_words, need_logits)
    for images, captions, pairs in _blocks_of_lists(given, products, members, of_captions):
        block = _of_lists(given, products, scores, images, captions, pairs)
        of_products, of_squared = _through_block(block, given.captions.sizes.part(captions), cotangents[pairs])
        of_sims = _of_sims(block, of_products)
        if need_logits:
            of_some = _of_logits(given, block, of_products, of_squared)
            of_logits.index_put_((images,), of_some, accumulate=True)
        if need_regions:
            products.add_by_grams(_of_gram(block, of_squared), images, of_regions)
            products.add_to_owners(of_sims / given.lengths[captions][:, None], images, captions, of_regions)
        if need_words:
            products.add_to_members(of_sims, images, captions, of_units)
    return _finished(given, (of_regions, of_units, of_logits), need_words)


def _given(
    regions: Tensor, words: Tensor, logits: Tensor, word_counts: Tensor | None, n_kept: int, class_token: bool
) -> _Given:
    captions = Padded("words", words, word_counts)
    lengths = torch.linalg.vector_norm(captions.vectors, dim=2, dtype=wide(words.dtype)).clamp(min=_EPSILON)
    return _Given(regions, captions, lengths, logits, n_kept, class_token)


def _sums(given: _Given, need_regions: bool, need_words: bool, need_logits: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Zeros for the gradients of regions, words of unit length and logits."""
    needed = ((given.regions, need_regions), (given.captions.vectors, need_words), (given.logits, need_logits))
    to = given.lengths.dtype
    of_regions, of_units, of_logits = (x.new_zeros(x.shape if need else (0,), dtype=to) for x, need in needed)
    return of_regions, of_units, of_logits


def _finished(given: _Given, sums: tuple[Tensor, Tensor, Tensor], need_words: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients, in the types of what they are of."""
    of_regions, of_units, of_logits = sums
    of_words = _through_unit_length(of_units, given) if need_words else of_units
    dtype = given.regions.dtype
    return of_regions.to(dtype), of_words.to(dtype), of_logits.to(given.logits.dtype)


def _members(
    regions: Tensor, words: Tensor, word_counts: Tensor | None, candidates: Tensor, of_captions: bool
) -> Members:
    return Members(Candidates(candidates, of_captions), Batches(regions, words, word_counts, None))


def _blocks(given: _Given) -> Iterator[tuple[slice, slice]]:
    """Images and captions whose weights are in memory at a time."""
    n_images, n_captions = len(given.regions), len(given.captions.vectors)
    columns = max(1, min(n_captions, BLOCK_NUMBERS // given.numbers_of_pair))
    rows = max(1, BLOCK_NUMBERS // (given.numbers_of_pair * columns))
    for first in range(0, n_images, rows):
        for start in range(0, n_captions, columns):
            yield slice(first, first + rows), slice(start, start + columns)


def _blocks_of_lists(
    given: _Given, products: ListedProducts, members: Members, of_captions: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Images (lists,), ascending, with captions of each and numbers of the pairs (lists, k); of what is none -1."""
    places = members.places
    if not len(given.regions) or not len(given.captions.vectors) or not places.numel():
        return
    lists = Lists.by_place(places, len(given.regions)) if of_captions else Lists.in_rows(places)
    n_pairs = min(BLOCK_NUMBERS // given.numbers_of_pair, products.most_pairs(BLOCK_NUMBERS))
    for images, pairs in lists.blocks(n_pairs):
        yield images, pairs // places.shape[1] if of_captions else places.flatten()[pairs], pairs


def _of_all(given: _Given, scores: Tensor, images: slice, captions: slice) -> _Block:
    some, others = given.regions[images], given.captions.vectors[captions]
    products = product(some.flatten(0, 1), others.flatten(0, 1).T).view(*some.shape[:2], *others.shape[:2])
    gram = product(some, some.transpose(1, 2))
    return _make(given, scores[images, captions], given.logits[images], products.div_(given.lengths[captions]), gram)


def _of_lists(
    given: _Given, products: ListedProducts, scores: Tensor, images: Tensor, captions: Tensor, pairs: Tensor
) -> _Block:
    found = products.of(images, captions).div_(given.lengths[captions][:, None])
    return _make(given, scores.flatten(0, 1)[pairs], given.logits[images], found, products.grams(images))


def _make(given: _Given, scores: Tensor, logits: Tensor, products: Tensor, gram: Tensor) -> _Block:
    """Of scores (images, captions, patches), and products (images, rows, captions, words) with words of unit length."""
    weights = _weights(given, scores, logits)
    sims = products.transpose(1, 2)
    gram_weights = gram[:, None] @ weights
    squared = (gram_weights * weights).sum(2)
    length = squared.clamp(min=_EPSILON**2).sqrt()
    cosines = (weights.transpose(2, 3) @ sims).div_(length[..., None])
    return _Block(weights, sims, gram_weights, squared, length, cosines)


def _sims(block: _Block, captions: Sizes) -> Tensor:
    cosines = leaky_relu(block.cosines, _NEGATIVE_SLOPE)
    of_words = cosines.amax(2).masked_fill_(captions.missing, 0).sum(2) / captions.counts
    return of_words + cosines.masked_fill(captions.missing[..., None, :], -torch.inf).amax(3).mean(2)


def _through_block(block: _Block, captions: Sizes, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of <token, word> (images, captions, tokens, words) and of the tokens' squared lengths."""
    of_products = _through_cosines(block, captions, grad.to(block.sims.dtype))
    of_squared = -(of_products * block.cosines).sum(3) / (2 * block.length)
    return of_products, of_squared.masked_fill_(block.squared < _EPSILON**2, 0)


def _of_sims(block: _Block, of_products: Tensor) -> Tensor:
    """Gradient of the products with words of unit length (images, rows, captions, words)."""
    return (block.weights @ of_products).transpose(1, 2)


def _of_gram(block: _Block, of_squared: Tensor) -> Tensor:
    """Gradient of the Gram matrices (images, rows, rows), symmetric."""
    flat = (block.weights * of_squared[:, :, None]).transpose(1, 2).flatten(2)
    return flat @ block.weights.transpose(1, 2).flatten(2).transpose(1, 2)


def _of_logits(given: _Given, block: _Block, of_products: Tensor, of_squared: Tensor) -> Tensor:
    """Gradient of the logits (images, n_patches, n_aggregated)."""
    of_weights = block.sims @ of_products.transpose(2, 3)
    of_weights += 2 * of_squared[:, :, None] * block.gram_weights
    own, n_aggregated = int(given.class_token), given.logits.shape[2]
    weights, of_weights = (x[:, :, own:, own : own + n_aggregated] for x in (block.weights, of_weights))
    along = (of_weights * weights).sum(2, keepdim=True)
    return ((of_weights - along) * weights).sum(1)


def _weights(given: _Given, scores: Tensor, logits: Tensor) -> Tensor:
    """Of every row of the image in every token: the class token, those of the kept patches, that of the others."""
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


def _through_cosines(block: _Block, captions: Sizes, grad: Tensor) -> Tensor:
    """Gradient of <token, word> (images, captions, tokens, words), lengths of the tokens fixed."""
    cosines = leaky_relu(block.cosines, _NEGATIVE_SLOPE)
    of_words = (grad * captions.shares)[..., None].masked_fill(captions.missing, 0)
    tokens, words = (torch.arange(n, device=grad.device) for n in cosines.shape[2:])
    of_cosines = torch.where(cosines.argmax(2, keepdim=True) == tokens[:, None], of_words[:, :, None], 0)
    best = cosines.masked_fill_(captions.missing[..., None, :], -torch.inf).argmax(3, keepdim=True)
    of_cosines += torch.where(best == words, (grad / len(tokens))[..., None, None], 0)
    of_cosines = torch.where(block.cosines > 0, of_cosines, _NEGATIVE_SLOPE * of_cosines)
    return of_cosines.div_(block.length[..., None])


def _through_unit_length(of_units: Tensor, given: _Given) -> Tensor:
    """Gradient of the words; 0 beyond the counts, and of a word that is all zero."""
    lengths = given.lengths[..., None]
    units = given.captions.vectors / lengths
    along = torch.where(lengths > _EPSILON, (of_units * units).sum(2, keepdim=True), 0)
    of_words = (of_units - units * along) / lengths
    return of_words.masked_fill_(given.captions.sizes.missing[..., None] | (units == 0).all(2, keepdim=True), 0)
