"""A folder of embeddings of a test set: what ``extract_embeddings`` writes, and reading it.

It holds ``images.npy`` (n_images, dim), ``captions.npy`` (n_captions, dim), ``caption_to_image.npy``, ``items.json``
(ids, names, files, texts) and, once all of it is there, ``embeddings.json`` (the model and its conditions). Of
token-level models the first two hold the vectors of all items one after the other, (total, dim), and
``images_offsets.npy`` (n_images + 1,) and ``captions_offsets.npy`` say where those of each begin.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from itm_fast.data.readers.fine_grained import read_fine_grained
from itm_fast.errors import DataError
from itm_fast.files.ids import Ids, read_ids
from itm_fast.files.reading import read_array, read_json
from itm_fast.metrics.positives import first_five
from itm_fast.ops.max_similarity import max_similarity
from itm_fast.similarities.ragged import PackedSimilarity, RaggedScorer, RaggedVectors
from itm_fast.similarities.scorers import DotProductScorer, IntArray

CARD, ITEMS, PROGRESS, OWNERS = "embeddings.json", "items.json", "progress.json", "caption_to_image.npy"
OFFSETS = {"images": "images_offsets.npy", "captions": "captions_offsets.npy"}
PER_TOKEN = "per_token"  # in the card
_FIRST_FIVE = ("coco-1k", "coco-5k")  # Karpathy's test images have 25,010 captions, of which these take 25,000
_BY_NAME = ("coco-fg", "coco-fg-originals", "flickr30k-fg", "flickr30k-fg-originals")
_BY_ID = ("eccv", "cxc", "cxc-image-text", "positives")


StoredVectors: TypeAlias = npt.NDArray[np.generic] | RaggedVectors


@dataclass(frozen=True, eq=False)
class EmbeddedSet:
    """Images and captions of a test set as unit vectors, one an item; of token-level models many an item.

    Attributes:
        folder: where they are.
        model: name of the model that made them.
        images: (n_images, dim) float32 or float16, memory-mapped; or ragged vectors.
        captions: (n_captions, dim) likewise; or ragged vectors.
        caption_to_image: int64 (n_captions,), the row of each caption's image.
        ids: of images and captions.
        image_names: (n_images,) file names.
        image_paths: (n_images,) the files that were encoded.
        texts: (n_captions,) the captions.
        notes: what a reader of figures should know, such as captions that were cut.
    """

    folder: Path
    model: str
    images: StoredVectors
    captions: StoredVectors
    caption_to_image: npt.NDArray[np.int64]
    ids: Ids
    image_names: list[str]
    image_paths: list[str]
    texts: list[str]
    notes: list[str]

    @property
    def dim(self) -> int:
        """Numbers a vector."""
        return _dim(self.images)

    @property
    def dtype(self) -> str:
        """Of the files."""
        return str(self.images.dtype)

    @property
    def per_token(self) -> bool:
        """Whether an item has many vectors, compared by late interaction."""
        return isinstance(self.images, RaggedVectors)

    def scorer(self, similarity: PackedSimilarity = max_similarity) -> DotProductScorer | RaggedScorer:
        """Dot products of every image and caption: cosines, as the command writes unit vectors.

        Args:
            similarity: of vectors a token, of which there are no single dot products.
        """
        if isinstance(self.images, RaggedVectors) and isinstance(self.captions, RaggedVectors):
            return RaggedScorer(self.images, self.captions, similarity=similarity)
        return DotProductScorer(*self.arrays("a dot product"))

    def arrays(self, purpose: str) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]:
        """Images (n_images, dim) and captions (n_captions, dim).

        Args:
            purpose: what needs one vector an item, to begin an error with.

        Raises:
            ValueError: an item has many vectors.
        """
        if isinstance(self.images, RaggedVectors) or isinstance(self.captions, RaggedVectors):
            raise ValueError(
                f"{purpose} needs one vector an item, but {self.folder} holds those of each token, by {self.model}"
            )
        return self.images, self.captions

    def references(self) -> list[list[str]]:
        """The captions of every image, for φ; those of a row in the order of their columns."""
        lists: list[list[str]] = [[] for _ in self.image_names]
        for text, image in zip(self.texts, self.caption_to_image.tolist(), strict=True):
            lists[image].append(text)
        return lists

    def of_protocol(self, protocol: str | None) -> EmbeddedSet:
        """The set, without captions beyond the first five of an image where the protocol has five."""
        counts = np.bincount(self.caption_to_image, minlength=len(self.images))
        if protocol not in _FIRST_FIVE or counts.min() < 5 or counts.max() == 5:  # too few: evaluate says so
            return self
        kept = first_five(self.caption_to_image, len(self.images)).tolist()
        caption_ids = self.ids.captions or ()
        return replace(
            self,
            captions=self.captions[kept],
            caption_to_image=self.caption_to_image[kept],
            ids=Ids(self.ids.images, [caption_ids[column] for column in kept]),
            texts=[self.texts[column] for column in kept],
            notes=[*self.notes, f"{len(self.texts) - len(kept)} captions beyond the first five of an image left out"],
        )

    def places(self, protocol: str | None, annotations: Path | None = None) -> tuple[Ids | None, IntArray | None]:
        """What ``evaluate`` takes as ``ids`` and as ``caption_to_image`` under a protocol.

        Raises:
            ValueError: under a fine-grained protocol, the captions are not those of its annotations, in their order.
        """
        if protocol in _BY_ID:
            return self.ids, None
        if protocol not in _BY_NAME:
            return None, self.caption_to_image
        refined = read_fine_grained(annotations, protocol.removesuffix("-originals")).captions
        if self.ids.captions != [f"{key}#{place}" for key, place in refined]:
            raise ValueError(
                f"{self.folder} does not hold the captions of protocol {protocol} in the order of its annotations: "
                "run itm-fast embed with the set's *_FG_ann.json as --captions and its *_FG_img_filenames.npy as "
                "--image-list"
            )
        return Ids(self.image_names), None


def read_embeddings(folder: str | Path) -> EmbeddedSet:
    """Read a folder of embeddings; the vectors stay on disk.

    Args:
        folder: written by ``extract_embeddings`` or ``itm-fast embed``.

    Raises:
        FileNotFoundError: there is no such folder, or a file is missing.
        DataError: the extraction was interrupted, a file is damaged, or they do not fit each other.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of embeddings; itm-fast embed writes one")
    if not (folder / CARD).is_file():
        if (folder / PROGRESS).is_file():
            raise DataError(f"{folder}: its embeddings are not complete; the same itm-fast embed again continues them")
        raise FileNotFoundError(f"{folder / CARD}: no such file; expected a folder that itm-fast embed wrote")
    card, items = read_json(folder / CARD), read_json(folder / ITEMS)
    ids = read_ids(folder / ITEMS)
    if not isinstance(card, dict) or not isinstance(card.get("notes", []), list):
        raise DataError(f"{folder / CARD}: not written by itm-fast embed; write it again with --restart")
    images, captions = (_stored(folder, kind, card.get(PER_TOKEN) is True) for kind in ("images", "captions"))
    owners = read_array(folder / OWNERS)
    names, paths, texts = (items.get(key) for key in ("image_names", "image_paths", "captions"))
    sizes = [*map(_length, (names, paths, texts)), len(ids.images), len(ids.captions or ()), _length(owners)]
    wanted = [*2 * [len(images)], len(captions), len(images), *2 * [len(captions)]]
    in_range = owners.dtype.kind == "i" and (not owners.size or 0 <= owners.min() <= owners.max() < len(images))
    if sizes != wanted or owners.ndim != 1 or not in_range or _dim(images) != _dim(captions):
        raise DataError(
            f"{folder}: {len(images)} images, {_dim(images)} wide, {len(captions)} captions, {_dim(captions)} wide, "
            f"{OWNERS} and {ITEMS} do not fit each other; write them again with itm-fast embed --restart"
        )
    model, notes = str(card.get("model")), list(card.get("notes", []))
    return EmbeddedSet(folder, model, images, captions, owners.astype(np.int64), ids, names, paths, texts, notes)


