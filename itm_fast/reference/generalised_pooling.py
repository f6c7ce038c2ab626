"""Generalised pooling in plain torch, any dtype: the oracle of the operator."""

import torch
from torch import Tensor


def generalised_pooling(vectors: Tensor, theta: Tensor, counts: Tensor) -> Tensor:
    """pooled_d = sum_k theta_k x_(k),d with x_(k),d the k-th largest number of channel d.

    Args:
        vectors: (n, max, dim), what lies beyond a count is not read.
        theta: (n, max), weights by rank.
        counts: (n,) int64, vectors of each set, 1 ... max.

    Returns:
        (n, dim).

    Source:
        Chen et al., Learning the Best Pooling Strategy for Visual Semantic Embedding, CVPR 2021, equation 3.
    """
    beyond = torch.arange(vectors.shape[1], device=vectors.device) >= counts[:, None]
    ordered = vectors.masked_fill(beyond[:, :, None], -torch.inf).sort(dim=1, descending=True, stable=True).values
    ordered = ordered.masked_fill(beyond[:, :, None], 0.0)
    pooled: Tensor = torch.einsum("nk,nkd->nd", theta.masked_fill(beyond, 0.0), ordered)
    return pooled
