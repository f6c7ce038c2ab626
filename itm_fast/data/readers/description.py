"""What a set of captioned images is, in figures, and what is odd about it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from itm_fast.data.readers.captioned_images import Entry, collected, stem_of
from itm_fast.data.readers.format import Format
from itm_fast.data.readers.found_path import FoundPath
from itm_fast.errors import DataError

_NAMED = 3  # images that a line names


@dataclass(frozen=True)
class SplitFigures:
    """One split of a set; the whole where it has none.

    Attributes:
        n_images: distinct images.
        n_owners: those that have captions.
        n_captions: captions.
        fewest, most: captions of an image.
    """

    n_images: int
    n_owners: int
    n_captions: int
    fewest: int
    most: int


@dataclass(frozen=True)
class Description:
    """A set of captioned images.

    Attributes:
        format: name of its format.
        splits: by name; "" where the set has none.
        languages: captions by language, where the set says it.
        holds_images: whether the images are in it; else it names them.
        odd: what a person should look at, a line each.
        notes: what the format leaves unsaid.
    """

    format: str
    splits: dict[str, SplitFigures]
    languages: dict[str, int]
    holds_images: bool
    odd: list[str]
    notes: list[str]


def describe(found: FoundPath, form: Format) -> Description:
    """Read a path of a known format and count.

    Args:
        found: the path.
        form: its format.

    Raises:
        DataError: it is not as the format has it; what is merely odd is described.
    """
    by_split: dict[str, list[Entry]] = {}
    entries = form.read(found)
    for entry in entries:
        by_split.setdefault(entry.split or "", []).append(entry)
    if not entries:
        raise DataError(f"{found.path}: holds no images")
    odd = _in_several(by_split)
    for split, own in by_split.items():
        odd += [f"{split}: {line}" if split else line for line in _odd(own, form, f"{found.path}")]
    languages = Counter({language: 0 for language in sorted({entry.language for entry in entries} - {None}, key=str)})
    for entry in entries:
        if entry.language is not None:
            languages[entry.language] += len(entry.captions)
    return Description(
        form.name,
        {split: _figures(own) for split, own in by_split.items()},
        {str(language): count for language, count in languages.items()},
        any(entry.packed is not None for entry in entries),
        odd,
        [form.note] if form.note else [],
    )


def _counts(entries: list[Entry]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for entry in entries:
        counts[entry.name] += len(entry.captions)
    return counts


def _figures(entries: list[Entry]) -> SplitFigures:
    counts = _counts(entries).values()
    return SplitFigures(len(counts), sum(n > 0 for n in counts), sum(counts), min(counts), max(counts))


def _odd(entries: list[Entry], form: Format, where: str) -> list[str]:
    """What is odd about a split, by count, with the first images of each."""
    blank = [entry.name for entry in entries for text in entry.captions if not text.strip()]
    alone = [name for name, count in _counts(entries).items() if not count]
    texts: dict[str, set[str]] = {}
    again, elsewhere = [], []
    for entry in entries:
        for text in entry.captions:
            owners = texts.setdefault(text, set())
            if entry.name in owners:
                again.append(entry.name)
            elif owners:
                elsewhere.append(entry.name)
            owners.add(entry.name)
    lines = [
        _line(blank, "captions are blank"),
        _line(alone, "images have no caption"),
        _line(again, "captions are there once more of the same image"),
        _line(elsewhere, "captions are also another image's, word for word"),
    ]
    try:
        collected(entries, where, comes_once=form.comes_once, drop_blank=True)
    except DataError as error:
        lines.append(f"refused by every command: {error}")
    return [line for line in lines if line]


def _in_several(by_split: dict[str, list[Entry]]) -> list[str]:
    splits: dict[str, set[str]] = {}
    for split, entries in by_split.items():
        for entry in entries:
            splits.setdefault(stem_of(entry.name), set()).add(split)
    line = _line([name for name, of in splits.items() if len(of) > 1], "images are in several splits")
    return [line] if line else []


def _line(names: list[str], what: str) -> str:
    if not names:
        return ""
    first = list(dict.fromkeys(names))
    return f"{len(names):,} {what}: image {', '.join(first[:_NAMED])}{' ...' if len(first) > _NAMED else ''}"
