"""An encoder from wherever it is, of whichever library: known by what is in its folder."""

from __future__ import annotations

from pathlib import Path

from itm_fast.choices import EncoderLibrary
from itm_fast.ops import _checks
from itm_fast.pretrained import CONFIG, pretrained_folder
from itm_fast.sources.embedders.dual_encoder import load_dual_encoder
from itm_fast.sources.embedders.encoder import Encoder, ModelDtype
from itm_fast.sources.embedders.open_clip_encoder import CONFIG as OPEN_CLIP_CONFIG
from itm_fast.sources.embedders.open_clip_encoder import load_open_clip
from itm_fast.sources.embedders.sentence_encoder import MODULES, load_sentence_encoder
from itm_fast.sources.embedders.token_encoder import is_token_level, load_token_encoder

_FILES = "the weights, preprocessor_config.json and the tokenizer's files"
_MARKS: dict[EncoderLibrary, str] = {
    "sentence-transformers": MODULES,
    "transformers": CONFIG,
    "open-clip": OPEN_CLIP_CONFIG,
}


def load_encoder(
    model: str | Path, *, library: EncoderLibrary | None = None, device: str = "cpu", dtype: ModelDtype = "float32"
) -> Encoder:
    """Load a model of images and captions. Never downloads.

    Args:
        model: a local folder, or a name such as "openai/clip-vit-base-patch32" that is in the Hugging Face cache; or
            ARCHITECTURE@WEIGHTS, such as "ViT-B-32@weights.pt", an architecture of open_clip's and a file.
        library: whose model it is; None: by the first of these that the folder has: modules.json of
            sentence-transformers, config.json of transformers (CLIP, SigLIP, AltCLIP, ALIGN, BLIP for image-text
            retrieval, ...; or a late-interaction model such as ColPali), open_clip_config.json.
        device: "cpu", "cuda", "cuda:1", ...; "auto": CUDA where there is a device, else the CPU.
        dtype: of the weights and sums; bfloat16 and float16 are for GPUs.

    Raises:
        FileNotFoundError: it is none of these.
        DataError: the folder has no such model, or weights that do not fill it.
        ValueError: a library or device that is not known; a model of other kinds than images and captions.
        ImportError: the library is not installed.
    """
    if library is not None:
        _checks.check_choice("library", library, EncoderLibrary)
    name = str(model)
    architecture, at, weights = name.rpartition("@")
    if at and not Path(name).exists():
        if library not in (None, "open-clip"):
            raise ValueError(f"{name}: ARCHITECTURE@WEIGHTS is for open-clip, but library is {library!r}")
        if not architecture or not Path(weights).is_file():
            raise FileNotFoundError(f"{weights}: no such file of weights, of the model {name}")
        return load_open_clip(name, Path(weights), device=device, dtype=dtype)
    folder = pretrained_folder(name, argument="the model", files=_FILES)
    found = library or _library_of(folder)
    if not (folder / _MARKS[found]).is_file():
        raise FileNotFoundError(f"{folder / _MARKS[found]}: no such file; expected the folder of a model of {found}")
    if found == "open-clip":
        return load_open_clip(name, folder, device=device, dtype=dtype)
    if found == "sentence-transformers":
        return load_sentence_encoder(name, folder, device=device, dtype=dtype)
    if is_token_level(folder):
        return load_token_encoder(name, folder, device=device, dtype=dtype)
    return load_dual_encoder(name, device=device, dtype=dtype)


def _library_of(folder: Path) -> EncoderLibrary:
    for library, mark in _MARKS.items():
        if (folder / mark).is_file():
            return library
    raise FileNotFoundError(f"{folder}: no model that is known: none of {', '.join(_MARKS.values())} is in it")
