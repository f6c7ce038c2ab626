"""Names of the models, and where each lives; imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from itm_fast.models.base import MatchingModel, Preset

_HOMES = {
    "vsepp": ("itm_fast.models.vsepp", "VSEPP"),
    "scan": ("itm_fast.models.scan", "SCAN"),
    "sgraf": ("itm_fast.models.sgraf", "SGRAF"),
    "vsrn": ("itm_fast.models.vsrn", "VSRN"),
    "vse_infty": ("itm_fast.models.vse_infty", "VSEInfty"),
    "esl": ("itm_fast.models.esl", "ESL"),
    "chan": ("itm_fast.models.chan", "CHAN"),
    "cvse": ("itm_fast.models.cvse", "CVSE"),
}
MODELS = tuple(_HOMES)

# Known without torch, for help and completion; a test compares them with the models' own.
_PRESETS = {
    "vsepp": "vse++ vse0 order++ order0",
    "scan": "f30k-t-i-lse f30k-t-i-avg f30k-i-t-lse f30k-i-t-avg coco-t-i-lse coco-t-i-avg coco-i-t-lse coco-i-t-avg",
    "sgraf": "f30k-sgr f30k-saf coco-sgr coco-saf",
    "vsrn": "f30k coco",
    "vse_infty": "f30k f30k-bert f30k-grid f30k-grid-bert f30k-wsl-grid-bert "
    "coco coco-bert coco-grid coco-grid-bert coco-wsl-grid-bert",
    "esl": "f30k-h f30k-a coco-h coco-a f30k-h-bert f30k-a-bert coco-h-bert coco-a-bert",
    "chan": "f30k coco f30k-bert coco-bert",
    "cvse": "f30k coco f30k-sam coco-sam",
}


def model_class(name: str) -> type[MatchingModel]:
    """The class of a model.

    Args:
        name: One of `MODELS`.

    Raises:
        ValueError: There is no such model.
    """
    if name not in _HOMES:
        raise ValueError(f"no model {name!r}; models: {', '.join(MODELS)}")
    module, attribute = _HOMES[name]
    found: type[MatchingModel] = getattr(importlib.import_module(module), attribute)
    return found


def preset_names(name: str) -> tuple[str, ...]:
    """The names of `presets`, without importing the model.

    Args:
        name: One of `MODELS`.

    Example:
        >>> preset_names("vsrn")
        ('f30k', 'coco')
    """
    return tuple(_PRESETS[name].split())


def presets(name: str) -> dict[str, Preset]:
    """The named hyper-parameters of a model, for each data set of its paper.

    Args:
        name: One of `MODELS`.

    Raises:
        ValueError: There is no such model.
    """
    model_class(name)
    found: dict[str, Preset] = importlib.import_module(_HOMES[name][0]).PRESETS
    return found
