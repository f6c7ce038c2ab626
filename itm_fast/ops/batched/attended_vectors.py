"""Similarity vectors of contexts whose weights are given, and what their gradients are sums and products of.

Where a device has kernels for them (csrc/cuda/attended_vectors.cu) contexts and differences of the forward pass never
leave the chip; elsewhere they are batched products.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from itm_fast.ops._checks import HALF_DTYPES
from itm_fast.ops.batched.listed import ListedProducts
from itm_fast.ops.batched.products import aligned, has_tile_kernels, product, wide

_EPSILON = 1e-8
_MOST_REGIONS, _MOST_WIDTH, _MULTIPLE = 64, 256, 8  # csrc/cuda/attended_vectors.h


class Given(NamedTuple):
    """What contexts are of, where that is not all words in all images."""

    images: Tensor  # (lists,) int64
    words: Tensor  # (lists, words) int64; -1: none, at the end of a list
    vectors: Tensor  # (lists, words) int64, numbers of the vectors, likewise
    products: ListedProducts  # whose owners are the images


class Contexts(NamedTuple):
    """Unit contexts of some words in some images, minus the words, and the weight that is to come."""

    weights: Tensor  # (lists, words, regions), of the regions, in the type of the vectors
    regions: Tensor  # (images, regions, dim)
    turned: Tensor | None  # the same as the kernels take them
    words: Tensor  # (words, dim)
    weight: Tensor  # (width, dim)
    given: Given | None  # None: each image is a list of all words


def turned(regions: Tensor, weight: Tensor) -> Tensor | None:
    """Regions (images, regions, dim) as the kernels take them: transposed, a multiple of 16; None where they do not."""
    fits = regions.shape[1] <= _MOST_REGIONS and len(weight) <= _MOST_WIDTH and len(weight) % _MULTIPLE == 0
    if not fits or not _sums_by_kernel(regions):
        return None
    return pad(regions.transpose(1, 2), _room(regions.shape[1])).contiguous()


def write_vectors(of: Contexts, bias: Tensor, units: Tensor, lengths: Tensor) -> None:
    """Vectors brought to unit length into `units`, their lengths before into `lengths`.

    Of all words in all images (images, words, width) and (images, words); of given ones (n, width) and (n,), with a
    last one that means nothing.
    """
    if of.turned is not None:
        into = units.view(-1, units.shape[-1]), lengths.view(-1)
        operands = *_operands(of), aligned(of.weight), aligned(bias)
        torch.ops.itm_fast.attended_vectors_(*operands, *into, *_numbers(of))
        return
    squares = _differences(of).square_()
    vectors = product(squares.flatten(0, 1), of.weight.T).add_(bias).view(*squares.shape[:2], -1)
    length = torch.linalg.vector_norm(vectors, dim=2)
    vectors.div_(length[..., None] + _EPSILON)
    if of.given is None:
        units.copy_(vectors)
        lengths.copy_(length)
    else:
        units[of.given.vectors] = vectors.to(units.dtype)
        lengths[of.given.vectors] = length


def gradients(of: Contexts, grad: Tensor, units: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of vectors (lists, words, width), and of unit contexts minus words (lists, words, dim), whose squares are last.

    All are rounded to the type of the vectors, as operands of products, and 0 where there is no word.
    """
    if of.turned is not None:
        given = aligned(grad), aligned(units), lengths.contiguous()
        rows = (*(x.view(-1, x.shape[-1]) for x in given[:2]), given[2].view(-1))
        found: tuple[Tensor, Tensor, Tensor]
        found = torch.ops.itm_fast.attended_gradients(*rows, *_operands(of), aligned(of.weight.T), *_numbers(of))
        return found
    if of.given is not None:
        grad, units, lengths = (x[of.given.vectors] for x in (grad, units, lengths))
    of_vectors = _through_unit_length(grad, units, lengths).to(of.words.dtype)
    differences = _differences(of)
    if of.given is not None:
        missing = (of.given.words < 0)[..., None]
        of_vectors.masked_fill_(missing, 0)
        differences.masked_fill_(missing, 0)
    through = (of_vectors @ of.weight).mul_(differences).mul_(2)
    return of_vectors, through, differences.square_()


def subtract_from_words(through: Tensor, words: Tensor, sums: Tensor) -> None:
    """Subtracts vectors (lists, words, dim) from `sums` (n, dim) of the words whose numbers they have; -1: none."""
    rows, numbers = through.flatten(0, 1), words.flatten()
    if _sums_by_kernel(through):
        by_word, order = numbers.sort(stable=True)
        bounds = torch.searchsorted(by_word, torch.arange(len(sums) + 1, device=words.device))
        torch.ops.itm_fast.attended_words_(sums, rows, order, bounds)
        return
    # sorted first, on a device: sums have an order; what is none is 0
    sums.index_put_((numbers.clamp(min=0),), rows.to(sums.dtype).neg(), accumulate=True)


def _sums_by_kernel(vectors: Tensor) -> bool:
    aligned = vectors.shape[-1] % _MULTIPLE == 0
    return aligned and vectors.dtype in HALF_DTYPES and has_tile_kernels(vectors.device)


def _room(n_regions: int) -> tuple[int, int]:
    return 0, -n_regions % 16


def _operands(of: Contexts) -> tuple[Tensor, Tensor | None, Tensor]:
    """Weights, regions and words as the kernels take them."""
    weights = pad(of.weights, _room(of.regions.shape[1])).contiguous()
    return weights, of.turned, aligned(of.words)


def _numbers(of: Contexts) -> tuple[Tensor | None, ...]:
    if of.given is None:
        return None, None, None
    return tuple(x.contiguous() for x in of.given[:3])


def _differences(of: Contexts) -> Tensor:
    """Unit contexts minus words (lists, words, dim), rounded once; anything where there is no word."""
    if of.given is None:
        return torch.baddbmm(of.words.expand(len(of.regions), -1, -1), of.weights, of.regions, beta=-1)
    sums = of.words[of.given.words].to(wide(of.words.dtype)).neg_()
    of.given.products.add_weighted(of.weights, of.given.images, sums)
    return sums.to(of.words.dtype)


def _through_unit_length(grad: Tensor, units: Tensor, lengths: Tensor) -> Tensor:
    """Gradient of y from that of y / (|y| + epsilon); 0 where y is 0."""
    to = lengths.dtype
    along = (grad.to(to) * units.to(to)).sum(2, keepdim=True)
    length = lengths[..., None]
    of_unit = units.to(to) * (along * (length + _EPSILON) / length)
    return torch.where(length == 0, 0, grad.to(to).sub(of_unit).div_(length + _EPSILON))
