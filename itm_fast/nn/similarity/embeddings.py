"""Similarities of one embedding an image with one a caption."""

import torch
from torch import Tensor


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
    above = (captions[None, :, :] - images[:, None, :]).clamp(min=0)
    distance: Tensor = torch.linalg.vector_norm(above, dim=2)
    return -distance
