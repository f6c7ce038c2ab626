"""Models of open_clip: a folder as its hub has them, or an architecture of its list and a file of weights.

Source: mlfoundations/open_clip, ``create_model_from_pretrained`` and ``get_tokenizer``.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from itm_fast.choices import EncoderLibrary, perhaps
from itm_fast.data.readers.image_file import ImageFile
from itm_fast.errors import DataError
from itm_fast.sources.embedders.encoder import (
    Inputs,
    ModelDtype,
    as_captions,
    files_digest,
    moved,
    offline,
    read_pictures,
    unit_rows,
    usable_device,
    versions,
    weights_digest,
)

CONFIG = "open_clip_config.json"
_PRECISION = {"float32": "fp32", "bfloat16": "pure_bf16", "float16": "pure_fp16"}
_FRAME = 2  # tokens of start and end


@dataclass(frozen=True, eq=False)
class OpenClipEncoder:
    """A model of open_clip, ready to encode. Made by ``load_encoder``.

    Attributes:
        name: as it was asked for: a folder, or ARCHITECTURE@WEIGHTS.
        path: of the folder, or of the file of weights.
        model: of open_clip, in evaluation mode.
        preprocess: its transform of an image of Pillow's.
        tokenizer: its own.
        context_length: most tokens of a caption; longer ones are cut.
        device: where the model is.
        dtype: of its weights and sums; embeddings are float32.
    """

    name: str
    path: Path
    model: Any
    preprocess: Any
    tokenizer: Any
    context_length: int
    device: torch.device
    dtype: ModelDtype
    library: ClassVar[EncoderLibrary] = "open-clip"
    per_token: ClassVar[bool] = False

    def digest(self) -> str:
        """SHA-256 of the folder, or of the architecture's name and the weights."""
        if self.path.is_dir():
            return weights_digest(self.path)
        return files_digest([(self.name.partition("@")[0], self.path)])

    def libraries(self) -> str:
        """Versions of what may change the last bits."""
        return versions("torch", "open_clip_torch", "torchvision", "pillow")

    def token_counts(self, captions: Sequence[str]) -> list[int]:
        """Tokens of each caption before it is cut, those of start and end included."""
        inner = getattr(self.tokenizer, "tokenizer", None)  # of transformers, for text towers of its kind
        if inner is None:
            return [len(self.tokenizer.encode(caption)) + _FRAME for caption in captions]
        cleaned = [self.tokenizer.clean_fn(caption) for caption in captions]
        return [len(ids) for ids in inner(cleaned, verbose=False)["input_ids"]] if cleaned else []

    def prepare_images(self, paths: Sequence[ImageFile]) -> Inputs:
        """Image files, or parts of files, as the model takes them; may run in another thread.

        Raises:
            DataError: a file is missing, no image or broken; with its name.
        """
        return {"image": torch.stack([self.preprocess(picture) for picture in read_pictures(paths)])}

    def encode_images(self, inputs: Inputs) -> Tensor:
        """Unit vectors (n, dim), float32 on the CPU, of images from ``prepare_images``."""
        return self._encoded(self.model.encode_image, inputs)

    def encode_captions(self, captions: Sequence[str]) -> Tensor:
        """Unit vectors (n, dim), float32 on the CPU, of captions; TypeError for a single string."""
        return self._encoded(self.model.encode_text, {"text": self.tokenizer(as_captions(captions))})

    @torch.inference_mode()
    def _encoded(self, encode: Any, inputs: Inputs) -> Tensor:
        (given,) = moved(inputs, self.device, self.dtype).values()
        return unit_rows(encode(given))


def load_open_clip(name: str, path: Path, *, device: str = "cpu", dtype: ModelDtype = "float32") -> OpenClipEncoder:
    """Load a model of open_clip. Never downloads, and never unpickles more than weights.

    Args:
        name: as it was asked for; ARCHITECTURE@WEIGHTS where ``path`` is a file.
        path: a folder with open_clip_config.json, weights and, for text towers of transformers, the tokenizer's files;
            or a file of weights.
        device: "cpu", "cuda", ...; "auto": CUDA where there is a device, else the CPU.
        dtype: of the weights and sums; bfloat16 and float16 are for GPUs.

    Raises:
        DataError: the folder has no such model, or weights that do not fill it.
        ValueError: an architecture that open_clip does not know; a device that is not there.
        ImportError: open_clip is not installed.
    """
    library = _library()
    where = usable_device(device)
    called = f"local-dir:{path}" if path.is_dir() else name.partition("@")[0]
    if not path.is_dir() and library.get_model_config(called) is None:
        known = library.list_models()
        raise ValueError(
            f"{called!r} is no architecture of open_clip {library.__version__}{perhaps(called, known)}; it knows "
            f"{len(known)}, such as ViT-B-32"
        )
    try:
        with offline(), _quiet():
            # Takes no model without weights for one.
            model, preprocess = library.create_model_from_pretrained(
                called, None if path.is_dir() else str(path), precision=_PRECISION[dtype], device=where
            )
            tokenizer = library.get_tokenizer(called)
    except Exception as error:  # a damaged or foreign folder raises nearly every kind of exception
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: open_clip cannot read it as {called}: {reason:.300}") from error
    return OpenClipEncoder(name, path, model.eval(), preprocess, tokenizer, int(tokenizer.context_length), where, dtype)


def _library() -> Any:
    try:
        return importlib.import_module("open_clip")
    except ImportError as error:
        raise ImportError("a model of open_clip needs it: pip install 'itm-fast[open-clip]'") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what open_clip writes to the root of logging: what matters of it is an error."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
