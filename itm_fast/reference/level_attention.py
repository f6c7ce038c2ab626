"""ESL's similarity of levels in plain torch."""

import torch
from torch import Tensor

from itm_fast.reference.cross_attention import flat_at_zero


def level_attention(regions: Tensor, words: Tensor, word_counts: Tensor | None, temperature: Tensor) -> Tensor:
    """The operator of the same name, a caption at a time, as CrossmodalGroup/ESL computes it.

    Args:
        regions: (n_images, n_regions, width), any floating dtype.
        words: (n_captions, max_words, width).
        word_counts: (n_captions,) int64 or None, all valid.
        temperature: (), multiplies what goes into both softmaxes.

    Returns:
        (n_images, n_captions), dtype of the inputs; gradient 0 through affinities of a region, or of a word, that are
        all 0 (the original: NaN).

    Source:
        CrossmodalGroup/ESL.
    """
    columns = [regions.new_zeros(regions.shape[0], 0)]
    for c, caption in enumerate(words):
        if word_counts is not None:
            caption = caption[: int(word_counts[c])]
        affinities = caption @ regions.transpose(1, 2)  # (n_images, n_words, n_regions)
        affinities = flat_at_zero(flat_at_zero(affinities, 1), 2)
        h = torch.nn.functional.leaky_relu(affinities.tanh(), 0.1)
        over_words = h / (torch.linalg.vector_norm(h, dim=1, keepdim=True) + 1e-8)
        over_regions = h / (torch.linalg.vector_norm(h, dim=2, keepdim=True) + 1e-8)
        of_words = (affinities * (temperature * over_words).softmax(2)).sum(2).mean(1)
        of_regions = (affinities * (temperature * over_regions).softmax(1)).sum(1).mean(1)
        columns.append((of_words + of_regions)[:, None])
    return torch.cat(columns, dim=1)
