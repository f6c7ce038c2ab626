"""What a format of captioned images is: how it is known, and how it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from itm_fast.data.readers.captioned_images import Entry
from itm_fast.data.readers.found_path import FoundPath


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: as people call it.
        recognises: whether a path holds it, by what is in it.
        read: the images of all splits; DataError where they are not as the format has them.
        comes_once: whether an image that comes again is an error.
        note: what the format leaves unsaid, and how it is taken.
    """

    name: str
    recognises: Callable[[FoundPath], bool]
    read: Callable[[FoundPath], list[Entry]]
    comes_once: bool = False
    note: str = ""
