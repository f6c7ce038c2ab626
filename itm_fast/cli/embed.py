"""``itm-fast embed``: embeddings of a CLIP-like model, image files and captions in, a folder for ``evaluate`` out."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from itm_fast.cli.console import print_json, progress_bar

if TYPE_CHECKING:
    from itm_fast.evaluation import EmbeddedSet


@dataclass(frozen=True, kw_only=True)
class FileFlags:
    """Files."""

    model: str
    """Folder of a model of transformers (CLIP, SigLIP, AltCLIP, ALIGN, BLIP for image-text retrieval, ...), or its name
    in the Hugging Face cache."""

    output: Path
    """Folder to write to: images.npy, captions.npy, caption_to_image.npy, items.json, embeddings.json."""

    images_folder: tuple[Path, ...] = ()
    """The folder with the image files, such as val2014, or the one above it; or several. Needed where --captions names
    its images; parquet and web-dataset .tar hold them."""

    captions: Path | None = None
    """Needed: the images and their captions, a file or folder of any format that itm-fast inspect knows: JSON of
    Karpathy, COCO, ALBEF or BLIP, parquet, web-dataset .tar, MTEB's folders, .token, CSV."""

    split: str = "test"
    """Split of --captions, where it has several."""

    drop_blank: bool = False
    """Leave out captions that are blank, which are an error otherwise."""

    image_list: Path | None = None
    """Names of all images in order, .npy or text, where some have no captions: the pools of MSCOCO-FG, Flickr30K-FG."""


@dataclass(frozen=True)
class ComputeFlags:
    """Computing."""

    device: str = "auto"
    """Where the model runs: "auto" is CUDA where there is a device; "cpu", "cuda", "cuda:1"."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the model; the halves are for GPUs."""

    batch_size: int = 64
    """Images encoded at a time."""

    caption_batch_size: int = 256
    """Captions encoded at a time."""

    workers: int = 4
    """Batches of images read ahead, each in a thread."""


@dataclass(frozen=True)
class OutputFlags:
    """Output."""

    stored_dtype: Literal["float32", "float16"] = "float32"
    """Of the files."""

    restart: bool = False
    """Replace embeddings in OUTPUT that are of another model or other inputs, instead of refusing."""

    json: bool = False
    """Print what was done as JSON."""


@dataclass(frozen=True)
class Embed(FileFlags, ComputeFlags, OutputFlags):
    """Encode the images and captions of a test set with a CLIP-like model, for itm-fast evaluate --embeddings.

    May be interrupted at any time: the same command continues where it was. Nothing is downloaded.
    """


def run(args: Embed) -> int:
    """Encode, say what was written, and return the exit code."""
    from itm_fast.data import find_images, read_captioned_images
    from itm_fast.evaluation import extract_embeddings, load_dual_encoder

    started = time.perf_counter()
    if args.captions is None:
        raise ValueError("expected --captions, such as dataset_coco.json, and --images-folder, with the image files")
    items = read_captioned_images(
        args.captions, split=args.split, image_list=args.image_list, drop_blank=args.drop_blank
    )
    find_images(items, args.images_folder)  # before the model is loaded, which may take long
    encoder = load_dual_encoder(args.model, device=args.device, dtype=args.dtype)
    with _Bars() as bars:
        embedded = extract_embeddings(
            encoder,
            items,
            args.images_folder,
            args.output,
            batch_size=args.batch_size,
            caption_batch_size=args.caption_batch_size,
            stored_dtype=args.stored_dtype,
            workers=args.workers,
            restart=args.restart,
            progress=bars.progress,
        )
    _print(args, embedded, time.perf_counter() - started)
    return 0


class _Bars(ExitStack):
    """One bar after the other."""

    _kind: str | None = None

    def progress(self, kind: str, done: int, total: int) -> None:
        """Move the bar of that kind; the first call with another ends the last."""
        if kind != self._kind:
            self.close()
            self._kind, self._bar = kind, self.enter_context(progress_bar(f"embed {kind}"))
        self._bar(done, total)


def _print(args: Embed, embedded: EmbeddedSet, seconds: float) -> None:
    n_images, dim = embedded.images.shape
    n_captions = len(embedded.texts)
    if args.json:
        figures = {"n_images": n_images, "n_captions": n_captions, "dim": dim, "dtype": str(embedded.images.dtype)}
        print_json({"output": str(args.output), **figures, "notes": embedded.notes, "seconds": seconds})
        return
    print(
        f"{args.output}: {n_images} images and {n_captions} captions, {dim} wide, {embedded.images.dtype}, "
        f"{seconds:.1f} s"
    )
    for note in embedded.notes:
        print(f"note: {note}")
    print(f"next: itm-fast evaluate --embeddings {args.output} --protocol ...")
