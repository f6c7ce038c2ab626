"""``itm-fast cider``: relevance φ of every image and every caption, written as .npy."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from itm_fast.cli.console import print_json, progress_bar
from itm_fast.cli.flag_checks import check_inputs_stay, check_unread

if TYPE_CHECKING:
    from itm_fast.relevance import Cider, Corpus

_ROWS = 128  # images of φ computed and written at a time


@dataclass(frozen=True, kw_only=True)
class FileFlags:
    """Files."""

    references: Path
    """Captions of the images: a file or folder of any format that itm-fast inspect knows; or text of captions alone,
    --captions-per-image lines an image."""

    output: Path
    """The .npy file to write; replaced once it is complete."""

    captions_per_image: int = 5
    """Lines an image in a text file of references."""

    candidates: Path | None = None
    """Captions to score, a line each, or of any format; by default the references themselves."""

    split: str | None = None
    """Split of REFERENCES and of --candidates; needed where there are several."""

    frequencies: Path | None = None
    """Document frequencies written with --save-frequencies; by default counted on the references."""

    save_frequencies: Path | None = None
    """Also write the document frequencies (safetensors)."""


@dataclass(frozen=True)
class VariantFlags:
    """Variant of CIDEr."""

    variant: Literal["cider_d", "cider"] = "cider_d"
    """cider_d is what the codes of NCS, SAM and pycocoevalcap compute; cider has no clipping and no length penalty."""

    n: int = 4
    """Longest n-gram, in words."""

    sigma: float = 6.0
    """Of the length penalty of cider_d, in bigrams."""

    tokenizer: Literal["split", "ptb", "characters"] = "split"
    """split: lower-case, then white space; ptb: as pycocoevalcap's PTBTokenizer; characters: for scripts without blanks
    between words, such as Chinese, Japanese and Thai."""


@dataclass(frozen=True)
class OutputFlags:
    """Output."""

    dtype: Literal["float32", "float64"] = "float32"
    """Of the file; sums are float64 in either case."""

    json: bool = False
    """Print what was done as JSON."""


@dataclass(frozen=True)
class CiderMatrix(FileFlags, VariantFlags, OutputFlags):
    """Write φ, (n_images, n_captions) .npy: the CIDEr of every caption against the captions of every image."""


def run(args: CiderMatrix) -> int:
    """Compute, write, say what was written, and return the exit code."""
    from itm_fast.data.readers.reference_captions import read_references, read_texts

    started = time.perf_counter()
    if args.output.suffix != ".npy":
        raise ValueError(f"output is {args.output}, expected the name of a .npy file, such as phi.npy")
    check_inputs_stay(args, ("output", "save_frequencies"))
    if args.variant != "cider_d":
        check_unread(args, ["sigma"], "--variant cider_d")
    references = read_references(args.references, args.captions_per_image, split=args.split)
    candidates = None if args.candidates is None else read_texts(args.candidates, split=args.split)
    with progress_bar("read captions") as progress:
        cider = _cider(args, references)
        corpus = cider.encode(references, candidates, progress=progress)
    if args.save_frequencies is not None:
        cider.save(args.save_frequencies)
    _write(args, corpus)
    seconds = time.perf_counter() - started
    if args.json:
        figures = {"n_images": corpus.n_images, "n_captions": corpus.n_captions, "dtype": args.dtype}
        more = {"cider": repr(cider), "seconds": seconds, "notes": list(corpus.notes)}
        print_json({"output": str(args.output), **figures, **more})
    else:
        print(f"{args.output}: {corpus.n_images} images x {corpus.n_captions} captions, {args.dtype}, {seconds:.2f} s")
        print(cider)
    return 0


def _cider(args: CiderMatrix, references: list[list[str]]) -> Cider:
    from itm_fast.relevance import Cider

    if args.frequencies is not None:
        return Cider.load(args.frequencies, variant=args.variant, tokenizer=args.tokenizer, n=args.n, sigma=args.sigma)
    return Cider(args.variant, args.n, args.sigma, args.tokenizer).fit(references)


def _write(args: CiderMatrix, corpus: Corpus) -> None:
    import numpy as np
    import torch

    from itm_fast.files.writing import written_aside

    dtype = torch.float32 if args.dtype == "float32" else torch.float64
    # In order and not through a map of the file, which on a full disk ends in a bus error instead of an OSError.
    with written_aside(args.output) as aside, aside.open("wb") as file, progress_bar("cider") as progress:
        shape = (corpus.n_images, corpus.n_captions)
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(args.dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, corpus.n_images, _ROWS):
            stop = min(start + _ROWS, corpus.n_images)
            file.write(corpus.relevance(range(start, stop), dtype=dtype).numpy().data)
            progress(stop, corpus.n_images)
