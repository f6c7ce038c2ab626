"""SGR's graph reasoning in plain torch."""

import torch
from torch import Tensor


def graph_reasoning(
    whole: Tensor,
    local: Tensor,
    word_counts: Tensor,
    forms: Tensor,
    form_biases: Tensor,
    weights: Tensor,
    biases: Tensor,
) -> Tensor:
    """The operator of the same name, a caption at a time, with all nodes in every step.

    Args:
        whole: (n_images, n_captions, width), any floating dtype.
        local: (n_images, n_words, width), the words of all captions one after another.
        word_counts: (n_captions,) int64.
        forms: (steps, width, width), the product of key's and query's weights.
        form_biases: (steps, width).
        weights: (steps, width, width).
        biases: (steps, width).

    Returns:
        (n_images, n_captions, width).

    Source:
        Diao et al., AAAI 2021, equations 6-8.
    """
    vectors = [whole[:, :0]]
    for caption, words in enumerate(torch.split(local, word_counts.tolist(), dim=1)):
        nodes = torch.cat([whole[:, caption : caption + 1], words], dim=1)
        for form, form_bias, weight, bias in zip(forms, form_biases, weights, biases, strict=True):
            edges = torch.softmax((nodes @ form.T + form_bias) @ nodes.transpose(1, 2), dim=2)
            nodes = torch.relu(edges @ nodes @ weight.T + bias)
        vectors.append(nodes[:, :1])
    return torch.cat(vectors, dim=1)
