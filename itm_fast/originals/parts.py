"""What the tensors of an original's checkpoint say about the sizes of its parts."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

Parts = list[dict[str, Tensor]]
Options = Mapping[str, Any]


def region_sizes(image: Mapping[str, Tensor]) -> dict[str, Any]:
    """Sizes of an image part whose regions go through `fc`."""
    weight = image["fc.weight_v" if "fc.weight_v" in image else "fc.weight"]
    return {"img_dim": weight.shape[1], "embed_size": weight.shape[0]}


def gru_sizes(caption: Mapping[str, Tensor], rnn_name: str = "rnn") -> dict[str, Any]:
    """Sizes of a caption part whose words go through `embed` and a GRU of this name."""
    layers = [key for key in caption if key.startswith(f"{rnn_name}.weight_ih_l")]
    return {
        "word_dim": caption["embed.weight"].shape[1],
        "num_layers": sum("reverse" not in key for key in layers),
        "bi_gru": any("reverse" in key for key in layers),
    }


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
