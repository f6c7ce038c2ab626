"""Similarities of one embedding an image with one a caption."""

import itertools
import math

import torch
from torch import Tensor

# Differences made at a time where no gradient is asked for: they stay in a core's cache, or fill a device.
_TILE_BYTES, _TILE_BYTES_OF_DEVICES = 1 << 20, 1 << 28


def order_similarity(images: Tensor, captions: Tensor) -> Tensor:
    """Minus how far each caption's embedding lies above each image's: 0 where the caption is the more general one.

    Args:
        images: (n_images, dim) floating.
        captions: (n_captions, dim), dtype and device of `images`.

    Returns:
        (n_images, n_captions) of at most 0; differentiable, gradient 0 where the similarity is 0.

    Source:
        Vendrov et al., Order-Embeddings of Images and Language, ICLR 2016, equation 2; fartashf/vsepp, model.py.
    """
    if torch.is_grad_enabled() and (images.requires_grad or captions.requires_grad):
        return _order_tile(images, captions)
    n_bytes = _TILE_BYTES if images.device.type == "cpu" else _TILE_BYTES_OF_DEVICES
    pairs = max(1, n_bytes // max(1, images.shape[1] * images.element_size()))
    n_rows = math.isqrt(pairs)
    sims = images.new_empty(len(images), len(captions))
    for some, few in itertools.product(_slices(len(images), n_rows), _slices(len(captions), pairs // n_rows)):
        sims[some, few] = _order_tile(images[some], captions[few])
    return sims


def _slices(size: int, step: int) -> list[slice]:
    return [slice(start, start + step) for start in range(0, size, step)]


def _order_tile(images: Tensor, captions: Tensor) -> Tensor:
    above = (captions[None, :, :] - images[:, None, :]).clamp(min=0)
    distance: Tensor = torch.linalg.vector_norm(above, dim=2)
    return -distance
