"""Checkpoints of CrossmodalGroup/ESL: region features and BERT, by the heuristic or the adaptive strategy."""

from typing import Any

from itm_fast.originals.options import Options
from itm_fast.originals.parts import Parts, encoder_sizes, n_tokens, region_sizes

FIXED: Options = {"kernel_size": 2}
READ = frozenset({"backbone_source", "input_scale_factor"})  # of VSE-infinity's parser, for images


def recognises(parts: Parts, options: Options) -> bool:
    """Whether a checkpoint is ESL's."""
    return len(parts) == 3 and "sims.calculator_1.sim_eval.weight" in parts[2]


def n_words(parts: Parts) -> tuple[int, ...]:
    """Sizes of the vocabulary that it may have been trained with."""
    return (n_tokens(parts[1]),)


def config(parts: Parts, options: Options) -> dict[str, Any]:
    """What of the configuration the tensors say; the strategy was a constant of the source and is in no options."""
    heuristic = any(".kernel_img_" in key for key in parts[2])
    return {**region_sizes(parts[0]), **encoder_sizes(parts[1]), "heuristic_strategy": heuristic}
