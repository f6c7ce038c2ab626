"""The plain-torch cross attention against the original's golden vectors, and where the original fails."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from itm_fast.reference import cross_attention_closed_form, cross_attention_similarity

COPIES = Path(__file__).parents[1] / "golden"
# scan_xattn_small.npz is the whole file; the cut copy has all its scores, but only the first two dims of its gradients.
WHOLE = Path(os.environ.get("ITM_FAST_SHARED") or Path(__file__).parents[3] / "shared") / "golden" / "models"
NORMS = ("clipped_l2norm", "l2norm", "clipped_l1norm", "l1norm", "clipped", "no_norm", "softmax")
AGGREGATIONS = ("LogSumExp", "Max", "Sum", "Mean")
LAMBDAS = {"t2i": {"lambda_softmax": 9.0, "lambda_lse": 6.0}, "i2t": {"lambda_softmax": 4.0, "lambda_lse": 5.0}}
FORMS = pytest.mark.parametrize("similarity", [cross_attention_similarity, cross_attention_closed_form])
DIRECTIONS = pytest.mark.parametrize("cross_attn", LAMBDAS)


def load(name):
    for folder in (COPIES, WHOLE):
        if (folder / name).is_file():
            return np.load(folder / name)
    return pytest.skip(f"{name} is not in {COPIES}, and ITM_FAST_SHARED names no folder with golden/models/{name}")


def leaf(array):
    return torch.from_numpy(array).double().requires_grad_()


def assert_golden(arrays, case, similarity, inputs=""):
    cross_attn, raw_feature_norm, agg_func = case.split(".")
    regions, words = leaf(arrays[f"{inputs}images"]), leaf(arrays[f"{inputs}captions"])
    sims = similarity(
        regions,
        words,
        torch.from_numpy(arrays["lens"]),
        cross_attn=cross_attn,
        raw_feature_norm=raw_feature_norm,
        agg_func=agg_func,
        **LAMBDAS[cross_attn],
    )
    np.testing.assert_allclose(sims.detach(), arrays[f"{inputs}{case}.scores"], rtol=0, atol=1e-12)
    (sims * torch.from_numpy(arrays["cot"])).sum().backward()
    for found, name in ((regions.grad, "dimages"), (words.grad, "dcaptions")):
        golden = arrays[f"{inputs}{case}.{name}"]
        cut = found[..., : golden.shape[-1]]
        np.testing.assert_allclose(cut, golden, rtol=0, atol=1e-7 * np.abs(golden).max(), err_msg=f"{case}.{name}")


@FORMS
@DIRECTIONS
@pytest.mark.parametrize("raw_feature_norm", NORMS)
@pytest.mark.parametrize("name", ["scan_xattn_cut.npz", "scan_xattn_small.npz"])
def test_golden(name, raw_feature_norm, cross_attn, similarity):
    arrays = load(name)
    for agg_func in AGGREGATIONS:
        assert_golden(arrays, f"{cross_attn}.{raw_feature_norm}.{agg_func}", similarity)


@FORMS
@DIRECTIONS
def test_golden_at_dim_1024(cross_attn, similarity):
    assert_golden(load("scan_xattn_d1024.npz"), f"{cross_attn}.clipped_l2norm.LogSumExp", similarity)


@FORMS
@DIRECTIONS
@pytest.mark.parametrize("flags", ["clipped_l2norm.LogSumExp", "softmax.Mean"])
def test_golden_on_rows_that_are_no_unit_vectors(flags, cross_attn, similarity):
    assert_golden(load("scan_xattn_cut.npz"), f"{cross_attn}.{flags}", similarity, inputs="raw.")


@FORMS
@DIRECTIONS
def test_golden_with_a_zero_word(cross_attn, similarity):
    arrays = load("scan_xattn_cut.npz")
    words = torch.from_numpy(arrays["captions"]).double()
    words[tuple(arrays["zero.where"])] = 0
    sims = similarity(
        torch.from_numpy(arrays["images"]).double(),
        words,
        torch.from_numpy(arrays["lens"]),
        cross_attn=cross_attn,
        **LAMBDAS[cross_attn],
    )
    np.testing.assert_allclose(sims, arrays[f"zero.{cross_attn}.clipped_l2norm.LogSumExp.scores"], rtol=0, atol=1e-12)


def random_sets(n_images, max_regions, n_captions, max_words, dim=8):
    generator = torch.Generator().manual_seed(0)
    regions = torch.randn(n_images, max_regions, dim, generator=generator, dtype=torch.float64)
    words = torch.randn(n_captions, max_words, dim, generator=generator, dtype=torch.float64)
    return regions, words


@DIRECTIONS
@pytest.mark.parametrize("raw_feature_norm", NORMS)
def test_gradient_of_a_zero_row_is_zero(raw_feature_norm, cross_attn):
    regions, words = random_sets(2, 4, 3, 5)
    regions[1, 2] = words[0, 1] = 0
    regions.requires_grad_(), words.requires_grad_()
    cross_attention_similarity(
        regions, words, cross_attn=cross_attn, raw_feature_norm=raw_feature_norm
    ).sum().backward()
    for gradient, zero in ((regions.grad, (1, 2)), (words.grad, (0, 1))):
        assert gradient.isfinite().all()
        assert (gradient[zero] == 0).all()
        assert (gradient.abs().sum(-1) > 0).sum() == gradient[..., 0].numel() - 1


@FORMS
@DIRECTIONS
@pytest.mark.parametrize("raw_feature_norm", NORMS[:4])
def test_a_context_orthogonal_to_every_query_passes_no_gradient_through_the_norm(
    raw_feature_norm, cross_attn, similarity
):
    regions, words = random_sets(2, 4, 2, 5)
    context, query = (regions, words) if cross_attn == "t2i" else (words, regions)
    query[..., 0] = 0
    context[:, 1] = torch.eye(8, dtype=torch.float64)[0]  # its row of S is zero; 1e-8 alone would divide
    regions.requires_grad_(), words.requires_grad_()
    similarity(regions, words, cross_attn=cross_attn, raw_feature_norm=raw_feature_norm).sum().backward()
    assert max(regions.grad.abs().max(), words.grad.abs().max()) < 100


@DIRECTIONS
def test_counts_are_slices(cross_attn):
    regions, words = random_sets(3, 4, 2, 5)
    region_counts, word_counts = torch.tensor([4, 1, 2]), torch.tensor([1, 3])
    expected = [
        [
            cross_attention_similarity(regions[i : i + 1, :r], words[c : c + 1, :w], cross_attn=cross_attn).item()
            for c, w in enumerate(word_counts)
        ]
        for i, r in enumerate(region_counts)
    ]
    regions[1, 1:] = words[0, 1:] = float("nan")
    sims = cross_attention_similarity(regions, words, word_counts, region_counts, cross_attn=cross_attn)
    np.testing.assert_allclose(sims, expected, rtol=1e-13)


def test_one_region_and_one_word_have_their_cosine():
    regions, words = random_sets(1, 1, 1, 1)
    cosine = torch.cosine_similarity(regions[0, 0], words[0, 0], dim=0)
    for agg_func in AGGREGATIONS:
        assert cross_attention_similarity(regions, words, agg_func=agg_func).item() == pytest.approx(cosine.item())


def test_logsumexp_does_not_overflow_in_half_precision():
    regions = torch.ones(1, 1, 4, dtype=torch.float16)
    assert cross_attention_similarity(regions, regions, lambda_lse=20.0).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("n_images", "n_captions"), [(0, 3), (2, 0), (0, 0)])
def test_empty_batches(n_images, n_captions):
    assert cross_attention_similarity(*random_sets(n_images, 2, n_captions, 3)).shape == (n_images, n_captions)


@pytest.mark.parametrize("flag", ["raw_feature_norm", "agg_func"])
def test_unknown_options(flag):
    with pytest.raises(ValueError, match=f"{flag} 'sum' is unknown"):
        cross_attention_similarity(*random_sets(1, 2, 1, 2), **{flag: "sum"})
