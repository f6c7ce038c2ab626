"""Checkpoints of BruceW91/CVSE; the concepts' words and vectors are not in them, but in files beside its data.

Linear maps are in them twice, as `fc1` and in the Sequential that runs, and some that never run.
"""

from pathlib import Path
from typing import Any, cast

import torch

from itm_fast.data.readers.concept_files import read_concepts
from itm_fast.models.base import MatchingModel
from itm_fast.models.cvse import CVSE
from itm_fast.originals.parts import Options, Parts, gru_sizes, region_sizes

PARTS = (
    "img_enc",
    "txt_enc",
    "V_self_atten_enhance",
    "T_self_atten_enhance",
    "V_consensus_level_embedding",
    "T_consensus_level_embedding",
    "C_GCN",
)
_TWICE = {"fc1.": "embedding_1.0.", "fc2.": "embedding_2.0.", "fc3.": "embedding_3.0."}
_NEVER_USED = {
    "V_self_atten_enhance": ("fc2_2.", "fc4.", "embedding_2_2."),
    "C_GCN": ("adj_O_P", "adj_O_M", "joint_att_emb."),
}
# Options that change what is computed, with the only value that is known here.
_FIXED = {
    "no_imgnorm": False,
    "no_txtnorm": False,
    "use_abs": False,
    "use_BatchNorm": True,
    "activation_type": "tanh",
    "measure": "cosine",
    "precomp_enc_type": "basic",
    "feature_fuse_type": "weight_sum",
}


def recognises(parts: Parts, options: Options) -> bool:
    """Whether a checkpoint is CVSE's."""
    return len(parts) == 8 and {"gc1.weight", "gc2.weight", "adj_all"} <= set(parts[6])


def n_words(parts: Parts) -> int:
    """Size of the vocabulary that it was trained with."""
    return len(parts[1]["embed.weight"])


def named_parts(parts: Parts) -> dict[str, Any]:
    """The state dicts by the names of the model's parts, without what is there twice or never used.

    Raises:
        ValueError: What is there twice is not the same, or embeddings are fused in another way.
    """
    if parts[7]:
        raise ValueError(f"the part that fuses has parameters, {', '.join(sorted(parts[7])[:2])}; weight_sum has none")
    found = {}
    for name, weights in zip(PARTS, parts, strict=False):
        kept = {key: value for key, value in weights.items() if not key.startswith(_NEVER_USED.get(name, ()))}
        for key in [key for key in kept if key.startswith(tuple(_TWICE))]:
            twin = _TWICE[key[:4]] + key[4:]
            if twin not in kept or not torch.equal(kept[twin], kept.pop(key)):
                raise ValueError(f"{name}.{key} and {name}.{twin} are one parameter, but differ")
        found[name] = kept
    return found


def set_concepts(model: MatchingModel, folder: str | Path | None) -> None:
    """Give the model the concepts that its checkpoint does not hold.

    Raises:
        FileNotFoundError: A file is missing.
        DataError: A file does not hold what it should.
        ValueError: No folder is given, or its concepts do not fit the checkpoint.
    """
    if folder is None:
        raise ValueError(
            "a CVSE checkpoint needs its concepts: a folder with category_concepts.json, *_adj_concepts.pkl and "
            "*_concepts_glove_word2vec.pkl, such as the repository's data/f30k_annotations/Concept_annotations_f30k "
            "(concepts=, or --concepts)"
        )
    cast(CVSE, model).set_concepts(read_concepts(folder))


def config(parts: Parts, options: Options) -> dict[str, Any]:
    """What of the configuration the tensors say, and what the options do not.

    Raises:
        ValueError: An option has a value that is not known here.
    """
    for name, value in _FIXED.items():
        if options.get(name, value) != value:
            raise ValueError(f"{name} is {options[name]!r}; only {value!r} is known")
    graph = parts[6]
    return {
        **region_sizes(parts[0]),
        **gru_sizes(parts[1]),
        "n_regions": len(parts[2]["embedding_1.1.weight"]),
        "n_concepts": len(graph["adj_all"]),
        "input_channel": len(graph["gc1.weight"]),
        "concept_labels": "image_in_training",
        "concept_label_ratio": options.get("Concept_label_ratio", 0.35),
        "alpha_test": 0.9 if "coco" in str(options.get("data_name")) else 0.85,
    }
