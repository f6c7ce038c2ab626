"""A trained model as a source of similarities: encoded in batches, kept while it fits, scored tile by tile."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor

from itm_fast.data.readers.precomp import CaptionedSplit
from itm_fast.data.text.caption_tokens import CaptionTokens
from itm_fast.data.text.caption_vocabulary import CaptionVocabulary
from itm_fast.data.text.tokenizers import Tokenizer
from itm_fast.similarities.scorers import DotProductScorer, IntArray
from itm_fast.similarities.tiles import Progress
from itm_fast.sources.packed_captions import PackedCaptions

_GROUP = 512  # captions of an image scored at a time: enough to fill the tiles of an operator


class RetrievalModel(Protocol):
    """What a model has to offer to be evaluated."""

    @property
    def vocabulary(self) -> CaptionVocabulary:
        """The vocabulary it was trained with."""
        ...

    def encode_images(self, images: Tensor, /) -> Tensor:
        """(n, max_regions, dim_in) float32 -> regions (n, max_regions, dim)."""
        ...

    def encode_captions(self, tokens: Tensor, word_counts: Tensor, /) -> Tensor:
        """Tokens (n, max_words) int64, word_counts (n,) int64 -> words (n, max_words, dim)."""
        ...

    def similarity(self, regions: Tensor, words: Tensor, word_counts: Tensor, /) -> Tensor:
        """Regions of n images, words of m captions -> (n, m)."""
        ...


class _IsTold(Protocol):
    """A model that is told which concepts a caption speaks of: CVSE."""

    @property
    def completes_labels(self) -> bool:
        """Whether `complete_labels` is to be called."""
        ...

    def labels_of(self, captions: Sequence[str], tokenizer: Tokenizer, /) -> CaptionTokens:
        """Numbers of concepts in place of tokens."""
        ...

    def complete_labels(self, labels: CaptionTokens, images: Tensor, captions: Tensor, /) -> CaptionTokens:
        """Labels of all captions, completed from those near them."""
        ...

    def reads_image_tokens(self, *, training: bool) -> bool:
        """Whether a caption has the labels of all captions of its image."""
        ...

    def encode_captions(
        self, tokens: Tensor, word_counts: Tensor, image_tokens: None, concept_numbers: Tensor, /
    ) -> Tensor:
        """As `RetrievalModel` has it, with labels (n, most) int64, zero-padded."""
        ...


Encoded = tuple[Tensor, ...]


class ModelScorer:
    """Tiles of the similarity matrix of a model and a data set.

    Encoded batches are kept, least recently used dropped first; ``cache_bytes`` should hold the images and captions of
    one tile at least, or they are encoded again within it. Nothing of size n_images x n_captions is made.
    """

    def __init__(
        self,
        model: RetrievalModel,
        dataset: CaptionedSplit,
        *,
        tokenizer: Tokenizer = "nltk",
        tokens: CaptionTokens | None = None,
        batch_size: int = 128,
        cache_bytes: int = 2 << 30,
        device: torch.device | str = "cpu",
    ) -> None:
        """Tokenise the captions; nothing is encoded yet.

        Args:
            model: a model in evaluation mode, on ``device``.
            dataset: the split to score.
            tokenizer: the one the model's vocabulary was made with.
            tokens: the captions of ``dataset`` as already encoded with it; None encodes them now.
            batch_size: images, and captions, encoded and scored at a time.
            cache_bytes: bound of the encoded batches kept.
            device: where the model is.

        Raises:
            ValueError: a model in training mode (drop-out would make the scores random), a batch_size below 1.
        """
        if isinstance(model, torch.nn.Module) and model.training:
            raise ValueError("model is in training mode, expected evaluation mode: call model.eval() first")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        self.n_images, self.n_captions = dataset.n_images, dataset.n_captions
        self.dataset = dataset
        self._model, self._device = model, torch.device(device)
        self._tokens = tokens or _tokens_of(model, dataset.captions, tokenizer)
        self._labels = _labels_of(model, dataset, tokenizer)
        self._is_completed = self._labels is None or not cast(_IsTold, model).completes_labels
        unknown = self._tokens.unknown_note(model.vocabulary)
        self._notes = [] if unknown is None else [unknown]
        self._batch_size = batch_size
        self._cache_bytes = cache_bytes
        self._cache = _Cache(cache_bytes)

    @torch.inference_mode()
    def __call__(self, rows: slice, columns: slice, /) -> Tensor:
        """The similarities of a tile, (rows.stop - rows.start, columns.stop - columns.start)."""
        bands = []
        for image_batch, image_part in self._batches(rows):
            (regions,) = self._cache.get(("image", image_batch), self._encode_images)
            tiles = []
            for caption_batch, caption_part in self._batches(columns):
                words, word_counts = self._cache.get(("caption", caption_batch), self._encode_captions)
                tiles.append(
                    self._model.similarity(regions[image_part], words[caption_part], word_counts[caption_part])
                )
            bands.append(torch.cat(tiles, dim=1))
        return torch.cat(bands)

    @property
    def model(self) -> RetrievalModel:
        """The model that scores."""
        return self._model

    @property
    def notes(self) -> list[str]:
        """What a reader of the model's figures should know."""
        return [*getattr(self._model, "notes", []), *self._notes]

    @torch.inference_mode()
    def pair(self, image: int, caption: int) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        """One image and one caption as encoded: regions (n_regions, dim), words (n_words, dim), and its tokens.

        Raises:
            IndexError: an image or caption that is not there.
        """
        if not (0 <= image < self.n_images and 0 <= caption < self.n_captions):
            raise IndexError(f"no image {image} and caption {caption}: there are {self.n_images} and {self.n_captions}")
        image_batch, image_place = divmod(image, self._batch_size)
        caption_batch, caption_place = divmod(caption, self._batch_size)
        (regions,) = self._cache.get(("image", image_batch), self._encode_images)
        words, word_counts = self._cache.get(("caption", caption_batch), self._encode_captions)
        (ids,) = self._tokens.pad([caption])[0].tolist()
        tokens = tuple(self._model.vocabulary.token(index) for index in ids)
        return regions[image_place], words[caption_place, : int(word_counts[caption_place])], tokens

    @torch.inference_mode()
    def score_pairs(self, rows: IntArray, columns: IntArray, progress: Progress | None = None, /) -> Tensor:
        """The similarities of some pairs only: of each image with its captions, gathered into tiles.

        A pair costs more than in a whole tile (SCAN of 256 numbers a word, one thread: two to four times), so that this
        is for a small share of all pairs.

        Args:
            rows: (n,) int64, images, ascending.
            columns: (n,) int64, captions.
            progress: called with (pairs done, pairs in all).

        Returns:
            (n,) similarities, on the CPU. Every caption that takes part is encoded once, every image at most once for
            each block of captions that half of ``cache_bytes`` holds; once, if the images fit into ``cache_bytes``.
        """
        scores = torch.zeros(len(rows))
        done = 0
        for captions, block in self._caption_blocks(np.unique(columns)):
            place = np.full(self.n_captions, -1)
            place[captions] = np.arange(len(captions))
            inside = np.flatnonzero(place[columns] >= 0)
            # By image, then by length: a tile is as wide as its longest caption.
            inside = inside[np.lexsort((place[columns[inside]], rows[inside]))]
            for some in _groups(rows[inside]):
                pairs = inside[some]
                batch, number = divmod(int(rows[pairs[0]]), self._batch_size)
                (regions,) = self._cache.get(("image", batch), self._encode_images)
                words, word_counts = block.take(place[columns[pairs]])
                sims = self._model.similarity(regions[number : number + 1], words, word_counts)
                scores[torch.from_numpy(pairs)] = sims[0].to(scores)
                done += len(pairs)
                if progress is not None:
                    progress(done, len(rows))
        return scores

    def _caption_blocks(self, captions: IntArray) -> Iterator[tuple[IntArray, PackedCaptions]]:
        """These captions, shortest first, encoded, as many at a time as half of the cache may hold."""
        captions = captions[np.argsort(np.diff(self._tokens.offsets)[captions], kind="stable")]
        block = PackedCaptions()
        begun = 0
        for start in range(0, len(captions), self._batch_size):
            block.add(*self._encode_some(captions[start : start + self._batch_size]))
            stop = min(start + self._batch_size, len(captions))
            if block.n_bytes > self._cache_bytes // 2 or stop == len(captions):
                yield captions[begun:stop], block
                begun, block = stop, PackedCaptions()

    @torch.inference_mode()
    def as_embeddings(self) -> DotProductScorer:
        """The embeddings of all images and captions, which compare with each other too.

        Raises:
            ValueError: a model that has none, such as one with cross-attention.
        """
        if not getattr(self._model, "compares_embeddings", False):
            raise ValueError(
                f"{type(self._model).__name__} does not compare one embedding an image with one a caption by their dot "
                "product, so that it has no similarity of two captions or two images (protocol cxc); use protocol "
                "cxc-image-text"
            )
        n_batches = (-(-n // self._batch_size) for n in (self.n_images, self.n_captions))
        images, captions = (range(n) for n in n_batches)
        return DotProductScorer(
            torch.cat([self._encode_images(batch)[0] for batch in images]),
            torch.cat([self._encode_captions(batch)[0] for batch in captions]),
        )

    def _batches(self, items: slice) -> Iterator[tuple[int, slice]]:
        """The fixed batches that meet a slice, and the part of each that lies in it."""
        size = self._batch_size
        for batch in range(items.start // size, -(-items.stop // size)):
            start = batch * size
            yield batch, slice(max(items.start - start, 0), min(items.stop - start, size))

    def _indices(self, batch: int, n_items: int) -> range:
        start = batch * self._batch_size
        return range(start, min(start + self._batch_size, n_items))

    def _encode_images(self, batch: int) -> Encoded:
        images = self.dataset.regions(self._indices(batch, self.n_images))
        return (self._model.encode_images(images.to(self._device)),)

    def _encode_captions(self, batch: int) -> Encoded:
        return self._encode_some(np.array(self._indices(batch, self.n_captions)))

    def _encode_some(self, captions: IntArray) -> tuple[Tensor, Tensor]:
        if not self._is_completed:
            self._complete_labels()
        return self._encode_labelled(captions)

    def _encode_labelled(self, captions: IntArray) -> tuple[Tensor, Tensor]:
        tokens, word_counts = (tensor.to(self._device) for tensor in self._tokens.pad(captions))
        if self._labels is None:
            return self._model.encode_captions(tokens, word_counts), word_counts
        labels = self._labels.pad(captions)[0].to(self._device)
        return cast(_IsTold, self._model).encode_captions(tokens, word_counts, None, labels), word_counts

    def _complete_labels(self) -> None:
        """Encode everything once with the labels that captions have by themselves."""
        n_batches = (-(-n // self._batch_size) for n in (self.n_images, self.n_captions))
        of_images, of_captions = (range(n) for n in n_batches)
        images = torch.cat([self._encode_images(batch)[0] for batch in of_images])
        own = [np.array(self._indices(batch, self.n_captions)) for batch in of_captions]
        captions = torch.cat([self._encode_labelled(some)[0] for some in own])
        told = cast(_IsTold, self._model)
        self._labels = told.complete_labels(cast(CaptionTokens, self._labels), images, captions)
        self._is_completed = True


def _tokens_of(model: RetrievalModel, captions: Sequence[str], tokenizer: Tokenizer) -> CaptionTokens:
    tokens_of = getattr(model, "tokens_of", None)
    if tokens_of is None:
        return CaptionTokens.from_captions(captions, model.vocabulary, tokenizer)
    tokens: CaptionTokens = tokens_of(captions, tokenizer)
    return tokens


def _labels_of(model: RetrievalModel, dataset: CaptionedSplit, tokenizer: Tokenizer) -> CaptionTokens | None:
    if not hasattr(model, "labels_of"):
        return None
    told = cast(_IsTold, model)
    labels = told.labels_of(dataset.captions, tokenizer)
    if not told.reads_image_tokens(training=False):
        return labels
    of_images = labels.by_image(dataset.captions_per_image)
    return of_images.take(np.arange(dataset.n_captions) // dataset.captions_per_image)


class _Cache:
    """Encoded batches by (kind, number), bounded in bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._batches: OrderedDict[tuple[str, int], Encoded] = OrderedDict()

    def get(self, key: tuple[str, int], encode: Callable[[int], Encoded]) -> Encoded:
        if key in self._batches:
            self._batches.move_to_end(key)
            return self._batches[key]
        encoded = encode(key[1])
        self._batches[key] = encoded
        self._bytes += _n_bytes(encoded)
        while self._bytes > self._max_bytes and len(self._batches) > 1:
            self._bytes -= _n_bytes(self._batches.popitem(last=False)[1])
        return encoded


def _groups(rows: IntArray) -> Iterator[slice]:
    """Runs of one image in ascending rows, of _GROUP pairs at most."""
    borders = np.flatnonzero(np.diff(rows)) + 1
    for start, stop in itertools.pairwise([0, *borders.tolist(), len(rows)]):
        for first in range(start, stop, _GROUP):
            yield slice(first, min(first + _GROUP, stop))


def _n_bytes(encoded: Encoded) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in encoded)


class ShardedScorer:
    """A scorer whose tiles are made by several processes: each scores a share of the captions, all get the whole tile.

    Every process must ask for the same tiles in the same order, as `evaluate` does.
    """

    def __init__(self, scorer: ModelScorer, rank: int, world_size: int, device: torch.device | str = "cpu") -> None:
        """Share the work.

        Args:
            scorer: of this process.
            rank: of this process.
            world_size: how many there are.
            device: where the scorer's tiles are.
        """
        self.n_images, self.n_captions = scorer.n_images, scorer.n_captions
        self._scorer, self._rank, self._world_size, self._device = scorer, rank, world_size, torch.device(device)

    @torch.inference_mode()
    def __call__(self, rows: slice, columns: slice, /) -> Tensor:
        """The similarities of a tile, (rows.stop - rows.start, columns.stop - columns.start), on every process."""
        n_rows, n_columns = rows.stop - rows.start, columns.stop - columns.start
        share = -(-n_columns // self._world_size)
        start = min(columns.start + self._rank * share, columns.stop)
        mine = torch.zeros(n_rows, share, device=self._device)
        stop = min(start + share, columns.stop)
        if start < stop:
            mine[:, : stop - start] = self._scorer(rows, slice(start, stop))
        parts = [torch.empty_like(mine) for _ in range(self._world_size)]
        torch.distributed.all_gather(parts, mine)
        return torch.cat(parts, dim=1)[:, :n_columns]
