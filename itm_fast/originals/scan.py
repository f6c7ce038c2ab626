"""Checkpoints of kuanghuei/SCAN."""

from typing import Any

from itm_fast.originals.options import Options
from itm_fast.originals.parts import Parts, gru_sizes, has_only_a_linear_map, region_sizes

# Options beside cross_attn that scores hang on.
SCORING = ("raw_feature_norm", "agg_func", "lambda_softmax", "no_imgnorm", "no_txtnorm")


def recognises(parts: Parts, options: Options) -> bool:
    """Whether a checkpoint is SCAN's."""
    return len(parts) == 2 and has_only_a_linear_map(parts[0]) and "cross_attn" in options


def n_words(parts: Parts) -> tuple[int, ...]:
    """Sizes of the vocabulary that it may have been trained with."""
    return (len(parts[1]["embed.weight"]),)


def config(parts: Parts, options: Options) -> dict[str, Any]:
    """What of the configuration the tensors say."""
    kind = "weight_norm" if "fc.weight_v" in parts[0] else "basic"
    return {**region_sizes(parts[0]), **gru_sizes(parts[1]), "precomp_enc_type": kind}
