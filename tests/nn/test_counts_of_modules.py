"""Modules take counts as operators do: in every form with one result, masks padded before too, unless places matter."""

import pytest
import torch
from tiny_bert import config, word_pieces

from itm_fast.nn.decoders import CaptioningHead
from itm_fast.nn.encoders import (
    BERTEncoder,
    GRUEncoder,
    MeanRegionEncoder,
    ReasoningRegionEncoder,
    SentenceGRUEncoder,
)
from itm_fast.nn.pooling import GPO, RegionAttention
from itm_fast.nn.similarity import CHANSimilarity, CrossAttention, ESLSimilarity, LAPSSimilarity, SGRAFSimilarity

N, MOST, DIM = 3, 5, 256
COUNTS = torch.tensor([2, 5, 1])
MASK = torch.arange(MOST) < COUNTS[:, None]
WORDS = ("regions", "words"), ("region_counts", "word_counts")
TOKENS = ("tokens",), ("word_counts",)
IMAGES = ("images",), ("region_counts",)


def bert():
    pytest.importorskip("transformers")
    return BERTEncoder(config(word_pieces(["a dog runs"])), 8)


# How each is made, what of its inputs is counted, by what names, and whether results are in the places of the inputs.
MODULES = {
    "CrossAttention": (CrossAttention, *WORDS, False),
    "CHAN": (CHANSimilarity, *WORDS, False),
    "CHAN in plain torch": (lambda: CHANSimilarity("VSACoding"), *WORDS, False),
    "ESL": (lambda: ESLSimilarity(DIM), *WORDS, False),
    "LAPS": (lambda: LAPSSimilarity(DIM), *WORDS, False),
    "SGR": (lambda: SGRAFSimilarity(DIM, 8, n_regions=MOST), *WORDS, False),
    "SAF": (lambda: SGRAFSimilarity(DIM, 8, n_regions=MOST, module_name="SAF"), *WORDS, False),
    "GPO": (GPO, ("vectors",), ("counts",), False),
    "RegionAttention": (lambda: RegionAttention(DIM, MOST, 0.4), ("regions",), ("region_counts",), False),
    "MeanRegionEncoder": (lambda: MeanRegionEncoder(DIM, 8), *IMAGES, False),
    "ReasoningRegionEncoder": (lambda: ReasoningRegionEncoder(DIM, 8), *IMAGES, True),
    "GRUEncoder": (lambda: GRUEncoder(9, 4, 8), *TOKENS, True),
    "SentenceGRUEncoder": (lambda: SentenceGRUEncoder(9, 4, 8), *TOKENS, False),
    "BERTEncoder": (bert, *TOKENS, True),
    "CaptioningHead": (
        lambda: CaptioningHead(DIM, 9),
        ("regions", "tokens"),
        ("region_counts", "word_counts"),
        False,
    ),
}


def tensors(results):
    return results if isinstance(results, tuple) else (results,)


@pytest.mark.parametrize("name", MODULES)
def test_counts_in_every_form_mean_the_same(name):
    torch.manual_seed(0)
    make, inputs, counted, has_places = MODULES[name]
    module = make().eval()
    given = {}
    for of in inputs:
        x = torch.randint(4, 9, (N, MOST)) if of == "tokens" else torch.randn(N, MOST, DIM)
        given[of] = x * (MASK if of == "tokens" else MASK[..., None])
    with torch.no_grad():
        want = tensors(module(**given, **dict.fromkeys(counted, COUNTS)))
        everything = tensors(module(**given, **dict.fromkeys(counted)))
        assert not all(torch.equal(one, whole) for one, whole in zip(want, everything, strict=True))
        for form in (COUNTS.tolist(), COUNTS.int(), COUNTS.numpy(), MASK, MASK.tolist()):
            found = tensors(module(**given, **dict.fromkeys(counted, form)))
            assert all(torch.equal(one, other) for one, other in zip(found, want, strict=True))
        behind = (torch.arange(MOST) + COUNTS[:, None]) % MOST  # padding first
        moved = {of: x.take_along_dim(behind.view(N, MOST, *[1] * (x.ndim - 2)), 1) for of, x in given.items()}
        mask = MASK.take_along_dim(behind, 1)
        if has_places:
            with pytest.raises(ValueError, match=f"{counted[0]} is a mask with padding before {inputs[0]}"):
                module(**moved, **dict.fromkeys(counted, mask))
        else:
            found = tensors(module(**moved, **dict.fromkeys(counted, mask)))
            assert all(torch.equal(one, other) for one, other in zip(found, want, strict=True))
        for name_of_counts in counted:
            with pytest.raises(TypeError, match=f"{name_of_counts} must be a list, array or tensor of integers"):
                module(**given, **{**dict.fromkeys(counted, COUNTS), name_of_counts: COUNTS.float()})
