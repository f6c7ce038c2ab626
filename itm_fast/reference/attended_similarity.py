"""SGR's and SAF's similarity vectors of words and attended contexts in plain torch."""

import torch
from torch import Tensor

from itm_fast.reference.cross_attention import normalise_features


def attended_similarity(
    regions: Tensor, words: Tensor, word_counts: Tensor, weight: Tensor, bias: Tensor, *, lambda_softmax: float = 9.0
) -> Tensor:
    """The operator of the same name, with attended contexts and a loop over captions, as Paranioar/SGRAF computes it.

    Args:
        regions: (n_images, n_regions, dim), any floating dtype.
        words: (n_words, dim), the captions' words one after another.
        word_counts: (n_captions,) int64, words of each caption.
        weight: (width, dim).
        bias: (width,).
        lambda_softmax: Inverse temperature of the attention.

    Returns:
        (n_images, n_words, width), dtype of the inputs.

    Source:
        Diao et al., AAAI 2021, equations 1-4.
    """

    def unit(x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        normalised: Tensor = torch.where(length > 0, x, x.detach()) / (length + 1e-8)
        return normalised

    parts = [regions.new_zeros(regions.shape[0], 0, weight.shape[0])]
    for caption in torch.split(words, word_counts.tolist()):
        sims = regions @ caption.T  # (n_images, n_regions, n_words)
        attention = torch.softmax(lambda_softmax * normalise_features(sims, "clipped_l2norm"), dim=1)
        context = unit(attention.transpose(1, 2) @ regions)  # (n_images, n_words, dim)
        parts.append(unit((context - caption) ** 2 @ weight.T + bias))
    return torch.cat(parts, dim=1)
