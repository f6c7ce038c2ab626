"""CLIP-like models of transformers as dual encoders: one vector an image, one a caption, compared by cosine."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from itm_fast.choices import EncoderLibrary
from itm_fast.data.readers.image_file import ImageFile
from itm_fast.pretrained import named_architectures, pretrained_folder, text_library
from itm_fast.sources.embedders.encoder import (
    Inputs,
    ModelDtype,
    as_captions,
    moved,
    read_pictures,
    unit_rows,
    usable_device,
    versions,
    weights_digest,
)
from itm_fast.sources.embedders.transformers_folder import check_vocabulary, from_folder, load_whole

_FILES = "the weights, preprocessor_config.json and the tokenizer's files"
_PADDED_TO_THE_END = ("siglip", "siglip2", "align")  # trained so: their captions mean something else when padded less
_BLIP_RETRIEVAL = "BlipForImageTextRetrieval"  # AutoModel would make a BlipModel of it, half of it random


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
    library: ClassVar[EncoderLibrary] = "transformers"
    per_token: ClassVar[bool] = False

    def digest(self) -> str:
        """SHA-256 of the folder's weights, configuration and tokenizer."""
        return weights_digest(self.folder)

    def libraries(self) -> str:
        """Versions of what may change the last bits."""
        # Image processors with torchvision and without resize a little differently.
        return f"{versions('torch', 'transformers', 'pillow')}, {type(self.image_processor).__name__}"

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
        return dict(self.image_processor(images=read_pictures(paths), return_tensors="pt"))

    def encode_images(self, inputs: Inputs) -> Tensor:
        """Unit vectors (n, dim), float32 on the CPU, of images from ``prepare_images``."""
        return self._encoded(self.model.get_image_features, inputs)

    def encode_captions(self, captions: Sequence[str]) -> Tensor:
        """Unit vectors (n, dim), float32 on the CPU, of captions; TypeError for a single string."""
        tokens = self.tokenizer(
            as_captions(captions),
            padding=self.padding,
            truncation=True,
            max_length=self.context_length,
            return_tensors="pt",
        )
        return self._encoded(self.model.get_text_features, tokens)

    @torch.inference_mode()
    def _encoded(self, encode: Any, inputs: Inputs) -> Tensor:
        found = encode(**moved(inputs, self.device, self.dtype))
        features = found if isinstance(found, Tensor) else getattr(found, "pooler_output", None)
        if features is None or features.ndim != 2:
            what = type(found).__name__ if features is None else f"a tensor of shape {tuple(features.shape)}"
            raise ValueError(
                f"{self.name}: {encode.__name__} returned {what}, expected one vector an input, (n, dim): this model "
                "is no dual encoder"
            )
        return unit_rows(features)


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
    where = usable_device(device)
    folder = pretrained_folder(str(path), argument="the model", files=_FILES)
    model = _dual_model(transformers, folder, dtype)
    if getattr(model, "get_image_features", None) is None or getattr(model, "get_text_features", None) is None:
        raise ValueError(
            f"{folder} is a {type(model).__name__}, which has no get_image_features and get_text_features: expected a "
            "dual encoder such as CLIP, SigLIP, AltCLIP, ALIGN, or BLIP for image-text retrieval"
        )
    processor = from_folder(transformers.AutoProcessor, folder)
    # A folder without processor, as of VisionTextDualEncoder, may give one of the two alone.
    tokenizer, image_processor = (getattr(processor, name, None) for name in ("tokenizer", "image_processor"))
    if tokenizer is None:
        tokenizer = from_folder(transformers.AutoTokenizer, folder)
    check_vocabulary(tokenizer, folder)
    if image_processor is None:
        image_processor = from_folder(transformers.AutoImageProcessor, folder)
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


def _dual_model(transformers: Any, folder: Path, dtype: ModelDtype) -> Any:
    if _BLIP_RETRIEVAL not in named_architectures(folder):
        return load_whole(transformers.AutoModel, folder, dtype)
    model = load_whole(getattr(transformers, _BLIP_RETRIEVAL), folder, dtype)
    _give_features(model)
    return model


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


def _context_length(model: Any, tokenizer: Any, default: int | None) -> int:
    """The least of what the processor, the tokenizer and the text model's positions allow."""
    text_config = model.config.get_text_config()
    positions = getattr(text_config, "max_position_embeddings", None)
    if positions is not None:
        for name, module in model.named_modules():  # RoBERTa and its kin count from after the padding's id
            if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
                positions = min(positions, module.num_embeddings - module.padding_idx - 1)
    return int(min(length for length in (default, tokenizer.model_max_length, positions) if length is not None))
