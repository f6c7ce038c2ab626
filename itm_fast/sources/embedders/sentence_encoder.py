"""Image-text models of sentence-transformers: one vector an item, or, of its multi-vector encoders, one a token.

Source: huggingface/sentence-transformers, whose ``MultiVectorEncoder`` also reads models of PyLate.
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

from itm_fast.choices import EncoderLibrary
from itm_fast.data.readers.image_file import ImageFile
from itm_fast.errors import DataError
from itm_fast.files.reading import read_json
from itm_fast.pretrained import quiet_transformers
from itm_fast.sources.embedders.encoder import (
    Encoded,
    Inputs,
    ModelDtype,
    as_captions,
    offline,
    read_pictures,
    unit_rows,
    usable_device,
    versions,
    weights_digest,
)

MODULES = "modules.json"
_CONFIG = "config_sentence_transformers.json"
_MULTI_VECTOR = ("MultiVectorEncoder", "ColBERT")  # as it names its own models and those of PyLate
_LONGEST = 10**9  # tokens; tokenizers without a bound have 10^30
_COMPARED_BY = ("cosine", "dot")


@dataclass(frozen=True, eq=False)
class SentenceEncoder:
    """A model of sentence-transformers, ready to encode. Made by ``load_encoder``.

    Captions are encoded as its queries, images as its documents.

    Attributes:
        name: as it was asked for.
        folder: where it was read from.
        model: a SentenceTransformer or a MultiVectorEncoder.
        per_token: whether it is the latter.
        unit: whether its vectors are put at length 1, as a model that compares by cosine means them.
        device: where the model is.
        dtype: of its weights and sums; embeddings are float32.
    """

    name: str
    folder: Path
    model: Any
    per_token: bool
    unit: bool
    device: torch.device
    dtype: ModelDtype
    library: ClassVar[EncoderLibrary] = "sentence-transformers"

    @property
    def context_length(self) -> int | None:
        """Most tokens of a caption; longer ones are cut."""
        length = self.model.max_seq_length
        return None if length is None or length > _LONGEST else int(length)

    def digest(self) -> str:
        """SHA-256 of the weights, configurations and tokenizers in the folder and in those of its modules."""
        return weights_digest(self.folder, nested=True)

    def libraries(self) -> str:
        """Versions of what may change the last bits."""
        return versions("torch", "transformers", "sentence-transformers", "pillow")

    def token_counts(self, captions: Sequence[str]) -> list[int]:
        """Tokens of each caption before it is cut, without a prompt of the model's."""
        tokens = self.model.tokenizer(list(captions), verbose=False)["input_ids"] if captions else []
        return [len(ids) for ids in tokens]

    def prepare_images(self, paths: Sequence[ImageFile]) -> Inputs:
        """Image files, or parts of files, as images of Pillow's; may run in another thread.

        Raises:
            DataError: a file is missing, no image or broken; with its name.
        """
        return {"images": read_pictures(paths)}

    def encode_images(self, inputs: Inputs) -> Encoded:
        """Vectors of images from ``prepare_images``, float32 on the CPU: (n, dim), or (n_i, dim) of each."""
        return self._encoded(self.model.encode_document, inputs["images"])

    def encode_captions(self, captions: Sequence[str]) -> Encoded:
        """Vectors of captions, likewise; TypeError for a single string."""
        return self._encoded(self.model.encode_query, as_captions(captions))

    def _encoded(self, encode: Any, items: list[Any]) -> Encoded:
        options = {"batch_size": max(1, len(items)), "show_progress_bar": False}
        if self.per_token:
            return [vectors.float().cpu() for vectors in encode(items, **options)]
        vectors = encode(items, convert_to_tensor=True, **options)
        return unit_rows(vectors) if self.unit else vectors.float().cpu()


def load_sentence_encoder(
    name: str, folder: Path, *, device: str = "cpu", dtype: ModelDtype = "float32"
) -> SentenceEncoder:
    """Load an image-text model of sentence-transformers. Never downloads, and runs no code of the folder.

    Args:
        name: as it was asked for.
        folder: with modules.json and what it names.
        device: "cpu", "cuda", ...; "auto": CUDA where there is a device, else the CPU.
        dtype: of the weights and sums; bfloat16 and float16 are for GPUs.

    Raises:
        DataError: the folder has no such model, or weights that do not fill it.
        ValueError: a model of text alone, or one that compares otherwise than by cosine or dot product; a device that
            is not there.
        ImportError: sentence-transformers is not installed, or too old for the model.
    """
    library = _library()
    where = usable_device(device)
    config = read_json(folder / _CONFIG) if (folder / _CONFIG).is_file() else {}
    kind = config.get("model_type", "SentenceTransformer") if isinstance(config, dict) else None
    per_token = kind in _MULTI_VECTOR
    made_by = getattr(library, "MultiVectorEncoder" if per_token else "SentenceTransformer", None)
    if made_by is None:
        raise ImportError(
            f"{folder}: a {kind} needs a newer sentence-transformers than {library.__version__}: pip install -U "
            "'itm-fast[sentence-transformers]'"
        )
    if not per_token and kind != "SentenceTransformer":
        raise DataError(f"{folder / _CONFIG}: a model of kind {kind!r:.60}; expected one of dense or of multi-vectors")
    try:
        with offline(), quiet_transformers(), _nothing_random(folder):
            model = made_by(
                str(folder),
                device=str(where),
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"dtype": getattr(torch, dtype)},
            )
    except DataError:
        raise
    except Exception as error:  # a damaged or foreign folder raises nearly every kind of exception
        reason = " ".join(str(error).split())
        raise DataError(f"{folder}: sentence-transformers cannot read it: {reason:.300}") from error
    lacking = [one for one in ("image", "text") if not model.supports(one)]
    if lacking:
        raise ValueError(
            f"{folder}: a model of {', '.join(map(str, model.modalities))}; expected one of images and text"
        )
    compared_by = model.similarity_fn_name
    if not per_token and compared_by not in _COMPARED_BY:
        raise ValueError(f"{folder}: compares by {compared_by}; expected {' or '.join(_COMPARED_BY)}")
    return SentenceEncoder(name, folder, model.eval(), per_token, compared_by == "cosine", where, dtype)


def _library() -> Any:
    try:
        return importlib.import_module("sentence_transformers")
    except ImportError as error:
        raise ImportError(
            "a model of sentence-transformers needs it: pip install 'itm-fast[sentence-transformers]'"
        ) from error


class _Report(logging.Handler):
    """What transformers says of weights that it makes up, which it does with no more than a warning."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.missing = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the lines that name such weights."""
        lines = (line for line in record.getMessage().splitlines() if "MISSING" in line and "|" in line)
        self.missing = self.missing or next(lines, "")


@contextmanager
def _nothing_random(folder: Path) -> Iterator[None]:
    """DataError where transformers fills parameters of a model with random numbers."""
    logger, report = logging.getLogger("transformers.modeling_utils"), _Report()
    before = logger.level, logger.propagate
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    logger.addHandler(report)
    try:
        yield
    finally:
        logger.removeHandler(report)
        logger.level, logger.propagate = before
    if report.missing:
        parameter = report.missing.partition("|")[0].strip()
        raise DataError(f"{folder}: its weights lack {parameter}, which would be random: not the weights of this model")
