"""What the tensors of an original's checkpoint say about the sizes of its parts."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from itm_fast.nn.encoders.grid import layer_name

Parts = list[dict[str, Tensor]]


def region_sizes(image: Mapping[str, Tensor]) -> dict[str, Any]:
    """Sizes of an image part whose regions go through `fc`."""
    weight = image["fc.weight_v" if "fc.weight_v" in image else "fc.weight"]
    return {"img_dim": weight.shape[1], "embed_size": weight.shape[0]}


_BACKBONE, CELLS = "backbone.", "image_encoder."


def has_grid(image: Mapping[str, Tensor]) -> bool:
    """Whether an image part has VSE-infinity's CNN, as ESL's may have too."""
    return {f"{CELLS}fc.weight", f"{_BACKBONE}resnet.conv1.weight"} <= set(image)


def image_sizes(image: Mapping[str, Tensor]) -> dict[str, Any]:
    """Kind and sizes of an image part whose regions, or whose CNN's cells, go through `fc`."""
    if not has_grid(image):
        return {**region_sizes(image), "precomp_enc_type": "basic"}
    cells = {key.removeprefix(CELLS): value for key, value in image.items() if key.startswith(CELLS)}
    # the path was that of another machine, and the weights are here
    return {**region_sizes(cells), "precomp_enc_type": "backbone", "backbone_path": ""}


def without_copies(image: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the backbone's second copy, if it is one, and its classes, which nothing computes with."""

    def is_needed(key: str, value: Tensor) -> bool:
        name = layer_name(key.removeprefix(_BACKBONE))
        first = image.get(f"{_BACKBONE}resnet.{name}")
        if key.startswith((f"{_BACKBONE}base.", f"{_BACKBONE}top.")):
            return first is None or not torch.equal(value, first)
        return not key.startswith(f"{_BACKBONE}resnet.fc.")

    return {key: value for key, value in image.items() if is_needed(key, value)}


def gru_sizes(caption: Mapping[str, Tensor], rnn_name: str = "rnn") -> dict[str, Any]:
    """Sizes of a caption part whose words go through `embed` and a GRU of this name."""
    layers = [key for key in caption if key.startswith(f"{rnn_name}.weight_ih_l")]
    return {
        "word_dim": caption["embed.weight"].shape[1],
        "num_layers": sum("reverse" not in key for key in layers),
        "bi_gru": any("reverse" in key for key in layers),
    }


_PIECES = "bert.embeddings.word_embeddings.weight"


def n_tokens(caption: Mapping[str, Tensor]) -> int:
    """Size of the vocabulary of a caption part with BERT, or with a GRU that has a vector more, for the mask."""
    return len(caption[_PIECES]) if _PIECES in caption else len(caption["embed.weight"]) - 1


def encoder_sizes(caption: Mapping[str, Tensor]) -> dict[str, Any]:
    """Kind and sizes of a caption part with BERT or with a GRU.

    The number of BERT's attention heads isn't among them: they are 64 wide, as in all that its authors published.
    """
    if _PIECES not in caption:
        return {"text_enc_type": "bigru", **gru_sizes(caption)}
    n_rows, hidden_size = caption[_PIECES].shape
    intermediate = caption.get("bert.encoder.layer.0.intermediate.dense.weight", ())
    positions = caption.get("bert.embeddings.position_embeddings.weight", ())
    sizes = {
        "model_type": "bert",
        "vocab_size": n_rows,
        "hidden_size": hidden_size,
        "num_hidden_layers": sum(key.endswith(".intermediate.dense.weight") for key in caption),
        "num_attention_heads": max(1, hidden_size // 64),
        "intermediate_size": len(intermediate),
        "max_position_embeddings": len(positions),
    }
    return {"text_enc_type": "bert", "bert_config": sizes}


def has_only_a_linear_map(image: Mapping[str, Tensor]) -> bool:
    """Whether an image part is SCAN's or VSE++'s."""
    return (
        {"fc.bias"}
        < set(image)
        <= {
            "fc.weight",
            "fc.bias",
            "fc.weight_g",
            "fc.weight_v",
        }
    )
