"""Embeddings of a test set, extracted in batches into memory maps and continued where they were interrupted."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from itm_fast.data.readers.captioned_images import CaptionedImages
from itm_fast.data.readers.image_file import ImageFile, stored_size
from itm_fast.data.readers.image_places import find_images
from itm_fast.errors import DataError
from itm_fast.files.reading import read_json
from itm_fast.files.writing import written_aside
from itm_fast.ops import _checks
from itm_fast.sources.embedders.encoder import Encoded, Encoder, Inputs
from itm_fast.sources.embedding_files import (
    CARD,
    ITEMS,
    OFFSETS,
    OWNERS,
    PER_TOKEN,
    PROGRESS,
    EmbeddedSet,
    read_embeddings,
)
from itm_fast.sources.stored_rows import Batch, EmbedProgress, RaggedRows, VectorRows

StoredDtype: TypeAlias = Literal["float32", "float16"]

_LAST_BITS = ("batch_size", "caption_batch_size", "device", "libraries")  # all that they change
_ROWS = {False: VectorRows, True: RaggedRows}
_IN_WORDS = {"model": "files of the model", "inputs": "images or captions", "sizes": "image files"}


def extract_embeddings(
    encoder: Encoder,
    items: CaptionedImages,
    images_folders: Sequence[str | Path],
    folder: str | Path,
    *,
    batch_size: int = 64,
    caption_batch_size: int = 256,
    stored_dtype: StoredDtype | None = None,
    workers: int = 4,
    restart: bool = False,
    progress: EmbedProgress | None = None,
) -> EmbeddedSet:
    """Encode every caption and image once, into a folder for ``itm-fast evaluate --embeddings`` and others.

    Interrupted at any moment, even by kill -9, it loses one batch at most: the same call continues, and ends with the
    same bytes on the same machine. Rows are in the order of ``items``. A folder that is complete is left as it is.

    Args:
        encoder: the model.
        items: images and captions.
        images_folders: where the image files are; none where ``items`` holds its images itself, as parquet and tar do.
        folder: to write to; made if it is not there.
        batch_size: images encoded at a time.
        caption_batch_size: captions encoded at a time, those of similar length together.
        stored_dtype: of the files; float16 keeps 11 bits of each number. None: float32, or, of a vector a token, of
            which there are a thousand an image, float16.
        workers: batches of images read ahead, each in a thread.
        restart: replace what is in the folder, even if it is of another model or other inputs.
        progress: called with ("captions" or "images", done, total) of what this call has to do.

    Returns:
        The embeddings.

    Raises:
        FileNotFoundError: images are missing, which is found before anything is encoded.
        DataError: an image is broken (what comes before it is kept); the folder holds something else.
        ValueError: sizes below 1; vectors that are not finite, or of two different spaces.
    """
    for name, size in (("batch_size", batch_size), ("caption_batch_size", caption_batch_size), ("workers", workers)):
        if size < 1:
            raise ValueError(f"{name} is {size}, expected at least 1")
    if stored_dtype is None:
        stored_dtype = "float16" if encoder.per_token else "float32"
    _checks.check_choice("stored_dtype", stored_dtype, StoredDtype)
    if not items.captions:
        raise ValueError("items has no captions, expected at least one")
    folder = Path(folder)
    paths = find_images(items, images_folders)
    conditions = {
        "model": encoder.digest(),
        "library": encoder.library,
        "inputs": _digest(json.dumps([items.image_names, items.captions, items.caption_to_image.tolist()]).encode()),
        "dtype": encoder.dtype,
        "stored_dtype": stored_dtype,
        "batch_size": batch_size,
        "caption_batch_size": caption_batch_size,
        "device": encoder.device.type,
        "libraries": encoder.libraries(),
    }
    state = _State(folder, conditions, np.array([stored_size(path) for path in paths], dtype=np.int64), restart)
    if state.is_complete:
        (folder / PROGRESS).unlink(missing_ok=True)
        return read_embeddings(folder)
    counts = np.array(encoder.token_counts(items.captions), dtype=np.int64)
    # Longest first: what does not fit the memory fails at once, and little is spent on padding. Vectors a token lie one
    # after the other, in the order of the items.
    order = np.arange(len(counts)) if encoder.per_token else np.argsort(-counts, kind="stable")
    batches, rows = _batches(order, caption_batch_size, state.rows["captions"]), _ROWS[encoder.per_token]
    captions = rows(state, "captions", len(order), stored_dtype)
    encoded: Iterator[tuple[Batch, Encoded]] = (
        (batch, encoder.encode_captions([items.captions[row] for row in batch])) for batch in batches
    )
    captions.fill(encoded, items.captions, progress)
    images = rows(state, "images", len(paths), stored_dtype, dim=captions.dim)
    batches = _batches(np.arange(len(paths)), batch_size, state.rows["images"])
    prepared = _read_ahead(lambda batch: encoder.prepare_images([paths[row] for row in batch]), batches, workers)
    encoded = ((batch, encoder.encode_images(inputs)) for batch, inputs in prepared)
    images.fill(encoded, [str(path) for path in paths], progress)
    notes = [*items.notes, *_cut_note(counts, encoder.context_length)]
    state.finish(encoder, items, paths, notes)
    return read_embeddings(folder)


class _State:
    """How far an extraction is, beside the arrays; refuses a folder that holds something else."""

    def __init__(self, folder: Path, conditions: dict[str, Any], sizes: npt.NDArray[np.int64], restart: bool) -> None:
        self.folder, self.conditions, self.sizes = folder, conditions, sizes
        self.rows = {"captions": 0, "images": 0}
        self.is_complete = False
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file, expected a folder to write to")
        ours = [folder / name for name in (CARD, PROGRESS) if (folder / name).is_file()]
        if restart:
            for path in (*ours, *(folder / name for name in OFFSETS.values())):
                path.unlink(missing_ok=True)
        elif ours:
            self._continue(ours[0])
        elif folder.is_dir() and not all(path.name.startswith(".") for path in folder.iterdir()):
            raise DataError(f"{folder} holds files, but no embeddings to continue; name a new folder")
        if not self.is_complete:
            folder.mkdir(parents=True, exist_ok=True)
            _write_json(folder / PROGRESS, self._content())

    def _continue(self, path: Path) -> None:
        found = read_json(path)
        try:
            rows = {kind: int(found["rows"][kind]) for kind in self.rows}
            then, sizes = {"library": "transformers", **found["conditions"]}, found["sizes"]
        except (KeyError, TypeError, ValueError, OverflowError) as error:  # int(Infinity)
            raise DataError(f"{path}: not written by itm-fast embed: {error}; replace it with --restart") from error
        self.is_complete = path.name == CARD
        if not any(rows.values()):  # nothing to lose
            return
        now = self.conditions
        differing = [key for key in now if then.get(key) != now[key] and not (self.is_complete and key in _LAST_BITS)]
        told = [_IN_WORDS.get(key) or f"{key} (there {then.get(key)}, now {now[key]})" for key in differing]
        if "inputs" not in differing and sizes != self._sizes(rows["images"]):
            told.append(_IN_WORDS["sizes"])
        if told:
            raise DataError(
                f"{self.folder} holds embeddings of something else, with other {', '.join(told)}; name another folder, "
                "or replace them with --restart"
            )
        self.rows = rows

    def save(self, kind: str, rows: int) -> None:
        """Say that the first batches, so many rows, are in the array."""
        self.rows[kind] = rows
        _write_json(self.folder / PROGRESS, self._content())

    def finish(self, encoder: Encoder, items: CaptionedImages, paths: list[ImageFile], notes: list[str]) -> None:
        """Write what lies beside the arrays, the card last."""
        with written_aside(self.folder / OWNERS) as aside, aside.open("wb") as file:
            np.save(file, items.caption_to_image)
        named = zip(paths, items.image_names, strict=True)
        content = {
            "image_ids": items.image_ids,
            "caption_ids": items.caption_ids,
            "image_names": [path.name if isinstance(path, Path) else name for path, name in named],
            "image_paths": [str(path.absolute() if isinstance(path, Path) else path) for path in paths],
            "captions": items.captions,
        }
        _write_json(self.folder / ITEMS, content)
        card = {"model": encoder.name, PER_TOKEN: encoder.per_token, "notes": notes}
        _write_json(self.folder / CARD, {**card, **self._content()})
        (self.folder / PROGRESS).unlink(missing_ok=True)

    def _content(self) -> dict[str, Any]:
        return {"conditions": self.conditions, "rows": self.rows, "sizes": self._sizes(self.rows["images"])}

    def _sizes(self, n_images: int) -> str:
        """Of the image files that were read: another folder with the same names is another input."""
        return _digest(self.sizes[:n_images].tobytes())


def _batches(order: Batch, size: int, done: int) -> list[Batch]:
    """The batches that are still to do; their bounds are those of an extraction that was never interrupted."""
    return [order[start : start + size] for start in range(done, len(order), size)]


def _read_ahead(
    read: Callable[[Batch], Inputs], batches: Iterable[Batch], workers: int
) -> Iterator[tuple[Batch, Inputs]]:
    """Batches in order, with as many being read as there are workers while one is used."""
    waiting: deque[tuple[Batch, Future[Inputs]]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for batch in batches:
            waiting.append((batch, pool.submit(read, batch)))
            if len(waiting) > workers:
                first, inputs = waiting.popleft()
                yield first, inputs.result()
        while waiting:
            first, inputs = waiting.popleft()
            yield first, inputs.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _cut_note(counts: npt.NDArray[np.int64], context_length: int | None) -> list[str]:
    n_cut = 0 if context_length is None else int((counts > context_length).sum())
    if not n_cut:
        return []
    return [f"{n_cut} of {len(counts)} captions were cut at {context_length} tokens, the model's context"]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with written_aside(path) as aside:
        aside.write_text(json.dumps(content), encoding="utf-8")
