"""Checkpoints of woodfrog/vse_infty: regions or images, with BERT (branch master) or a BiGRU (branch bigru)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from itm_fast.originals.options import Options
from itm_fast.originals.parts import CELLS, Parts, encoder_sizes, has_grid, image_sizes, n_tokens, without_copies

SCORING = ("no_imgnorm", "no_txtnorm")
READ = frozenset({"kernel_size"})  # of ESL, whose parser is this one with more


def recognises(parts: Parts, options: Options) -> bool:
    """Whether a checkpoint is VSE-infinity's."""
    return len(parts) == 2 and (
        _has_regions(parts[0]) or (has_grid(parts[0]) and f"{CELLS}gpool.linear.weight" in parts[0])
    )


def n_words(parts: Parts) -> tuple[int, ...]:
    """Sizes of the vocabulary that it may have been trained with."""
    return (n_tokens(parts[1]),)


def config(parts: Parts, options: Options) -> dict[str, Any]:
    """What of the configuration the tensors say."""
    return {**image_sizes(parts[0]), **encoder_sizes(parts[1])}


def named_parts(parts: Parts, n_words: int) -> dict[str, dict[str, Tensor]]:
    """Without the backbone's second copy, if it is one, and its classes, which nothing computes with."""
    return {"img_enc": without_copies(parts[0]), "txt_enc": parts[1]}


def _has_regions(image: Mapping[str, Tensor]) -> bool:
    return {"gpool.linear.weight", "mlp.layers.0.weight"} <= set(image)
