"""A run folder: what an evaluation found for every query, for a report page or a comparison; computes nothing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from itm_fast.errors import DataError
from itm_fast.files.reading import read_json
from itm_fast.files.writing import written_aside
from itm_fast.runs.query_results import OPTIONAL, TENSORS, QueryResults

_FORMAT = "itm-fast run 2"
_READ = ("itm-fast run 1", _FORMAT)  # 1: without ncs, ncs_own_left_out, others_relevance and date
_CARD, _REPORT, _QUERIES, _ATTENTION = "run.json", "report.json", "queries.safetensors", "attention.safetensors"
_DIRECTIONS = ("i2t", "t2i")


@dataclass(frozen=True, eq=False)
class Attention:
    """Where a cross-attention model looked for one pair.

    Attributes:
        image: row of the image.
        caption: column of the caption.
        words: n_words tokens as the model read them.
        weights: (n_words, n_regions) float32; every row sums to 1 where words attend to regions ("t2i"), every column
            where regions attend to words ("i2t").

    Raises:
        ValueError: not one row of weights a word.
        TypeError: weights are not float32.
    """

    image: int
    caption: int
    words: tuple[str, ...]
    weights: Tensor

    def __post_init__(self) -> None:
        """Check the weights."""
        if self.weights.dtype != torch.float32:
            raise TypeError(f"weights is {self.weights.dtype}, expected a tensor of torch.float32")
        if self.weights.ndim != 2 or len(self.weights) != len(self.words):
            raise ValueError(
                f"weights has shape {tuple(self.weights.shape)}, expected ({len(self.words)}, n_regions), a row a word"
            )


@dataclass(frozen=True, eq=False)
class Run:
    """An evaluation with its results query by query.

    Attributes:
        name: what a page calls it.
        report: the figures, ``Report.to_dict()``.
        i2t: of image queries, one a row of the similarities.
        t2i: of caption queries, one a column.
        caption_to_image: (n_captions,) int64, image of each caption (the first where a protocol gives it several);
            -1: none.
        captions: the text of every caption, or None.
        image_names: the name of every image, or None.
        curves: {"ks": [...], "ncs": {"i2t": [a score a k], "t2i": ...}, "semantic_recall": {"m": [...],
            "k": [1, 5, 10], "i2t": [[a score an m] a k], "t2i": ...}}, percent over the whole gallery; empty without φ.
        attention: of some pairs, if the model has cross-attention.
        source: what was evaluated, plain values: kind, path, model, data, generated (whether the data set was made by
            ``itm-fast make-data``), similarity, split.
        date: when, ISO 8601 to the second with the offset to UTC; empty: not known.

    Raises:
        ValueError: sizes that do not fit each other, or indices outside the gallery.
        TypeError: caption_to_image is not of int64.
    """

    name: str
    report: dict[str, Any]
    i2t: QueryResults
    t2i: QueryResults
    caption_to_image: Tensor
    captions: tuple[str, ...] | None
    image_names: tuple[str, ...] | None
    curves: dict[str, Any]
    attention: tuple[Attention, ...]
    source: dict[str, Any]
    date: str = ""

    @property
    def n_images(self) -> int:
        """Rows of the similarities."""
        return len(self.i2t.ranks)

    @property
    def n_captions(self) -> int:
        """Columns of the similarities."""
        return len(self.t2i.ranks)

    def __post_init__(self) -> None:
        """Check that the parts are of one evaluation."""
        for direction, results, n_items in (("i2t", self.i2t, self.n_captions), ("t2i", self.t2i, self.n_images)):
            for name in ("retrieved", "best_positive"):
                _check_range(f"{direction}: {name}", getattr(results, name), n_items - 1)
            for name in ("ranks", "fold_ranks"):
                _check_range(f"{direction}: {name}", getattr(results, name), n_items)
        if self.caption_to_image.dtype != torch.int64:
            raise TypeError(f"caption_to_image is {self.caption_to_image.dtype}, expected a tensor of torch.int64")
        if tuple(self.caption_to_image.shape) != (self.n_captions,):
            raise ValueError(
                f"caption_to_image has shape {tuple(self.caption_to_image.shape)}, expected ({self.n_captions},)"
            )
        _check_range("caption_to_image", self.caption_to_image, self.n_images - 1)
        for name, texts, n in (
            ("captions", self.captions, self.n_captions),
            ("image_names", self.image_names, self.n_images),
        ):
            if texts is not None and len(texts) != n:
                raise ValueError(f"{name} has {len(texts)} entries, expected {n}, one a query")
        for one in self.attention:
            if not (0 <= one.image < self.n_images and 0 <= one.caption < self.n_captions):
                raise ValueError(f"attention is of image {one.image} and caption {one.caption}, which are not there")


def _check_range(name: str, indices: Tensor | None, largest: int) -> None:
    if indices is not None and indices.numel() and not -1 <= int(indices.min()) <= int(indices.max()) <= largest:
        raise ValueError(f"{name} holds {int(indices.min())} ... {int(indices.max())}, expected -1 ... {largest}")


def save_run(run: Run, folder: str | os.PathLike[str]) -> None:
    """Write a run as a folder of four files: run.json, report.json, queries.safetensors, attention.safetensors.

    Each file is written aside and renamed; run.json comes last and holds the digests of the others, so that a folder
    whose writing was interrupted is refused and not half read. Other files of the folder stay.

    Args:
        run: the run.
        folder: a new or empty folder, or that of an earlier run, which is replaced.

    Raises:
        FileExistsError: ``folder`` is a file, or holds files and no run: nothing is written.
        FileNotFoundError: the folder that ``folder`` is in does not exist.
        TypeError: the report, the curves or the source hold something that JSON has not.

    Example:
        >>> save_run(run, "runs/scan")  # doctest: +SKIP
    """
    folder = Path(folder)
    check_run_folder(folder)
    card = {
        "format": _FORMAT,
        "name": run.name,
        "date": run.date,
        "source": run.source,
        "curves": run.curves,
        "captions": run.captions,
        "image_names": run.image_names,
        "attention": [{"image": one.image, "caption": one.caption, "words": one.words} for one in run.attention],
    }
    report = _json(run.report)
    _json(card)  # what cannot be written is found before anything is replaced
    tensors = {"caption_to_image": run.caption_to_image}
    for direction, results in zip(_DIRECTIONS, (run.i2t, run.t2i), strict=True):
        found = {f"{direction}.{field.name}": getattr(results, field.name) for field in fields(results)}
        tensors |= {name: tensor for name, tensor in found.items() if tensor is not None}
    folder.mkdir(exist_ok=True)
    with written_aside(folder / _REPORT) as aside:
        aside.write_text(report, encoding="utf-8")
    for name, content in ((_QUERIES, tensors), (_ATTENTION, {str(i): a.weights for i, a in enumerate(run.attention)})):
        with written_aside(folder / name) as aside:
            plain = {key: tensor.cpu().clone(memory_format=torch.contiguous_format) for key, tensor in content.items()}
            save_file(plain, aside, metadata={"format": _FORMAT})
    card["files"] = {name: _digest(folder / name) for name in (_REPORT, _QUERIES, _ATTENTION)}
    with written_aside(folder / _CARD) as aside:
        aside.write_text(_json(card), encoding="utf-8")


def check_run_folder(folder: str | os.PathLike[str]) -> None:
    """Check that a run may be written to a folder: it is new or empty, or holds a run.

    Raises:
        FileExistsError: it is a file, or holds other files.
        FileNotFoundError: the folder it is to be in does not exist.
    """
    folder = Path(folder)
    if folder.is_dir():
        if any(folder.iterdir()) and not (folder / _CARD).is_file():
            raise FileExistsError(f"{folder}: holds files, but no run ({_CARD}); give a new or an empty folder")
    elif folder.exists():
        raise FileExistsError(f"{folder}: is a file, expected a folder to write the run to")
    elif not folder.parent.is_dir():
        raise FileNotFoundError(f"{folder.parent}: no such folder to make {folder.name} in")


def load_run(folder: str | os.PathLike[str]) -> Run:
    """Read the folder that `save_run` wrote.

    Args:
        folder: with run.json, report.json, queries.safetensors and attention.safetensors.

    Returns:
        The run.

    Raises:
        FileNotFoundError: the folder or a file of it is missing.
        DataError: a file is damaged, of another run, or holds something else; the message names it.

    Example:
        >>> run = load_run("runs/scan")  # doctest: +SKIP
    """
    folder = Path(folder)
    for name in (_CARD, _REPORT, _QUERIES, _ATTENTION):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name}: no such file; a run folder, written by itm-fast evaluate --run, holds {_CARD}, "
                f"{_REPORT}, {_QUERIES} and {_ATTENTION}"
            )
    card = _object(folder / _CARD)
    if card.get("format") not in _READ:
        raise DataError(
            f"{folder / _CARD}: format is {card.get('format')!r}, expected {' or '.join(map(repr, _READ))}; evaluate "
            "again with --run"
        )
    card.setdefault("date", "")
    _check_card(card, folder / _CARD)
    for name in (_REPORT, _QUERIES, _ATTENTION):
        if _digest(folder / name) != card["files"].get(name):
            raise DataError(
                f"{folder / name}: not the file that {_CARD} was written with: it was changed, cut short, or writing "
                "was interrupted; evaluate again"
            )
    report = _object(folder / _REPORT)
    tensors = _tensors(folder / _QUERIES)
    try:
        i2t, t2i = (_results(tensors, direction) for direction in _DIRECTIONS)
        owners = tensors.pop("caption_to_image", None)
        if owners is None or tensors:
            raise ValueError("caption_to_image is missing" if owners is None else f"{min(tensors)} is not of a run")
    except (ValueError, TypeError) as error:
        raise DataError(f"{folder / _QUERIES}: {error}") from error
    weights = _tensors(folder / _ATTENTION)
    if set(weights) != {str(number) for number in range(len(card["attention"]))}:
        raise DataError(f"{folder / _ATTENTION}: {len(weights)} pairs, but {_CARD} has {len(card['attention'])}")
    try:
        attention = tuple(
            Attention(one["image"], one["caption"], tuple(one["words"]), weights[str(number)])
            for number, one in enumerate(card["attention"])
        )
    except (ValueError, TypeError) as error:
        raise DataError(f"{folder / _ATTENTION}: {error}") from error
    captions, image_names = (None if card[key] is None else tuple(card[key]) for key in ("captions", "image_names"))
    about = card["curves"], attention, card["source"], card["date"]
    try:
        return Run(card["name"], report, i2t, t2i, owners, captions, image_names, *about)
    except (ValueError, TypeError) as error:
        raise DataError(f"{folder}: {_CARD} and {_QUERIES} do not fit each other: {error}") from error


def _results(tensors: dict[str, Tensor], direction: str) -> QueryResults:
    """The results of one direction, taken out of the tensors of both."""
    found = {name: tensors.pop(f"{direction}.{name}", None) for name, *_ in TENSORS}
    missing = [name for name, tensor in found.items() if tensor is None and name not in OPTIONAL]
    if missing:
        raise ValueError(f"{direction}.{missing[0]} is missing")
    return QueryResults(**found)  # type: ignore[arg-type]


def _check_card(card: Mapping[str, Any], path: Path) -> None:
    """Refuse a run.json whose entries are of other kinds than `save_run` writes."""
    kinds: dict[str, Any] = {"name": str, "date": str, "source": dict, "curves": dict, "attention": list, "files": dict}
    for key, kind in kinds.items():
        if not isinstance(card.get(key), kind):
            raise DataError(f"{path}: {key} is {card.get(key)!r:.60}, expected a {kind.__name__}")
    for key in ("captions", "image_names"):
        if card.get(key, 0) is not None and not _is_list_of(str, card.get(key)):
            raise DataError(f"{path}: {key}: expected a list of strings, or null")
    for number, one in enumerate(card["attention"]):
        if (
            not isinstance(one, dict)
            or not _is_list_of(int, [one.get("image"), one.get("caption")])
            or not _is_list_of(str, one.get("words"))
        ):
            raise DataError(
                f'{path}: attention[{number}]: expected {{"image": ROW, "caption": COLUMN, "words": [...]}}'
            )


def _is_list_of(kind: type, values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _object(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object, found a {type(content).__name__}")
    return content


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: not a safetensors file: {error}") from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
