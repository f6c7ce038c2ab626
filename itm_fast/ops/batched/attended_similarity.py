"""SGR's and SAF's similarity vectors: products for the images and words of a block, made again for gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

from itm_fast.ops._candidates import Candidates
from itm_fast.ops._ragged import Batches
from itm_fast.ops.batched import attended_vectors
from itm_fast.ops.batched.attended_vectors import Contexts, Given
from itm_fast.ops.batched.listed import ListedProducts
from itm_fast.ops.batched.pair_rows import PairRows, Pieces, Rows
from itm_fast.ops.batched.products import Captions, gradient_product, product, wide

_NEGATIVE_SLOPE = 0.1  # of the leaky ReLU before the first normalisation, as in SCAN
_EPSILON = 1e-8
BLOCK_NUMBERS = 1 << 24  # of attended contexts, or of similarities, at a time
_BLOCKS_OF_KERNELS = 4  # of such contexts: kernels make two numbers of 16 bits of each, whose sums are then fewer


class _Rows(NamedTuple):
    """Rows of similarities: of words (n, b r), all of them in b images, or of pairs (b n, r), in lists of an image."""

    groups: Captions  # captions, or pairs
    fit: Tensor  # () bool, whether counts are right
    n_lists: int  # b
    of_pairs: bool

    def as_lists(self, x: Tensor) -> Tensor:
        """By image or list: (b, n, r)."""
        if self.of_pairs:
            return x.view(self.n_lists, -1, x.shape[1])
        return x.view(len(x), self.n_lists, -1).transpose(0, 1)

    def as_rows(self, x: Tensor) -> Tensor:
        """The other way round."""
        return x.flatten(0, 1) if self.of_pairs else x.transpose(0, 1).flatten(1)


class _Attention(NamedTuple):
    """Of rows, groups m of them (captions or pairs), lists b of n, and regions r. In `wide`, but for `scaled`."""

    rows: _Rows
    clipped: Tensor  # as rows, leaky ReLU of S
    size: Tensor  # (m, columns of rows), its length over the words of a group
    inverse: Tensor  # likewise, 1 / (size + epsilon)
    weights: Tensor  # (b, n, r), softmax over the regions
    gram_weights: Tensor  # (b, n, r), weights gram
    root: Tensor  # (b, n), length of the context; 1 where it is 0
    unit: Tensor  # (b, n), 1 / (root + epsilon); 0 where the length is 0
    scaled: Tensor  # (b, n, r), weights of the unit context, in the type of the inputs


def forward(
    regions: Tensor, words: Tensor, word_counts: Tensor, weight: Tensor, bias: Tensor, lambda_softmax: float
) -> tuple[Tensor, Tensor]:
    """The operator's vectors (n_images, n_words, width), and their lengths before they were brought to unit length."""
    n_images, n_words = len(regions), len(words)
    similarities = regions.new_empty(n_images, n_words, len(weight))
    lengths = regions.new_empty(n_images, n_words, dtype=wide(regions.dtype))
    captions = _captions(regions, words, word_counts)
    if not lengths.numel():
        return similarities, lengths
    for images in _image_blocks(regions, n_words):
        some = regions[images]
        turned = attended_vectors.turned(some, weight)
        attention = _attend_all(some, words, captions, lambda_softmax)
        units, of_units = similarities[images], lengths[images]
        for rows, block in _blocks(some, words, whole=turned is not None):
            contexts = _contexts(attention, some, turned, words, weight, rows, block)
            attended_vectors.write_vectors(contexts, bias, units[rows, block], of_units[rows, block])
    return similarities, lengths


