"""Checkpoints of woodfrog/vse_infty, branch bigru: region features and a BiGRU's words."""

from typing import Any

from itm_fast.originals.parts import Options, Parts, gru_sizes, region_sizes


def recognises(parts: Parts, options: Options) -> bool:
    """Whether a checkpoint is VSE-infinity's."""
    return len(parts) == 2 and {"gpool.linear.weight", "mlp.layers.0.weight"} <= set(parts[0])


def n_words(parts: Parts) -> int:
    """Size of the vocabulary that it was trained with; the mask of the size augmentation is one id more."""
    return len(parts[1]["embed.weight"]) - 1


def config(parts: Parts, options: Options) -> dict[str, Any]:
    """What of the configuration the tensors say."""
    return {**region_sizes(parts[0]), **gru_sizes(parts[1])}
