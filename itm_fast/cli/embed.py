"""``itm-fast embed``: embeddings of an image-text model, image files and captions in, a folder for ``evaluate`` out."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from itm_fast.choices import EncoderLibrary
from itm_fast.cli.console import print_json, progress_bar

if TYPE_CHECKING:
    from itm_fast.evaluation import EmbeddedSet


@dataclass(frozen=True, kw_only=True)
class FileFlags:
    """Files."""

    model: str
    """Folder of a model, or its name in the Hugging Face cache: of transformers (CLIP, SigLIP, AltCLIP, ALIGN, BLIP for
    image-text retrieval, ...; ColPali and its kin, with a vector a token), sentence-transformers or open_clip; or
    ARCHITECTURE@WEIGHTS of open_clip, such as ViT-B-32@weights.pt."""

    output: Path
    """Folder to write to: images.npy, captions.npy, caption_to_image.npy, items.json, embeddings.json."""

    library: EncoderLibrary | None = None
    """Whose model it is, where its folder is of several: by default the first of sentence-transformers (modules.json),
    transformers (config.json) and open-clip (open_clip_config.json)."""

    images_folder: tuple[Path, ...] = ()
    """The folder with the image files, such as val2014, or the one above it; or several. Needed where --captions names
    its images; parquet and web-dataset .tar hold them."""

    captions: Path | None = None
    """Needed: the images and their captions, a file or folder of any format that itm-fast inspect knows: JSON of
    Karpathy, COCO, ALBEF or BLIP, parquet, web-dataset .tar, .token, CSV, MTEB's folders, also of pages (ViDoRe)."""

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

    stored_dtype: Literal["float32", "float16"] | None = None
    """Of the files; float32, of a vector a token float16 unless given."""

    restart: bool = False
    """Replace embeddings in OUTPUT that are of another model or other inputs, instead of refusing."""

    json: bool = False
    """Print what was done as JSON."""


@dataclass(frozen=True)
class Embed(FileFlags, ComputeFlags, OutputFlags):
    """Encode the images and captions of a test set with an image-text model, for itm-fast evaluate --embeddings.

    May be interrupted at any time: the same command continues where it was. Nothing is downloaded.
    """


def run(args: Embed) -> int:
    """Encode, say what was written, and return the exit code."""
    from itm_fast.data import find_images
    from itm_fast.data.readers.formats import read_captioned_images_or_pages
    from itm_fast.evaluation import extract_embeddings, load_encoder

    started = time.perf_counter()
    if args.captions is None:
        raise ValueError("expected --captions, such as dataset_coco.json, and --images-folder, with the image files")
    items = read_captioned_images_or_pages(
        args.captions, split=args.split, image_list=args.image_list, drop_blank=args.drop_blank
    )
    find_images(items, args.images_folder)  # before the model is loaded, which may take long
    encoder = load_encoder(args.model, library=args.library, device=args.device, dtype=args.dtype)
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
    sizes = {"n_images": len(embedded.images), "n_captions": len(embedded.texts)}
    if args.json:
        figures = {**sizes, "dim": embedded.dim, "dtype": embedded.dtype, "per_token": embedded.per_token}
        print_json({"output": str(args.output), **figures, "notes": embedded.notes, "seconds": seconds})
        return
    each = ", a vector a token" if embedded.per_token else ""
    print(
        f"{args.output}: {sizes['n_images']} images and {sizes['n_captions']} captions{each}, {embedded.dim} wide, "
        f"{embedded.dtype}, {seconds:.1f} s"
    )
    for note in embedded.notes:
        print(f"note: {note}")
    print(f"next: itm-fast evaluate --embeddings {args.output} --protocol ...")