def forward_of_given(
    regions: Tensor,
    words: Tensor,
    word_counts: Tensor,
    region_counts: Tensor | None,
    candidates: Tensor,
    weight: Tensor,
    bias: Tensor,
    of_captions: bool,
    lambda_softmax: float,
) -> tuple[Tensor, Tensor]:
    """Vectors (1, words of the pairs, width) of candidates, one pair after another, and their lengths likewise."""
    batches = Batches(regions, words, word_counts, region_counts)
    pairs = _Pairs(batches, Candidates(candidates, of_captions), weight, in_pieces=False)
    units = regions.new_empty(pairs.rows.n + 1, len(weight))  # the last: of what is no word
    lengths = regions.new_empty(len(units), dtype=wide(regions.dtype))
    for rows, attention in pairs.blocks(lambda_softmax):
        for some in pairs.list_blocks(attention, whole=pairs.turned is not None):
            attended_vectors.write_vectors(pairs.contexts(rows, attention, some), bias, units, lengths)
    return units[None, :-1], lengths[None, :-1]


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
        turned = attended_vectors.turned(some, weight)
        attention = _attend_all(some, words, captions, lambda_softmax)
        of_scaled = torch.empty_like(attention.weights, memory_format=torch.contiguous_format)
        of_some = some.new_zeros(some.shape, dtype=to)
        given = grad[images], similarities[images], lengths[images]
        for rows, block in _blocks(some, words):
            contexts = _contexts(attention, some, turned, words, weight, rows, block)
            found = attended_vectors.gradients(contexts, *(x[rows, block] for x in given))
            through = _add_to_layer(found, of_weight, of_bias)
            of_words[block] -= through.sum(0, dtype=to)
            of_scaled[rows, block] = product(through, contexts.regions.transpose(1, 2))
            of_some[rows] += product(contexts.weights.transpose(1, 2), through)
        of_sims, of_gram = _attend_backward(attention, of_scaled, lambda_softmax)
        of_some.baddbmm_(of_gram, some.to(to), alpha=2)  # a symmetric matrix, of which both factors are the regions
        of_some += gradient_product(of_sims.T, words).view(some.shape)
        of_words += gradient_product(of_sims, some.flatten(0, 1))
        of_regions[images] = of_some
    sums = (x.to(words.dtype) for x in (of_words, of_weight, of_bias))
    return tuple(x.masked_fill_(~captions.fit, 0) for x in (of_regions, *sums))


def backward_of_given(
    grad: Tensor,
    similarities: Tensor,
    lengths: Tensor,
    regions: Tensor,
    words: Tensor,
    word_counts: Tensor,
    region_counts: Tensor | None,
    candidates: Tensor,
    weight: Tensor,
    of_captions: bool,
    lambda_softmax: float,
) -> tuple[Tensor, ...]:
    """As `backward`, of candidates."""
    batches = Batches(regions, words, word_counts, region_counts)
    pairs = _Pairs(batches, Candidates(candidates, of_captions), weight, in_pieces=True)
    products, pieces = pairs.products, pairs.pieces
    of_regions, of_pieces, of_weight, of_bias = (
        x.new_zeros(x.shape, dtype=wide(x.dtype)) for x in (regions, pieces.vectors, weight, weight[:, 0])
    )
    given = [x[0].contiguous() for x in (grad, similarities, lengths)]
    for rows, attention in pairs.blocks(lambda_softmax):
        of_scaled = torch.empty_like(attention.weights, memory_format=torch.contiguous_format)
        for some in pairs.list_blocks(attention):
            contexts, images = pairs.contexts(rows, attention, some), rows.images[some]
            through = _add_to_layer(attended_vectors.gradients(contexts, *given), of_weight, of_bias)
            attended_vectors.subtract_from_words(through, rows.words[some], of_pieces.flatten(0, 1))
            of_scaled[some] = products.with_own(images, through).transpose(1, 2)
            # sorted first, on a device: sums have an order
            of_some = product(contexts.weights.transpose(1, 2), through)
            of_regions.index_put_((images,), of_some, accumulate=True)
        of_sims, of_gram = _attend_backward(attention, of_scaled, lambda_softmax)
        products.add_by_grams(of_gram, rows.images, of_regions)
        steps = pairs.rows.steps(rows, pieces.first)
        of_products = steps.values_of(of_sims)
        products.add_to_owners(of_products, steps.images, steps.pieces, of_regions)
        products.add_to_members(of_products, steps.images, steps.pieces, of_pieces)
    if pairs.missing is not None:
        of_regions.masked_fill_(pairs.missing[..., None], 0)
    sums = (of_regions, of_pieces.flatten(0, 1).index_select(0, pieces.places), of_weight, of_bias)
    return tuple(x.to(words.dtype).masked_fill_(~pairs.captions.fit, 0) for x in sums)


