"""Late interaction in plain torch."""

import torch
from torch import Tensor

from itm_fast.reference.cross_attention import aggregate


def max_similarity(
    regions: Tensor,
    words: Tensor,
    word_counts: Tensor | None = None,
    region_counts: Tensor | None = None,
    *,
    cross_attn: str = "t2i",
    agg_func: str = "Sum",
    lambda_lse: float = 10.0,
) -> Tensor:
    """The operator of the same name, one pair of sets at a time.

    Args:
        regions: (n_images, max_regions, dim), any floating dtype.
        words: (n_captions, max_words, dim).
        word_counts: (n_captions,) int64 or None, all valid.
        region_counts: (n_images,) int64 or None, all valid.
        cross_attn: "t2i": per word the best region; "i2t": per region the best word.
        agg_func: Aggregation over the queries, see `cross_attention.aggregate`.
        lambda_lse: Inverse temperature of LogSumExp.

    Returns:
        (n_images, n_captions), dtype of the inputs.

    Raises:
        ValueError: `agg_func` is unknown.

    Source:
        Khattab & Zaharia, ColBERT, SIGIR 2020, equation 3.
    """

    def score(image: Tensor, caption: Tensor) -> Tensor:
        best = (image @ caption.T).max(dim=0 if cross_attn == "t2i" else 1).values
        return aggregate(best[None], agg_func, lambda_lse)[0]

    images = [r if region_counts is None else r[: int(region_counts[i])] for i, r in enumerate(regions)]
    captions = [w if word_counts is None else w[: int(word_counts[c])] for c, w in enumerate(words)]
    if not images or not captions:
        return regions.new_zeros(len(images), len(captions))
    return torch.stack([torch.stack([score(image, caption) for caption in captions]) for image in images])
