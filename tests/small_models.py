"""Models of every kind, as small as they can be, untrained."""

import torch

from itm_fast.models import model_class

_SIZES = {
    "sgraf": {"n_regions": 4, "sim_dim": 8},
    "vsrn": {"dim_hidden": 8, "dim_word": 6, "embed_size": 16},
    "esl": {"embed_size": 256},
    "cvse": {"n_regions": 4, "n_concepts": 5, "input_channel": 6},
}


def small_model(name, vocabulary, dim):
    """A model of images of four regions, `dim` wide."""
    torch.manual_seed(0)
    sizes = {"img_dim": dim, "word_dim": 8, "embed_size": 16, **_SIZES.get(name, {})}
    return model_class(name)(model_class(name).config_class(**sizes), vocabulary)
