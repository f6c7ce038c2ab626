"""CLIP-like models of transformers as dual encoders: one vector an image, one a caption, compared by cosine."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from itm_fast.data.readers.image_file import ImageFile, read_image
from itm_fast.errors import DataError
from itm_fast.pretrained import pretrained_folder, quiet_transformers, read_config, text_library

ModelDtype: TypeAlias = Literal["float32", "bfloat16", "float16"]
Inputs: TypeAlias = Mapping[str, Tensor]

_FILES = "the weights, preprocessor_config.json and the tokenizer's files"
_PADDED_TO_THE_END = ("siglip", "siglip2", "align")  # trained so: their captions mean something else when padded less
_BLIP_RETRIEVAL = "BlipForImageTextRetrieval"  # AutoModel would make a BlipModel of it, half of it random
_SMALL_FILES = (".json", ".txt", ".model")


@dataclass(frozen=True, eq=False)
class DualEncoder:
    """A model with ``get_image_features`` and ``get_text_features``, ready to encode. Made by ``load_dual_encoder``.

    Attributes:
        name: as it was asked for.
        folder: where it was read from.
        model: of transformers, in evaluation mode.
        tokenizer: of transformers.
        image_processor: of transformers.
        context_length: most tokens of a caption; longer ones are cut.
        padding: captions are padded to the longest of a batch, or all to context_length, as the model was trained.
        device: where the model is.
        dtype: of its weights and sums; embeddings are float32.
    """

    name: str
    folder: Path
    model: Any
    tokenizer: Any
    image_processor: Any
    context_length: int
    padding: Literal["longest", "max_length"]
    device: torch.device
    dtype: ModelDtype

    def token_counts(self, captions: Sequence[str]) -> list[int]:
        """Tokens of each caption before it is cut, those of start and end included.

        Raises:
            ValueError: the tokenizer has tokens that the model does not know.
        """
        tokens = self.tokenizer(list(captions), verbose=False)["input_ids"] if captions else []
        n_known = self.model.config.get_text_config().vocab_size
        largest = max((max(ids) for ids in tokens if ids), default=0)
        if largest >= n_known:
            raise ValueError(f"{self.name}: its tokenizer gives token {largest}, but the model knows {n_known} only")
        return [len(ids) for ids in tokens]

    def prepare_images(self, paths: Sequence[ImageFile]) -> Inputs:
        """Image files, or parts of files, as the model takes them; may run in another thread.

        Raises:
            DataError: a file is missing, no image or broken; with its name.
        """
        pillow = text_library("PIL.Image", "reading images")
        images = [pillow.fromarray(np.ascontiguousarray(read_image(path).permute(1, 2, 0).numpy())) for path in paths]
        return dict(self.image_processor(images=images, return_tensors="pt"))

    def encode_images(self, inputs: Inputs) -> Tensor:
        """Unit vectors (n, dim), float32 on the CPU, of images from ``prepare_images``."""
        return self._encoded(self.model.get_image_features, inputs)

    def encode_captions(self, captions: Sequence[str]) -> Tensor:
        """Unit vectors (n, dim), float32 on the CPU, of captions; TypeError for a single string."""
        if isinstance(captions, str):
            raise TypeError(f"captions is the string {captions!r:.40}, expected a list of captions")
        tokens = self.tokenizer(
            list(captions),
            padding=self.padding,
            truncation=True,
            max_length=self.context_length,
            return_tensors="pt",
        )
        return self._encoded(self.model.get_text_features, tokens)

    @torch.inference_mode()
    def _encoded(self, encode: Any, inputs: Inputs) -> Tensor:
        moved = {name: tensor.to(self.device) for name, tensor in inputs.items()}
        dtype = getattr(torch, self.dtype)
        moved = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in moved.items()}
        found = encode(**moved)
        features = found if isinstance(found, Tensor) else getattr(found, "pooler_output", None)
        if features is None or features.ndim != 2:
            what = type(found).__name__ if features is None else f"a tensor of shape {tuple(features.shape)}"
            raise ValueError(
                f"{self.name}: {encode.__name__} returned {what}, expected one vector an input, (n, dim): this model "
                "is no dual encoder"
            )
        return torch.nn.functional.normalize(features.float(), dim=1).cpu()


def load_dual_encoder(path: str | Path, *, device: str = "cpu", dtype: ModelDtype = "float32") -> DualEncoder:
    """Load a CLIP-like model: CLIP, SigLIP, AltCLIP, ALIGN, ... or BLIP for image-text retrieval. Never downloads.

    Args:
        path: a local folder with config.json, weights, preprocessor_config.json and a tokenizer; or a name such as
            "openai/clip-vit-base-patch32" that is in the Hugging Face cache.
        device: "cpu", "cuda", "cuda:1", ...; "auto": CUDA where there is a device, else the CPU.
        dtype: of the weights and sums; bfloat16 and float16 are for GPUs.

    Raises:
        FileNotFoundError: it is neither.
        DataError: the folder has no such model, or weights that do not fill it.
        ValueError: a device that is not there; a model without ``get_image_features`` and ``get_text_features``.
        ImportError: transformers, or a library its tokenizer needs, is not installed.
    """
    transformers = text_library("transformers", "a CLIP-like model")
    where = _device(device)
    folder = pretrained_folder(str(path), argument="the model", files=_FILES)
    model = _load_model(transformers, folder, dtype)
    if getattr(model, "get_image_features", None) is None or getattr(model, "get_text_features", None) is None:
        raise ValueError(
            f"{folder} is a {type(model).__name__}, which has no get_image_features and get_text_features: expected a "
            "dual encoder such as CLIP, SigLIP, AltCLIP, ALIGN, or BLIP for image-text retrieval"
        )
    processor = _from_folder(transformers.AutoProcessor, folder)
    # A folder without processor, as of VisionTextDualEncoder, may give one of the two alone.
    tokenizer, image_processor = (getattr(processor, name, None) for name in ("tokenizer", "image_processor"))
    if tokenizer is None:
        tokenizer = _from_folder(transformers.AutoTokenizer, folder)
    names = sorted({"tokenizer.json", *getattr(tokenizer, "vocab_files_names", {}).values()})
    if not any((folder / name).is_file() for name in names):  # transformers makes one without words
        raise DataError(f"{folder} holds no vocabulary of a {type(tokenizer).__name__}: none of {', '.join(names)}")
    if image_processor is None:
        image_processor = _from_folder(transformers.AutoImageProcessor, folder)
    defaults = getattr(type(processor), "text_kwargs", None)
    defaults = defaults if isinstance(defaults, dict) else {}
    ends = defaults.get("padding") == "max_length" or model.config.model_type in _PADDED_TO_THE_END
    return DualEncoder(
        str(path),
        folder,
        model.to(where),
        tokenizer,
        image_processor,
        _context_length(model, tokenizer, defaults.get("max_length")),
        "max_length" if ends else "longest",
        where,
        dtype,
    )


def weights_digest(folder: Path) -> str:
    """SHA-256 of what a pretrained folder makes: its weights, configuration and tokenizer.

    Every byte is read: a fine-tuned copy has files of the same names and sizes.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file())
    weights = [path for path in files if path.suffix == ".safetensors"] or [p for p in files if p.suffix == ".bin"]
    digest = hashlib.sha256()
    for path in [*(path for path in files if path.suffix in _SMALL_FILES), *weights]:
        digest.update(f"{path.name}:{path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _device(device: str) -> torch.device:
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


def _load_model(transformers: Any, folder: Path, dtype: str) -> Any:
    architectures = read_config(folder).get("architectures") or []
    auto = getattr(transformers, _BLIP_RETRIEVAL) if _BLIP_RETRIEVAL in architectures else transformers.AutoModel
    model, report = _from_folder(auto, folder, dtype=getattr(torch, dtype), output_loading_info=True)
    for key, what in (("missing_keys", "lack"), ("mismatched_keys", "have another shape for")):
        if report[key]:
            raise DataError(
                f"{folder}: its weights {what} {len(report[key])} parameters of {type(model).__name__}, which would "
                f"be random, such as {min(map(str, report[key]))}: not the weights of this model"
            )
    if _BLIP_RETRIEVAL in architectures:
        _give_features(model)
    return model.eval()


def _give_features(blip: Any) -> None:
    """The two methods that BLIP's retrieval model lacks: its projections of the first token, as its forward has."""

    def get_image_features(**inputs: Tensor) -> Tensor:
        projected: Tensor = blip.vision_proj(blip.vision_model(**inputs).last_hidden_state[:, 0])
        return projected

    def get_text_features(**inputs: Tensor) -> Tensor:
        known = inspect.signature(blip.forward).parameters  # BERT's tokenizer also has token_type_ids
        taken = {name: tensor for name, tensor in inputs.items() if name in known}
        projected: Tensor = blip.text_proj(blip.text_encoder(**taken).last_hidden_state[:, 0])
        return projected

    blip.get_image_features, blip.get_text_features = get_image_features, get_text_features


def _from_folder(auto: Any, folder: Path, **options: Any) -> Any:
    try:
        with quiet_transformers():
            return auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
    except ImportError as error:
        raise ImportError(f"{folder}: {' '.join(str(error).split())}") from error
    except Exception as error:  # a damaged or foreign folder raises nearly every kind of exception
        reason = " ".join(str(error).split())
        raise DataError(f"{folder}: {auto.__name__} of transformers cannot read it: {reason:.300}") from error


def _context_length(model: Any, tokenizer: Any, default: int | None) -> int:
    """The least of what the processor, the tokenizer and the text model's positions allow."""
    text_config = model.config.get_text_config()
    positions = getattr(text_config, "max_position_embeddings", None)
    if positions is not None:
        for name, module in model.named_modules():  # RoBERTa and its kin count from after the padding's id
            if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
                positions = min(positions, module.num_embeddings - module.padding_idx - 1)
    return int(min(length for length in (default, tokenizer.model_max_length, positions) if length is not None))
