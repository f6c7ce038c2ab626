"""A file or a folder that is looked at once, for all formats that might be its own."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Any

from itm_fast.data.readers.caption_lines import CaptionLines, read_caption_lines
from itm_fast.errors import DataError
from itm_fast.files.plain_text import read_lines
from itm_fast.files.reading import parsed_json, read_json

_JSON_LINES = (".jsonl", ".jsonlines")
_HEAD = 1024  # bytes
_DEPTH = 3  # folders below one another, as in owner/name/data/test/0.tar
BINARY = (b"\x93NUMPY", b"PK\x03\x04", b"PAR1", b"\x80", b"\x89PNG", b"\xff\xd8", b"RIFF", b"%PDF")


class FoundPath:
    """What a path holds, each look taken when it is first asked for.

    Args:
        path: a file or a folder.

    Attributes:
        path: the same.
        is_folder: whether it is a folder.

    Raises:
        FileNotFoundError: there is nothing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.is_folder = self.path.is_dir()
        if not self.path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder")

    @cached_property
    def head(self) -> bytes:
        """The first bytes of a file; of a folder none."""
        if self.is_folder:
            return b""
        with self.path.open("rb") as file:
            return file.read(_HEAD)

    @cached_property
    def json(self) -> Any:
        """What a JSON file holds, of .jsonl a list of its lines; None where the file is none."""
        return None if self.is_folder or not is_json(self.path) else read_caption_json(self.path)

    @cached_property
    def lines(self) -> CaptionLines | None:
        """Captions of a text file; None where the path is none."""
        if self.is_folder or is_json(self.path) or self.head.startswith(BINARY):
            return None
        return read_caption_lines(self.path)

    @cached_property
    def files(self) -> list[Path]:
        """All files of a folder and of those in it, numbers in names counted as numbers; of a file none."""
        found, level = [], [self.path] if self.is_folder else []
        for _ in range(_DEPTH):
            inside = [path for folder in level for path in folder.iterdir() if not path.name.startswith(".")]
            found += [path for path in inside if path.is_file()]
            level = [path for path in inside if path.is_dir() and not path.is_symlink()]
        return sorted(found, key=_counted)

    def files_of(self, suffix: str) -> list[Path]:
        """The file itself, or those of a folder, with that suffix."""
        return self.files_if_folder(suffix) if self.is_folder else [self.path]

    def files_if_folder(self, suffix: str) -> list[Path]:
        """Those of a folder with that suffix; of a file none."""
        return [path for path in self.files if path.suffix == suffix]


def is_json(path: Path) -> bool:
    """Whether a file is called JSON, which captions in brackets only look like."""
    return Path(path.name.removesuffix(".gz")).suffix in (".json", *_JSON_LINES)


def read_caption_json(path: Path) -> Any:
    """The content of a .json file, or of a .jsonl file as a list of its lines; errors as `read_json`."""
    if Path(path.name.removesuffix(".gz")).suffix not in _JSON_LINES:
        try:
            return read_json(path)
        except DataError as error:
            if "Extra data" not in str(error):
                raise
            raise DataError(f"{error}; JSON lines, one object a line, are read from a file called .jsonl") from error
    return [
        parsed_json(line.encode(), path.with_name(f"{path.name}:{number}"))
        for number, line in enumerate(read_lines(path, "JSON object", keep_blank=True), start=1)
        if line
    ]


def _counted(path: Path) -> list[tuple[int, int | str]]:
    """Shard 10 comes after shard 9."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part)) if part.isdecimal() and len(part) < 19 else (1, part) for part in parts]
