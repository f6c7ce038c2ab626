"""Checkpoints of fartashf/vsepp, trained on precomputed features."""

from typing import Any

from itm_fast.originals.options import Options
from itm_fast.originals.parts import Parts, gru_sizes, has_only_a_linear_map, region_sizes

SCORING = ("no_imgnorm", "use_abs")


def recognises(parts: Parts, options: Options) -> bool:
    """Whether a checkpoint is VSE++'s."""
    return len(parts) == 2 and has_only_a_linear_map(parts[0]) and "measure" in options


def n_words(parts: Parts) -> tuple[int, ...]:
    """Sizes of the vocabulary that it may have been trained with."""
    return (len(parts[1]["embed.weight"]),)


def config(parts: Parts, options: Options) -> dict[str, Any]:
    """What of the configuration the tensors say."""
    return {**region_sizes(parts[0]), **gru_sizes(parts[1])}
