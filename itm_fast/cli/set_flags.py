"""The flags of commands that evaluate similarities on a test set, in groups."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itm_fast.choices import Precision, ProtocolName, WordTokenizer
from itm_fast.cli.console import print_json
from itm_fast.cli.exchange import Exchanged, ExchangeFlags
from itm_fast.cli.flag_checks import check_inputs_stay, check_unread, warn_of_unread
from itm_fast.cli.source_flags import ModelOptions

if TYPE_CHECKING:
    from itm_fast.evaluation import Report
    from itm_fast.files.owners import OwnersLike

_ARRAYS = (".npy", ".npz", ".pt", ".pth", ".safetensors")


@dataclass(frozen=True)
class DataSetFlags:
    """Data set of a model or a checkpoint."""

    data: Path | None = None
    """Folder of a data set in SCAN's layout, or the one above its precomp/; a model that reads images finds them by
    id_mapping.json there or in the folder above, and images/ beside that or above, and also takes captioned images of
    any format that itm-fast inspect knows."""

    split: str = "test"
    """Split of --data, and of sets of captioned images that have several."""

    tokenizer: WordTokenizer | None = None
    """Tokenizer of the captions of --data; None: the one that the model's folder knows; of a checkpoint, and of a
    folder that knows none, nltk. BERT brings its own."""

    vocab: Path | None = None
    """Vocabulary of a checkpoint: JSON or pickle; a folder of several, called after their data sets
    (f30k_precomp_vocab.json); or, of BERT, vocab.txt, a folder with it or with tokenizer.json, or a name in the cache
    (bert-base-uncased). Unless given, one that lies beside the checkpoint, or vocab.json of --data."""

    concepts: Path | None = None
    """Folder with the files of concepts of a CVSE checkpoint: category_concepts.json, *_adj_concepts.pkl,
    *_concepts_glove_word2vec.pkl."""

    plain_captions: bool = False
    """Read the captions of a CVSE checkpoint as they are and label each by itself; otherwise as its released code does:
    as Python 3 prints bytes, with labels completed from other captions, or of all of an image (SAM)."""

    ignore_options: tuple[str, ...] = ()
    """Options in a checkpoint that are unknown here and have no effect on scores."""

    drop_blank: bool = False
    """Leave out captions of --data that are blank lines, which are an error otherwise."""

    device: str = "auto"
    """Where a model runs: "auto" is CUDA where there are a device and kernels for it; "cpu", "cuda", "cuda:1"."""

    precision: Precision = "float32"
    """Of a model's matrix products, by torch.autocast; similarities stay float32."""

    def check_runs_a_model(self, has_model: bool) -> None:
        """Raise ValueError for a device or a precision where no model runs; say what else it would be told."""
        if not has_model:
            what = "a model or a checkpoint: files of scores are read, nothing runs"
            check_unread(self, ["precision", *(["device"] if self.device != "cpu" else [])], what)
            told = ["data", "tokenizer", "vocab", "concepts", "plain_captions", "ignore_options", "drop_blank"]
            warn_of_unread(self, told, "a model or a checkpoint")

    def model_options(self) -> ModelOptions:
        """What models need."""
        of_checkpoints = self.vocab, self.concepts, self.plain_captions, self.ignore_options, self.drop_blank
        return ModelOptions(self.data, self.split, self.tokenizer, *of_checkpoints, self.device, self.precision)


