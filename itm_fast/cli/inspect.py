"""``itm-fast inspect``: what a file or a folder is, how much it holds, and what is odd about it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itm_fast.cli.console import print_json

if TYPE_CHECKING:
    from itm_fast.data.readers.description import Description
    from itm_fast.data.readers.found_path import FoundPath

_WHOLE = "all"  # of a set without splits


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Say what a file or a folder is: images, captions, their owners, languages, splits, and what is odd.

    Formats are known by what is in them. Everything but pixels is read.
    """

    path: Path
    """A set of captioned images in any format, a data set in SCAN's layout, embeddings of itm-fast embed, a run of
    itm-fast evaluate or train, a model, captions, relevance judgements, ids, names, owners, ratings, arrays, the
    annotations of a protocol."""

    images_folder: tuple[Path, ...] = ()
    """Look whether the images that the set names are in this folder, or these."""

    split: str | None = None
    """Of --images-folder: the split whose images are looked for; needed where there are several."""

    json: bool = False
    """Print one JSON object."""


def run(args: Inspect) -> int:
    """Look, print, and return the exit code."""
    from itm_fast.data.readers.found_path import FoundPath

    about = {"path": str(args.path), **_about(FoundPath(args.path), args)}
    if args.json:
        print_json(about)
        return 0
    print(f"{args.path}: {about.pop('format')}")
    for name, what in about.pop("holds", {}).items() if isinstance(about.get("holds"), dict) else ():
        print(f"  {name}/: {what}")
    for key, value in about.items():
        if key != "path" and value not in ({}, []):
            _print_lines(key, value)
    return 0


def _about(found: FoundPath, args: Inspect) -> dict[str, Any]:
    """What a path is, as plain values: "format", then figures."""
    from itm_fast.cli.inspected import BEFORE, of_array, of_folder
    from itm_fast.data.readers.beir_folder import SeveralImagesError
    from itm_fast.data.readers.data_folders import holds_data_set
    from itm_fast.data.readers.description import describe
    from itm_fast.data.readers.formats import PAGES, format_of, not_captioned
    from itm_fast.sources.embedding_files import CARD

    if found.is_folder and (found.path / CARD).is_file():
        return _of_embeddings(found.path)
    if found.is_folder and holds_data_set(found.path):
        return _of_layout(found.path)
    if found.is_folder and (found.path / "run.json").is_file():
        return _of_run(found.path)
    if found.path.suffix in (".npy", ".npz", ".safetensors"):
        return of_array(found.path)
    judged = _of_qrels(found)
    known = judged or next(filter(None, (look(found) for look in BEFORE)), None)
    if known is not None:
        return known
    form = format_of(found)
    if form is None and found.is_folder:
        known = of_folder(found)
    if known is not None:
        return known
    if form is not None:
        try:
            about = _of_set(describe(found, form))
        except SeveralImagesError:
            about = _of_set(describe(found, PAGES))
        return {**about, "odd": [*about["odd"], *_missing(args)]}
    if found.lines is not None:
        return {"format": "captions alone, one a line", "captions": len(found.lines.captions)}
    if isinstance(found.json, list) and found.json and all(map(_are_texts, found.json)):
        n_captions = sum(1 if isinstance(item, str) else len(item) for item in found.json)
        return {"format": "captions alone, in lists", "lists": len(found.json), "captions": n_captions}
    parts = _parts(found) if found.is_folder else {}
    if not parts:
        raise not_captioned(found)
    return {"format": "folder of several things, each to be inspected by itself", "holds": parts}


def _parts(found: FoundPath) -> dict[str, str]:
    """What the folders in a folder are, by name, of those that are something."""
    from itm_fast.data.readers.found_path import FoundPath
    from itm_fast.errors import DataError

    parts = {}
    for path in sorted({found.path / part.relative_to(found.path).parts[0] for part in found.files}):
        try:
            if path.is_dir():
                parts[path.name] = str(_about(FoundPath(path), Inspect(path=path))["format"])
        except (DataError, FileNotFoundError):
            continue
    return parts


def _are_texts(item: Any) -> bool:
    return isinstance(item, str) or (isinstance(item, list) and all(isinstance(text, str) for text in item))


