"""Folders of queries, a corpus and relevance judgements (qrels): MTEB's, MIEB's, BEIR's; parquet, JSON lines, TSV.

Each query has to be of one image, as a caption is: sets with several, and pages of documents with graded relevance,
are no captioned images; ``read_pages`` and ``read_judged_folder`` take them.
Sources: beir-cellar/beir; embeddings-benchmark/mteb (image tasks); TREC's qrels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itm_fast.data.readers.captioned_images import Entry
from itm_fast.data.readers.column_names import IMAGE_FILES, split_named
from itm_fast.data.readers.found_path import FoundPath, is_json, read_caption_json
from itm_fast.data.readers.parquet_rows import ParquetFile, ParquetImage, ParquetImages
from itm_fast.data.readers.qrels import Judgement, read_graded_pairs
from itm_fast.errors import DataError
from itm_fast.files.ids import IMAGE_SUFFIXES
from itm_fast.files.plain_text import read_lines

_PARTS = {"queries": ("queries", "query"), "corpus": ("corpus",), "qrels": ("qrels", "qrel")}
_SIDES = ("queries", "corpus")
_SUFFIXES = (".parquet", ".jsonl", ".tsv", ".txt", ".trec", ".qrels")
_IDS = ("_id", "id", "corpus-id", "query-id", "corpus_id", "query_id", "docid", "qid")
_TEXTS = ("text", "query", "caption")


class SeveralImagesError(DataError):
    """A text is relevant to several images."""


@dataclass(frozen=True, eq=False)
class _Item:
    """A query or a document."""

    key: str
    split: str | None
    text: str | None
    image: ParquetImage | str | None
    """What holds it, or the name of its file."""


def is_beir(found: FoundPath) -> bool:
    """Whether a folder has queries, a corpus and qrels."""
    return found.is_folder and all(_files(found, part) for part in _PARTS)


def read_beir(found: FoundPath) -> list[Entry]:
    """The images in the order of their file, each with the texts that are judged relevant to it, by split of the qrels.

    Raises:
        SeveralImagesError: a text is relevant to several images.
        DataError: a file is damaged; an id is there twice, or judged but not there; neither queries nor corpus are
            images.
    """
    return _entries(found, one_each=True)


def read_pages(found: FoundPath) -> list[Entry]:
    """The same, where any number of images may be relevant to a text: it stands at the first of the highest grade.

    Raises:
        DataError: as ``read_beir``.
    """
    return _entries(found, one_each=False)


def _entries(found: FoundPath, one_each: bool) -> list[Entry]:
    queries, corpus = (_items(found, part) for part in _SIDES)
    from_text = _from_text(found, queries, corpus)
    images, texts = (corpus, queries) if from_text else (queries, corpus)
    entries = []
    for split, judgements in _judged(found).items():
        where = f"{found.path}: qrels of {split or 'all'}"
        owners = _owners(judgements, queries, corpus, from_text, where, one_each)
        of_image: dict[str, list[str]] = {key: [] for key, item in images.items() if item.split in (None, split)}
        for key in texts:
            if key in owners:
                of_image.setdefault(owners[key], []).append(key)
        for key, own in of_image.items():
            captions = [texts[text].text or "" for text in own]
            image = images[key].image
            name = image if isinstance(image, str) else key
            packed = None if isinstance(image, str) else image
            entries.append(Entry(name, captions, key, [*own] if own else None, split=split, packed=packed))
    return entries


def read_judged_folder(path: str | Path, split: str) -> tuple[list[str], list[str], dict[str, dict[str, float]]]:
    """The ids of images and of texts, in the order of their files, and the grades of the images of each text.

    Any number of images may be relevant to a text, as pages of documents are to a question.

    Args:
        path: a folder of queries, a corpus and qrels; either side may be the images.
        split: of the qrels, where they have several.

    Returns:
        Ids of images, ids of texts, {text: {image: grade}} of grades above 0.

    Raises:
        DataError: it is no such folder, or as ``read_beir``; no pair is relevant.
    """
    found = FoundPath(path)
    if not is_beir(found):
        raise DataError(f"{path}: no folder of queries, corpus and qrels, as MTEB and BEIR have it")
    queries, corpus = (_items(found, part) for part in _SIDES)
    from_text = _from_text(found, queries, corpus)
    images, texts = (corpus, queries) if from_text else (queries, corpus)
    judged = _judged(found)
    if len(judged) > 1 and split not in judged:
        raise DataError(f"{path}: has qrels of {', '.join(map(str, judged))}, none of {split}")
    judgements = judged[split] if split in judged else next(iter(judged.values()))
    grades: dict[str, dict[str, float]] = {}
    for query, document, grade in judgements:
        _check_judged(query, document, queries, corpus, f"{found.path}: qrels")
        text, image = (query, document) if from_text else (document, query)
        if grade > 0:
            grades.setdefault(text, {})[image] = float(grade)
    if not grades:
        raise DataError(f"{path}: nothing is relevant to anything in its qrels")
    return list(images), list(texts), grades


def _owners(
    judgements: list[Judgement],
    queries: dict[str, _Item],
    corpus: dict[str, _Item],
    from_text: bool,
    where: str,
    one_each: bool,
) -> dict[str, str]:
    """The image of each text that has one; of several the first of the highest grade."""
    owners: dict[str, str] = {}
    grades: dict[str, float] = {}
    for query, document, grade in judgements:
        _check_judged(query, document, queries, corpus, where)
        text, image = (query, document) if from_text else (document, query)
        if grade <= 0:
            continue
        if one_each and owners.setdefault(text, image) != image:
            raise SeveralImagesError(
                f"{where}: text {text} is relevant to several images, such as {owners[text]} and {image}: these are no "
                "captioned images, where each caption has one; itm-fast embed takes them, and evaluate --protocol "
                "vidore ranks them"
            )
        if grade > grades.get(text, 0):
            owners[text], grades[text] = image, grade
    return owners


def _from_text(found: FoundPath, queries: dict[str, _Item], corpus: dict[str, _Item]) -> bool:
    """Whether texts ask for images; else images for texts."""
    from_text = any(item.image is not None for item in corpus.values())
    if from_text == any(item.image is not None for item in queries.values()):
        both = "both" if from_text else "neither"
        raise DataError(f"{found.path}: {both} of queries and corpus are images; expected one, and texts as the other")
    return from_text


def _check_judged(query: str, document: str, queries: dict[str, _Item], corpus: dict[str, _Item], where: str) -> None:
    for key, items, what in ((query, queries, "queries"), (document, corpus, "corpus")):
        if key not in items:
            raise DataError(f"{where}: {key!r:.60} is judged, but is not in {what}")


def _judged(found: FoundPath) -> dict[str | None, list[Judgement]]:
    judged: dict[str | None, list[Judgement]] = {}
    for path in _files(found, "qrels"):
        judged.setdefault(split_named(path.stem), []).extend(read_graded_pairs(path))
    return judged


def _items(found: FoundPath, part: str) -> dict[str, _Item]:
    items: dict[str, _Item] = {}
    for path in _files(found, part):
        for item in _of_parquet(path) if path.suffix == ".parquet" else _of_lines(path):
            if item.key in items:
                raise DataError(f"{path}: {part} has the id {item.key!r:.60} twice")
            items[item.key] = item
    return items


def _of_parquet(path: Path) -> Iterator[_Item]:
    file = ParquetFile(path)
    held = file.image_column()
    images = None if held is None else ParquetImages(path, held)
    for number, row in enumerate(file.rows([name for name in file.columns if name != held])):
        yield _item(row, path, f"{path}: row {number}", None if images is None else ParquetImage(images, number))


def _of_lines(path: Path) -> Iterator[_Item]:
    if is_json(path):
        rows = read_caption_json(path)
    else:
        lines = [line.split("\t") for line in read_lines(path, "id and text")]
        first = 1 if lines[0][0] in _IDS else 0
        headings = lines[0] if first else ["_id", "text"]
        rows = [dict(zip(headings, cells, strict=False)) for cells in lines[first:]]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: {row!r:.60}; expected an object with an id and a text or an image")
        yield _item(row, path, f"{path}:{number}", None)


def _item(row: dict[str, Any], path: Path, where: str, packed: ParquetImage | None) -> _Item:
    key = next((row[name] for name in _IDS if isinstance(row.get(name), (str, int))), None)
    text = next((row[name] for name in _TEXTS if isinstance(row.get(name), str) and row[name]), None)
    named = next((row[name] for name in IMAGE_FILES if isinstance(row.get(name), str) and row[name]), None)
    if key is None or (text is None and named is None and packed is None):
        raise DataError(
            f"{where}: {', '.join(map(str, row)):.120}; expected an id ({', '.join(_IDS[:4])}) and a text or an image"
        )
    if row.get("modality") == "text":
        packed = None
    image = packed if packed is not None else named
    if image is None and text is not None and text.lower().endswith(IMAGE_SUFFIXES) and " " not in text:
        image = text  # of a corpus of names
    return _Item(str(key), split_named(path.stem), text, image)


def _files(found: FoundPath, part: str) -> list[Path]:
    """The files of a part: in a folder of its name, or of its name themselves."""
    names = _PARTS[part]
    return [
        path for path in found.files if path.suffix in _SUFFIXES and (path.parent.name in names or path.stem in names)
    ]
