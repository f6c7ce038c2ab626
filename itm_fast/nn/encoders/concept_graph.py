"""CVSE's concept graph: concepts learn from those that they occur with."""

import math

import torch
from torch import Tensor, nn


class GraphConvolution(nn.Module):
    """A (X W), no bias.

    State dict: `weight` (in_features, out_features).
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(out_features)
        self.weight = nn.Parameter(torch.empty(in_features, out_features).uniform_(-bound, bound))

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """X (n, in_features), adjacency (n, n) -> (n, out_features)."""
        return adjacency @ (x @ self.weight)

    def extra_repr(self) -> str:
        """The sizes, for print(model)."""
        in_features, out_features = self.weight.shape
        return f"in_features={in_features}, out_features={out_features}"


class ConceptGraph(nn.Module):
    """Two graph convolutions over the concepts' vectors with a LeakyReLU between, at unit length.

    State dict: `gc1.weight` (input_channel, embed_size // 2), `gc2.weight` (embed_size // 2, embed_size), `adj_all`
    (n_concepts, n_concepts): the edges as `Concepts.adjacency` makes them, which is a constant.

    Source:
        Wang et al., Consensus-Aware Visual-Semantic Embedding, ECCV 2020, equations 4 and 5; BruceW91/CVSE, C_GCN.
    """

    adj_all: Tensor

    def __init__(self, n_concepts: int, input_channel: int, embed_size: int) -> None:
        super().__init__()
        self.gc1 = GraphConvolution(input_channel, embed_size // 2)
        self.gc2 = GraphConvolution(embed_size // 2, embed_size)
        self.register_buffer("adj_all", torch.eye(n_concepts))

    def forward(self, vectors: Tensor) -> Tensor:
        """Vectors (n_concepts, input_channel) -> concepts (n_concepts, embed_size)."""
        scale = self.adj_all.sum(1).rsqrt()
        adjacency = scale[:, None] * self.adj_all.T * scale  # D A^T D
        hidden = nn.functional.leaky_relu(self.gc1(vectors, adjacency), 0.2)
        return nn.functional.normalize(self.gc2(hidden, adjacency), dim=-1, eps=1e-12)

    def extra_repr(self) -> str:
        """What its layers do not show, for print(model)."""
        return f"n_concepts={len(self.adj_all)}"
