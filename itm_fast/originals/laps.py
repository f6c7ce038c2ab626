"""Checkpoints of CrossmodalGroup/LAPS: one state dict, of a ViT or a Swin transformer, BERT and the similarity."""

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

from torch import Tensor

from itm_fast.nn.encoders.transformer import made_transformer
from itm_fast.originals.options import Options
from itm_fast.originals.parts import Parts, encoder_sizes, n_tokens

PARTS = ("img_enc", "txt_enc", "cross_net")
FIXED: Options = {"loss": "vse"}
_OF_TRAINING = "attention_weight decay_rate eval lr_schedules max_word multi_gpu ratio_weight shard_size size_augment"
_OF_FILES = "coco_img_path evaluate_cxc f30k_img_path gpu gpu_id img_res vit_type"  # vit_type: as the tensors say
READ = frozenset(f"{_OF_TRAINING} {_OF_FILES}".split())
SCORING = ("sparse_ratio", "aggr_ratio")
_TOWER, _PROJECTION = "visual_encoder.", "vision_proj.weight"
# What transformers wrote before its fifth version, in the order in which it is looked for.
_RENAMED = (
    (r"^encoder\.layer\.", "layers."),
    (r"attention\.(?:attention|self)\.(query|key|value)\.", r"attention.\1_proj."),
    (r"query_proj", "q_proj"),
    (r"key_proj", "k_proj"),
    (r"value_proj", "v_proj"),
    (r"attention\.self\.relative_position_bias_table", "attention.relative_position_bias.relative_position_bias_table"),
    (r"attention\.output\.dense", "attention.o_proj"),
    (r"intermediate\.dense", "mlp.fc1"),
    (r"output\.dense", "mlp.fc2"),
)
_COMPUTED = re.compile(r"relative_position_index$|attn_mask$")  # buffers that old transformers wrote


def recognises(parts: Parts, options: Options) -> bool:
    """Whether a checkpoint is LAPS's."""
    return len(parts) == 3 and "aggr_net.weight.1.weight" in parts[2]


def n_words(parts: Parts) -> tuple[int, ...]:
    """Sizes of the vocabulary that it may have been trained with."""
    return (n_tokens(parts[1]),)


def config(parts: Parts, options: Options) -> dict[str, Any]:
    """What of the configuration the tensors say.

    The pixels' mean and deviation are ImageNet's, as its code has them.
    """
    image, caption, similarity = parts
    tower = {key.removeprefix(_TOWER): value for key, value in image.items() if key.startswith(_TOWER)}
    is_vit = "embeddings.cls_token" in tower
    size = int(options.get("img_res", 224))
    pixels = {"size": size, "mean": [0.485, 0.456, 0.406], "deviation": [0.229, 0.224, 0.225], "resampling": "bicubic"}
    return {
        "image_encoder": "patches",
        "text_encoder": "bert",
        "backbone_config": {"architecture": _vit(tower) if is_vit else _swin(tower, size), **pixels},
        "bert_config": encoder_sizes(caption)["bert_config"],
        "embed_size": len(similarity["aggr_net.weight.0.weight"]),
        "num_patches": int(options.get("num_patches", 196 if is_vit else 49)),
    }


def named_parts(parts: Parts, n_words: int) -> dict[str, dict[str, Tensor]]:
    """With the names that transformers has for the layers now."""
    is_renamed = (
        "encoder.layer.0.attention.attention.query.weight"
        not in made_transformer(
            {
                "model_type": "vit",
                "hidden_size": 2,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "intermediate_size": 1,
            },
            "backbone_config",
            "images",
            "a checkpoint of LAPS",
        ).state_dict()
    )
    image = {key: value for key, value in parts[0].items() if not _COMPUTED.search(key)}
    if is_renamed:
        image = {_renamed(key): value for key, value in image.items()}
    return {"img_enc": image, "txt_enc": parts[1], "cross_net": parts[2]}


def _renamed(key: str) -> str:
    if not key.startswith(_TOWER):
        return key
    name = key.removeprefix(_TOWER)
    for pattern, now in _RENAMED:
        name = re.sub(pattern, now, name)
    return _TOWER + name


def _vit(tower: Mapping[str, Tensor]) -> dict[str, Any]:
    """A ViT's architecture; its attention heads are 64 wide, as in all that its authors published."""
    hidden_size, _, patch_size, _ = tower["embeddings.patch_embeddings.projection.weight"].shape
    n_patches = tower["embeddings.position_embeddings"].shape[1] - 1
    layers = {
        match[1]: value
        for key, value in tower.items()
        if (match := re.search(r"layers?\.(\d+)\.layernorm_before.weight", key))
    }
    inner = next(value for key, value in tower.items() if re.search(r"(intermediate\.dense|mlp\.fc1)\.weight$", key))
    return {
        "model_type": "vit",
        "hidden_size": hidden_size,
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, hidden_size // 64),
        "intermediate_size": len(inner),
        "image_size": isqrt(n_patches) * patch_size,
        "patch_size": patch_size,
    }


def _swin(tower: Mapping[str, Tensor], image_size: int) -> dict[str, Any]:
    embed_dim, _, patch_size, _ = tower["embeddings.patch_embeddings.projection.weight"].shape
    blocks: dict[int, set[int]] = {}
    heads: dict[int, int] = {}
    window = 1
    for key, value in tower.items():
        match = re.search(r"layers\.(\d+)\.blocks\.(\d+)\..*relative_position_bias_table$", key)
        if match is not None:
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
            heads[int(match[1])] = value.shape[1]
            window = max(window, (isqrt(len(value)) + 1) // 2)
    return {
        "model_type": "swin",
        "embed_dim": embed_dim,
        "depths": [len(blocks[stage]) for stage in sorted(blocks)],
        "num_heads": [heads[stage] for stage in sorted(heads)],
        "window_size": window,
        "image_size": image_size,
        "patch_size": patch_size,
    }
