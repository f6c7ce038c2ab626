"""Checkpoints of CrossmodalGroup/ESL: regions or grids and BERT, by the heuristic or the adaptive strategy."""

from typing import Any

from torch import Tensor

from itm_fast.originals.options import Options
from itm_fast.originals.parts import Parts, encoder_sizes, image_sizes, n_tokens, without_copies

FIXED: Options = {"kernel_size": 2}


def recognises(parts: Parts, options: Options) -> bool:
    """Whether a checkpoint is ESL's."""
    return len(parts) == 3 and "sims.calculator_1.sim_eval.weight" in parts[2]


def n_words(parts: Parts) -> tuple[int, ...]:
    """Sizes of the vocabulary that it may have been trained with."""
    return (n_tokens(parts[1]),)


def config(parts: Parts, options: Options) -> dict[str, Any]:
    """What of the configuration the tensors say; the strategy was a constant of the source and is in no options."""
    heuristic = any(".kernel_img_" in key for key in parts[2])
    return {**image_sizes(parts[0]), **encoder_sizes(parts[1]), "heuristic_strategy": heuristic}


def named_parts(parts: Parts, n_words: int) -> dict[str, dict[str, Tensor]]:
    """Without the backbone's second copy, as of VSE-infinity's checkpoints."""
    return {"img_enc": without_copies(parts[0]), "txt_enc": parts[1], "sim_enc": parts[2]}
