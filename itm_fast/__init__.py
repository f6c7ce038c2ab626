"""Fused operators for image-text matching, and the layer that trains and evaluates with them.

The public names load what they need when they are first used, so that `itm-fast --help` does not wait for torch.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from itm_fast.evaluation.evaluate import evaluate
    from itm_fast.metrics.retrieval import ranks, topk
    from itm_fast.ops._library import build_info
    from itm_fast.ops.attended_similarity import attended_similarity
    from itm_fast.ops.cross_attention import cross_attention_similarity
    from itm_fast.ops.generalised_pooling import generalised_pooling
    from itm_fast.ops.graph_reasoning import graph_reasoning
    from itm_fast.ops.level_attention import level_attention
    from itm_fast.ops.max_similarity import max_similarity
    from itm_fast.ops.patch_word_similarity import patch_word_similarity
    from itm_fast.ops.semantic_margin import semantic_margin_loss
    from itm_fast.ops.triplet import triplet_loss
    from itm_fast.relevance.cider import Cider

    __version__: str

_HOMES = {
    "Cider": "itm_fast.relevance.cider",
    "attended_similarity": "itm_fast.ops.attended_similarity",
    "build_info": "itm_fast.ops._library",
    "cross_attention_similarity": "itm_fast.ops.cross_attention",
    "evaluate": "itm_fast.evaluation.evaluate",
    "generalised_pooling": "itm_fast.ops.generalised_pooling",
    "graph_reasoning": "itm_fast.ops.graph_reasoning",
    "level_attention": "itm_fast.ops.level_attention",
    "max_similarity": "itm_fast.ops.max_similarity",
    "patch_word_similarity": "itm_fast.ops.patch_word_similarity",
    "ranks": "itm_fast.metrics.retrieval",
    "semantic_margin_loss": "itm_fast.ops.semantic_margin",
    "topk": "itm_fast.metrics.retrieval",
    "triplet_loss": "itm_fast.ops.triplet",
}

__all__ = [
    "Cider",
    "attended_similarity",
    "build_info",
    "cross_attention_similarity",
    "evaluate",
    "generalised_pooling",
    "graph_reasoning",
    "level_attention",
    "max_similarity",
    "patch_word_similarity",
    "ranks",
    "semantic_margin_loss",
    "topk",
    "triplet_loss",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name == "__version__":
        return _version()
    try:  # sub-packages, so that `import itm_fast; itm_fast.metrics...` works
        return importlib.import_module(f"itm_fast.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"itm_fast.{name}":
            raise
        raise AttributeError(f"module 'itm_fast' has no attribute {name!r}") from None


def __dir__() -> list[str]:
    modules = (module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
    of_every_module = (name for name in globals() if name.startswith("__"))
    return sorted({*__all__, "__version__", *of_every_module, *modules})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("itm-fast")
    except PackageNotFoundError:  # a checkout that was built in place
        return str(importlib.import_module("itm_fast.ops._library").build_info()["version"])
