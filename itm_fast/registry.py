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
