"""Checkpoints of QinYang79/CRCL: SGRAF's model, or VSE-infinity's of regions and a BiGRU, by one more loss.

Its loader puts a mask behind the words that the file of the vocabulary has. Sizes of VSE-infinity's model are constants
of its source, not what its options say.
"""

from typing import Any

from torch import Tensor, nn

from itm_fast.originals import sgraf, vse_infty
from itm_fast.originals.options import Options
from itm_fast.originals.parts import Parts

_OF_SCAN = "agg_func cross_attn lambda_lse lambda_softmax raw_feature_norm"  # a model that its code does not have
_OF_TRAINING = "alpha confident mc schedules tau"
READ = frozenset(f"{_OF_SCAN} {_OF_TRAINING} bi_gru module_name sgr_step sim_dim".split())
_ITS_OWN = frozenset({"confident", "mc", "schedules"})


def recognises(parts: Parts, options: Options) -> bool:
    """Whether a checkpoint is CRCL's."""
    return set(options) >= _ITS_OWN and (sgraf.recognises(parts, options) or vse_infty.recognises(parts, options))


def model(parts: Parts) -> str:
    """The model that it is here."""
    return "sgraf" if len(parts) == 3 else "vse_infty"


def n_words(parts: Parts) -> tuple[int, ...]:
    """Sizes of the vocabulary that it may have been trained with."""
    rows = len(parts[1]["embed.weight"])
    return rows - 1, rows


def config(parts: Parts, options: Options) -> dict[str, Any]:
    """What of the configuration the tensors say.

    Raises:
        ValueError: The options name another model.
    """
    if len(parts) == 3:
        return sgraf.config(parts, options)
    if options.get("module_name") != "VSEinfty":
        raise ValueError(f"option module_name is {options.get('module_name')!r:.60}, but its tensors are of 'VSEinfty'")
    return vse_infty.config(parts, options)


def named_parts(parts: Parts, n_words: int) -> dict[str, dict[str, Tensor]]:
    """With as many words as the model here has: VSE-infinity's has a mask, which no caption of an evaluation holds."""
    words = parts[1]["embed.weight"]
    n_wanted = n_words + 1 if len(parts) == 2 else n_words
    words = nn.functional.pad(words, (0, 0, 0, max(0, n_wanted - len(words))))[:n_wanted]
    named = {"img_enc": parts[0], "txt_enc": {**parts[1], "embed.weight": words}}
    return named if len(parts) == 2 else {**named, "sim_enc": parts[2]}
