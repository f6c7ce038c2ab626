"""Tokens of a backbone that never trains, made once: extracted into a memory map, continued where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from itm_fast.choices import Precision
from itm_fast.data.readers.image_file import stored_size
from itm_fast.data.readers.images import ImageDataset
from itm_fast.data.readers.token_file import TokenDataset
from itm_fast.errors import DataError
from itm_fast.files.reading import read_json
from itm_fast.files.writing import written_aside
from itm_fast.sources.devices import in_precision

_BATCH = 64
_SHARES = 10  # of the work, after each of which something is said


def tokens_of_split(
    tower: nn.Module,
    dataset: ImageDataset,
    folder: Path,
    *,
    settings: Mapping[str, Any],
    device: torch.device,
    precision: Precision,
    may_extract: bool,
    notice: Callable[[str], None],
) -> TokenDataset:
    """The split with the tokens of its images, from `folder` as far as they are there.

    Interrupted at any moment, it loses one batch at most, and goes on from there.

    Args:
        tower: With its weights, on `device`; makes (n, n_tokens, dim) of pixels.
        dataset: Images; they are read as they are, without crops and mirrors.
        folder: Gets {split}_tokens.npy and {split}_tokens.json; made if need be.
        settings: What else the tokens depend on.
        device: Where the tower is.
        precision: Of its products.
        may_extract: Whether what is missing may be made here, by this process alone.
        notice: Called with what people should read.

    Raises:
        DataError: The folder holds tokens of other images, of another backbone or other settings; an image is broken.
        ValueError: Tokens are missing and must not be made here, or do not fit float16.
        OSError: The disk has too little room.
    """
    stem = folder / f"{dataset.split}_tokens"
    path, card, part = (stem.with_name(stem.name + end) for end in (".npy", ".json", ".part.npy"))
    conditions = {"backbone": _digest_of(tower), "images": _digest_of_files(dataset), **settings}
    conditions |= {"precision": precision, "image_size": dataset.image_size, "resampling": dataset.resampling}
    done = _rows_done(card, conditions)
    if not path.is_file() or done < dataset.n_images:
        if not may_extract:
            raise ValueError(
                f"cache_tokens {folder}: {done} of {dataset.n_images} images of split {dataset.split!r} are there; let "
                "one process extract them first: start the run without torchrun, and stop it once it trains"
            )
        folder.mkdir(parents=True, exist_ok=True)
        _extract(tower, dataset, part, card, conditions, done if part.is_file() else 0, device, precision, notice)
        os.replace(part, path)
    return TokenDataset(dataset, path)


@torch.inference_mode()
def _extract(
    tower: nn.Module,
    dataset: ImageDataset,
    part: Path,
    card: Path,
    conditions: Mapping[str, Any],
    done: int,
    device: torch.device,
    precision: Precision,
    notice: Callable[[str], None],
) -> None:
    """Write batch after batch, each saved before it is counted."""
    tower.eval()
    n, array = dataset.n_images, None
    for start in range(done, n, _BATCH):
        rows = np.arange(start, min(start + _BATCH, n))
        with in_precision(device, precision):
            tokens = tower(dataset.regions(rows).to(device)).float().cpu().numpy()
        if not (np.abs(tokens) <= np.finfo(np.float16).max).all():  # NaN is not below either
            raise ValueError(f"the backbone's tokens of images {rows[0]} to {rows[-1]} are no numbers of float16")
        if array is None:
            array = _opened(part, (n, *tokens.shape[1:]), is_begun=done > 0)
            if done == 0:
                notice(
                    f"tokens of {n} images of {dataset.split} are extracted to {part.parent}: {array.nbytes:,} bytes"
                )
        array[rows] = tokens
        array.flush()
        with written_aside(card) as aside:
            aside.write_text(json.dumps({"conditions": dict(conditions), "rows": int(rows[-1]) + 1}), encoding="utf-8")
        if _SHARES * (rows[-1] + 1) // n > _SHARES * start // n:
            notice(f"tokens of {dataset.split}: {rows[-1] + 1} of {n} images")


def _opened(part: Path, shape: tuple[int, ...], *, is_begun: bool) -> np.memmap[Any, np.dtype[np.float16]]:
    if is_begun:
        array = np.load(part, mmap_mode="r+", allow_pickle=False)
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


def _rows_done(card: Path, conditions: Mapping[str, Any]) -> int:
    """Images whose tokens are there, if they are those that are wanted."""
    if not card.is_file():
        return 0
    found = read_json(card)
    try:
        then, rows = dict(found["conditions"]), int(found["rows"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{card}: not the card of a cache of tokens: {error}") from error
    changed = sorted(name for name in {*then, *conditions} if then.get(name) != conditions.get(name))
    if changed:
        raise DataError(
            f"{card}: holds tokens made with another {', another '.join(changed)}; name another folder as "
            "--cache-tokens, or delete this one"
        )
    return rows


def _digest_of(tower: nn.Module) -> str:
    """SHA-256 of all weights by name."""
    digest = hashlib.sha256()
    for name, value in sorted(tower.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _digest_of_files(dataset: ImageDataset) -> str:
    """SHA-256 of the names and sizes of the images, in order."""
    files = [(path.name, stored_size(path)) for path in dataset.paths]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()
