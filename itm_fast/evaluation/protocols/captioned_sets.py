"""Protocols of a public release each, as a table: which files, how many images and captions, which split, what is read.

Figures are recall of images and captions in the order of the release's own files; what they hold is read by
``itm_fast.data.readers``. Sizes: of the releases where their files or their owners' pages say them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from itm_fast.data.readers.captioned_images import CaptionedImages
from itm_fast.data.readers.formats import format_of, read_as
from itm_fast.data.readers.found_path import FoundPath
from itm_fast.errors import DataError
from itm_fast.files.ids import Ids

_LISTS = 'list of {"image", "caption"} as of ALBEF and BLIP'
_TOKENS = "lines of a name and a caption (.token, results.csv, CSV, TSV)"
_ROCOCO = "https://github.com/pseulki/rococo (annotations/)"
_N_ALTERED = 5  # captions of an image that are altered, behind its own five or six (pseulki/rococo)


@dataclass(frozen=True)
class SetRules:
    """What a protocol reads and fixes.

    Attributes:
        formats: names of the formats that its files are in.
        files: what they are, for errors.
        published: where their owners publish them.
        n_images: images of the release; None: as many as there are.
        n_captions: its captions, likewise.
        split: of the release that is the test set; None: it has none.
        file: in a folder, the file that is read, where the folder itself is no format.
        scored: "recall" in one gallery; by "language", each language's captions with all images; "altered captions",
            where the last captions of an image are nobody's; "altered images", where the gallery has another image
            beside each of the files, which is nobody's.
        language: of captions that do not say theirs.
    """

    formats: tuple[str, ...]
    files: str
    published: str
    n_images: int | None = None
    n_captions: int | None = None
    split: str | None = None
    file: str = ""
    scored: Literal["recall", "language", "altered captions", "altered images"] = "recall"
    language: str = ""


# fmt: off
SETS: dict[str, SetRules] = {
    "urban1k": SetRules(("texts beside images of the same names, as Urban1k's",), "image/ and caption/",
        "https://huggingface.co/datasets/BeichenZhang/Urban1k", 1000, 1000),
    "docci": SetRules(("DOCCI's docci_descriptions.jsonlines",), "docci_descriptions.jsonlines",
        "https://google.github.io/docci", 5000, 5000, split="test", file="docci_descriptions.jsonlines"),
    "dci": SetRules(("Densely Captioned Images' splits.json and annotations",), "splits.json and annotations/",
        "https://github.com/facebookresearch/DCI (dci.tar.gz)", 7805, 7805),
    "iiw": SetRules(("ImageInWords' data.jsonl",), "IIW-400/, DCI_Test/ and DOCCI_Test/ with data.jsonl each",
        "https://github.com/google/imageinwords (datasets/)", 612, 612),
    "xm3600": SetRules(("Crossmodal-3600's captions.jsonl",), "captions.jsonl",
        "https://google.github.io/crossmodal-3600", 3600, scored="language"),
    "xtd10": SetRules(("XTD10's test_1kcaptions_*.txt",), "test_image_names.txt and test_1kcaptions_*.txt",
        "https://github.com/adobe-research/Cross-lingual-Test-Dataset-XTD10", 1000, scored="language"),
    "multi30k": SetRules(("Multi30k's captions, line by line",), "test_2016_images.txt and test_2016.*.gz",
        "https://github.com/multi30k/dataset (data/task2/)", 1000, split="test_2016", scored="language"),
    "coco-cn": SetRules(("COCO-CN's captions and lists of splits",),
        "coco-cn_test.txt and imageid.human-written-caption.txt", "https://github.com/li-xirong/coco-cn", 1000,
        split="test", scored="language"),
    "flickr30k-cn": SetRules((_TOKENS,), "flickr30k_cn_test.txt (image#number, a tab and a caption a line)",
        "https://github.com/yuxie11/R2D2 (Flickr30k-CNA, test/)", 1000, 5000, file="flickr30k_cn_test.txt",
        scored="language", language="zh"),
    "rococo": SetRules((_LISTS,), "same_concept.json, diff_concept.json, rand_voca.json or danger.json",
        _ROCOCO, 5000, 50010, scored="altered captions"),
    "rococo-images": SetRules((_LISTS,), "coco_karpathy_test.json", _ROCOCO, 5000, 25010, scored="altered images"),
}
# fmt: on


@dataclass(frozen=True, eq=False)
class CaptionedSet:
    """The test set of a protocol.

    Attributes:
        rules: what it was read by.
        items: its images and captions.
        path: where it was read.
        notes: what it is, and where it is not what the release has.
    """

    rules: SetRules
    items: CaptionedImages
    path: Path
    notes: Sequence[str]

    @property
    def ids(self) -> Ids:
        """Of its images and captions, in its order."""
        return Ids(self.items.image_ids, self.items.caption_ids)

    @property
    def altered(self) -> npt.NDArray[np.bool_]:
        """(n_captions,) bool, the captions that are nobody's: the last five of every image."""
        owners, n_images = self.items.caption_to_image, len(self.items.image_names)
        counts = np.bincount(owners, minlength=n_images)
        order = np.argsort(owners, kind="stable")
        place = np.empty(len(owners), np.int64)
        place[order] = np.arange(len(owners)) - (np.cumsum(counts) - counts)[owners[order]]
        found: npt.NDArray[np.bool_] = place >= counts[owners] - _N_ALTERED
        return found


