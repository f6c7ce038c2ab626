"""The loss of a batch: encoders, similarity of all pairs of all processes, triplet loss and SAM."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from itm_fast.data.collate import Batch
from itm_fast.models.base import MatchingModel, dot_products, missing_regions
from itm_fast.nn.losses.semantic_margin import SemanticMarginLoss
from itm_fast.training.distributed import gather_columns, gather_images, gather_rows


class Objective(nn.Module):
    """A model with its loss, from a batch to a number: what DistributedDataParallel wraps.

    loss = triplet_weight * the model's weight * triplet(sims) + SAM(sims) + what the model adds: triplet losses of
    further embeddings, and what each pair costs by itself.
    """

    def __init__(
        self, model: MatchingModel, margin: SemanticMarginLoss | None = None, triplet_weight: float = 1.0
    ) -> None:
        """Put together.

        Args:
            model: The model; `model.loss` is its triplet loss.
            margin: SAM over a corpus of the training captions; the model's triplet loss is not part of it.
            triplet_weight: Of the model's triplet loss on its similarity, beside SAM; those of further embeddings keep
                their weights.
        """
        super().__init__()
        self.model, self.margin, self.triplet_weight = model, margin, triplet_weight

    def forward(self, batch: Batch) -> Tensor:
        """The loss of this batch and those of the other processes together, a scalar."""
        encoded = self.model(batch)
        region_counts = batch.region_counts
        if batch.regions.ndim == 4 and encoded.images.ndim == 3:  # a backbone's tokens, all of which are there
            region_counts = torch.full_like(region_counts, encoded.images.shape[1])
        images, region_counts = gather_images(encoded.images, region_counts)
        caption_ids, image_ids = gather_rows(batch.caption_ids), gather_rows(batch.image_ids)
        fewer = missing_regions(images, region_counts) if images.ndim == 3 else None
        counts = (batch.word_counts,) if fewer is None else (batch.word_counts, fewer)
        sims = gather_columns(self.model.similarity(images, encoded.captions, *counts))
        loss: Tensor = encoded.captions.new_zeros(())
        if self.triplet_weight:
            loss = loss + self.triplet_weight * self.model.triplet_weight * self.model.loss(sims, image_ids)
        for pairs in encoded.further:
            further_sims = gather_columns(dot_products(gather_rows(pairs.images), pairs.captions))
            loss = loss + pairs.weight * self.model.loss(further_sims, image_ids)
        if encoded.extra_losses is not None:
            loss = loss + self.model.extra_loss(gather_rows(encoded.extra_losses))
        if self.margin is not None:
            loss = loss + self.margin(sims, caption_ids, image_ids)
        return loss
