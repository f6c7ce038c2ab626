"""Late interaction in plain torch, by hand."""

import math

import pytest
import torch

from itm_fast.reference import max_similarity

# Dot products, rows are regions: [[3, 0, 1], [1, 2, 4]]
REGIONS = torch.tensor([[[3.0, 0.0, 1.0], [1.0, 2.0, 4.0]]])
WORDS = torch.eye(3)[None]


@pytest.mark.parametrize(
    ("cross_attn", "agg_func", "expected"),
    [
        ("t2i", "Sum", 3 + 2 + 4),
        ("t2i", "Mean", 3),
        ("t2i", "Max", 4),
        ("i2t", "Sum", 3 + 4),
        ("i2t", "Mean", 3.5),
        ("i2t", "Max", 4),
        ("t2i", "LogSumExp", math.log(math.exp(6) + math.exp(4) + math.exp(8)) / 2),
        ("i2t", "LogSumExp", math.log(math.exp(6) + math.exp(8)) / 2),
    ],
)
def test_by_hand(cross_attn, agg_func, expected):
    sims = max_similarity(REGIONS, WORDS, cross_attn=cross_attn, agg_func=agg_func, lambda_lse=2.0)
    torch.testing.assert_close(sims, torch.tensor([[float(expected)]]), rtol=1e-6, atol=0)


def test_counts():
    word_counts, region_counts = torch.tensor([2]), torch.tensor([1])
    assert max_similarity(REGIONS, WORDS, word_counts).tolist() == [[3 + 2]]
    assert max_similarity(REGIONS, WORDS, None, region_counts).tolist() == [[3 + 0 + 1]]
    assert max_similarity(REGIONS, WORDS, word_counts, region_counts, cross_attn="i2t").tolist() == [[3]]


def test_gradient_goes_to_the_best_pair():
    regions = REGIONS.clone().requires_grad_()
    max_similarity(regions, WORDS).sum().backward()
    assert regions.grad.tolist() == [[[1, 0, 0], [0, 1, 1]]]


def test_empty_batches():
    assert max_similarity(REGIONS[:0], WORDS).shape == (0, 1)
    assert max_similarity(REGIONS, WORDS[:0]).shape == (1, 0)


def test_unknown_agg_func():
    with pytest.raises(ValueError, match="agg_func 'Median' is unknown"):
        max_similarity(REGIONS, WORDS, agg_func="Median")
