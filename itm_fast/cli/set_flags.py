"""The flags of the commands that evaluate several sources of similarities on one test set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from itm_fast.cli.console import print_json
from itm_fast.cli.sources import ModelOptions

if TYPE_CHECKING:
    from itm_fast.evaluation import Report
    from itm_fast.metrics.scorers import Array


@dataclass(frozen=True, kw_only=True)
class SetFlags:
    """What is evaluated on, and where the report goes."""

    data: Path | None = None
    """Folder of a data set in SCAN's layout, for models and checkpoints."""

    split: str = "test"
    """Split of --data."""

    tokenizer: Literal["nltk", "split"] = "nltk"
    """Tokenizer of the captions of --data: the one the models' vocabulary was made with. BERT brings its own."""

    vocab: Path | None = None
    """Vocabulary of original checkpoints, as in itm-fast evaluate; vocab.json of --data unless given."""

    concepts: Path | None = None
    """Folder with the files of concepts of an original CVSE checkpoint."""

    protocol: (
        Literal[
            "flickr30k-1k",
            "coco-1k",
            "coco-5k",
            "eccv",
            "cxc-image-text",
            "coco-fg",
            "coco-fg-originals",
            "flickr30k-fg",
            "flickr30k-fg-originals",
            "positives",
        ]
        | None
    ) = None
    """Check the sizes of a test set, use its folds and its annotations, as in itm-fast evaluate."""

    annotations: Path | None = None
    """Folder of the protocol's annotation files, as their owners publish them; for positives a .json or .npz file."""

    folds: int | None = None
    """Folds in file order whose mean is quoted; protocols set this themselves."""

    ks: tuple[int, ...] = (1, 5, 10)
    """Cut-offs k of R@k, in items."""

    captions_per_image: int | None = None
    """Caption c belongs to image c // captions_per_image; 5 unless --caption-to-image is given."""

    caption_to_image: Path | None = None
    """Row of each caption's image, .npy of (n_captions,) integers, for a varying number of captions."""

    dev_caption_to_image: Path | None = None
    """Likewise of the validation set of a search."""

    json: bool = False
    """Print the report as JSON instead of a table."""

    output: Path | None = None
    """Also write the report as JSON to this file."""

    def model_options(self) -> ModelOptions:
        """What models need."""
        return ModelOptions(self.data, self.split, self.tokenizer, self.vocab, self.concepts)

    def evaluation_options(self) -> dict[str, Any]:
        """Arguments of ``evaluate`` and ``rerank``, but for ids."""
        return {
            "ks": self.ks,
            "captions_per_image": self.captions_per_image,
            "caption_to_image": optional_array(self.caption_to_image),
            "folds": self.folds,
            "protocol": self.protocol,
            "annotations": self.annotations,
        }

    def dev_options(self) -> dict[str, Any]:
        """Arguments of a search: whose captions are whose in the validation set."""
        return {
            "captions_per_image": self.captions_per_image,
            "caption_to_image": optional_array(self.dev_caption_to_image),
        }

    def show(self, report: Report) -> None:
        """Print the report and write it to --output."""
        if self.output is not None:
            report.to_json(self.output)
        if self.json:
            print_json(report.to_dict())
        else:
            print(report)


def optional_array(path: Path | None) -> Array | None:
    """The array of a file, if there is one."""
    from itm_fast.evaluation.array_files import open_array

    return None if path is None else open_array(path, 1)


def searched(report: Report, search: dict[str, Any], note: str) -> Report:
    """A report that says what was searched for it.

    Args:
        report: with what was found.
        search: goes to ``report["search"]``.
        note: the same in words.
    """
    from itm_fast.evaluation import Report

    conditions = {**report["conditions"], "notes": [*report["conditions"]["notes"], note]}
    return Report({**report, "search": search, "conditions": conditions})
