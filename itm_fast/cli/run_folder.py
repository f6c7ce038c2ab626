"""Flags of the run folder that ``itm-fast evaluate`` leaves, and what is written into it beside the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from itm_fast.evaluation import EmbeddedSet, Report, RunKeeper
    from itm_fast.similarities.scorers import TileScorer


@dataclass(frozen=True)
class RunFlags:
    """What a report page is made from."""

    run: Path | None = None
    """Also leave a run folder, for a report page: what every query retrieved, with captions, names of images, curves
    and, of models with cross-attention, attention maps. New, empty, or that of an earlier run, which is replaced."""

    name: str | None = None
    """Name of the run on the page; that of the folder unless given."""

    depth: int = 20
    """Items that --run keeps of every query."""

    captions_file: Path | None = None
    """Of --run: the captions' text in the order of the columns, .txt, one a line, .json, a list or lists of images, or
    captioned images of any format; those of --data, or of --relevance, unless given."""

    image_names: Path | None = None
    """Of --run: the images' names or files in the order of the rows, .txt, one a line, .json, a list, or captioned
    images of any format; those of id_mapping.json of --data unless given."""


class RunWriter:
    """Reads at once what a run needs, so that nothing is missing after the evaluation, and writes the folder then."""

    def __init__(
        self,
        args: RunFlags,
        scorer: TileScorer,
        source: dict[str, Any],
        references: Path | None,
        captions_per_image: int,
        embedded: EmbeddedSet | None,
        split: str | None = None,
        n_listed: int = 0,
    ) -> None:
        """Check the folder and read captions and names.

        Args:
            args: the flags.
            scorer: what is evaluated.
            source: what it is, plain values.
            references: captions that φ comes from, whose order is that of the columns.
            captions_per_image: lines an image, if that is a text file.
            embedded: the folder of embeddings that is evaluated, if it is one.
            split: of files that have several.
            n_listed: items of every query that --export wants.
        """
        from itm_fast.data.readers.images import image_names
        from itm_fast.data.readers.reference_captions import read_names, read_references, read_texts
        from itm_fast.evaluation import RunKeeper
        from itm_fast.runs.folder import check_run_folder
        from itm_fast.sources.trained_model import ModelScorer

        self._folder, self._scorer, self._source = args.run, scorer, source
        self._name = args.name
        self._captions: Sequence[str] | None = None
        self._image_names: Sequence[str] | None = None
        self.keep: RunKeeper | None = RunKeeper(1, n_listed) if n_listed else None
        if args.run is None:
            for flag, given in (
                ("--name", args.name),
                ("--captions-file", args.captions_file),
                ("--image-names", args.image_names),
            ):
                if given is not None:
                    raise ValueError(f"{flag} goes with --run, the folder to write")
            return
        self.keep = RunKeeper(args.depth, n_listed)
        check_run_folder(args.run)
        if args.captions_file is not None:
            self._captions = read_texts(args.captions_file, split=split)
        elif isinstance(scorer, ModelScorer):
            self._captions = scorer.dataset.captions
        elif embedded is not None:
            self._captions = embedded.texts
        elif references is not None:
            lists = read_references(references, captions_per_image, split=split)
            self._captions = [text for image in lists for text in image]
        if args.image_names is not None:
            self._image_names = read_names(args.image_names, split=split)
        elif isinstance(scorer, ModelScorer):
            self._image_names = image_names(scorer.dataset)
        elif embedded is not None:
            self._image_names = embedded.image_names
        for texts, path, what, n in (
            (self._captions, args.captions_file, "captions", scorer.n_captions),
            (self._image_names, args.image_names, "image names", scorer.n_images),
        ):
            if texts is not None and len(texts) != n:
                raise ValueError(f"{path or references}: {len(texts)} {what}, but the similarities are of {n}")

    def write(self, report: Report) -> None:
        """Write the folder, if one was asked for."""
        from itm_fast.evaluation import save_run

        if self.keep is None or self._folder is None:
            return
        run = self.keep.run(
            report,
            name=self._name or self._folder.absolute().name,
            captions=self._captions,
            image_names=self._image_names,
            scorer=self._scorer,
            source=self._source,
        )
        save_run(run, self._folder)
