"""Captions line by line beside a list of image names, a file a language: XTD10's, Multi30k's.

Sources, looked at: adobe-research/Cross-lingual-Test-Dataset-XTD10, XTD10/, MIC/ and STAIR/; multi30k/dataset,
data/task1 and data/task2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from itm_fast.data.readers.captioned_images import Entry
from itm_fast.data.readers.found_path import FoundPath
from itm_fast.errors import DataError
from itm_fast.files.plain_text import read_lines


@dataclass(frozen=True)
class LinesRelease:
    """A release as its files have it.

    Attributes:
        name: as people call it.
        names: matches the file of image names, one a line; its group ``split``, if there is one, is the split.
        captions: matches a file of captions, a line an image; with the group ``language``, perhaps ``split``.
    """

    name: str
    names: re.Pattern[str]
    captions: re.Pattern[str]


XTD10 = LinesRelease(
    "XTD10's test_1kcaptions_*.txt",
    re.compile(r"test_image_names\.txt"),
    re.compile(r"test_1kcaptions_(?P<language>\w+)\.txt"),
)
MULTI30K = LinesRelease(
    "Multi30k's captions, line by line",
    re.compile(r"(?P<split>train|val|test_\d{4}(?:_\w+?)??)(?:_images)?\.txt"),
    re.compile(r"(?P<split>train|val|test_\d{4}(?:_\w+?)??)\.(?:\d\.)?(?P<language>[a-z]{2})(?:\.gz)?"),
)


def holds_lines(found: FoundPath, release: LinesRelease) -> bool:
    """Whether a folder has a file of names and captions of the same split."""
    return found.is_folder and bool(_splits(found, release))


def read_lines_beside_names(found: FoundPath, release: LinesRelease) -> list[Entry]:
    """The captions of one file after the other, languages in order of their names, each with its image and language.

    Raises:
        DataError: a file has other numbers of lines than there are names; captions of a split in several folders.
    """
    entries = []
    for split, (path, of_captions) in _splits(found, release).items():
        folders = sorted({file.parent for _, file in of_captions})
        if len(folders) > 1 and release is MULTI30K:  # translations and descriptions are two sets
            raise DataError(f"{found.path}: captions of {split} are in {folders[0]} and {folders[1]}; name one of them")
        names = [line.partition("#")[0].strip() for line in read_lines(path, "image name")]
        for language, file in of_captions:
            texts = [line.strip() for line in read_lines(file, "caption", keep_blank=True)]
            if len(texts) != len(names):
                raise DataError(
                    f"{file}: {len(texts)} lines, but {path.name} names {len(names)} images; expected a caption a line "
                    "for each"
                )
            entries += [
                Entry(name, [text], split=split or None, language=language)
                for name, text in zip(names, texts, strict=True)
            ]
    return entries


def _splits(found: FoundPath, release: LinesRelease) -> dict[str, tuple[Path, list[tuple[str, Path]]]]:
    """Of each split the file of names and the files of captions, by language and name."""
    names: dict[str, Path] = {}
    captions: dict[str, list[tuple[str, Path]]] = {}
    for path in found.files:
        listed, told = release.names.fullmatch(path.name), release.captions.fullmatch(path.name)
        if listed is not None:
            names.setdefault(listed.groupdict().get("split", ""), path)
        elif told is not None:
            captions.setdefault(told.groupdict().get("split", ""), []).append((told["language"], path))
    return {split: (path, sorted(captions[split])) for split, path in names.items() if split in captions}
