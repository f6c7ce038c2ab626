"""Files and folders beside captioned images that commands take: what `itm-fast inspect` calls them, and figures."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from itm_fast.data.readers.found_path import FoundPath

About: TypeAlias = dict[str, Any]  # "format", then figures

_TASKS = {"sts": "captions", "sis": "images", "sits": "captions and images"}
_WEIGHTS = (".pt", ".pth", ".tar", ".bin")
_NAME = re.compile(r"[^\s]+\.(?:jpe?g|png|webp|bmp|gif|tiff?)(?:#\w*)?", re.IGNORECASE)
_REAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf|nan", re.ASCII | re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)


def of_folder(found: FoundPath) -> About | None:
    """A trained model, a run of train, or the annotations of a protocol; None: none of them."""
    from itm_fast.files.reading import read_json

    for folder, what in ((found.path / "best", "run of itm-fast train, its best model"), (found.path, "model")):
        if (folder / "config.json").is_file():
            card = read_json(folder / "config.json")
            if isinstance(card, dict) and isinstance(card.get("model"), str):
                return {"format": f"{what} of itm-fast", "model": card["model"]}
            if isinstance(card, dict) and "model_type" in card:
                return {"format": "folder of a transformers model", "model": str(card["model_type"])}
    names = {path.name.removesuffix(".gz") for path in found.files if path.parent == found.path}
    tasks = [task for task in _TASKS if f"{task}_test.csv" in names]
    held = []
    if tasks:
        held.append(f"Crisscrossed Captions' ratings: {', '.join(tasks)} (protocols cxc, cxc-image-text, coco-all)")
    if {"coco_test_ids.npy", "eccv_image_to_caption.json"} <= names:
        held.append("ECCV Caption's ids and positives (protocols eccv, coco-all)")
    for stem, protocol in (("MSCOCO_FG", "coco-fg"), ("Flickr30K_FG", "flickr30k-fg")):
        if {f"{stem}_ann.json", f"{stem}_img_filenames.npy"} <= names:
            held.append(f"{stem.replace('_', '-')}'s captions and pool (protocols {protocol}, {protocol}-originals)")
    return {"format": "annotations of protocols", "holds": "; ".join(held)} if held else None


def of_array(path: Path) -> About:
    """An array of numbers, names of images, or several arrays by name."""
    from itm_fast.files.reading import read_array, read_arrays
    from itm_fast.sources.array_files import open_array

    if path.suffix == ".npy":
        array = read_array(path, mapped=True)
        if array.dtype.kind == "U" and array.ndim == 1 and len(array):
            return {"format": "names of images, or ids", "names": len(array), "first": str(array[0])}
    if path.suffix == ".npz":
        arrays = read_arrays(path)
        kinds = {"image_ids", "caption_ids"} <= set(arrays)
        if len(arrays) != 1:
            what = "ids of images and captions" if kinds else "several arrays"
            return {"format": what, "arrays": {name: _shape(of) for name, of in arrays.items()}}
    return _numbers_of(open_array(path, None))


def _numbers_of(array: Any) -> About:
    return {"format": "array", "shape": list(array.shape), "dtype": str(array.dtype)}


def _shape(array: Any) -> str:
    return " x ".join(map(str, array.shape)) or "a number"


def of_json(found: FoundPath) -> About | None:
    """Ids, positives, owners, a vocabulary, names of images, a report; None: none of them."""
    from itm_fast.sources.array_files import open_array

    content = found.json
    if isinstance(content, list) and content and _are_numbers(content[0]):
        return _numbers_of(open_array(found.path, None))
    if not isinstance(content, dict) or not content:
        return None
    if {"image_ids", "caption_ids"} & set(content):
        ids = {name: len(content[name]) for name in ("image_ids", "caption_ids") if isinstance(content.get(name), list)}
        sides = [name for name in ("image_to_captions", "caption_to_images") if isinstance(content.get(name), dict)]
        what = "ids and positives (protocol positives)" if sides else "ids of images and captions"
        return {"format": what, **ids, **{name: f"{len(content[name])} queries" for name in sides}}
    conditions = content.get("conditions")
    if isinstance(conditions, dict) and ({"i2t", "t2i"} <= set(content) or "choices" in content):
        return {"format": "report of itm-fast evaluate", "protocol": str(conditions.get("protocol"))}
    if isinstance(content.get("word2idx"), dict) and "idx2word" in content:
        return {"format": "vocabulary", "words": len(content["word2idx"])}
    values = list(content.values())
    if all(isinstance(value, str) and _NAME.fullmatch(value) for value in values):
        return {"format": "names of images by id (id_mapping.json)", "images": len(values)}
    if not all(_WHOLE.fullmatch(key) for key in content):
        return None
    if all(isinstance(value, list) and all(type(item) is int for item in value) for value in values):
        figures = {"queries": len(values), "pairs": sum(map(len, values))}
        return {"format": "ids by id: positives, as ECCV Caption has them, or img2txt", **figures}
    if all(type(value) is int for value in values):
        return {"format": "an id by id: owners (txt2img)", "captions": len(values)}
    return None


def _are_numbers(item: Any, depth: int = 3) -> bool:
    """Whether it is a number, or so many lists of such in one another at most."""
    if isinstance(item, list):
        return bool(item) and depth > 0 and all(_are_numbers(inner, depth - 1) for inner in item)
    return isinstance(item, (int, float)) and not isinstance(item, bool)


def of_text(found: FoundPath) -> About | None:
    """Ratings, names of images, numbers, a matrix, a run of TREC; None: none of them, or no text."""
    from itm_fast.data.readers.found_path import BINARY, is_json
    from itm_fast.errors import DataError
    from itm_fast.files.plain_text import read_lines

    if found.is_folder or is_json(found.path) or found.head.startswith(BINARY) or not found.head.strip():
        return None
    try:
        lines = read_lines(found.path, "line", keep_blank=True)
    except DataError:
        return None  # whatever reads captions says what it is
    if not any(lines):  # a byte order mark, blanks
        return None
    return next(filter(None, (_of(found, lines) for _of in (_ratings, _trec_run, _names, _numbers))), None)


def _ratings(found: FoundPath, lines: list[str]) -> About | None:
    from itm_fast.evaluation.protocols.cxc import COLUMNS
    from itm_fast.evaluation.rated_pairs import read_rated_pairs

    task = next((name for name, columns in COLUMNS.items() if lines[0].startswith(f"{','.join(columns)},")), None)
    if task is None:
        return None
    scores = read_rated_pairs(found.path, COLUMNS[task]).scores
    spread = f"{scores.min():g} to {scores.max():g}" if len(scores) else "none"
    what = f"Crisscrossed Captions' ratings of {_TASKS[task]} ({task.upper()})"
    return {"format": what, "pairs": len(scores), "scores": spread}


def _trec_run(found: FoundPath, lines: list[str]) -> About | None:
    from itm_fast.errors import DataError
    from itm_fast.files.trec import read_trec_run

    if len(lines[0].split()) != 6:
        return None
    try:
        run = read_trec_run(found.path)
    except DataError:
        return None
    figures = {"queries": len(run.queries), "items": len(run.items), "retrieved": len(run.retrieved)}
    return {"format": "run of TREC", "name": run.name, **figures}


def _names(found: FoundPath, lines: list[str]) -> About | None:
    written = [line.strip() for line in lines if line.strip()]
    if not all(map(_NAME.fullmatch, written)):
        return None
    return {"format": "names of images, one a line", "names": len(written), "first": written[0]}


def _numbers(found: FoundPath, lines: list[str]) -> About | None:
    from itm_fast.errors import DataError
    from itm_fast.sources.array_files import open_array

    if len(lines) > 1 and all(_WHOLE.fullmatch(line.strip()) for line in lines):
        return {"format": "whole numbers, one a line: ids of images, or rows of captions' images", "lines": len(lines)}
    cells = re.split(r"[,\s]+", lines[0].strip())
    if not all(map(_REAL.fullmatch, cells)):
        return None
    if found.path.suffix == ".csv":
        return {"format": "matrix of numbers, as the NCS repository's SPICE", "rows": len(lines), "columns": len(cells)}
    try:
        return _numbers_of(open_array(found.path, None))
    except DataError:
        return None


def of_pickle(found: FoundPath) -> About | None:
    """A pickled vocabulary; or a file of torch.save that is no plain array, which is not opened here."""
    from itm_fast.data import load_vocabulary
    from itm_fast.errors import DataError
    from itm_fast.sources.array_files import open_array

    if found.path.suffix == ".pkl":
        return {"format": "vocabulary, pickled", "words": len(load_vocabulary(found.path))}
    if found.is_folder or found.path.suffix not in _WEIGHTS or not found.head.startswith((b"PK\x03\x04", b"\x80")):
        return None
    try:
        return _numbers_of(open_array(found.path, None))
    except (DataError, ValueError):
        return {"format": "file of torch.save, such as a checkpoint; evaluate --checkpoint says whose it is"}


BEFORE: tuple[Callable[[FoundPath], About | None], ...] = (of_pickle, of_text, of_json)
"""Looked at before captioned images: what these would be taken for captions, or refused as none."""
