"""CVSE's consensus: an image or a caption as a mixture of concepts, and its fusion with what the instance shows."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from itm_fast.nn.linear import TileLinear

_SHARPNESS = 10.0  # of every softmax over concepts, of labels too


class Consensus(NamedTuple):
    """What a mixture of concepts is made of, and what it comes to."""

    embeddings: Tensor
    """(n, embed_size) of unit length."""
    log_weights: Tensor
    """(n, n_concepts) logarithms of the concepts' weights, which add up to 1."""


class _ConceptBatchNorm(nn.BatchNorm1d):
    """Its rows are the concepts, equal on every process: a class of its own is not synchronised with the others."""


class ConsensusAttention(nn.Module):
    """Concepts z_q weighted by how they go with an instance e: a_q = w^T(tanh(BN(W1 z_q)) * tanh(BN(W2 e))).

    p = softmax(10 a), the embedding is sum_q p_q z_q at unit length. Labels y, of captions only, enter as
    p <- r softmax(10 y) + (1 - r) p.

    State dict: `embedding_1.0`, `embedding_2.0` (embed_size, embed_size), `embedding_1.1.*`, `embedding_2.1.*`
    (embed_size), `embedding_3.0` (1, embed_size).

    Source:
        Wang et al., Consensus-Aware Visual-Semantic Embedding, ECCV 2020, equations 6 to 9; BruceW91/CVSE,
        Consensus_level_feature_learning.
    """

    def __init__(self, embed_size: int) -> None:
        super().__init__()
        self.embedding_1 = nn.Sequential(TileLinear(embed_size, embed_size), _ConceptBatchNorm(embed_size), nn.Tanh())
        self.embedding_2 = nn.Sequential(TileLinear(embed_size, embed_size), nn.BatchNorm1d(embed_size), nn.Tanh())
        self.embedding_3 = nn.Sequential(nn.Linear(embed_size, 1))

    def forward(
        self, instances: Tensor, concepts: Tensor, labels: Tensor | None = None, label_ratio: float = 0.0
    ) -> Consensus:
        """Attend.

        Args:
            instances: (n, embed_size) of unit length.
            concepts: (n_concepts, embed_size) of unit length.
            labels: (n, n_concepts), 1 for the concepts that an instance is known to hold, else 0; None where nothing is
                known. A row of zeros speaks for all concepts alike.
            label_ratio: Share r of the labels.

        Returns:
            Embeddings and weights, at least float32.
        """
        at_least = torch.promote_types(instances.dtype, torch.float32)
        queries, keys = self.embedding_2(instances).to(at_least), self.embedding_1(concepts).to(at_least)
        with torch.autocast(
            instances.device.type, enabled=False
        ):  # ten times a rounding of bfloat16 is no small change
            logits = (queries * self.embedding_3[0].weight) @ keys.T + self.embedding_3[0].bias
            log_weights = (_SHARPNESS * logits).log_softmax(1)
            if labels is not None and label_ratio:
                known = (_SHARPNESS * labels.to(at_least)).softmax(1)
                log_weights = (label_ratio * known + (1 - label_ratio) * log_weights.exp()).log()
            mixed = log_weights.exp() @ concepts.to(at_least)
        return Consensus(nn.functional.normalize(mixed, dim=-1, eps=1e-12), log_weights)


def fused(instances: Tensor, consensus: Tensor, alpha: float) -> Tensor:
    """Alpha parts of an instance's embedding and 1 - alpha of its concepts', (n, embed_size), at unit length."""
    return nn.functional.normalize(alpha * instances + (1 - alpha) * consensus, dim=-1, eps=1e-12)


def divergence(captions: Tensor, images: Tensor) -> Tensor:
    """Kullback-Leibler divergence of images' concept weights from captions', (n, n_concepts) logarithms -> (n,)."""
    return (captions.exp() * (captions - images)).sum(1)