@dataclass(frozen=True)
class ProtocolFlags:
    """Protocol."""

    protocol: ProtocolName | None = None
    """Check the sizes of a test set and use its folds: coco-1k is the mean of five folds of 1000 images. With
    --annotations: eccv (coco-5k with CxC recall and ECCV Caption's mAP@R, R-Precision), cxc (also text-text, image-
    image and correlations; needs embeddings), coco-all (both at once), cxc-image-text, the fine-grained sets with or
    without distractor images, positives (any ids and positives); and public releases by their own files, which
    itm-fast protocols lists."""

    annotations: Path | None = None
    """Folder of the protocol's annotation files, as their owners publish them, or the one file; for positives a .json
    or .npz file, or qrels of trec_eval's format beside --ids."""

    folds: int | None = None
    """Folds in file order whose mean is quoted; protocols set this themselves."""

    ks: tuple[int, ...] = (1, 5, 10)
    """Cut-offs k of R@k, in items."""

    captions_per_image: int | None = None
    """Caption c belongs to image c // captions_per_image; 5 unless --caption-to-image is given, or --data says it."""

    caption_to_image: Path | None = None
    """Row of each caption's image, (n_captions,) integers, in any format of scores or as text, or .json of
    {caption: row} or {row: [captions]} (txt2img, img2txt), for a varying number of captions; or the captioned images
    themselves, in any format that itm-fast inspect knows. Of COCO's 25,010 test captions, coco-1k, coco-5k and eccv
    keep the first five of each image."""

    def protocol_options(self, split: str | None = None) -> dict[str, Any]:
        """Arguments of ``evaluate`` and ``rerank``, but for ids; the split is that of --caption-to-image."""
        return {
            "ks": self.ks,
            "captions_per_image": self.captions_per_image,
            "caption_to_image": optional_owners(self.caption_to_image, split),
            "folds": self.folds,
            "protocol": self.protocol,
            "annotations": self.annotations,
        }


@dataclass(frozen=True)
class NormaliseFlags:
    """Embeddings."""

    normalise: bool = False
    """Compare embeddings by cosine: each is read at length 1."""


@dataclass(frozen=True)
class OutputFlags(ExchangeFlags):
    """Output."""

    json: bool = False
    """Print the report as JSON instead of a table."""

    output: Path | None = None
    """Also write the report as JSON to this file."""

    def check_output(self) -> None:
        """Look at the files to write before minutes of evaluating; raises as ``check_export`` does."""
        check_inputs_stay(self, ("output", "export", "save_results"))
        if self.output is not None and not self.output.parent.is_dir():
            raise FileNotFoundError(f"{self.output.parent}: no such folder to write {self.output.name} into")
        self.check_export(json=self.json, exchange=True)

    def show(self, report: Report, exchanged: Exchanged) -> None:
        """Write the report to --output and --export, and print it.

        Args:
            report: the figures.
            exchanged: what files of other tools hold beside them.
        """
        from itm_fast.runs.figure_tables import figure_table, member_table

        if self.output is not None:
            report.to_json(self.output)
        if self.exchanges:
            if self.exchange(report, exchanged):
                return
        elif self.exported(
            lambda: figure_table({"": report}),
            report.to_latex,
            further=lambda: {"members": member_table(report)} if "members" in report else {},
        ):
            return
        if self.json:
            print_json(report.to_dict())
        else:
            print(report)


@dataclass(frozen=True)
class SearchFlags(ProtocolFlags):
    """Search on a validation set."""

    dev_caption_to_image: Path | None = None
    """--caption-to-image of the validation set."""

    def dev_options(self) -> dict[str, Any]:
        """Arguments of a search: whose captions are whose in the validation set."""
        return {
            "captions_per_image": self.captions_per_image,
            "caption_to_image": optional_owners(self.dev_caption_to_image),
        }


def optional_owners(path: Path | None, split: str | None = None) -> OwnersLike | None:
    """The image of each caption, if there is a file: an array (n,), text, JSON of owners, or captioned images."""
    from itm_fast.data.readers.formats import format_of, read_as
    from itm_fast.data.readers.found_path import FoundPath
    from itm_fast.files.owners import stored_owners
    from itm_fast.sources.array_files import open_array

    if path is None:
        return None
    if path.suffix in _ARRAYS:
        return open_array(path, 1)
    found = FoundPath(path)
    form = format_of(found)
    if form is not None:
        return read_as(form, found, split).caption_to_image
    return stored_owners(path) if path.suffix in (".json", ".txt") else open_array(path, 1)


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
