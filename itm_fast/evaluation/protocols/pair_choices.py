"""Protocols that ask which of two is right, as a table: what an example holds, and which pairs must score above which.

Sources: Thrush et al., Winoground, CVPR 2022; Hsieh et al., SugarCrepe, NeurIPS 2023, and RAIVNLab/sugar-crepe
(main_eval.py); Dumpala et al., SugarCrepe++, NeurIPS 2024, and Sri-Harsha/scpp (VLMs/README.md, evaluate_ulms.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from itm_fast.data.readers.captioned_images import collected
from itm_fast.data.readers.found_path import FoundPath
from itm_fast.data.readers.object_releases import (
    SUGARCREPE,
    SUGARCREPE_PP,
    WINOGROUND,
    ObjectRelease,
    objects_by_file,
    read_objects,
    release_of,
)
from itm_fast.errors import DataError
from itm_fast.evaluation.protocols.captioned_sets import annotations_place
from itm_fast.files.ids import Ids
from itm_fast.similarities.scorers import IntArray

Above: TypeAlias = tuple[tuple[int, int], tuple[int, int]]  # one pair must score above the other


@dataclass(frozen=True)
class ChoiceRules:
    """What an example asks.

    Attributes:
        release: the files.
        published: where their owners publish them.
        n_examples: of the release.
        scores: by name, all that must hold of an example: pairs (slot whose image it is, slot of the caption).
        of_captions: likewise with pairs of two captions' slots, which only embeddings have similarities of.
        chance: percent of examples that random scores get right, by name.
    """

    release: ObjectRelease
    published: str
    n_examples: int
    scores: Mapping[str, tuple[Above, ...]]
    of_captions: Mapping[str, tuple[Above, ...]]
    chance: Mapping[str, float]


_TEXT = (((0, 0), (0, 1)), ((1, 1), (1, 0)))
_IMAGE = (((0, 0), (1, 0)), ((1, 1), (0, 1)))

CHOICES: dict[str, ChoiceRules] = {
    "winoground": ChoiceRules(
        WINOGROUND,
        "https://huggingface.co/datasets/facebook/winoground",
        400,
        {"text": _TEXT, "image": _IMAGE, "group": (*_TEXT, *_IMAGE)},
        {},
        {"text": 25.0, "image": 25.0, "group": 100 / 6},
    ),
    "sugarcrepe": ChoiceRules(
        SUGARCREPE,
        "https://github.com/RAIVNLab/sugar-crepe (data/)",
        7511,
        {"text": (((0, 0), (0, 1)),)},
        {},
        {"text": 50.0},
    ),
    "sugarcrepe-pp": ChoiceRules(
        SUGARCREPE_PP,
        "https://github.com/Sri-Harsha/scpp (data/)",
        4757,
        {"text": (((0, 0), (0, 2)), ((0, 1), (0, 2)))},
        {"text alone": (((0, 1), (0, 2)), ((0, 1), (1, 2)))},
        {"text": 100 / 3, "text alone": 100 / 3},
    ),
}


@dataclass(frozen=True, eq=False)
class Examples:
    """The examples of a protocol.

    Attributes:
        rules: what they ask.
        ids: of all images and captions, in the order of the files: images where they first come.
        images: (n_examples, slots) int64, the image of each caption's slot.
        captions: (n_examples, slots) int64, the caption of each slot.
        by_file: how many examples each file has, in order.
        notes: where it is not what the release has.
    """

    rules: ChoiceRules
    ids: Ids
    images: IntArray
    captions: IntArray
    by_file: dict[str, int]
    notes: list[str]


def read_examples(path: str | Path | None, protocol: str) -> Examples:
    """The examples of a protocol, from its release's own files.

    Args:
        path: a file of the release, or the folder with all.
        protocol: one of ``CHOICES``.

    Raises:
        ValueError: no path.
        FileNotFoundError: there is nothing; says where the files are published.
        DataError: it holds something else.
    """
    rules = CHOICES[protocol]
    files = rules.release.name
    found = FoundPath(annotations_place(path, protocol, files, rules.published))
    release = release_of(found)
    if release is not rules.release:
        held = "none of the objects that they are" if release is None else release.name
        raise DataError(f"{found.path}: holds {held}; protocol {protocol} reads {files}, which {rules.published} has")
    items = collected(read_objects(found, release), f"{found.path}", comes_once=False)
    captions = np.arange(len(items.captions), dtype=np.int64).reshape(-1, release.n_captions)
    notes = []
    if len(captions) != rules.n_examples:
        notes.append(
            f"WARNING: these files have {len(captions)} examples, the release of {protocol} has {rules.n_examples}: "
            "figures of all together do not compare."
        )
    ids, by_file = Ids(items.image_ids, items.caption_ids), objects_by_file(found, release)
    return Examples(rules, ids, items.caption_to_image[captions], captions, by_file, notes)
