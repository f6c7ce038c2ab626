"""What an encoder is, of whichever library, and what all of them share: devices, pictures, digests of files."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from itm_fast.choices import EncoderLibrary
from itm_fast.data.readers.image_file import ImageFile, read_image
from itm_fast.pretrained import text_library

ModelDtype: TypeAlias = Literal["float32", "bfloat16", "float16"]
Inputs: TypeAlias = Mapping[str, Any]
Encoded: TypeAlias = Tensor | list[Tensor]
"""Vectors (n, dim) of n items; of a token-level encoder a matrix (n_i, dim) of each; float32 on the CPU."""

_SMALL_FILES = (".json", ".txt", ".model")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")  # the first kind that is there is what libraries read


class Encoder(Protocol):
    """A model of images and captions in one space, ready to encode. Made by ``load_encoder``."""

    @property
    def name(self) -> str:
        """As it was asked for."""
        ...

    @property
    def library(self) -> EncoderLibrary:
        """Whose model it is."""
        ...

    @property
    def per_token(self) -> bool:
        """Whether an item has many vectors, compared by late interaction."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        ...

    @property
    def dtype(self) -> ModelDtype:
        """Of its weights and sums; what it gives is float32."""
        ...

    @property
    def context_length(self) -> int | None:
        """Most tokens of a caption; longer ones are cut. None: no bound is known."""
        ...

    def digest(self) -> str:
        """SHA-256 of all files that make it what it is."""
        ...

    def libraries(self) -> str:
        """Versions of what may change the last bits."""
        ...

    def token_counts(self, captions: Sequence[str]) -> list[int]:
        """Tokens of each caption before it is cut."""
        ...

    def prepare_images(self, paths: Sequence[ImageFile]) -> Inputs:
        """Image files, or parts of files, as ``encode_images`` takes them; may run in another thread."""
        ...

    def encode_images(self, inputs: Inputs) -> Encoded:
        """Vectors of images from ``prepare_images``."""
        ...

    def encode_captions(self, captions: Sequence[str]) -> Encoded:
        """Vectors of captions."""
        ...


def usable_device(device: str) -> torch.device:
    """A device of torch that is there; "auto": CUDA where there is one, else the CPU.

    Raises:
        ValueError: torch cannot use it here.
    """
    if device == "auto":  # no kernel of this package has a part in it
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        where = torch.device(device)
        torch.empty(1, device=where)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch's ways to say that there is none
        reason = str(error).splitlines()[0]
        raise ValueError(f"device is {device!r}, which torch cannot use here: {reason}") from error
    if where.type == "meta":
        raise ValueError("device is 'meta', where nothing is computed; expected such as 'cpu' or 'cuda'")
    return where


def read_pictures(paths: Sequence[ImageFile]) -> list[Any]:
    """Images of Pillow's in RGB.

    Raises:
        DataError: a file is missing, no image or broken; with its name.
    """
    pillow = text_library("PIL.Image", "reading images")
    return [pillow.fromarray(np.ascontiguousarray(read_image(path).permute(1, 2, 0).numpy())) for path in paths]


def as_captions(captions: Sequence[str]) -> list[str]:
    """A list of captions; TypeError for a single string, which is a sequence of letters."""
    if isinstance(captions, str):
        raise TypeError(f"captions is the string {captions!r:.40}, expected a list of captions")
    return list(captions)


def moved(inputs: Inputs, device: torch.device, dtype: ModelDtype) -> dict[str, Any]:
    """Tensors on a device, those of numbers with a point in a dtype; whatever else there is, as it is."""
    onto = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()}
    wide = getattr(torch, dtype)
    floats = {name: x.to(wide) for name, x in onto.items() if isinstance(x, Tensor) and x.is_floating_point()}
    return {**onto, **floats}


def unit_rows(vectors: Tensor) -> Tensor:
    """Vectors (n, dim) at length 1, float32 on the CPU."""
    return torch.nn.functional.normalize(vectors.float(), dim=1).cpu()


def weights_digest(folder: Path, *, nested: bool = False) -> str:
    """SHA-256 of what a pretrained folder makes: its weights, configuration and tokenizer.

    Every byte is read: a fine-tuned copy has files of the same names and sizes.

    Args:
        folder: of the model.
        nested: also read the folders in it, as sentence-transformers has them.
    """
    files = sorted(path for path in (folder.rglob("*") if nested else folder.iterdir()) if path.is_file())
    kinds = [[path for path in files if path.suffix == suffix] for suffix in _WEIGHTS]
    weights = [path for path in files if path.suffix in _WEIGHTS] if nested else next(filter(None, kinds), [])
    small = [path for path in files if path.suffix in _SMALL_FILES]
    return files_digest((path.relative_to(folder).as_posix(), path) for path in [*small, *weights])


def files_digest(files: Iterable[tuple[str, Path]]) -> str:
    """SHA-256 of names and contents of files."""
    digest = hashlib.sha256()
    for name, path in files:
        digest.update(f"{name}:{path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def versions(*packages: str) -> str:
    """Installed packages with their versions."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)


@contextmanager
def offline() -> Iterator[None]:
    """Hugging Face's libraries look on this machine alone, also where they would ask the hub for a part of a model."""
    constants = text_library("huggingface_hub.constants", "a pretrained model")
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
