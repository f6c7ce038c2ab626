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
from itm_fast.ops.batched.products import has_tile_kernels, product

_EPSILON = 1e-8
_MOST_REGIONS, _MOST_WIDTH, _MULTIPLE = 64, 256, 8  # csrc/cuda/attended_vectors.h


class Contexts(NamedTuple):
    """Unit contexts of some words in some images, minus the words, and the weight that is to come."""

    weights: Tensor  # (images, words, regions), of the regions, in the type of the vectors
    regions: Tensor  # (images, regions, dim)
    words: Tensor  # (words, dim)
    weight: Tensor  # (width, dim)


def has_kernels(regions: Tensor, weight: Tensor) -> bool:
    """Whether kernels take regions (images, regions, dim) and a weight (width, dim)."""
    fits = regions.shape[1] <= _MOST_REGIONS and len(weight) <= _MOST_WIDTH
    aligned = regions.shape[2] % _MULTIPLE == 0 and len(weight) % _MULTIPLE == 0
    return fits and aligned and regions.dtype in HALF_DTYPES and has_tile_kernels(regions.device)


def write_vectors(of: Contexts, bias: Tensor, units: Tensor, lengths: Tensor) -> None:
    """Vectors brought to unit length (images, words, width) into `units`, their lengths before into `lengths`."""
    if has_kernels(of.regions, of.weight):
        weight = of.weight.contiguous()
        torch.ops.itm_fast.attended_vectors_(*_operands(of), weight, bias.contiguous(), units, lengths)
        return
    squares = _differences(of).square_()
    vectors = product(squares.flatten(0, 1), of.weight.T).add_(bias).view(units.shape)
    length = torch.linalg.vector_norm(vectors, dim=2)
    units.copy_(vectors.div_(length[..., None] + _EPSILON))
    lengths.copy_(length)


def gradients(of: Contexts, grad: Tensor, units: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of vectors (images, words, width), and of unit contexts minus words (images, words, dim), whose squares are last.

    All are rounded to the type of the vectors, as operands of products.
    """
    if has_kernels(of.regions, of.weight):
        given = (x.contiguous() for x in (grad, units, lengths))
        found: tuple[Tensor, Tensor, Tensor]
        found = torch.ops.itm_fast.attended_gradients(*given, *_operands(of), of.weight.T.contiguous())
        return found
    rows = _through_unit_length(grad, units, lengths).to(of.words.dtype)
    differences = _differences(of)
    through = (rows @ of.weight).mul_(differences).mul_(2)
    return rows, through, differences.square_()


def _operands(of: Contexts) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, regions and words as the kernels take them: regions transposed, padded to a multiple of 16."""
    room = (0, -of.regions.shape[1] % 16)
    weights, regions = pad(of.weights, room), pad(of.regions.transpose(1, 2), room)
    return weights.contiguous(), regions.contiguous(), of.words.contiguous()


def _differences(of: Contexts) -> Tensor:
    """Unit contexts minus words (images, words, dim), rounded once."""
    return torch.baddbmm(of.words.expand(len(of.regions), -1, -1), of.weights, of.regions, beta=-1)


def _through_unit_length(grad: Tensor, units: Tensor, lengths: Tensor) -> Tensor:
    """Gradient of y from that of y / (|y| + epsilon); 0 where y is 0."""
    to = lengths.dtype
    along = (grad.to(to) * units.to(to)).sum(2, keepdim=True)
    length = lengths[..., None]
    of_unit = units.to(to) * (along * (length + _EPSILON) / length)
    return torch.where(length == 0, 0, grad.to(to).sub(of_unit).div_(length + _EPSILON))
