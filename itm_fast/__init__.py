"""Fused operators for image-text matching, and the layer that trains and evaluates with them.

The public names load what they need when they are first used, so that `itm-fast --help` does not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from itm_fast.evaluation.evaluate import evaluate
    from itm_fast.metrics.retrieval import ranks, topk
    from itm_fast.ops._library import build_info
    from itm_fast.ops.cross_attention import cross_attention_similarity
    from itm_fast.ops.max_similarity import max_similarity
    from itm_fast.ops.semantic_margin import semantic_margin_loss
    from itm_fast.ops.triplet import triplet_loss
    from itm_fast.relevance.cider import Cider

_HOMES = {
    "Cider": "itm_fast.relevance.cider",
    "build_info": "itm_fast.ops._library",
    "cross_attention_similarity": "itm_fast.ops.cross_attention",
    "evaluate": "itm_fast.evaluation.evaluate",
    "max_similarity": "itm_fast.ops.max_similarity",
    "ranks": "itm_fast.metrics.retrieval",
    "semantic_margin_loss": "itm_fast.ops.semantic_margin",
    "topk": "itm_fast.metrics.retrieval",
    "triplet_loss": "itm_fast.ops.triplet",
}

__all__ = [
    "Cider",
    "build_info",
    "cross_attention_similarity",
    "evaluate",
    "max_similarity",
    "ranks",
    "semantic_margin_loss",
    "topk",
    "triplet_loss",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    try:  # sub-packages, so that `import itm_fast; itm_fast.metrics...` works
        return importlib.import_module(f"itm_fast.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"itm_fast.{name}":
            raise
        raise AttributeError(f"module 'itm_fast' has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
