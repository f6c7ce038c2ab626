"""`itm-fast make-data`: write a generated data set in SCAN's layout."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from itm_fast.cli.console import progress_bar

if TYPE_CHECKING:
    from itm_fast.data.synthetic import MadeData


@dataclass(frozen=True)
class MakeData:
    """Write a folder in SCAN's layout whose captions and region features share meaning."""

    folder: Path
    """Where to write; made if need be."""
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
    seed: int = 0
    """Fixes everything that is drawn."""
    noise: float = 1.0
    """Standard deviation of the features' noise, in units of a region's signal."""
    captions: Path | None = None
    """A file of your own captions, UTF-8, five lines an image; by default captions are generated too."""
    tokenizer: Literal["split", "nltk"] = "split"
    """Makes the words of vocab.json; train with the same one."""
    overwrite: bool = False
    """Replace the data in a folder that is not empty."""
    json: bool = False
    """Print one JSON object instead of text."""


def run(args: MakeData) -> int:
    """Make the data and say what was written: result to standard output, progress to standard error.

    Args:
        args: The command line.

    Returns:
        0, or 2 after a message where the arguments, a file or the disk did not allow it.
    """
    from itm_fast.data.synthetic import estimate_bytes, make_data

    try:
        with progress_bar("make-data") as bar:

            def progress(done: int, total: int) -> None:
                if not done:
                    size = _size(estimate_bytes(total, max_regions=args.max_regions, dim=args.dim))
                    print(f"make-data: {total} images, about {size}", file=sys.stderr, flush=True)
                bar(done, total)

            made = make_data(
                args.folder,
                n_train=args.n_train,
                n_dev=args.n_dev,
                n_test=args.n_test,
                max_regions=args.max_regions,
                dim=args.dim,
                seed=args.seed,
                noise=args.noise,
                captions=args.captions,
                tokenizer=args.tokenizer,
                overwrite=args.overwrite,
                progress=progress,
            )
    except (ValueError, OSError, ImportError) as error:  # what make_data documents; anything else is our mistake
        print(f"itm-fast make-data: {error}", file=sys.stderr)
        return 2
    print(_as_json(made) if args.json else _as_text(made))
    return 0


def _as_json(made: "MadeData") -> str:
    return json.dumps(
        {
            "folder": str(made.folder),
            "files": made.files,
            "bytes": sum(made.files.values()),
            "n_images": made.n_images,
            "n_words": made.n_words,
        }
    )


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
