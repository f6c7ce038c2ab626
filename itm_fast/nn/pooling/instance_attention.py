"""CVSE's attention of an image to its regions, and of a caption to its words: one vector each."""

from typing import cast

import torch
from torch import Tensor, nn

from itm_fast.nn.encoders.regions import mean_of_regions
from itm_fast.nn.linear import TileLinear
from itm_fast.nn.pooling.region_norm import alone, normalise_regions
from itm_fast.ops._blocks import padding, valid_counts
from itm_fast.ops._counts import Counts, counted
from itm_fast.shown import named_options


class RegionAttention(nn.Module):
    """Regions weighted by how they go with their mean v0: a_r = w^T(tanh(BN(W1 v_r)) * tanh(BN(W2 v0))), softmax.

    Where the first of them is a class token, that is v0, and no region.

    State dict: `embedding_1.0` (embed_size, embed_size), `embedding_1.1.*` (n_regions), `embedding_2.0`,
    `embedding_2.1.*` (embed_size), `embedding_3.0` (1, embed_size).

    Source:
        Wang et al., Consensus-Aware Visual-Semantic Embedding, ECCV 2020; BruceW91/CVSE, V_single_modal_atten.
    """

    def __init__(self, embed_size: int, n_regions: int, dropout: float, *, class_token: bool = False) -> None:
        super().__init__()
        self.class_token = class_token
        self.embedding_1 = nn.Sequential(
            TileLinear(embed_size, embed_size), nn.BatchNorm1d(n_regions), nn.Tanh(), nn.Dropout(dropout)
        )
        self.embedding_2 = nn.Sequential(
            TileLinear(embed_size, embed_size), nn.BatchNorm1d(embed_size), nn.Tanh(), nn.Dropout(dropout)
        )
        self.embedding_3 = nn.Sequential(nn.Linear(embed_size, 1))

    def forward(self, regions: Tensor, region_counts: Counts = None) -> Tensor:
        """(n, n_regions, embed_size) -> embeddings (n, embed_size) of unit length, at least float32.

        With class tokens (n, 1 + n_regions, embed_size), and these are counted.
        Regions are zeros where region_counts (n,) or (n, n_regions) say that there are none; None: all are there.
        """
        regions, region_counts = counted("region_counts", region_counts, "regions", regions)
        whole = regions[:, 0]
        if self.class_token:
            regions = regions[:, 1:]
            if region_counts is not None:
                region_counts = valid_counts("region_counts", region_counts - 1, regions)
        else:
            whole = mean_of_regions(regions, region_counts)
        if region_counts is None:
            common = self.embedding_1(regions) * self.embedding_2(whole)[:, None]
            return _attended(self.embedding_3(common)[..., 0], regions)
        linear, norm, *activation = self.embedding_1
        summed = getattr(norm, "summed", alone)  # of a training by several processes
        local = normalise_regions(cast(nn.BatchNorm1d, norm), linear(regions), region_counts, summed)
        for layer in activation:
            local = layer(local)
        common = local * self.embedding_2(whole)[:, None]
        missing = padding(region_counts, regions.shape[1])
        return _attended(self.embedding_3(common)[..., 0].masked_fill(missing, -torch.inf), regions)

    def extra_repr(self) -> str:
        """The option that its layers do not show, for print(model)."""
        return named_options(self, "class_token")


class WordAttention(nn.Module):
    """Words weighted by how they go with their normalised mean t0: a_w = w^T(tanh(W1 t_w) * tanh(W2 t0)), softmax.

    State dict: `embedding_1.0`, `embedding_2.0` (embed_size, embed_size), `embedding_3.0` (1, embed_size).

    The original takes mean and softmax over the padded length. Padding is zero there, so that both only scale what is
    normalised right after: here they are over the words alone, and no caption depends on those beside it.

    Source:
        Wang et al., Consensus-Aware Visual-Semantic Embedding, ECCV 2020; BruceW91/CVSE, T_single_modal_atten.
    """

    def __init__(self, embed_size: int, dropout: float) -> None:
        super().__init__()
        self.embedding_1 = nn.Sequential(TileLinear(embed_size, embed_size), nn.Tanh(), nn.Dropout(dropout))
        self.embedding_2 = nn.Sequential(TileLinear(embed_size, embed_size), nn.Tanh(), nn.Dropout(dropout))
        self.embedding_3 = nn.Sequential(nn.Linear(embed_size, 1))

    def forward(self, words: Tensor, is_padding: Tensor) -> Tensor:
        """Words (n, max_words, embed_size), 0 where is_padding (n, max_words) -> embeddings (n, embed_size)."""
        whole = nn.functional.normalize(words.sum(1), dim=-1, eps=1e-12)
        common = self.embedding_1(words) * self.embedding_2(whole)[:, None]
        return _attended(self.embedding_3(common)[..., 0].masked_fill(is_padding, -torch.inf), words)


def _attended(logits: Tensor, vectors: Tensor) -> Tensor:
    """Logits (n, k), vectors (n, k, dim) -> their mean under the softmax, (n, dim), of unit length."""
    at_least = torch.promote_types(vectors.dtype, torch.float32)
    weights = logits.to(at_least).softmax(1)
    return nn.functional.normalize((weights[..., None] * vectors).sum(1), dim=-1, eps=1e-12)
