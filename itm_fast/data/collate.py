"""Training batches from caption indices: tokens of captions that were tokenised once, regions read from disk."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import cast

import torch

from itm_fast.data.readers.precomp import CaptionedSplit, CaptionWithImage
from itm_fast.data.text.caption_tokens import CaptionTokens
from itm_fast.indices import as_indices


@dataclass(frozen=True, eq=False)
class Batch:
    """One training batch; row b of every tensor belongs to the same caption and its image.

    Attributes:
        regions: float32 (B, max_regions, dim), or images (B, 3, height, width).
        tokens: int64 (B, max_words), zero-padded.
        word_counts: int64 (B,), start and end counted.
        image_ids: int64 (B,), index of the distinct image in its split: equal where two captions share an image.
        caption_ids: int64 (B,), index of the caption in its split.
        region_counts: int64 (B,), regions that are there and were not dropped, the first of each image; the others are
            0.
        kept_cells: bool (B, n_cells), cells of the images' grids that were not dropped; None: all are there.
        image_tokens: int64 (B, most), tokens of all captions of each image, zero-padded; None where the model has no
            use for them.
        caption_states: float32 (B, max_words, dim), what the text encoder made of the tokens before, zeros behind; None
            where it is run.
    """

    regions: torch.Tensor
    tokens: torch.Tensor
    word_counts: torch.Tensor
    image_ids: torch.Tensor
    caption_ids: torch.Tensor
    region_counts: torch.Tensor
    kept_cells: torch.Tensor | None = None
    image_tokens: torch.Tensor | None = None
    caption_states: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.caption_ids)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """Copy to a device.

        Args:
            device: Where to.
            non_blocking: Return before the copy is done; helps from pinned memory only.

        Returns:
            The batch there.
        """
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """Copy to page-locked memory; torch's DataLoader calls this by its name.

        Returns:
            The batch there.
        """
        return self._each(torch.Tensor.pin_memory)

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        tensors = (cast("torch.Tensor | None", getattr(self, field.name)) for field in fields(self))
        return Batch(*(tensor if tensor is None else change(tensor) for tensor in tensors))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Collator:
    """Turns caption indices into a batch; serves as `collate_fn` over a DataLoader of indices.

    Captions keep the order asked for: SCAN sorted each batch by length for packed sequences, which torch no longer
    needs, and which made its order of pairs depend on the tokenizer.

    Attributes:
        dataset: Where regions, or images, come from.
        tokens: Its captions, tokenised.
        has_image_tokens: Give each batch the tokens of all captions of its images too.

    Raises:
        ValueError: The two do not have equally many captions.

    Example:
        loader = DataLoader(range(dataset.n_captions), 128, shuffle=True, collate_fn=Collator(dataset, tokens))
    """

    dataset: CaptionedSplit
    tokens: CaptionTokens
    has_image_tokens: bool = False

    def __post_init__(self) -> None:
        if len(self.tokens) != self.dataset.n_captions:
            raise ValueError(
                f"tokens has {len(self.tokens)} captions, but dataset {self.dataset.n_captions}; expected the same"
            )

    @functools.cached_property
    def _by_image(self) -> CaptionTokens:
        return self.tokens.by_image(self.dataset.caption_to_image, self.dataset.n_images)

    def __call__(
        self, caption_indices: Sequence[int] | torch.Tensor, generator: torch.Generator | None = None
    ) -> Batch:
        """Make a batch.

        Args:
            caption_indices: (B,) integers, 0 … n_captions - 1.
            generator: Of what varies in images while training; None: nothing does.

        Returns:
            The batch, B rows, in the order of `caption_indices`.

        Raises:
            IndexError: An index is outside the split.
            TypeError: The indices are not integers.
        """
        if isinstance(caption_indices, Sequence) and isinstance(next(iter(caption_indices), None), CaptionWithImage):
            raise TypeError(
                "caption_indices are items of a data set; this collator reads them itself: give the DataLoader "
                "range(dataset.n_captions) in place of the data set"
            )
        indices = as_indices(caption_indices, self.dataset.n_captions, "caption_indices")
        image_ids = self.dataset.caption_to_image[indices]
        tokens, word_counts = self.tokens.pad(indices)
        image_tokens = None
        if self.has_image_tokens:
            image_tokens = self._by_image.pad(image_ids)[0]
        regions, region_counts = self.dataset.counted_regions(image_ids, generator)
        if region_counts is None:
            region_counts = torch.full((len(indices),), self.dataset.max_regions)
        else:
            regions = regions[:, : int(region_counts.max())]
        return Batch(
            regions=regions,
            tokens=tokens,
            word_counts=word_counts,
            image_ids=torch.from_numpy(image_ids),
            caption_ids=torch.from_numpy(indices),
            region_counts=region_counts,
            image_tokens=image_tokens,
            caption_states=self.tokens.states(indices),
        )
