"""Training batches from caption indices: captions tokenised once, regions read from disk per batch."""

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from itm_fast.data.caption_vocabulary import CaptionVocabulary
from itm_fast.data.precomp import CaptionedSplit, IndexLike, as_indices
from itm_fast.data.tokenizers import Tokenizer


@dataclass(frozen=True, eq=False)
class CaptionTokens:
    """Token ids of many captions in one flat array: 4 bytes a token and 8 a caption, whatever their lengths.

    Attributes:
        flat: int32 (n_tokens,), the ids of all captions, one after the other.
        offsets: int64 (n_captions + 1,), caption c is flat[offsets[c] : offsets[c + 1]].
        n_attached_stops: At most this many captions kept an inner full stop on its word ("dog.") because nltk's
            punkt_tab data was absent; 0 with any other tokenizer.

    Raises:
        ValueError: offsets do not start at 0, decrease, or do not end at len(flat).
    """

    flat: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    n_attached_stops: int = 0

    def __post_init__(self) -> None:
        offsets = self.offsets
        if offsets.ndim != 1 or not len(offsets) or offsets[0] != 0 or (np.diff(offsets) < 0).any():
            raise ValueError(f"offsets have shape {offsets.shape}; expected one axis, from 0, never decreasing")
        if offsets[-1] != len(self.flat):
            raise ValueError(f"offsets end at {offsets[-1]}, but flat has {len(self.flat)} tokens; expected the same")

    @classmethod
    def from_captions(
        cls, captions: Iterable[str], vocabulary: CaptionVocabulary, tokenizer: Tokenizer = "nltk"
    ) -> "CaptionTokens":
        """Tokenise and encode captions, start and end included.

        Args:
            captions: One text each.
            vocabulary: Gives the ids.
            tokenizer: As in `resolve_tokenizer`; use the one that the vocabulary was made with. Word pieces have their
                own.

        Returns:
            The ids of all captions.

        Raises:
            ImportError: The library of the tokenizer is not installed.
            ValueError: Unknown tokenizer.
        """
        ready = vocabulary.tokenizer_for(tokenizer)
        n_attached_stops = 0
        flat, offsets = array("i"), array("q", [0])
        for caption in captions:
            tokens = ready(caption)
            n_attached_stops += ready.leaves_stop_attached(tokens)
            flat.extend(vocabulary.encode(tokens))
            offsets.append(len(flat))
        return cls(np.array(flat, dtype=np.int32), np.array(offsets, dtype=np.int64), n_attached_stops)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def pad(self, caption_indices: IndexLike) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids of some captions as a rectangle, in the order asked for.

        Args:
            caption_indices: (B,) integers, 0 … len(self) - 1.

        Returns:
            tokens, int64 (B, max_words), zero after each caption's end, and word_counts, int64 (B,).

        Raises:
            IndexError: An index is outside the captions.
            TypeError: The indices are not integers.
        """
        indices = as_indices(caption_indices, len(self), "caption_indices")
        starts = self.offsets[indices]
        word_counts = self.offsets[indices + 1] - starts
        columns = np.arange(word_counts.max(initial=0))
        valid = columns < word_counts[:, None]  # (B, max_words)
        tokens = np.zeros(valid.shape, dtype=np.int64)
        tokens[valid] = self.flat[(starts[:, None] + columns)[valid]]
        return torch.from_numpy(tokens), torch.from_numpy(word_counts)

    def by_image(self, captions_per_image: int) -> "CaptionTokens":
        """All captions of an image, one after the other, as if they were one caption.

        Args:
            captions_per_image: Captions that follow each other and belong to one image.

        Returns:
            One entry an image.
        """
        return CaptionTokens(self.flat, self.offsets[::captions_per_image])


@dataclass(frozen=True, eq=False)
class Batch:
    """One training batch; row b of every tensor belongs to the same caption and its image.

    Attributes:
        regions: float32 (B, max_regions, dim), or images (B, 3, height, width).
        tokens: int64 (B, max_words), zero-padded.
        word_counts: int64 (B,), start and end counted.
        image_ids: int64 (B,), index of the distinct image in its split: equal where two captions share an image.
        caption_ids: int64 (B,), index of the caption in its split.
        region_counts: int64 (B,), regions that were not dropped, the first of each image; the others are 0.
        kept_cells: bool (B, n_cells), cells of the images' grids that were not dropped; None: all are there.
        image_tokens: int64 (B, most), tokens of all captions of each image, zero-padded; None where the model has no
            use for them.
    """

    regions: torch.Tensor
    tokens: torch.Tensor
    word_counts: torch.Tensor
    image_ids: torch.Tensor
    caption_ids: torch.Tensor
    region_counts: torch.Tensor
    kept_cells: torch.Tensor | None = None
    image_tokens: torch.Tensor | None = None

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
        indices = as_indices(caption_indices, self.dataset.n_captions, "caption_indices")
        image_ids = indices // self.dataset.captions_per_image
        tokens, word_counts = self.tokens.pad(indices)
        image_tokens = None
        if self.has_image_tokens:
            image_tokens = self.tokens.by_image(self.dataset.captions_per_image).pad(image_ids)[0]
        return Batch(
            regions=self.dataset.regions(image_ids, generator),
            tokens=tokens,
            word_counts=word_counts,
            image_ids=torch.from_numpy(image_ids),
            caption_ids=torch.from_numpy(indices),
            region_counts=torch.full((len(indices),), self.dataset.max_regions),
            image_tokens=image_tokens,
        )
