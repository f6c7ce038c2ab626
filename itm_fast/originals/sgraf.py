"""Checkpoints of Paranioar/SGRAF: SGR's and SAF's."""

from typing import Any

from itm_fast.originals.options import Options
from itm_fast.originals.parts import Parts, gru_sizes, region_sizes

SCORING = ("no_imgnorm", "no_txtnorm")


def recognises(parts: Parts, options: Options) -> bool:
    """Whether a checkpoint is SGR's or SAF's."""
    return len(parts) == 3 and "sim_tranloc_w.weight" in parts[2]


def n_words(parts: Parts) -> tuple[int, ...]:
    """Sizes of the vocabulary that it may have been trained with."""
    return (len(parts[1]["embed.weight"]),)


def config(parts: Parts, options: Options) -> dict[str, Any]:
    """What of the configuration the tensors say."""
    image, caption, similarity = parts
    steps = {key.split(".")[1] for key in similarity if key.startswith("SGR_module.")}
    return {
        **region_sizes(image),
        **gru_sizes(caption, "cap_rnn"),
        "sim_dim": len(similarity["sim_tranloc_w.weight"]),
        "n_regions": len(similarity["v_global_w.embedding_local.1.weight"]),
        "module_name": "SGR" if steps else "SAF",
        **({"sgr_step": len(steps)} if steps else {}),
    }
