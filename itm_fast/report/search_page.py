"""A page of what was found: thumbnails and captions, in one file that needs no network."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from itm_fast.errors import DataError
from itm_fast.files.writing import written_aside
from itm_fast.report.html import template
from itm_fast.report.pictures import thumbnail

_HEIGHT = 220


@dataclass(frozen=True)
class Hit:
    """An item that was found.

    Attributes:
        score: its similarity.
        name: of the image.
        path: its file; None where there is none to show.
        captions: of the image, or the caption that was found.
    """

    score: float
    name: str
    path: Path | None
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What was found for one query.

    Attributes:
        query: its text, or the name of an image.
        query_path: the image that was asked with, or None.
        hits: best first.
    """

    query: str
    query_path: Path | None
    hits: tuple[Hit, ...]


def write_search_page(answers: Sequence[Answer], path: str | os.PathLike[str], source: str) -> None:
    """Write the page; an image that cannot be read is shown by its name.

    Args:
        answers: one a query.
        path: the HTML file; one of that name is replaced once the new one is complete.
        source: what was searched in, for the head.

    Raises:
        FileNotFoundError: there is no folder to write into.
        ImportError: jinja2 or Pillow is not installed.
    """
    path = Path(path)
    pictures: dict[Path, str | None] = {}
    for answer in answers:
        for one in (answer.query_path, *(hit.path for hit in answer.hits)):
            if one is not None and one not in pictures:
                pictures[one] = _picture(one)
    page = template("search.html").render(answers=answers, source=source, pictures=pictures)
    with written_aside(path) as aside:
        aside.write_text(page, encoding="utf-8")


def _picture(path: Path) -> str | None:
    """A data URI, or None."""
    try:
        content = thumbnail(path, _HEIGHT)[0]
    except (DataError, OSError):
        return None
    return "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")
