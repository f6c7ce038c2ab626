"""Document frequencies as a safetensors file: what is in it, and whether it is what was asked for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from itm_fast.errors import DataError
from itm_fast.files.writing import written_aside

_FORMAT = "itm-fast document frequencies 1"
_DTYPES = {
    "words": np.uint8,  # UTF-8 of all words, one after another
    "word_ends": np.int64,
    "prefixes": np.int32,  # of every n-gram: the n-gram without its last word, or -1 if it is a word
    "last_words": np.int32,  # its last word; of a word: its place among the words
    "frequencies": np.int32,  # images that have it
}

Result = TypeVar("Result")


@dataclass(frozen=True)
class Header:
    """What the frequencies are for."""

    variant: Literal["cider_d", "cider"]
    n: int
    sigma: float
    tokenizer: str
    n_images: int
    log_n_images: float

    def check(self, path: str | Path, wanted: Mapping[str, object]) -> None:
        """Raise DataError where a field differs from what is wanted (None: anything is)."""
        for name, value in wanted.items():
            found = getattr(self, name)
            if value is not None and value != found:
                raise DataError(
                    f"{path}: document frequencies of another {'corpus' if name == 'n_images' else name}: {name} is "
                    f"{found!r}, expected {value!r}"
                )


def write(path: str | Path, header: Header, tables: dict[str, npt.NDArray[Any]]) -> None:
    """Write aside and rename."""
    metadata = {"format": _FORMAT, "header": json.dumps(dataclasses.asdict(header))}
    with written_aside(path) as aside:
        save_file(tables, aside, metadata=metadata)


def read(path: str | Path) -> tuple[Header, dict[str, npt.NDArray[Any]]]:
    """Header and tables; DataError unless the file holds exactly these."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected document frequencies written by Cider.save")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise DataError(f"{path}: a safetensors file, but not {_FORMAT!r}; expected one written by Cider.save")
            tables = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{path}: not a safetensors file ({error}); expected document frequencies written by Cider.save. Pickled "
            "ones of other codes are never read: fit a Cider on the captions they were made from"
        ) from error
    if {name: table.dtype for name, table in tables.items()} != _DTYPES or any(t.ndim != 1 for t in tables.values()):
        raise DataError(f"{path}: damaged: expected the one-dimensional tables {', '.join(_DTYPES)}")
    return checked(path, lambda: _header(json.loads(metadata["header"]))), tables


def _header(fields: dict[str, Any]) -> Header:
    header = Header(**fields)
    for field, kinds in (("n", int), ("n_images", int), ("sigma", (int, float)), ("log_n_images", (int, float))):
        if not isinstance(getattr(header, field), kinds):
            raise ValueError(f"{field} is {getattr(header, field)!r}")
    if header.n_images < 1:
        raise ValueError(f"n_images is {header.n_images}")
    return header


def stored_tokenizer(path: str | Path, header: Header) -> Literal["split", "ptb", "characters"]:
    """The tokenizer that the header names; DataError if it was a callable."""
    names: tuple[Literal["split", "ptb", "characters"], ...] = ("split", "ptb", "characters")
    for name in names:
        if header.tokenizer == name:
            return name
    raise DataError(f"{path}: made with a tokenizer of the user's own, which is not stored: pass tokenizer=...")


def checked(path: str | Path, build: Callable[[], Result]) -> Result:
    """The result of ``build``, with the file's name on whatever it refuses."""
    try:
        return build()
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: damaged document frequencies: {error}") from error
