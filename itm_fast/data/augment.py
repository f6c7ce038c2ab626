"""Size augmentation: regions and words left out at random while training."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from itm_fast.data.collate import Batch

_DROPPED = 0.2  # share of the regions that are dropped, and of the words that are touched
_MASKED, _REPLACED = 0.5, 0.1  # of the words that are touched; the others are deleted


@dataclass(frozen=True, eq=False)
class SizeAugment:
    """Drops regions; masks, replaces or deletes words.

    Each region is dropped with probability 0.2. Each word is touched with probability 0.2; of those that are, half
    become the mask, a tenth a random word, the rest are deleted. The first and the last token of a caption stay, and at
    least one region of an image does.

    Of an image that the model cuts into a grid, each cell is dropped with probability 0.2 u where u > 0.2, u from
    U(0, 1) once an image.

    Attributes:
        n_tokens: Ids that a random word is drawn from.
        mask_id: Id of the mask.
        continues: bool (n_ids,), tokens that continue the word before them, as WordPiece's "##ing"; None: each token
            is a word. All pieces of a word share its fate.
        n_cells: Cells of the model's grid, or tokens of its backbone, where batches hold images; None: they hold
            regions.
        keeps_images: Words only are touched.
        zeros_count: Regions that are dropped stay in the counts, as zeros, up to the most that an image kept.

    Source:
        Chen et al., CVPR 2021, section 4.3; woodfrog/vse_infty, lib/datasets/image_caption.py.
    """

    n_tokens: int
    mask_id: int
    continues: npt.NDArray[np.bool_] | None = None
    n_cells: int | None = None
    zeros_count: bool = False
    keeps_images: bool = False

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """A batch like `batch` with less in it.

        Args:
            batch: As it was read.
            generator: Of the choices, on the CPU.

        Returns:
            Regions that were kept in front, zeros behind, or a choice of cells; captions that are shorter or equally
            long.
        """
        if self.keeps_images:
            return self._touch_words(batch, generator)
        if self.n_cells is not None and batch.regions.ndim == 4:  # not what a backbone made of the images before
            kept_cells = _kept_cells(len(batch), self.n_cells, generator)
            return self._touch_words(replace(batch, kept_cells=kept_cells), generator)
        regions, region_counts = _drop_regions(batch.regions, batch.region_counts, generator)
        if self.zeros_count:
            region_counts = batch.region_counts.clamp(max=regions.shape[1])
        return self._touch_words(replace(batch, regions=regions, region_counts=region_counts), generator)

    def _touch_words(self, batch: Batch, generator: torch.Generator) -> Batch:
        """With other captions, of which no encoder has made anything before."""
        tokens, word_counts = batch.tokens, batch.word_counts
        n, most = tokens.shape
        places = torch.arange(most)
        inner = (places > 0) & (places < word_counts[:, None] - 1)
        starts = torch.ones_like(inner)
        if self.continues is not None:
            starts = ~torch.from_numpy(self.continues)[tokens]
        word = starts.cumsum(1).clamp(max=most) - 1  # which word of its caption a token belongs to
        fate = torch.rand(n, most, generator=generator).gather(1, word.clamp(min=0))
        masked = inner & (fate < _DROPPED * _MASKED)
        replaced = inner & ~masked & (fate < _DROPPED * (_MASKED + _REPLACED))
        deleted = inner & ~masked & ~replaced & (fate < _DROPPED)
        anything = torch.randint(self.n_tokens, (n, most), generator=generator)
        touched = torch.where(masked, self.mask_id, torch.where(replaced, anything, tokens))
        kept = (places < word_counts[:, None]) & ~deleted
        tokens, word_counts = compacted(touched, kept)
        return replace(batch, tokens=tokens, word_counts=word_counts, caption_states=None)


def _kept_cells(n: int, n_cells: int, generator: torch.Generator) -> Tensor:
    """Which cells stay, bool (n, n_cells)."""
    share = torch.rand(n, 1, generator=generator)
    chance = torch.rand(n, n_cells, generator=generator)
    kept = (share <= _DROPPED) | (chance > _DROPPED * share)
    return kept.scatter_(1, chance.argmax(1, keepdim=True), True)


def _drop_regions(regions: Tensor, region_counts: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    chance = torch.rand(regions.shape[:2], generator=generator)
    if region_counts is not None:
        chance[torch.arange(regions.shape[1]) >= region_counts[:, None]] = -1  # not there
    kept = chance >= _DROPPED
    kept.scatter_(1, chance.argmax(1, keepdim=True), True)  # an image without regions has no embedding
    return compacted(regions, kept)


def compacted(rows: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Those of the entries (n, most, ...) that are kept, bool (n, most): in front, zeros behind, and their counts."""
    counts = kept.sum(1)
    most = int(counts.max()) if len(counts) else 0
    order = (~kept).to(torch.int8).argsort(dim=1, stable=True)[:, :most]
    taken = torch.take_along_dim(rows, order.view(*order.shape, *[1] * (rows.ndim - 2)), dim=1)
    behind = torch.arange(most, device=counts.device) >= counts[:, None]
    return taken.masked_fill(behind.view(*order.shape, *[1] * (rows.ndim - 2)), 0), counts