def _stored(folder: Path, kind: str, per_token: bool) -> StoredVectors:
    vectors = mapped(folder / f"{kind}.npy")
    if not per_token:
        return vectors
    offsets = read_array(folder / OFFSETS[kind])
    try:
        if offsets.dtype != np.int64:
            raise ValueError(f"{offsets.dtype}, expected int64")
        return RaggedVectors(vectors, offsets.astype(np.int64))
    except ValueError as error:
        raise DataError(f"{folder / OFFSETS[kind]}: {error}; write them again with itm-fast embed --restart") from error


def _dim(vectors: StoredVectors) -> int:
    return vectors.dim if isinstance(vectors, RaggedVectors) else int(vectors.shape[1])


def mapped(path: Path, *, writable: bool = False) -> npt.NDArray[np.generic]:
    """A memory-mapped (n, dim) array; DataError if it is anything else, or cut short."""
    array: Any = read_array(path, mapped=True)  # r+ alone would fill up with zeros what was cut off
    if writable:
        array = np.lib.format.open_memmap(path, mode="r+")
    if array.ndim != 2 or array.dtype not in (np.float32, np.float16):
        raise DataError(f"{path}: {array.dtype} of shape {array.shape}, expected float32 or float16 (n, dim)")
    found: npt.NDArray[np.generic] = array
    return found


def _length(items: object) -> int:
    is_list = isinstance(items, list) and all(isinstance(item, str) for item in items)
    return len(items) if is_list or (isinstance(items, np.ndarray) and items.ndim == 1) else -1  # type: ignore[arg-type]
