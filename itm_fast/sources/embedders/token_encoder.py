"""Late-interaction models of transformers (ColPali, ColQwen2, ColModernVBERT): a vector a token, many an item.

Sources: Faysse et al., ColPali, ICLR 2025; the classes ``*ForRetrieval`` of huggingface/transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from itm_fast.choices import EncoderLibrary
from itm_fast.data.readers.image_file import ImageFile
from itm_fast.errors import DataError
from itm_fast.pretrained import named_architectures, text_library
from itm_fast.sources.embedders.encoder import (
    Inputs,
    ModelDtype,
    as_captions,
    moved,
    read_pictures,
    usable_device,
    versions,
    weights_digest,
)
from itm_fast.sources.embedders.transformers_folder import check_vocabulary, from_folder, load_whole

_ARCHITECTURE = "ForRetrieval"  # how transformers ends the names of models whose output is an embedding a token


@dataclass(frozen=True, eq=False)
class TokenEncoder:
    """A model of transformers with an embedding a token, ready to encode. Made by ``load_encoder``.

    Attributes:
        name: as it was asked for.
        folder: where it was read from.
        model: of transformers, in evaluation mode.
        processor: of transformers, with ``process_images`` and ``process_queries``.
        device: where the model is.
        dtype: of its weights and sums; embeddings are float32.
        context_length: None: queries are not cut.
    """

    name: str
    folder: Path
    model: Any
    processor: Any
    device: torch.device
    dtype: ModelDtype
    context_length: ClassVar[int | None] = None
    library: ClassVar[EncoderLibrary] = "transformers"
    per_token: ClassVar[bool] = True

    def digest(self) -> str:
        """SHA-256 of the folder's weights, configuration and tokenizer."""
        return weights_digest(self.folder)

    def libraries(self) -> str:
        """Versions of what may change the last bits."""
        return f"{versions('torch', 'transformers', 'pillow')}, {type(self.processor.image_processor).__name__}"

    def token_counts(self, captions: Sequence[str]) -> list[int]:
        """Tokens of each caption, without what the model puts around it."""
        return [len(ids) for ids in self.processor.tokenizer(list(captions), verbose=False)["input_ids"]]

    def prepare_images(self, paths: Sequence[ImageFile]) -> Inputs:
        """Image files, or parts of files, as the model takes them; may run in another thread.

        Raises:
            DataError: a file is missing, no image or broken; with its name.
        """
        return dict(self.processor.process_images(images=read_pictures(paths)))

    def encode_images(self, inputs: Inputs) -> list[Tensor]:
        """Vectors (n_i, dim) of each image, float32 on the CPU, of images from ``prepare_images``."""
        return self._encoded(inputs)

    def encode_captions(self, captions: Sequence[str]) -> list[Tensor]:
        """Vectors (n_i, dim) of each caption, float32 on the CPU, the model's prompt and augmentation among them.

        Raises:
            TypeError: for a single string.
        """
        return self._encoded(dict(self.processor.process_queries(text=as_captions(captions))))

    @torch.inference_mode()
    def _encoded(self, inputs: Inputs) -> list[Tensor]:
        given = moved(inputs, self.device, self.dtype)
        embeddings = self.model(**given).embeddings
        return [
            vectors[mask].float().cpu()
            for vectors, mask in zip(embeddings, given["attention_mask"].bool(), strict=True)
        ]


def is_token_level(folder: Path) -> bool:
    """Whether a folder of transformers is of such a model."""
    return _architecture(folder) is not None


def load_token_encoder(name: str, folder: Path, *, device: str = "cpu", dtype: ModelDtype = "float32") -> TokenEncoder:
    """Load a late-interaction model of images and queries. Never downloads.

    Args:
        name: as it was asked for.
        folder: with config.json, weights and the processor's files.
        device: "cpu", "cuda", ...; "auto": CUDA where there is a device, else the CPU.
        dtype: of the weights and sums.

    Raises:
        DataError: the folder has no such model, or weights that do not fill it.
        ValueError: a device that is not there.
        ImportError: transformers, or a library that the model needs, is not installed.
    """
    transformers = text_library("transformers", "a late-interaction model")
    where = usable_device(device)
    architecture = _architecture(folder)
    of_library = None if architecture is None else getattr(transformers, architecture, None)
    if of_library is None:
        raise DataError(
            f"{folder}: its architecture is {architecture}, which transformers {transformers.__version__} does not "
            f"know; expected one such as ColPali{_ARCHITECTURE}"
        )
    model = load_whole(of_library, folder, dtype)
    processor = from_folder(transformers.AutoProcessor, folder)
    for method in ("process_images", "process_queries"):
        if not hasattr(processor, method):
            raise DataError(f"{folder}: its processor, a {type(processor).__name__}, has no {method}")
    check_vocabulary(processor.tokenizer, folder)
    return TokenEncoder(name, folder, model.to(where), processor, where, dtype)


def _architecture(folder: Path) -> str | None:
    return next((name for name in named_architectures(folder) if name.endswith(_ARCHITECTURE)), None)
