"""Checkpoints of ppanzx/CHAN: regions, with a BiGRU's words or BERT's pieces.

Similarity and criterion have no parameters. The BiGRU's encoder has a linear map that never runs, and a vector more
than words, for the mask that its loader puts into the vocabulary.
"""

from typing import Any

from torch import Tensor

from itm_fast.originals.options import Options
from itm_fast.originals.parts import Parts, encoder_sizes, region_sizes

READ = frozenset({"criterion", "input_scale_factor", "temperature"})  # of the loss; and of VSE-infinity's parser
SCORING = ("belta",)
_NEVER_USED = ("fc.weight", "fc.bias")


def recognises(parts: Parts, options: Options) -> bool:
    """Whether a checkpoint is CHAN's."""
    return len(parts) == 4 and {"coding_type", "pooling_type"} <= set(options)


def n_words(parts: Parts) -> tuple[int, ...]:
    """Sizes of the vocabulary that it may have been trained with."""
    pieces = parts[1].get("bert.embeddings.word_embeddings.weight")
    if pieces is not None:
        return (len(pieces),)
    rows = len(parts[1]["embed.weight"])
    return rows - 1, rows


def named_parts(parts: Parts, n_words: int) -> dict[str, dict[str, Tensor]]:
    """Without what is never used of the BiGRU's encoder."""
    caption = parts[1]
    if "embed.weight" in caption:
        caption = {key: value for key, value in caption.items() if key not in _NEVER_USED}
        caption["embed.weight"] = caption["embed.weight"][:n_words]
    return {"img_enc": parts[0], "txt_enc": caption}


def config(parts: Parts, options: Options) -> dict[str, Any]:
    """What of the configuration the tensors say, and what the options do not.

    Raises:
        ValueError: The similarity or the criterion has parameters, or an option is missing.
    """
    for part, name in ((parts[2], "similarity"), (parts[3], "criterion")):
        if part:
            raise ValueError(f"its {name} has parameters, {', '.join(sorted(part)[:2])}; CHAN's has none")
    found = {**region_sizes(parts[0]), **encoder_sizes(parts[1])}
    if options.get("alpha") is None:
        if options["coding_type"] == "VSACoding":
            raise ValueError("VSACoding needs option alpha, which is None")
        found["alpha"] = 0.1  # not read by the other codings
    return found
