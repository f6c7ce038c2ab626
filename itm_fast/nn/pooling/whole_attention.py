"""SGR's and SAF's attention of an image to its regions, and of a caption to its words: one vector each."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from itm_fast.nn.caption_groups import CaptionGroup, split_captions, split_words
from itm_fast.nn.encoders.regions import l2_normalise, mean_of_regions
from itm_fast.nn.linear import TileLinear
from itm_fast.nn.pooling.region_norm import normalise_regions
from itm_fast.ops._blocks import padding


class VisualGlobal(nn.Module):
    """The whole image as one vector: its regions weighted by how they go with their mean.

    State dict: `embedding_local.{0,1}`, `embedding_global.{0,1}`, `embedding_common.0`; the first normalisation has one
    statistic a region.

    Source:
        Paranioar/SGRAF, model.py, VisualSA.
    """

    def __init__(self, embed_size: int, n_regions: int, dropout: float) -> None:
        super().__init__()
        self.embedding_local = nn.Sequential(
            TileLinear(embed_size, embed_size), nn.BatchNorm1d(n_regions), nn.Tanh(), nn.Dropout(dropout)
        )
        self.embedding_global = nn.Sequential(
            TileLinear(embed_size, embed_size), nn.BatchNorm1d(embed_size), nn.Tanh(), nn.Dropout(dropout)
        )
        self.embedding_common = nn.Sequential(nn.Linear(embed_size, 1))

    def forward(
        self, regions: Tensor, region_counts: Tensor | None = None, class_token: Tensor | None = None
    ) -> Tensor:
        """(n_images, n_regions, embed_size), zeros beyond region_counts (None: all valid) -> (n_images, embed_size).

        A class token (n_images, embed_size) stands in the place of the regions' mean.
        """
        mean = mean_of_regions(regions, region_counts) if class_token is None else class_token
        if region_counts is not None:
            return self._of_fewer(regions, region_counts, mean)
        linear, *others = self.embedding_local
        norm, *activation = cast(list[nn.BatchNorm1d], others)
        local = linear(regions)
        whole = self.embedding_global(mean)
        if norm.training:
            _count_batch(norm, local.detach())
        weights = checkpoint(self._weights, local, whole, norm, *activation, use_reentrant=False)
        return l2_normalise((weights.transpose(1, 2) @ regions)[:, 0])

    def _of_fewer(self, regions: Tensor, region_counts: Tensor, mean: Tensor) -> Tensor:
        linear, norm, *activation = self.embedding_local
        local = normalise_regions(cast(nn.BatchNorm1d, norm), linear(regions), region_counts)
        for layer in activation:
            local = layer(local)
        whole = self.embedding_global(mean)
        logits = self.embedding_common(local * whole[:, None])
        missing = padding(region_counts, regions.shape[1])[..., None]
        weights = logits.masked_fill(missing, -torch.inf).softmax(1)
        return l2_normalise((weights.transpose(1, 2) @ regions)[:, 0])

    def _weights(self, local: Tensor, whole: Tensor, norm: nn.BatchNorm1d, *activation: nn.Module) -> Tensor:
        """Attention (n_images, n_regions, 1); made again in the backward pass: three tensors like the regions."""
        running = (None, None) if norm.training else (norm.running_mean, norm.running_var)
        local = nn.functional.batch_norm(local, *running, norm.weight, norm.bias, norm.training, eps=norm.eps)
        for layer in activation:
            local = layer(local)
        return cast(Tensor, self.embedding_common(local * whole[:, None])).softmax(1)


def _count_batch(norm: nn.BatchNorm1d, x: Tensor) -> None:
    """What a training step does to the running statistics of `norm`, apart from its output."""
    torch.batch_norm_update_stats(x, norm.running_mean, norm.running_var, cast(float, norm.momentum))
    cast(Tensor, norm.num_batches_tracked).add_(1)


class TextGlobal(nn.Module):
    """The whole caption as one vector, as `VisualGlobal` without the batch normalisation.

    State dict: `embedding_local.0`, `embedding_global.0`, `embedding_common.0`.

    Source:
        Paranioar/SGRAF, model.py, TextSA.
    """

    def __init__(self, embed_size: int, dropout: float) -> None:
        super().__init__()
        self.embedding_local = nn.Sequential(TileLinear(embed_size, embed_size), nn.Tanh(), nn.Dropout(dropout))
        self.embedding_global = nn.Sequential(TileLinear(embed_size, embed_size), nn.Tanh(), nn.Dropout(dropout))
        self.embedding_common = nn.Sequential(nn.Linear(embed_size, 1))

    def forward(self, words: Tensor, groups: list[CaptionGroup]) -> Tensor:
        """Words without padding (n_words, embed_size) -> (n_captions, embed_size)."""
        local = self.embedding_local(words)
        captions = split_words(words, groups)
        whole = self.embedding_global(torch.cat([caption.mean(1) for caption in captions]))
        parts = zip(captions, split_words(local, groups), split_captions(whole, groups), strict=True)
        vectors = []
        for caption, local_part, whole_part in parts:
            weights = self.embedding_common(local_part * whole_part[:, None]).softmax(1)
            vectors.append((weights * caption).sum(1))
        return l2_normalise(torch.cat(vectors))
