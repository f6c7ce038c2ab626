"""The modules only hold flags: what they return is what the functions return."""

import pytest
import torch

from itm_fast.nn.losses.triplet import TripletLoss
from itm_fast.nn.similarity.cross_attention import CrossAttention
from itm_fast.reference import cross_attention_similarity, triplet_loss

FLAGS = [
    {},
    {
        "cross_attn": "i2t",
        "raw_feature_norm": "softmax",
        "agg_func": "Mean",
        "lambda_softmax": 4.0,
    },
    {"lambda_lse": 2.0, "lambda_softmax": 3.0},
]


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("counts", [(None, None), (torch.tensor([1, 5, 3]), torch.tensor([4, 2]))])
def test_cross_attention(flags, counts):
    generator = torch.Generator().manual_seed(0)
    regions, words = (torch.randn(n, 5, 8, generator=generator, dtype=torch.float64) for n in (2, 3))
    expected = cross_attention_similarity(regions, words, *counts, **flags)
    torch.testing.assert_close(CrossAttention(**flags)(regions, words, *counts), expected)


def test_cross_attention_prints_its_flags():
    assert "i2t, clipped_l2norm, LogSumExp, lambda_softmax=4.0, lambda_lse=6.0" in repr(
        CrossAttention("i2t", lambda_softmax=4.0)
    )


@pytest.mark.parametrize("options", [{}, {"margin": 0.7}, {"max_violation": False}])
@pytest.mark.parametrize("image_ids", [None, torch.tensor([3, 3, 1, 2])])
def test_triplet_loss(options, image_ids):
    sims = torch.rand(4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        TripletLoss(**options)(sims, image_ids), triplet_loss(sims, image_ids=image_ids, **options)
    )