class _Pairs:
    """What both passes of given pairs begin with; in pieces: words are those of pieces of captions."""

    def __init__(self, batches: Batches, candidates: Candidates, weight: Tensor, *, in_pieces: bool) -> None:
        self.regions, self._words, word_counts, region_counts = batches
        assert word_counts is not None
        self.captions = _captions(self.regions, self._words, word_counts)
        self.missing = None
        if region_counts is not None:
            places = torch.arange(self.regions.shape[1], device=self.regions.device)
            self.missing = places >= region_counts[:, None]
            self.regions = self.regions.masked_fill(self.missing[..., None], 0)
        self.rows = PairRows(candidates, batches, self.captions)
        members, self._first_words = self._words[:, None], self.captions.first
        if in_pieces:
            self.pieces = Pieces(self._words, self.captions)
            members, self._first_words = self.pieces.vectors, self.pieces.first
            self._words = members.flatten(0, 1)
        self.products = ListedProducts(self.regions, members)
        self.turned, self._weight = attended_vectors.turned(self.regions, weight), weight

    def blocks(self, lambda_softmax: float) -> Iterator[tuple[Rows, _Attention]]:
        """Rows whose similarities and Gram matrices are in memory at a time."""
        n_images, n_regions, _ = self.regions.shape
        length = _list_length(self.rows.n, n_images, n_regions)
        n_rows = BLOCK_NUMBERS * length // (n_regions * max(length, n_regions))
        n_rows = min(n_rows, self.products.most_lists(length) * length)
        for rows in self.rows.blocks(self._first_words, n_rows, length):
            sims = self.products.of_vectors(rows.images, rows.words).transpose(1, 2).flatten(0, 1)
            gram = self.products.grams(rows.images)
            missing = None if self.missing is None else self.missing[rows.images][:, None]
            of_pairs = _Rows(rows.pairs, self.captions.fit, len(rows.images), of_pairs=True)
            yield rows, _attend(sims, gram, of_pairs, self.regions.dtype, lambda_softmax, missing)

    def list_blocks(self, attention: _Attention, *, whole: bool = False) -> Iterator[slice]:
        """Lists whose differences, and sums of regions, are in memory at a time: all where none ever are."""
        n_lists, length, n_regions = attention.weights.shape
        most = BLOCK_NUMBERS if self.turned is None else _BLOCKS_OF_KERNELS * BLOCK_NUMBERS
        step = n_lists if whole else max(1, most // (max(length, n_regions) * self.regions.shape[2]))
        return (slice(first, first + step) for first in range(0, n_lists, step))

    def contexts(self, rows: Rows, attention: _Attention, some: slice) -> Contexts:
        """Of some lists."""
        given = Given(rows.images[some], rows.words[some], rows.vectors[some], self.products)
        return Contexts(attention.scaled[some], self.regions, self.turned, self._words, self._weight, given)


def _captions(regions: Tensor, words: Tensor, word_counts: Tensor) -> Captions:
    if regions.shape[1] == 0:
        raise ValueError(f"regions must have rows, got max_regions = 0 in {tuple(regions.shape)}")
    return Captions(word_counts.to(words.device, non_blocking=True), len(words))


def _image_blocks(regions: Tensor, n_words: int) -> Iterator[slice]:
    """Images whose similarities with all words are in memory at a time."""
    step = max(1, BLOCK_NUMBERS // (regions.shape[1] * n_words))
    return (slice(first, first + step) for first in range(0, len(regions), step))


def _blocks(regions: Tensor, words: Tensor, *, whole: bool = False) -> Iterator[tuple[slice, slice]]:
    """Images, and words, whose differences are in memory at a time: of all where none ever are."""
    n_images, n_words = len(regions), len(words)
    n_columns, step = n_words, n_images
    if not whole:
        n_columns = max(1, min(n_words, BLOCK_NUMBERS // regions.shape[2]))
        step = max(1, BLOCK_NUMBERS // (n_columns * regions.shape[2]))
    for first in range(0, n_images, step):
        for start in range(0, n_words, n_columns):
            yield slice(first, first + step), slice(start, start + n_columns)


def _list_length(n_rows: int, n_images: int, n_regions: int) -> int:
    """A few lists an image, none shorter than its Gram matrix has rows unless the image has fewer words."""

    def up(n: int, multiple: int) -> int:
        return max(multiple, -(-n // multiple) * multiple)

    of_image = -(-n_rows // max(1, n_images))
    return min(up(of_image, 8), max(up(of_image // 4, 64), up(n_regions, 64)))


def _contexts(
    attention: _Attention,
    regions: Tensor,
    turned: Tensor | None,
    words: Tensor,
    weight: Tensor,
    rows: slice,
    block: slice,
) -> Contexts:
    of_kernels = None if turned is None else turned[rows]
    return Contexts(attention.scaled[rows, block], regions[rows], of_kernels, words[block], weight, None)


def _add_to_layer(found: tuple[Tensor, Tensor, Tensor], of_weight: Tensor, of_bias: Tensor) -> Tensor:
    """Adds to the gradients of weight and bias by `attended_vectors.gradients`; returns that of the differences."""
    of_vectors, through, squares = found
    of_weight += product(of_vectors.flatten(0, 1).T, squares.flatten(0, 1))
    of_bias += of_vectors.sum((0, 1), dtype=of_bias.dtype)
    return through


def _attend_all(regions: Tensor, words: Tensor, captions: Captions, lambda_softmax: float) -> _Attention:
    sims = product(words, regions.flatten(0, 1).T)  # (n_words, images regions): a caption's words are neighbours
    gram = product(regions, regions.transpose(1, 2))
    rows = _Rows(captions, captions.fit, len(regions), of_pairs=False)
    return _attend(sims, gram, rows, words.dtype, lambda_softmax)


def _attend(
    sims: Tensor, gram: Tensor, rows: _Rows, dtype: torch.dtype, lambda_softmax: float, missing: Tensor | None = None
) -> _Attention:
    """Of similarities (as rows) and Gram matrices (b, r, r); missing: regions (b, 1, r) that are none."""
    clipped = leaky_relu(sims, _NEGATIVE_SLOPE)
    size = rows.groups.sums(clipped.square()).sqrt_().masked_fill_(~rows.fit, torch.nan)
    inverse = 1 / (size + _EPSILON)
    logits = rows.as_lists(rows.groups.spread(inverse).mul_(clipped).mul_(lambda_softmax))
    weights = (logits if missing is None else logits.masked_fill_(missing, -torch.inf)).softmax(2)
    gram_weights = weights @ gram
    squared = (gram_weights * weights).sum(2)  # of the context's length, without the context
    live = squared > 0
    root = torch.where(live, squared, 1).sqrt_()
    unit = live / (root + _EPSILON)
    scaled = (weights * unit[..., None]).to(dtype)
    return _Attention(rows, clipped, size, inverse, weights, gram_weights, root, unit, scaled)


def _attend_backward(attention: _Attention, of_scaled: Tensor, lambda_softmax: float) -> tuple[Tensor, Tensor]:
    """Gradients of the similarities (as rows) and of the Gram matrices."""
    rows, clipped, size, inverse, weights, gram_weights, root, unit, _ = attention
    # unit = 1 / (root + epsilon) of root^2 = weights gram weights; unit is 0 where the length is.
    of_squared = (of_scaled * weights).sum(2) * unit.square() / (-2 * root)
    of_weights = of_scaled * unit[..., None] + 2 * of_squared[..., None] * gram_weights
    of_gram = (weights * of_squared[..., None]).transpose(1, 2) @ weights
    along = (of_weights * weights).sum(2, keepdim=True)
    of_normal = rows.as_rows(of_weights.sub_(along).mul_(weights).mul_(lambda_softmax))
    total = rows.groups.sums(of_normal * clipped)
    live = size != 0
    shrunk = torch.where(live, total * inverse.square() / size, 0)
    spread = rows.groups.spread
    of_clipped = spread(inverse * live).mul_(of_normal).sub_(spread(shrunk).mul_(clipped))
    return torch.where(clipped > 0, of_clipped, _NEGATIVE_SLOPE * of_clipped), of_gram
