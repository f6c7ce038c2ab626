"""LAPS's similarity of selected, aggregated patches and words in plain torch."""

import math

import torch
from torch import Tensor

_NEGATIVE_SLOPE = 0.1  # of the leaky ReLU on cosines, as in SCAN


def patch_word_similarity(
    regions: Tensor,
    words: Tensor,
    scores: Tensor,
    logits: Tensor,
    word_counts: Tensor | None = None,
    *,
    sparse_ratio: float = 0.5,
    class_token: bool = False,
) -> Tensor:
    """The operator of the same name, a caption at a time with all its tokens, as CrossmodalGroup/LAPS computes it.

    Args:
        regions: (n_images, n_tokens, dim), any floating dtype; the patches, after the class token where there is one.
        words: (n_captions, max_words, dim).
        scores: (n_images, n_captions, n_patches), by which patches are kept.
        logits: (n_images, n_patches, n_aggregated), of the kept patches' weights in each aggregated token.
        word_counts: (n_captions,) int64 or None, all valid.
        sparse_ratio: Share of the patches that is kept.
        class_token: The first token is no patch, and is compared with the words as it is.

    Returns:
        (n_images, n_captions), dtype of the inputs.

    Source:
        Fu et al., Linguistic-Aware Patch Slimming Framework for Fine-grained Cross-Modal Alignment, CVPR 2024.
    """
    own, patches = regions[:, : int(class_token)], regions[:, int(class_token) :]
    columns = [regions.new_zeros(len(regions), 0)]
    for c, caption in enumerate(words):
        caption = caption[: len(caption) if word_counts is None else int(word_counts[c])]
        order = scores[:, c].detach().argsort(dim=1, descending=True, stable=True)
        kept, left_out = order.tensor_split([math.ceil(patches.shape[1] * sparse_ratio)], dim=1)
        weights = logits.take_along_dim(kept[:, :, None], 1).softmax(1)
        aggregated = weights.transpose(1, 2) @ patches.take_along_dim(kept[:, :, None], 1)
        extra_weights = scores[:, c].detach().take_along_dim(left_out, 1).softmax(1).to(patches.dtype)
        extra = extra_weights[:, None] @ patches.take_along_dim(left_out[:, :, None], 1)
        tokens = torch.nn.functional.normalize(torch.cat([own, aggregated, extra], 1), dim=2)
        cosines = tokens @ torch.nn.functional.normalize(caption, dim=1).T  # (n_images, n_tokens, n_words)
        cosines = torch.nn.functional.leaky_relu(cosines, _NEGATIVE_SLOPE)
        columns.append((cosines.max(1).values.mean(1) + cosines.max(2).values.mean(1))[:, None])
    return torch.cat(columns, dim=1)
