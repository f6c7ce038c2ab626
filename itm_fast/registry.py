"""Names of the models, what each is, and where it lives; imported when it is asked for."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from itm_fast.choices import in_order, perhaps

if TYPE_CHECKING:
    from itm_fast.models.base import MatchingModel, Preset


class Entry(NamedTuple):
    """What is known of a model without torch, for help, completion and `itm-fast models`; tests compare it with it."""

    kind: str
    """Its class, in the file of its name in itm_fast.models."""
    paper: str
    """First author, short title, venue."""
    year: int
    """Of the paper."""
    similarity: str
    """Of an image and a caption."""
    one_vector: bool
    """Whether images and captions are one vector each, so that captions compare with captions too."""
    presets: str
    """Names of its presets."""


ENTRIES = {
    "vsepp": Entry(
        "VSEPP",
        "Faghri et al., VSE++, BMVC",
        2018,
        "cosine of one vector each, or violation of their order",
        True,
        "vse++ vse0 order++ order0",
    ),
    "scan": Entry(
        "SCAN",
        "Lee et al., SCAN, ECCV",
        2018,
        "cross-attention of words to regions (t2i) or of regions to words (i2t)",
        False,
        "f30k-t-i-lse f30k-t-i-avg f30k-i-t-lse f30k-i-t-avg coco-t-i-lse coco-t-i-avg coco-i-t-lse coco-i-t-avg",
    ),
    "sgraf": Entry(
        "SGRAF",
        "Diao et al., SGRAF, AAAI",
        2021,
        "similarity vectors, by graph reasoning (SGR) or attention filtration (SAF)",
        False,
        "f30k-sgr f30k-saf coco-sgr coco-saf",
    ),
    "vsrn": Entry(
        "VSRN",
        "Li et al., VSRN, ICCV",
        2019,
        "cosine of one vector each, after reasoning over regions",
        True,
        "f30k coco",
    ),
    "vse_infty": Entry(
        "VSEInfty",
        "Chen et al., VSE-infinity (GPO), CVPR",
        2021,
        "cosine of one vector each, pooled from regions or grid cells, and words",
        True,
        "f30k f30k-bert f30k-grid f30k-grid-bert f30k-wsl-grid-bert "
        "coco coco-bert coco-grid coco-grid-bert coco-wsl-grid-bert",
    ),
    "esl": Entry(
        "ESL",
        "Zhang et al., ESL, IEEE TCSVT",
        2023,
        "regions and words on nine levels of width, every pair of levels compared",
        False,
        "f30k-h f30k-a coco-h coco-a f30k-h-bert f30k-a-bert coco-h-bert coco-a-bert "
        "f30k-h-grid-bert f30k-a-grid-bert coco-h-grid-bert coco-a-grid-bert "
        "f30k-h-wsl-grid-bert f30k-a-wsl-grid-bert coco-h-wsl-grid-bert coco-a-wsl-grid-bert "
        "f30k-h-clip f30k-a-clip coco-h-clip coco-a-clip",
    ),
    "chan": Entry(
        "CHAN",
        "Pan et al., CHAN, CVPR",
        2023,
        "each word with its one best region",
        False,
        "f30k coco f30k-bert coco-bert",
    ),
    "laps": Entry(
        "LAPS",
        "Fu et al., LAPS, CVPR",
        2024,
        "patches chosen by each caption and aggregated, against its words both ways",
        False,
        "f30k-vit f30k-swin coco-vit coco-swin",
    ),
    "cvse": Entry(
        "CVSE",
        "Wang et al., CVSE, ECCV",
        2020,
        "cosine of one vector each, fused with concepts that captions mention together",
        True,
        "f30k coco f30k-sam coco-sam",
    ),
}
MODELS = tuple(ENTRIES)


def model_class(name: str) -> type[MatchingModel]:
    """The class of a model.

    Args:
        name: One of `MODELS`.

    Raises:
        ValueError: There is no such model.
    """
    if name not in ENTRIES:
        raise ValueError(f"no model {name!r}{perhaps(name, MODELS)}; models: {', '.join(in_order(MODELS))}")
    found: type[MatchingModel] = getattr(_module(name), ENTRIES[name].kind)
    return found


def preset_names(name: str) -> tuple[str, ...]:
    """The names of `presets`, without importing the model.

    Args:
        name: One of `MODELS`.

    Example:
        >>> preset_names("vsrn")
        ('f30k', 'coco')
    """
    return tuple(ENTRIES[name].presets.split())


def find_preset(name: str, preset: str) -> Preset:
    """One of a model's presets.

    Args:
        name: One of `MODELS`.
        preset: One of `preset_names`.

    Raises:
        ValueError: There is no such model, or it has no such preset.
    """
    found = presets(name)
    if preset not in found:
        near = perhaps(preset, found)
        raise ValueError(f"{name} has no preset {preset!r}{near}; presets: {', '.join(in_order(found))}")
    return found[preset]


def presets(name: str) -> dict[str, Preset]:
    """The named hyper-parameters of a model, for each data set of its paper.

    Args:
        name: One of `MODELS`.

    Raises:
        ValueError: There is no such model.
    """
    model_class(name)
    found: dict[str, Preset] = _module(name).PRESETS
    return found


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"itm_fast.models.{name}")