def read_captioned_set(path: str | Path | None, protocol: str) -> CaptionedSet:
    """The test set of a protocol, from its release's own files.

    Args:
        path: the file or the folder.
        protocol: one of ``SETS``.

    Raises:
        ValueError: no path.
        FileNotFoundError: there is nothing; says where the files are published.
        DataError: it holds something else.
    """
    rules = SETS[protocol]
    place = annotations_place(path, protocol, rules.files, rules.published, rules.file)
    found = FoundPath(place)
    form = format_of(found)
    if form is None or form.name not in rules.formats:
        held = "no captioned images" if form is None else f"{form.name}"
        raise DataError(f"{place}: holds {held}; protocol {protocol} reads {rules.files}, which {rules.published} has")
    items = read_as(form, found, rules.split)
    if rules.scored == "altered captions":
        _check_altered(items, place, protocol)
    if rules.language:
        items = replace(items, languages=[rules.language] * len(items.captions))
    return CaptionedSet(rules, items, place, [*items.notes, *_sizes(rules, items, protocol)])


def annotations_place(path: str | Path | None, protocol: str, files: str, published: str, file: str = "") -> Path:
    """The path of a protocol's annotations; ValueError or FileNotFoundError say what they are and where they are."""
    if path is None:
        raise ValueError(f"protocol {protocol} needs annotations: {files}, published at {published}")
    place = Path(path)
    if place.is_dir() and (place / file).is_file():
        place = place / file
    if not place.exists():
        raise FileNotFoundError(f"{place}: no such file or folder; {files} are published at {published}")
    return place


def _check_altered(items: CaptionedImages, path: Path, protocol: str) -> None:
    counts = np.bincount(items.caption_to_image, minlength=len(items.image_names))
    odd = np.flatnonzero((counts != 2 * _N_ALTERED) & (counts != 2 * _N_ALTERED + 1))
    if len(odd):
        raise DataError(
            f"{path}: image {items.image_names[odd[0]]} has {counts[odd[0]]} captions; protocol {protocol} expects "
            f"five or six of its own and {_N_ALTERED} altered ones behind them"
        )


def _sizes(rules: SetRules, items: CaptionedImages, protocol: str) -> list[str]:
    """What is said where the numbers are not the release's."""
    given = {"images": (len(items.image_names), rules.n_images), "captions": (len(items.captions), rules.n_captions)}
    wrong = [f"{n} {what} instead of {fixed}" for what, (n, fixed) in given.items() if fixed is not None and n != fixed]
    if not wrong:
        return []
    return [
        f"WARNING: these files are not the release of {protocol}, {' and '.join(wrong)}: the figures are of "
        "another test set and do not compare."
    ]
