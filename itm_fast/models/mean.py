"""Several models of one kind as one, whose similarity is the mean of theirs; it is evaluated, not trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from itm_fast.models.base import MatchingModel
from itm_fast.ops._counts import Counts


class MeanOfModels(MatchingModel):
    """The mean of the similarities of models that differ in their weights alone.

    State dict: `members.{number}.*`. An image, and a caption, is encoded by each; the encodings lie side by side.
    """

    name: ClassVar[str] = "mean"

    def __init__(self, members: Sequence[MatchingModel]) -> None:
        """Put together.

        Args:
            members: At least one, of one configuration and one vocabulary; its notes are those of the first.

        Raises:
            ValueError: Two differ.
        """
        nn.Module.__init__(self)
        first = members[0]
        for number, other in enumerate(members[1:], start=2):
            if type(other) is not type(first) or other.config != first.config or other.vocabulary != first.vocabulary:
                raise ValueError(f"model {number} is of another kind, configuration or vocabulary than the first")
        self.config, self.vocabulary, self.notes = first.config, first.vocabulary, [*first.notes]
        self.members = nn.ModuleList(members)

    @property
    def models(self) -> list[MatchingModel]:
        """The members."""
        return [cast(MatchingModel, member) for member in self.members]

    @property
    def max_words(self) -> int | None:
        """Tokens of the longest caption that can be encoded."""
        return self.models[0].max_words

    def train(self, mode: bool = True) -> MeanOfModels:
        """As torch has it."""
        nn.Module.train(self, mode)
        return self

    def encode_images(self, images: Tensor, region_counts: Counts = None) -> Tensor:
        """As the members do, side by side in the last dimension."""
        return torch.cat([model.encode_images(images, region_counts) for model in self.models], -1)

    def encode_captions(self, tokens: Tensor, word_counts: Counts) -> Tensor:
        """As the members do, side by side in the last dimension."""
        return torch.cat([model.encode_captions(tokens, word_counts) for model in self.models], -1)

    def similarity(self, images: Tensor, captions: Tensor, word_counts: Counts, region_counts: Counts = None) -> Tensor:
        """N images and m captions as encoded, word_counts (m,) int64 -> sims (n, m)."""
        n = len(self.models)
        encoded = zip(self.models, images.chunk(n, -1), captions.chunk(n, -1), strict=True)
        return torch.stack([model.similarity(x, y, word_counts, region_counts) for model, x, y in encoded]).mean(0)
