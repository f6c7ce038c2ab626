"""Checkpoints of BruceW91/CVSE and of AndresPMD/semantic_adaptive_margin (SAM), which trains CVSE.

The concepts' words and vectors are not in them, but in files beside their data. Linear maps are in them twice, as `fc1`
and in the Sequential that runs, and some that never run.
"""

from pathlib import Path
from typing import Any, cast

import torch

from itm_fast.data.readers.concept_files import read_concepts
from itm_fast.models.base import MatchingModel
from itm_fast.models.cvse import CVSE
from itm_fast.originals.options import Options
from itm_fast.originals.parts import Parts, gru_sizes, region_sizes

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
FIXED: Options = {
    "activation_type": "tanh",
    "feature_fuse_type": "weight_sum",
    "use_BatchNorm": True,
}
# The margin that adapts to captions, and the constants that go with it: AndresPMD/semantic_adaptive_margin alone.
_OF_SAM = {"cider_weight", "metric_div", "use_metric"}
READ = _OF_SAM | {
    "Concept_label_ratio",
    "adj_file",
    "attribute_path",
    "concept_name",
    "concept_path",
    "data_percentage",
    "inp_name",
    "metric_opt",
    "metric_samples",
    "norm_func_type",  # read nowhere
    "num_attribute",
}
# The configuration without what depends on the rest of the test set, or on how Python 3 prints bytes.
PLAIN = {"captions_as_bytes": False, "label_completion": "none", "concept_labels": "image_in_training"}


def recognises(parts: Parts, options: Options) -> bool:
    """Whether a checkpoint is CVSE's."""
    return len(parts) == 8 and {"gc1.weight", "gc2.weight", "adj_all"} <= set(parts[6])


def n_words(parts: Parts) -> tuple[int, ...]:
    """Sizes of the vocabulary that it may have been trained with."""
    return (len(parts[1]["embed.weight"]),)


def named_parts(parts: Parts, n_words: int) -> dict[str, Any]:
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
    """What of the configuration the tensors say, and what the options do not: constants of the released code."""
    graph = parts[6]
    is_coco = "coco" in str(options.get("data_name"))
    found = {
        **region_sizes(parts[0]),
        **gru_sizes(parts[1]),
        "n_regions": len(parts[2]["embedding_1.1.weight"]),
        "n_concepts": len(graph["adj_all"]),
        "input_channel": len(graph["gc1.weight"]),
        "concept_label_ratio": options.get("Concept_label_ratio", 0.35),
        "captions_as_bytes": True,
    }
    if _OF_SAM & set(options):
        return {**found, "concept_labels": "image", "alpha": 0.75, "alpha_test": 0.75, "weight_fused": 1.0}
    completion = "coco" if is_coco else "f30k"
    alpha_test = 0.9 if is_coco else 0.85
    return {
        **found,
        "concept_labels": "image_in_training",
        "label_completion": completion,
        "alpha_test": alpha_test,
        "weight_fused": 0.95,
    }
