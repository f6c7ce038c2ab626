"""Tokens of encoders that never train, made once: extracted into memory maps, continued where they stopped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from itm_fast.choices import Precision
from itm_fast.data.readers.image_file import stored_size
from itm_fast.data.readers.images import ImageDataset
from itm_fast.data.readers.token_file import TokenDataset
from itm_fast.data.text.caption_states import CaptionStates
from itm_fast.data.text.caption_tokens import CaptionTokens
from itm_fast.errors import DataError
from itm_fast.files.reading import read_array, read_json
from itm_fast.files.writing import written_aside
from itm_fast.nn.encoders.bert import BERTEncoder
from itm_fast.sources.devices import in_precision

_BATCH = 64
_SAMPLE = 4096  # bytes of each image file that are looked at
_SHARES = 10  # of the work, after each of which something is said

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TokenCache:
    """A folder of tokens, and how what it lacks is made.

    Interrupted at any moment, an extraction loses one batch at most, and goes on from there.

    Attributes:
        folder: Gets files of every split; made if need be.
        device: Where the encoders are.
        precision: Of their products.
        may_extract: Whether what is missing may be made here, by this process alone.
        notice: Called with what people should read.
    """

    folder: Path
    device: torch.device
    precision: Precision
    may_extract: bool
    notice: Callable[[str], None]

    def of_images(self, tower: nn.Module, dataset: ImageDataset, settings: Mapping[str, Any]) -> TokenDataset:
        """The split with the tokens of its images, in {split}_tokens.npy.

        Args:
            tower: With its weights, on the device; makes (n, n_tokens, dim) of pixels.
            dataset: Images; they are read as they are, without crops and mirrors.
            settings: What else the tokens depend on.

        Raises:
            DataError: The folder holds tokens of other images, another backbone or other settings; an image is broken.
            ValueError: Tokens are missing and must not be made here, or do not fit float16.
            OSError: The disk has too little room.
        """
        path = self.folder / f"{dataset.split}_tokens.npy"
        conditions = {"backbone": _digest_of(tower), "images": _digest_of_files(dataset), **settings}
        conditions |= {"image_size": dataset.image_size, "resampling": dataset.resampling}

        def made(rows: Ints) -> Tensor:
            tokens: Tensor = tower(dataset.regions(rows).to(self.device))
            return tokens

        self._fill(path, f"images of {dataset.split}", conditions, np.arange(dataset.n_images + 1), tower, made)
        return TokenDataset(dataset, path)

    def of_captions(
        self, encoder: BERTEncoder, tokens: CaptionTokens, split: str, settings: Mapping[str, Any]
    ) -> CaptionStates:
        """The captions of a split with the states of their tokens, one after another in {split}_captions.npy.

        Args:
            encoder: With its weights, on the device.
            tokens: All captions of the split.
            split: Its name.
            settings: What else the states depend on.

        Raises:
            DataError: The folder holds states of other captions, of another encoder or other settings.
            ValueError: States are missing and must not be made here, or do not fit float16.
            OSError: The disk has too little room.
        """
        path, offsets_path = (self.folder / f"{split}_captions{end}.npy" for end in ("", "_offsets"))
        ids = hashlib.sha256(tokens.offsets.tobytes() + tokens.flat.tobytes()).hexdigest()
        conditions = {"text_encoder": _digest_of(encoder.bert), "captions": ids, **settings}

        def made(rows: Ints) -> Tensor:
            ids, counts = (x.to(self.device) for x in tokens.pad(rows))
            valid = torch.arange(ids.shape[1], device=self.device) < counts[:, None]
            return encoder.states(ids, valid)[valid]

        def write_offsets() -> None:
            with written_aside(offsets_path) as aside, aside.open("wb") as file:
                np.save(file, tokens.offsets)

        self._fill(path, f"captions of {split}", conditions, tokens.offsets, encoder, made, write_offsets)
        return CaptionStates(tokens.flat, tokens.offsets, tokens.n_attached_stops, path=path, offsets_path=offsets_path)

    def _fill(
        self,
        path: Path,
        what: str,
        conditions: Mapping[str, Any],
        offsets: Ints,
        encoder: nn.Module,
        made: Callable[[Ints], Tensor],
        before_renaming: Callable[[], None] = lambda: None,
    ) -> None:
        """See to it that a file is there and whole.

        Args:
            path: It; float16 (offsets[-1], ...), and .json beside it says what it is of, and how far it goes.
            what: It is of, for people.
            conditions: What its content depends on.
            offsets: (n + 1,), first row of each item.
            encoder: Is to be in evaluation mode.
            made: The rows of some items, numbered.
            before_renaming: Called once all rows are written.
        """
        card, part = path.with_suffix(".json"), path.with_suffix(".part.npy")
        conditions = {**conditions, "precision": self.precision}
        n = len(offsets) - 1
        done = _items_done(card, conditions, n)
        if path.is_file() and done == n:
            return
        if not self.may_extract:
            raise ValueError(
                f"cache_tokens {self.folder}: {done} of {n} {what} are there; let one process extract them first: "
                "start the run without torchrun, and stop it once it trains"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        encoder.eval()
        self._extract(part, card, what, conditions, offsets, done if part.is_file() else 0, made)
        before_renaming()
        os.replace(part, path)

    @torch.inference_mode()
    def _extract(
        self,
        part: Path,
        card: Path,
        what: str,
        conditions: Mapping[str, Any],
        offsets: Ints,
        done: int,
        made: Callable[[Ints], Tensor],
    ) -> None:
        """Write batch after batch, each saved before it is counted."""
        n, array = len(offsets) - 1, None
        for start in range(done, n, _BATCH):
            items = np.arange(start, min(start + _BATCH, n))
            stop = int(items[-1]) + 1
            with in_precision(self.device, self.precision):
                rows = made(items).float().cpu().numpy()
            if not (np.abs(rows) <= np.finfo(np.float16).max).all():  # NaN is not below either
                raise ValueError(f"the tokens of {what}, {start} to {stop - 1}, are no numbers of float16")
            if array is None:
                array = _opened(part, (int(offsets[-1]), *rows.shape[1:]), is_begun=done > 0)
                if done == 0:
                    self.notice(f"tokens of {n} {what} are extracted to {self.folder}: {array.nbytes:,} bytes")
            array[offsets[start] : offsets[stop]] = rows
            array.flush()
            with written_aside(card) as aside:
                aside.write_text(json.dumps({"conditions": dict(conditions), "rows": stop}), encoding="utf-8")
            if _SHARES * stop // n > _SHARES * start // n:
                self.notice(f"tokens: {stop} of {n} {what}")


def _opened(part: Path, shape: tuple[int, ...], *, is_begun: bool) -> np.memmap[Any, np.dtype[np.float16]]:
    if is_begun:
        read_array(part, mapped=True)  # r+ alone would fill up with zeros what was cut off
        array = np.lib.format.open_memmap(part, mode="r+")
        if array.shape != shape or array.dtype != np.float16:
            raise DataError(f"{part}: {array.dtype} {array.shape}; expected float16 {shape}: delete it to begin anew")
        begun: np.memmap[Any, np.dtype[np.float16]] = array
        return begun
    n_bytes, free = 2 * int(np.prod(shape)), shutil.disk_usage(part.parent).free
    if n_bytes > free:  # a memory-mapped write would end in a bus error
        raise OSError(28, f"{n_bytes} bytes of tokens to write, {free} free", str(part.parent))
    made: np.memmap[Any, np.dtype[np.float16]] = np.lib.format.open_memmap(
        part, mode="w+", dtype=np.float16, shape=shape
    )
    return made


def _items_done(card: Path, conditions: Mapping[str, Any], n: int) -> int:
    """Images or captions, of n, whose tokens are there, if they are those that are wanted."""
    if not card.is_file():
        return 0
    found = read_json(card)
    then, rows = (found.get(key) for key in ("conditions", "rows")) if isinstance(found, dict) else (None, None)
    if not isinstance(then, dict) or type(rows) is not int or rows < 0:
        raise DataError(f"{card}: not the card of a cache of tokens; delete it to begin anew")
    changed = sorted(name for name in {*then, *conditions} if then.get(name) != conditions.get(name))
    if changed:
        raise DataError(
            f"{card}: holds tokens made with another {', another '.join(changed)}; name another folder as "
            "--cache-tokens, or delete this one"
        )
    if rows > n:
        raise DataError(f"{card}: says that {rows} of {n} are there; delete it to begin anew")
    return rows


def _digest_of(tower: nn.Module) -> str:
    """SHA-256 of all weights by name."""
    digest = hashlib.sha256()
    for name, value in sorted(tower.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _digest_of_files(dataset: ImageDataset) -> str:
    """SHA-256 of the names and sizes of the images, in order, and of what is in the middle of each that is a file."""
    digest = hashlib.sha256()
    for file in dataset.paths:
        size = stored_size(file)
        digest.update(f"{file.name} {size}\n".encode())
        if isinstance(file, Path):  # sizes alone are equal of all uncompressed images
            with file.open("rb") as opened:
                opened.seek(max(0, (size - _SAMPLE) // 2))
                digest.update(opened.read(_SAMPLE))
    return digest.hexdigest()
