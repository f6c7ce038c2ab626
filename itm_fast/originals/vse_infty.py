"""Checkpoints of woodfrog/vse_infty: region features, with BERT (branch master) or a BiGRU (branch bigru)."""

from typing import Any

from itm_fast.originals.parts import Options, Parts, encoder_sizes, n_tokens, region_sizes


def recognises(parts: Parts, options: Options) -> bool:
    """Whether a checkpoint is VSE-infinity's."""
    return len(parts) == 2 and {"gpool.linear.weight", "mlp.layers.0.weight"} <= set(parts[0])


def n_words(parts: Parts) -> int:
    """Size of the vocabulary that it was trained with."""
    return n_tokens(parts[1])


def config(parts: Parts, options: Options) -> dict[str, Any]:
    """What of the configuration the tensors say."""
    return {**region_sizes(parts[0]), **encoder_sizes(parts[1])}
