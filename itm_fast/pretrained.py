"""Pretrained transformers on this machine: a local folder, or one in the cache; nothing is ever downloaded."""

import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from itm_fast.choices import TextEncoder
from itm_fast.errors import DataError
from itm_fast.files.reading import read_json

CONFIG = "config.json"


def text_library(name: str, purpose: str) -> Any:
    """A library of the extra "text", imported now.

    Args:
        name: Of the module.
        purpose: What it is needed for, to begin a sentence with.

    Returns:
        The module.

    Raises:
        ImportError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{purpose} needs {name}: pip install 'itm-fast[text]'") from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without the bars and warnings of transformers: what matters of them is said in an error of ours."""
    logging = text_library("transformers.utils.logging", "a transformer")
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def pretrained_folder(
    path: str, *, argument: str = "bert_path", files: str = "the weights and vocab.txt or tokenizer.json"
) -> Path:
    """The folder of a pretrained transformer.

    Args:
        path: A local folder, or a name such as "bert-base-uncased" that is in the Hugging Face cache.
        argument: What errors call it.
        files: What the folder holds beside config.json.

    Returns:
        The folder itself, or the one in the cache.

    Raises:
        FileNotFoundError: It is neither.
        ImportError: It is no folder, and huggingface_hub, which knows the cache, is not installed.
    """
    if path and Path(path).is_dir():  # Path("") is where we are
        return Path(path)
    hub = text_library("huggingface_hub", f"{argument} {path!r} is no folder here, and looking in the cache")
    try:
        return Path(hub.snapshot_download(path, local_files_only=True))
    except (OSError, ValueError) as error:  # not in the cache; no possible name
        raise FileNotFoundError(
            f"{argument} is {path!r}: no folder here, and no model of that name in the cache. Nothing is downloaded "
            f"unasked: give a folder with {CONFIG}, {files}, or fetch it once with `hf download {path}`"
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """The architecture of a pretrained transformer, as its config.json has it.

    Args:
        folder: Its folder.

    Returns:
        The options by name, "model_type" among them.

    Raises:
        FileNotFoundError: There is no config.json.
        DataError: It does not describe a transformer.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected the folder of a pretrained transformer")
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("model_type"), str):
        raise DataError(f'{path}: expected {{"model_type": "bert", ...}}, as transformers writes it')
    return {name: value for name, value in found.items() if name != "_name_or_path"}  # where it once was


def named_architectures(folder: Path) -> list[str]:
    """The classes of transformers that config.json says the weights are of; errors as ``read_config``."""
    named = read_config(folder).get("architectures")
    if named is not None and not (isinstance(named, list) and all(isinstance(one, str) for one in named)):
        raise DataError(f"{folder / CONFIG}: architectures is {named!r:.60}; expected a list of names of classes")
    return named or []


def text_architecture(folder: Path, kind: TextEncoder) -> dict[str, Any]:
    """The architecture of a transformer of text, or of the text tower of CLIP or SigLIP.

    Args:
        folder: Of the transformer, or of CLIP or SigLIP as a whole.
        kind: "clip" takes a tower, "bert" what is no part of anything.

    Returns:
        The options by name, "model_type" among them.

    Raises:
        FileNotFoundError: There is no config.json.
        DataError: It does not describe such a transformer.
        ImportError: transformers, which knows the parts of CLIP, is not installed.
    """
    config = read_config(folder)
    is_whole = "text_config" in config and "vision_config" in config
    if kind == "bert" and not is_whole:
        return config
    if kind == "bert":
        raise DataError(f"{folder} is a {config['model_type']}, of images and text; give --text-encoder clip")
    if config["model_type"].endswith("_text_model"):
        return config
    if not is_whole:
        raise DataError(f"{folder} is a {config['model_type']}, which has no text tower; expected CLIP or SigLIP")
    return _part(folder, config, "text_config")


def vision_architecture(folder: Path) -> dict[str, Any]:
    """The architecture of a vision transformer, or of the image tower of CLIP or SigLIP, and the pixels it takes.

    Args:
        folder: Of the transformer, or of CLIP or SigLIP as a whole, with preprocessor_config.json.

    Returns:
        {"architecture": options by name, "size": side in pixels, "mean", "deviation": three numbers each, of pixels
        from 0 to 1, "resampling": "bilinear" or "bicubic"}.

    Raises:
        FileNotFoundError: There is no config.json.
        DataError: It describes no such transformer, or no file says which pixels it takes.
        ImportError: transformers is not installed.
    """
    config = read_config(folder)
    architecture = _part(folder, config, "vision_config") if "vision_config" in config else config
    transformers = text_library("transformers", "a vision transformer")
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        crop = getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", False) else None
        size = _side(processor.size if crop is None else crop)
        mean, deviation = ([float(x) for x in numbers] for numbers in (processor.image_mean, processor.image_std))
        factor = getattr(processor, "rescale_factor", 1 / 255) if getattr(processor, "do_rescale", True) else 1.0
        if abs(255 * factor - 1) > 1e-3:
            raise ValueError(f"it multiplies them by {factor:.4g}; expected 1/255")
        if not getattr(processor, "do_normalize", True):
            mean, deviation = [0.0] * 3, [1.0] * 3
        resample = int(getattr(processor, "resample", 3) or 3)
    except ImportError as error:
        raise ImportError(f"{folder}: {' '.join(str(error).split())}") from error
    except Exception as error:  # a damaged or foreign folder raises nearly every kind of exception
        reason = " ".join(str(error).split())
        raise DataError(f"{folder}: no file says which pixels it takes: {reason:.300}") from error
    of_pillow = {2: "bilinear", 3: "bicubic"}  # by its numbers; what is rarer is bicubic here
    pixels = {"size": size, "mean": mean, "deviation": deviation, "resampling": of_pillow.get(resample, "bicubic")}
    return {"architecture": architecture, **pixels}


def _side(size: Any) -> int:
    """Side in pixels of the square that an image processor makes."""
    if isinstance(size, int):
        return size
    sides = {size[name] for name in ("height", "width", "shortest_edge") if size.get(name)}
    if len(sides) != 1:
        raise ValueError(f"it takes images of {dict(size)}; expected squares")
    return int(sides.pop())


def _part(folder: Path, config: Mapping[str, Any], name: Literal["text_config", "vision_config"]) -> dict[str, Any]:
    """One of the architectures that a larger one is made of, with its defaults."""
    transformers = text_library("transformers", "a tower of CLIP")
    try:
        found = getattr(transformers.AutoConfig.for_model(**config), name).to_dict()
    except Exception as error:  # transformers checks little, and late
        raise DataError(f"{folder / CONFIG}: transformers makes no {name} of it: {error}") from error
    where = ("_name_or_path", "transformers_version", "dtype", "id2label", "label2id")  # it was, and what it isn't for
    plain = {key: value for key, value in found.items() if key not in where}
    decoded: dict[str, Any] = json.loads(json.dumps(plain))
    return decoded
