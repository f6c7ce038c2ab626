"""Which image each caption of a split belongs to, and in which row that image is: from sizes, ids or a file of owners.

A guess is checked against what it would leave over, and said in a note unless it is SCAN's own rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from itm_fast.errors import DataError
from itm_fast.indices import distinct_numbers

IntArray = npt.NDArray[np.int64]
SameRows = Callable[[int, int], bool]
"""Whether the rows [first, last) of the features are equal."""

CAPTIONS_PER_IMAGE = 5

_SAMPLE = 64  # rows, or pairs of neighbours, that are looked at for images that are written several times
_OFTEN = 8  # of them, from which on neighbours that are equal are no chance
_OWNERS = "{split}_owners.txt, the row of each caption's image (from 0), one a line"


@dataclass(frozen=True, eq=False)
class Ownership:
    """Images of a split and their captions.

    Attributes:
        rows: int64 (n_images,), where each distinct image is in the files of the split.
        caption_to_image: int64 (n_captions,), index of each caption's distinct image.
        notes: What was guessed.
    """

    rows: IntArray
    caption_to_image: IntArray
    notes: tuple[str, ...] = ()

    @property
    def captions_per_image(self) -> int | None:
        """Of every image, in the order of the images; None where they differ or lie otherwise."""
        n_images, n_captions = len(self.rows), len(self.caption_to_image)
        per_image = n_captions // n_images if n_images else 0
        expected = np.arange(n_captions) // max(1, per_image)
        same = per_image * n_images == n_captions and np.array_equal(expected, self.caption_to_image)
        return per_image if same and per_image else None

    def kept(self, captions: IntArray) -> Ownership:
        """The same images with some of the captions."""
        return replace(self, caption_to_image=self.caption_to_image[captions])

    def cut(self, n_captions: int) -> Ownership:
        """The first images, those whose captions are among the first `n_captions`; all, unless they are in order."""
        owners = self.caption_to_image
        if len(owners) <= n_captions or (np.diff(owners) < 0).any():
            return self
        n_images = max(1, int(owners[n_captions]))
        return replace(self, rows=self.rows[:n_images], caption_to_image=owners[owners < n_images])


def given_owners(owners: IntArray, n_rows: int, same_rows: SameRows, where: str) -> Ownership:
    """Owners from a file.

    Args:
        owners: (n_lines,) int64, rows 0 … n_rows - 1.
        n_rows: Rows of the features, or images.
        same_rows: Looks at the features.
        where: Name of the file, for messages.

    Raises:
        DataError: They leave rows over that seem to be of the same images.
    """
    n_without = n_rows - len(distinct_numbers(owners))
    if n_without and n_rows == len(owners) and same_rows(0, 2):
        raise DataError(
            f"{where}: {n_without} of {n_rows} rows have no caption, and the first two are equal, as if every image "
            "were written once a caption; expected one row an image, and owners that are rows"
        )
    notes = () if not n_without else (f"{where}: {n_without} of {n_rows} images have no caption",)
    return Ownership(np.arange(n_rows), owners, notes)


def found_owners(
    n_rows: int | None, n_lines: int, ids: IntArray | None, same_rows: SameRows, images_path: Path, caps_path: Path
) -> Ownership:
    """Owners from the numbers of rows, lines and ids.

    Five captions an image, or rows written five times, is SCAN's layout. Else ids, one a line of captions, say it; else
    a fixed number of captions an image.

    Args:
        n_rows: Rows of the features; None: images are files, one an id.
        n_lines: Lines of captions.
        ids: (n_ids,) int64, one an image or one a caption; None: there are none.
        same_rows: Looks at the features.
        images_path: The file that has the rows, or the ids, for messages.
        caps_path: The file that has the lines.

    Raises:
        DataError: The numbers do not fit each other.
    """
    where = f"{images_path} and {caps_path.name}"
    runs = None
    if ids is not None and len(ids) == n_lines:
        runs = _runs(ids, caps_path, strict=n_rows in (None, n_lines))
    if n_rows == n_lines:
        return _one_row_a_caption(n_lines, runs, same_rows, where)
    if n_rows is None and runs is not None:
        return _of_runs(runs, np.arange(runs[-1] + 1), where)
    n_images = n_rows if n_rows is not None else len(ids if ids is not None else ())
    if runs is not None and runs[-1] + 1 == n_images and (np.bincount(runs) != CAPTIONS_PER_IMAGE).any():
        return _of_runs(runs, np.arange(n_images), where)
    if not n_images or n_lines < n_images or n_lines % n_images:
        rows, repeated = ("ids", "ids, one a caption") if n_rows is None else ("rows", "every row written five times")
        raise DataError(
            f"{images_path.name} has {n_images} {rows} and {caps_path.name} {n_lines} lines ({caps_path.parent}); "
            f"expected {n_images * CAPTIONS_PER_IMAGE} lines (five an image), or {n_images} with {repeated}; or a "
            f"multiple of {n_images}, or {_OWNERS}"
        )
    return _regular(n_images, n_lines // n_images, where)


def _regular(n_images: int, per_image: int, where: str, step: int = 1) -> Ownership:
    notes: tuple[str, ...] = ()
    if per_image != CAPTIONS_PER_IMAGE:
        captions = "one caption" if per_image == 1 else f"{per_image} captions"
        notes = (f"{where}: read as {captions} an image, {n_images} images",)
    return Ownership(np.arange(n_images) * step, np.arange(n_images * per_image) // per_image, notes)


def _one_row_a_caption(n_lines: int, runs: IntArray | None, same_rows: SameRows, where: str) -> Ownership:
    """As many rows as captions: each image written as often as it has captions, or one caption an image."""
    if runs is not None and runs[-1] + 1 < n_lines:
        starts = np.flatnonzero(np.diff(runs, prepend=-1))
        stops = np.append(starts[1:], n_lines)
        for group in sorted({0, len(starts) // 2, len(starts) - 1}):
            if not same_rows(int(starts[group]), int(stops[group])):
                raise DataError(
                    f"{where}: by their ids the rows {starts[group]} … {stops[group] - 1} are of one image, but they "
                    "differ; expected every row written once a caption, or one row an image"
                )
        if (stops - starts == CAPTIONS_PER_IMAGE).all():
            return _regular(len(starts), CAPTIONS_PER_IMAGE, where, CAPTIONS_PER_IMAGE)
        return _of_runs(runs, starts, where)
    for size in dict.fromkeys((CAPTIONS_PER_IMAGE, _repeats(n_lines, same_rows))):
        if size == 1 or n_lines % size:
            continue
        n_groups = n_lines // size
        starts = size * np.array(sorted({0, n_groups // 2, n_groups - 1}))  # a sample: all would be the whole file
        differ = [start for start in starts.tolist() if not same_rows(start, start + size)]
        if not differ:
            return _regular(n_groups, size, where, size)
        if len(differ) < len(starts):
            raise DataError(
                f"{where}: as many rows as captions ({n_lines}); some are equal as if every row were written {size} "
                f"times, but rows {differ[0]} … {differ[0] + size - 1} differ; expected one of both, or {_OWNERS}"
            )
    places = np.unique(np.linspace(0, n_lines - 2, min(_SAMPLE, n_lines - 1)).astype(np.int64)).tolist()
    n_equal = sum(same_rows(place, place + 2) for place in places)
    if n_equal * _OFTEN > len(places):
        raise DataError(
            f"{where}: as many rows as captions ({n_lines}), and {n_equal} of {len(places)} rows equal the next: "
            f"images seem to be written once a caption, but not all as often; expected {_OWNERS}"
        )
    return _regular(n_lines, 1, where)


def _repeats(n_lines: int, same_rows: SameRows) -> int:
    """How often the first row is written; 1 where nothing else comes after it."""
    most = min(n_lines, _SAMPLE)
    size = next((size for size in range(1, most) if not same_rows(size - 1, size + 1)), most)
    return 1 if size == most else size


def _runs(ids: IntArray, caps_path: Path, *, strict: bool) -> IntArray | None:
    """Number of the image that each id names, from equal ids that follow each other; None where an id comes back."""
    starts = np.flatnonzero(np.append(True, ids[1:] != ids[:-1]))
    firsts = np.unique(ids[starts], return_index=True)[1]
    again = np.setdiff1d(np.arange(len(starts)), firsts)
    if again.size and strict:
        line = int(starts[again[0]])
        raise DataError(
            f"{caps_path}:{line + 1}: its id {ids[line]} is there before, with other ids between; expected {_OWNERS}"
        )
    return None if again.size else np.repeat(np.arange(len(starts)), np.diff(starts, append=len(ids)))


def _of_runs(runs: IntArray, rows: IntArray, where: str) -> Ownership:
    sizes = np.bincount(runs)
    if (sizes == CAPTIONS_PER_IMAGE).all():
        return Ownership(rows, runs)
    per_image = f"{sizes[0]}" if (sizes == sizes[0]).all() else f"{sizes.min()} to {sizes.max()}"
    return Ownership(rows, runs, (f"{where}: by ids, one a caption, {len(rows)} images have {per_image} captions",))
