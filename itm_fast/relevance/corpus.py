"""Captions encoded once, and their relevance to the images of the set: blocks, pairs, tiles. No text is here."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from itm_fast.ops.cider import EncodedText, cider_pairs, cider_relevance

Ids = Tensor | npt.NDArray[np.integer] | list[int] | range


class Corpus:
    """Relevance φ of the captions of a set to its images, computed when it is asked for; made by ``Cider.encode``.

    It is a tile scorer: ``itm_fast.evaluate(sims, corpus)`` and every metric take it in place of the matrix. It lives
    on the CPU; ``corpus.to("cuda")`` is one whose φ is computed, and stays, on that device. As a ``Cider`` it can be
    copied and pickled.

    Attributes:
        n_images: images, each with its references.
        n_captions: captions that are scored: the references in order, or the candidates that were given.
        captions_per_image: (n_images,) int64, references of each image, on the CPU.
        is_zero: whether φ is 0 everywhere, because no n-gram of the references tells images apart.
        notes: what a reader of figures that come from this φ should know: that it is 0, and why, or what was not split.
    """

    def __init__(
        self,
        text: EncodedText,
        n_candidates: int | None,
        *,
        unary: bool,
        sigma: float,
        is_zero: bool = False,
        notes: Sequence[str] = (),
    ) -> None:
        """Keep the encoded text; ``Cider.encode`` makes it.

        Args:
            text: references image by image, then the candidates.
            n_candidates: candidates behind the references; None: the references are the candidates.
            unary: whether counts are unary (CIDEr-D).
            sigma: of the length penalty, in bigrams; 0: no penalty.
            is_zero: whether all tf-idf vectors of the references are 0.
            notes: lines for people.
        """
        n_texts, n_references = len(text.bigrams), int(text.references[-1])
        self._text, self._unary, self._sigma = text, unary, sigma
        self.is_zero, self.notes = is_zero, tuple(notes)
        self._first_candidate = 0 if n_candidates is None else n_references
        self.n_images = len(text.references) - 1
        self.n_captions = n_texts if n_candidates is None else n_candidates
        self.captions_per_image = text.references.diff()
        owners = torch.arange(self.n_images).repeat_interleave(self.captions_per_image)
        self._caption_to_image = owners if n_candidates is None else None

    def __repr__(self) -> str:
        return f"Corpus({self.n_images} images, {self.n_captions} captions)"

    @property
    def device(self) -> torch.device:
        """Where the encoded captions are, and where φ is computed."""
        return self._text.offsets.device

    def to(self, device: torch.device | str) -> Corpus:
        """The same corpus on a device.

        Args:
            device: where φ is to be computed, "cuda" for example.

        Returns:
            Itself if it is there already, else a copy.

        Raises:
            RuntimeError: torch has no such device.
        """
        text = EncodedText(*(tensor.to(device) for tensor in self._text))
        if text.offsets is self._text.offsets:
            return self
        moved = copy.copy(self)
        moved._text = text
        if self._caption_to_image is not None:
            moved._caption_to_image = self._caption_to_image.to(device)
        return moved

    @property
    def caption_to_image(self) -> Tensor:
        """(n_captions,) int64 on the corpus's device; ValueError where its captions are candidates of no image."""
        if self._caption_to_image is None:
            raise ValueError(
                "the candidates of this corpus belong to no image: give image_ids, or encode references only"
            )
        return self._caption_to_image

    def relevance(
        self, image_ids: Ids | None = None, caption_ids: Ids | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """φ of every image and every caption asked for.

        Args:
            image_ids: (n,) integers, images by number; None: all. A tensor on a device other than the CPU is taken as
                it is, so that nobody waits for it: φ of an id out of range is NaN then.
            caption_ids: (m,) integers, captions by number; None: all. Likewise.
            dtype: float32 or float64 of the result. Sums are float64 in either case.

        Returns:
            (n, m) φ, 0 ... 10, on the corpus's device.

        Raises:
            ValueError: an id out of range, a wrong dtype.
            TypeError: ids that are not integers.
        """
        images = _ids("image_ids", image_ids, self.n_images, self.device)
        captions = _ids("caption_ids", caption_ids, self.n_captions, self.device)
        return cider_relevance(self._text, images, self._numbers(captions), **self._options(dtype))

    def pairs(self, image_ids: Ids, caption_ids: Ids, dtype: torch.dtype = torch.float32) -> Tensor:
        """φ of image image_ids[i] and caption caption_ids[i], for all i.

        Args:
            image_ids: (n,) integers; on a device other than the CPU as in ``relevance``.
            caption_ids: (n,) integers; likewise.
            dtype: float32 or float64 of the result.

        Returns:
            (n,) φ, 0 ... 10, on the corpus's device.

        Raises:
            ValueError: an id out of range, lengths that differ, a wrong dtype.
            TypeError: ids that are not integers.
        """
        images = _ids("image_ids", image_ids, self.n_images, self.device)
        captions = _ids("caption_ids", caption_ids, self.n_captions, self.device)
        if len(images) != len(captions):
            raise ValueError(f"image_ids has {len(images)} entries and caption_ids {len(captions)}, expected as many")
        return cider_pairs(self._text, images, self._numbers(captions), **self._options(dtype))

    def __call__(self, rows: slice, columns: slice, /) -> Tensor:
        """φ of a tile, float64 (rows.stop - rows.start, columns.stop - columns.start)."""
        return self.relevance(range(rows.start, rows.stop), range(columns.start, columns.stop), torch.float64)

    def _numbers(self, captions: Tensor) -> Tensor:
        """Numbers of captions among all encoded ones, of which the references come first."""
        if self._first_candidate == 0:
            return captions
        # On a device nobody has looked at the ids yet: what is below 0 must not become a reference.
        return torch.where(captions < 0, captions, captions + self._first_candidate)

    def _options(self, dtype: torch.dtype) -> dict[str, Any]:
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype is {dtype}, expected torch.float32 or torch.float64")
        return {"unary": self._unary, "sigma": self._sigma, "dtype": dtype}


def _ids(name: str, ids: Ids | None, limit: int, device: torch.device) -> Tensor:
    """The ids as an int64 tensor on the device; those that come from the CPU are all inside 0 ... limit - 1."""
    if ids is None:
        return torch.arange(limit, device=device)
    on_device = isinstance(ids, Tensor) and ids.device.type != "cpu" and device.type != "cpu"
    if isinstance(ids, range) and ids.step == 1:
        checked = torch.arange(ids.start, ids.stop)
    else:
        checked = torch.as_tensor(ids, device=None if on_device else "cpu")
    if not len(checked):
        return checked.reshape(-1).long().to(device)
    if checked.is_floating_point() or checked.dtype == torch.bool or checked.is_complex():
        raise TypeError(f"{name} has dtype {checked.dtype}, expected integers")
    if checked.ndim != 1:
        raise ValueError(f"{name} has shape {tuple(checked.shape)}, expected one dimension")
    if not on_device:
        low, high = (int(bound) for bound in checked.aminmax())
        if low < 0 or high >= limit:
            raise ValueError(f"{name} holds {low if low < 0 else high}, expected 0 ... {limit - 1}")
    return checked.to(device, torch.int64)
