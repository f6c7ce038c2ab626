"""A trained model as a source of similarities: encoded in batches, kept while it fits, scored tile by tile."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from itm_fast.choices import Precision
from itm_fast.data.readers.precomp import CAPTIONS_PER_IMAGE, CaptionedSplit
from itm_fast.data.text.caption_tokens import CaptionTokens
from itm_fast.data.text.caption_vocabulary import tokenizer_note
from itm_fast.data.text.tokenizers import Tokenizer
from itm_fast.indices import distinct_numbers
from itm_fast.similarities.scorers import DotProductScorer, IntArray
from itm_fast.similarities.tiles import Progress
from itm_fast.sources.asked_split import AskedSplit
from itm_fast.sources.devices import in_precision
from itm_fast.sources.fitting import check_has_regions, check_lengths
from itm_fast.sources.model_protocols import IsTold, KnowsCounts, RetrievalModel, ScoresCandidates
from itm_fast.sources.packed_captions import PackedCaptions

_GROUP = 512  # captions of an image scored at a time: enough to fill the tiles of an operator


Encoded = tuple[Tensor, ...]


class ModelScorer:
    """Tiles of the similarity matrix of a model and a data set.

    Encoded batches are kept, least recently used dropped first; ``cache_bytes`` should hold the images and captions of
    one tile at least, or they are encoded again within it. Nothing of size n_images x n_captions is made.

    Attributes:
        notes: what a reader of figures should know.
        warnings: of these, without how many words the vocabulary lacks where they are few.
    """

    def __init__(
        self,
        model: RetrievalModel,
        dataset: CaptionedSplit,
        *,
        tokenizer: Tokenizer | None = None,
        tokens: CaptionTokens | None = None,
        batch_size: int = 128,
        cache_bytes: int = 2 << 30,
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
    ) -> None:
        """Tokenise the captions; nothing is encoded yet.

        Args:
            model: a model in evaluation mode, on ``device``.
            dataset: the split to score.
            tokenizer: what splits the captions; None: what the model's vocabulary is kept with, or nltk.
            tokens: the captions of ``dataset`` as already encoded with it; None encodes them now.
            batch_size: images, and captions, encoded and scored at a time.
            cache_bytes: bound of the encoded batches kept.
            device: where the model is.
            precision: of its matrix products, by autocast; similarities are at least float32.

        Raises:
            ValueError: a model in training mode (drop-out would make the scores random), a batch_size below 1; a model
                that attends to regions where ``dataset`` has one vector an image.
            DataError: a caption is longer than what the model can encode.
        """
        if isinstance(model, torch.nn.Module) and model.training:
            raise ValueError("model is in training mode, expected evaluation mode: call model.eval() first")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        check_has_regions(model, dataset)
        self.n_images, self.n_captions = dataset.n_images, dataset.n_captions
        self.dataset = dataset
        self._model, self._device, self._precision = model, torch.device(device), precision
        self._tokens = tokens or _tokens_of(model, dataset.captions, tokenizer)
        check_lengths(model, self._tokens, dataset)
        self._labels = _labels_of(model, dataset, tokenizer)
        self._is_completed = self._labels is None or not cast(IsTold, model).completes_labels
        unknown = self._tokens.unknown_note(model.vocabulary)
        split, run = tokenizer_note(model.vocabulary, tokenizer), _precision_note(self._device, precision)
        of_data, of_model = getattr(dataset, "notes", ()), getattr(model, "notes", ())
        self.warnings = [*of_data, *of_model, *(note for note in (split, unknown, run) if note is not None)]
        counted = unknown or f"{self._tokens.unknown_words(model.vocabulary)}."
        self.notes = [*of_data, *of_model, *(note for note in (split, counted, run) if note is not None)]
        self._batch_size, self._tokenizer = batch_size, tokenizer
        self._cache_bytes = cache_bytes
        self._cache = _Cache(cache_bytes)

    @torch.inference_mode()
    def __call__(self, rows: slice, columns: slice, /) -> Tensor:
        """The similarities of a tile, (rows.stop - rows.start, columns.stop - columns.start)."""
        bands = []
        for image_batch, image_part in self._batches(rows):
            regions, region_counts = self._images(image_batch)
            some_counts = None if region_counts is None else region_counts[image_part]
            tiles = []
            for caption_batch, caption_part in self._batches(columns):
                words, word_counts = self._cache.get(("caption", caption_batch), self._encode_captions)
                captions = words[caption_part], word_counts[caption_part]
                tiles.append(self._similarity(regions[image_part], *captions, some_counts))
            bands.append(torch.cat(tiles, dim=1))
        return torch.cat(bands)

    @property
    def owners(self) -> IntArray | None:
        """(n_captions,) int64, the image of each caption, unless they are five an image: what `evaluate` goes by."""
        owners: IntArray | None = getattr(self.dataset, "caption_to_image", None)
        is_usual = getattr(self.dataset, "captions_per_image", None) == CAPTIONS_PER_IMAGE
        return None if is_usual else owners

    def asking(self, captions: Sequence[str]) -> ModelScorer:
        """The same model and images with other captions, such as what somebody searches for.

        Raises:
            DataError: a caption is longer than what the model can encode.
        """
        return ModelScorer(
            self._model,
            cast(CaptionedSplit, AskedSplit(self.dataset, captions)),
            tokenizer=self._tokenizer,
            batch_size=self._batch_size,
            cache_bytes=self._cache_bytes,
            device=self._device,
            precision=self._precision,
        )

    @property
    def model(self) -> RetrievalModel:
        """The model that scores."""
        return self._model

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
        regions, region_counts = self._images(image_batch)
        n_regions = None if region_counts is None else int(region_counts[image_place])
        words, word_counts = self._cache.get(("caption", caption_batch), self._encode_captions)
        (ids,) = self._tokens.pad([caption])[0].tolist()
        tokens = tuple(self._model.vocabulary.token(index) for index in ids)
        return regions[image_place, :n_regions], words[caption_place, : int(word_counts[caption_place])], tokens

    @torch.inference_mode()
    def score_pairs(self, rows: IntArray, columns: IntArray, progress: Progress | None = None, /) -> Tensor:
        """The similarities of some pairs only: of each image with its captions.

        A model that has `similarity_of_candidates` scores lists of captions where they lie. Of others the captions of
        an image are gathered into a tile, where a pair costs two to four times what it costs in a whole one.

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
        for captions, block in self._caption_blocks(distinct_numbers(columns)):
            place = np.full(self.n_captions, -1)
            place[captions] = np.arange(len(captions))
            inside = np.flatnonzero(place[columns] >= 0)
            # By image, then by length: a tile is as wide as its longest caption.
            inside = inside[np.lexsort((place[columns[inside]], rows[inside]))]
            if hasattr(self._model, "similarity_of_candidates"):
                for pairs in np.split(inside, np.flatnonzero(np.diff(rows[inside] // self._batch_size)) + 1):
                    scores[torch.from_numpy(pairs)] = self._of_lists(rows[pairs], place[columns[pairs]], block)
                    done += len(pairs)
                    if progress is not None:
                        progress(done, len(rows))
                continue
            for some in _groups(rows[inside]):
                pairs = inside[some]
                batch, number = divmod(int(rows[pairs[0]]), self._batch_size)
                regions, region_counts = self._images(batch)
                words, word_counts = block.take(place[columns[pairs]])
                one = slice(number, number + 1)
                count = None if region_counts is None else region_counts[one]
                sims = self._similarity(regions[one], words, word_counts, count)
                scores[torch.from_numpy(pairs)] = sims[0].to(scores)
                done += len(pairs)
                if progress is not None:
                    progress(done, len(rows))
        return scores

    def _of_lists(self, rows: IntArray, places: IntArray, block: PackedCaptions) -> Tensor:
        """(n,) of images of one batch, ascending, with captions of a block."""
        if not len(rows):
            return torch.zeros(0)
        batch = int(rows[0]) // self._batch_size
        regions, region_counts = self._images(batch)
        numbers = rows - batch * self._batch_size
        starts = np.searchsorted(numbers, np.arange(len(regions)))
        columns = np.arange(len(rows)) - starts[numbers]
        candidates = np.full((len(regions), int(columns.max()) + 1), -1)
        candidates[numbers, columns] = places
        lists = torch.from_numpy(candidates).to(regions.device)
        model = cast(ScoresCandidates, self._model)
        with in_precision(self._device, self._precision):
            sims = model.similarity_of_candidates(regions, block.packed(), lists, region_counts)
        return sims.float().cpu()[torch.from_numpy(numbers), torch.from_numpy(columns)]

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

    def _images(self, batch: int) -> tuple[Tensor, Tensor | None]:
        """A batch of encoded images, and how many regions of each are there; None: all."""
        regions, *region_counts = self._cache.get(("image", batch), self._encode_images)
        return regions, region_counts[0] if region_counts else None

    def _encode_images(self, batch: int) -> Encoded:
        indices = self._indices(batch, self.n_images)
        images, region_counts = _counted_regions(self.dataset, indices)
        with in_precision(self._device, self._precision):
            if region_counts is None:
                return (self._model.encode_images(images.to(self._device)),)
            images = images[:, : int(region_counts.max())].to(self._device)
            region_counts = region_counts.to(self._device)
            return cast(KnowsCounts, self._model).encode_images(images, region_counts), region_counts

    def _similarity(self, regions: Tensor, words: Tensor, word_counts: Tensor, region_counts: Tensor | None) -> Tensor:
        with in_precision(self._device, self._precision):
            if region_counts is None:
                return self._model.similarity(regions, words, word_counts)
            return cast(KnowsCounts, self._model).similarity(regions, words, word_counts, region_counts)

    def _encode_captions(self, batch: int) -> Encoded:
        return self._encode_some(np.array(self._indices(batch, self.n_captions)))

    def _encode_some(self, captions: IntArray) -> tuple[Tensor, Tensor]:
        if not self._is_completed:
            self._complete_labels()
        return self._encode_labelled(captions)

    def _encode_labelled(self, captions: IntArray) -> tuple[Tensor, Tensor]:
        tokens, word_counts = self._tokens.pad(captions)
        states = self._tokens.states(captions)
        tokens, word_counts = (x.to(self._device) for x in (tokens if states is None else states, word_counts))
        with in_precision(self._device, self._precision):
            if self._labels is None:
                return self._model.encode_captions(tokens, word_counts), word_counts
            labels = self._labels.pad(captions)[0].to(self._device)
            return cast(IsTold, self._model).encode_captions(tokens, word_counts, None, labels), word_counts

    def _complete_labels(self) -> None:
        """Encode everything once with the labels that captions have by themselves."""
        n_batches = (-(-n // self._batch_size) for n in (self.n_images, self.n_captions))
        of_images, of_captions = (range(n) for n in n_batches)
        images = torch.cat([self._encode_images(batch)[0] for batch in of_images])
        own = [np.array(self._indices(batch, self.n_captions)) for batch in of_captions]
        captions = torch.cat([self._encode_labelled(some)[0] for some in own])
        told = cast(IsTold, self._model)
        self._labels = told.complete_labels(cast(CaptionTokens, self._labels), images, captions)
        self._is_completed = True


def _precision_note(device: torch.device, precision: Precision) -> str | None:
    if precision == "float32":
        return None
    return f"The model ran in {precision} (autocast) on {device}: its figures differ a little from those in float32."


def _tokens_of(model: RetrievalModel, captions: Sequence[str], tokenizer: Tokenizer | None) -> CaptionTokens:
    tokens_of = getattr(model, "tokens_of", None)
    if tokens_of is None:
        return CaptionTokens.from_captions(captions, model.vocabulary, tokenizer)
    tokens: CaptionTokens = tokens_of(captions, tokenizer)
    return tokens


def _labels_of(model: RetrievalModel, dataset: CaptionedSplit, tokenizer: Tokenizer | None) -> CaptionTokens | None:
    if not hasattr(model, "labels_of"):
        return None
    told = cast(IsTold, model)
    labels = told.labels_of(dataset.captions, tokenizer)
    if not told.reads_image_tokens(training=False):
        return labels
    return labels.by_image(dataset.caption_to_image, dataset.n_images).take(dataset.caption_to_image)


def _counted_regions(dataset: CaptionedSplit, indices: range) -> tuple[Tensor, Tensor | None]:
    read = getattr(dataset, "counted_regions", None)  # a data set of somebody else's may only have regions
    return (dataset.regions(indices), None) if read is None else read(indices)


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
