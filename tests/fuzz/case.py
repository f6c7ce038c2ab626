"""What a case of the table is: a reader, its files, what comes out; and small files of every kind."""

import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

Files = dict[str, bytes]


@dataclass(frozen=True)
class Case:
    """A reader.

    Attributes:
        files: makes the content of its files, by name.
        read: reads them from their folder.
        right: what it must return for the files as they are, or a check of it.
        whole: names of files that are never damaged.
    """

    files: Callable[[], Files]
    read: Callable[[Path], Any]
    right: Any
    whole: tuple[str, ...] = field(default=())


def npy(values: Any, dtype: Any = None) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(values, dtype))
    return file.getvalue()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def js(content: Any) -> bytes:
    return json.dumps(content).encode()


def pt(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def image(mode: str, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    grey = (np.arange(144).reshape(12, 12) * 1.5).astype(np.uint16 if mode == "I;16" else np.uint8)
    picture = Image.fromarray(grey)
    (picture if mode == "I;16" else picture.convert(mode)).save(file, kind, **options)
    return file.getvalue()


def written(write: Callable[[Path], Any]) -> Files:
    """What a function writes to a folder, by path below it."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        files = (path for path in sorted(Path(folder).rglob("*")) if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def put(files: Files, folder: Path) -> None:
    """Write files to a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def at(name: str, read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda folder: read(folder / name)


def of_file(name: str, content: bytes, read: Callable[[Path], Any], right: Any) -> Case:
    return Case(lambda: {name: content}, at(name, read), right)