def _of_set(found: Description) -> dict[str, Any]:
    return {
        "format": found.format,
        "splits": {split or _WHOLE: dataclasses.asdict(figures) for split, figures in found.splits.items()},
        "languages": found.languages,
        "images": "in it" if found.holds_images else "named",
        "odd": found.odd,
        "notes": found.notes,
    }


def _missing(args: Inspect) -> list[str]:
    """What find_images says, where folders are named."""
    from itm_fast.data import find_images, read_captioned_images

    if not args.images_folder:
        return []
    try:
        find_images(read_captioned_images(args.path, split=args.split, drop_blank=True), args.images_folder)
    except FileNotFoundError as error:
        return [str(error)]
    return []


def _of_layout(folder: Path) -> dict[str, Any]:
    """A data set in SCAN's layout, split by split; what one of them refuses is told as odd."""
    from itm_fast.data import PrecompDataset
    from itm_fast.errors import DataError

    splits, odd, notes = {}, [], []
    for path in sorted(folder.glob("*_caps.txt")):
        split = path.name.removesuffix("_caps.txt")
        try:
            found = PrecompDataset(folder, split, dev_captions=None)
        except (DataError, FileNotFoundError) as error:
            odd.append(f"{split}: {error}")
            continue
        counts = [len(texts) for texts in found.captions_by_image()]
        owned = sum(n > 0 for n in counts)
        splits[split] = {
            "n_images": found.n_images,
            "n_owners": owned,
            "n_captions": found.n_captions,
            "fewest": min(counts),
            "most": max(counts),
            "regions": found.max_regions,
            "dim": found.dim,
        }
        notes += found.notes
    return {"format": "data set in SCAN's layout", "splits": splits, "odd": odd, "notes": notes}


def _of_embeddings(folder: Path) -> dict[str, Any]:
    from itm_fast.evaluation import read_embeddings

    found = read_embeddings(folder)
    sizes = {"n_images": len(found.images), "n_captions": len(found.texts), "dim": found.dim, "dtype": found.dtype}
    what = "vectors a token" if found.per_token else "embeddings"
    return {"format": f"{what} of itm-fast embed, by {found.model}", **sizes, "notes": found.notes}


def _of_run(folder: Path) -> dict[str, Any]:
    from itm_fast.errors import DataError
    from itm_fast.evaluation import load_run

    found = load_run(folder)
    conditions = found.report.get("conditions")
    if not isinstance(conditions, dict):
        raise DataError(f"{folder}: its report.json holds no conditions; evaluate again with --run")
    figures = {
        key: conditions[key] for key in ("n_images", "n_captions", "protocol") if conditions.get(key) is not None
    }
    return {"format": f"run of itm-fast evaluate, {found.name!r}", **figures}


def _of_qrels(found: FoundPath) -> dict[str, Any] | None:
    """Relevance judgements, if the file holds such."""
    from itm_fast.data.readers.qrels import read_graded_pairs
    from itm_fast.errors import DataError

    if found.is_folder:
        return None
    try:
        judged = read_graded_pairs(found.path)
    except DataError:
        return None
    figures = {
        "queries": len({one.query for one in judged}),
        "documents": len({one.document for one in judged}),
        "judgements": len(judged),
        "grades": sorted({one.grade for one in judged}),
    }
    return {"format": "relevance judgements (qrels) of TREC or BEIR", **figures}


def _print_lines(key: str, value: Any) -> None:
    if key == "splits":
        for split, figures in value.items():
            print(f"  {split}: {_told(figures)}")
    elif isinstance(value, dict):
        told = (f"{name} {count:,}" if isinstance(count, int) else f"{name} {count}" for name, count in value.items())
        print(f"  {key}: {', '.join(told)}")
    elif key in ("odd", "notes"):
        for line in value:
            print(f"  {key.removesuffix('s')}: {line}")
    else:
        print(f"  {key}: {value}")


def _told(figures: dict[str, Any]) -> str:
    """The figures of a split in words."""
    fewest, most = figures["fewest"], figures["most"]
    an_image = f"{most}" if fewest == most else f"{fewest} to {most}"
    owners = "" if figures["n_owners"] == figures["n_images"] else f", of {figures['n_owners']:,} of them"
    regions = f", {figures['regions']} x {figures['dim']}" if "dim" in figures else ""
    return f"{figures['n_images']:,} images{regions}, {figures['n_captions']:,} captions ({an_image} an image{owners})"
