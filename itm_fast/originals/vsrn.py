"""Checkpoints of KunpengLi1994/VSRN; the captioning head is not in them."""

from typing import Any

from itm_fast.models.vsrn import VSRNConfig
from itm_fast.originals.options import Options
from itm_fast.originals.parts import Parts, gru_sizes, region_sizes

READ = frozenset({"bidirectional", "dim_vid", "rnn_type"})  # of the captioning head


def recognises(parts: Parts, options: Options) -> bool:
    """Whether a checkpoint is VSRN's."""
    return len(parts) == 2 and "Rs_GCN_1.g.weight" in parts[0]


def n_words(parts: Parts) -> tuple[int, ...]:
    """Sizes of the vocabulary that it may have been trained with."""
    return (len(parts[1]["embed.weight"]),)


def config(parts: Parts, options: Options) -> dict[str, Any]:
    """What of the configuration the tensors say."""
    return {
        **region_sizes(parts[0]),
        **gru_sizes(parts[1]),
        "encoder": "f30k_precomp" if "bn.weight" in parts[0] else "coco_precomp",
        "max_len": VSRNConfig.max_len,  # of the captioning head
    }
