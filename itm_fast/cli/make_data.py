"""`itm-fast make-data`: write a generated data set in SCAN's layout."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from itm_fast.cli.console import print_json, progress_bar

if TYPE_CHECKING:
    from itm_fast.data.made.synthetic import MadeData


@dataclass(frozen=True)
class SizeFlags:
    """Size."""

    n_train: int = 2000
    """Images of split train; with --captions, its share of the images."""
    n_dev: int = 200
    """Images of split dev; with --captions, its share of the images."""
    n_test: int = 1000
    """Images of split test; with --captions, its share of the images."""
    max_regions: int = 36
    """Regions an image."""
    dim: int = 256
    """Width of a region's feature (2048 in the published sets)."""
    picture_size: int | None = None
    """Also draw the images, for models that read them: side in pixels, a multiple of 16; None draws none."""


@dataclass(frozen=True)
class ContentFlags:
    """Content."""

    seed: int = 0
    """Fixes everything that is drawn."""
    noise: float = 1.0
    """Standard deviation of the features' noise, in units of a region's signal."""
    captions: Path | None = None
    """Your own captions, five an image: text of five lines an image, or captioned images of any format that itm-fast
    inspect knows; by default captions are generated too."""
    split: str | None = None
    """Split of --captions; needed where there are several."""
    tokenizer: Literal["split", "nltk"] = "split"
    """Makes the words of vocab.json; train with the same one."""


@dataclass(frozen=True, kw_only=True)
class OutputFlags:
    """Output."""

    folder: Path
    """Where to write; made if need be."""
    overwrite: bool = False
    """Replace the data in a folder that is not empty."""
    json: bool = False
    """Print one JSON object instead of text."""


@dataclass(frozen=True)
class MakeData(SizeFlags, ContentFlags, OutputFlags):
    """Write a folder in SCAN's layout whose captions and region features share meaning."""


def run(args: MakeData) -> int:
    """Make the data, say what was written, and return the exit code."""
    from itm_fast.data.made.synthetic import estimate_bytes, make_data

    with progress_bar("make-data") as bar:

        def progress(done: int, total: int) -> None:
            if not done:
                n_bytes = estimate_bytes(
                    total, max_regions=args.max_regions, dim=args.dim, picture_size=args.picture_size
                )
                size = _size(n_bytes)
                print(f"make-data: {total} images, about {size}", file=sys.stderr, flush=True)
            bar(done, total)

        made = make_data(
            args.folder,
            n_train=args.n_train,
            n_dev=args.n_dev,
            n_test=args.n_test,
            max_regions=args.max_regions,
            dim=args.dim,
            picture_size=args.picture_size,
            seed=args.seed,
            noise=args.noise,
            captions=args.captions,
            split=args.split,
            tokenizer=args.tokenizer,
            overwrite=args.overwrite,
            progress=progress,
        )
    if args.json:
        print_json(_as_dict(made))
    else:
        print(_as_text(made))
    return 0


def _as_dict(made: "MadeData") -> dict[str, Any]:
    return {
        "folder": str(made.folder),
        "files": made.files,
        "bytes": sum(made.files.values()),
        "n_images": made.n_images,
        "n_words": made.n_words,
    }


def _as_text(made: "MadeData") -> str:
    width = max(map(len, made.files))
    lines = [f"  {name:<{width}}  {_size(n_bytes):>10}" for name, n_bytes in made.files.items()]
    images = ", ".join(f"{split} {count}" for split, count in made.n_images.items())
    total = _size(sum(made.files.values()))
    return "\n".join([f"{made.folder}: {total}; images: {images}; vocabulary: {made.n_words} words", *lines])


def _size(n_bytes: int) -> str:
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.1f} {unit}"
    return f"{n_bytes} B"
