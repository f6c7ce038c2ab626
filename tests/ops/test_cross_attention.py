import functools

import numpy as np
import pytest
import torch
from golden_files import golden
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import (
    AGG_FUNCS,
    LAMBDAS,
    RAW_FEATURE_NORMS,
    on_three_threads_and_on_one,
    random_batch,
    relative_error,
    scores_and_gradients,
    truth,
)

from itm_fast import cross_attention_similarity, reference

# (scores, gradients) relative to the largest entry; float32: above the noise of the original's own float32.
GOLDEN_TOLERANCE = {torch.float64: (1e-12, 1e-7), torch.float32: (2e-6, 1e-4)}
# Plain torch sums in the order that the processor's library likes, which l1norm magnifies: 2.3e-6 on Intel's AVX-512.
PLAIN_TORCH = 2


def golden_cases():
    for name in ("scan_xattn_d1024.npz", "scan_xattn_small.npz"):
        for dtype in GOLDEN_TOLERANCE:
            yield pytest.param(name, dtype, id=f"{name.removesuffix('.npz')}-{str(dtype).removeprefix('torch.')}")


@pytest.mark.all_backends(without=("emulated-races",))  # slow there
@pytest.mark.parametrize(("name", "dtype"), list(golden_cases()))
def test_golden_vectors_of_the_original(name, dtype):
    equals_the_original(cross_attention_similarity, name, dtype, 1)


@pytest.mark.parametrize(("name", "dtype"), list(golden_cases()))
def test_golden_vectors_of_the_original_by_the_reference(name, dtype):
    equals_the_original(reference.cross_attention_similarity, name, dtype, PLAIN_TORCH)


def equals_the_original(similarity, name, dtype, factor):
    arrays = golden(name)
    lens = torch.from_numpy(arrays["lens"])
    checked = 0
    for key in (k for k in arrays.files if k.endswith(".scores")):
        *prefix, cross_attn, raw_feature_norm, agg_func, _ = key.split(".")
        inputs = {"raw": ("raw.images", "raw.captions"), "zero": ("images", "zero.captions")}
        images, captions = inputs.get(prefix[0] if prefix else "", ("images", "captions"))
        regions = torch.from_numpy(arrays[images]).to(dtype).requires_grad_()
        words = torch.from_numpy(arrays[captions]).to(dtype).requires_grad_()
        flags = {"cross_attn": cross_attn, "raw_feature_norm": raw_feature_norm, "agg_func": agg_func}
        scores = similarity(regions, words, lens, **flags, **LAMBDAS[cross_attn])
        tolerance, gradient_tolerance = GOLDEN_TOLERANCE[dtype]
        tolerance *= factor
        want = arrays[key]
        assert np.abs(scores.detach().numpy() - want).max() <= tolerance * max(1, np.abs(want).max()), key
        if prefix != ["zero"]:
            (scores * torch.from_numpy(arrays["cot"]).to(dtype)).sum().backward()
            for got, kind in ((regions.grad, "dimages"), (words.grad, "dcaptions")):
                stored = torch.from_numpy(arrays[key.replace("scores", kind)])
                assert relative_error(got, stored) <= gradient_tolerance, (key, kind)
        checked += 1
    assert checked >= 2


@pytest.mark.all_backends
@pytest.mark.parametrize("ragged_regions", [False, True], ids=["all_regions", "ragged_regions"])
@pytest.mark.parametrize("agg_func", AGG_FUNCS)
@pytest.mark.parametrize("raw_feature_norm", RAW_FEATURE_NORMS)
@pytest.mark.parametrize("cross_attn", ["t2i", "i2t"])
def test_scores_and_gradients_equal_the_reference(cross_attn, raw_feature_norm, agg_func, ragged_regions):
    batch = random_batch(3, 17, 5, 19, 20, ragged_regions=ragged_regions)
    flags = {
        "cross_attn": cross_attn,
        "raw_feature_norm": raw_feature_norm,
        "agg_func": agg_func,
        **LAMBDAS[cross_attn],
    }
    got = scores_and_gradients(cross_attention_similarity, *batch, **flags)
    for result, want in zip(got, truth("cross_attention_similarity", *batch, **flags), strict=True):
        assert relative_error(result, want) < 1e-9


# Sizes straddle the vector (16), the Gram form's four rows, the panel (64), the column (256) and the row block (144).
@pytest.mark.all_backends
@pytest.mark.parametrize("max_regions", [1, 2, 15, 16, 37, 150])
@pytest.mark.parametrize(("n_captions", "max_words"), [(1, 1), (3, 2), (40, 17), (2, 65), (1, 300)])
@pytest.mark.parametrize("cross_attn", ["t2i", "i2t"])
def test_sizes_across_every_tile_edge(cross_attn, n_captions, max_words, max_regions):
    batch, flags, want, plain, sensitivity = expected_of_sizes(cross_attn, n_captions, max_words, max_regions)
    got = scores_and_gradients(cross_attention_similarity, *batch, **flags)
    for result, exact, same_dtype, change in zip(got, want, plain, sensitivity, strict=True):
        # Twice the error of plain torch in float32, and what roundings of the inputs alone may do (a lucky plain torch
        # is no bound, and a change that cancels exactly in the truth is none either: so the sum of both).
        assert relative_error(result, exact) <= 2 * relative_error(same_dtype, exact) + 8 * change + 1e-6


@functools.cache
def expected_of_sizes(cross_attn, n_captions, max_words, max_regions):
    """The same for every backend."""
    batch = random_batch(5, max_regions, n_captions, max_words, 7, dtype=torch.float32, ragged_regions=max_regions > 2)
    flags = {"cross_attn": cross_attn, **LAMBDAS[cross_attn]}
    want = truth("cross_attention_similarity", *batch, **flags)
    plain = scores_and_gradients(reference.cross_attention_similarity, *map(clean, batch), **flags)
    return batch, flags, want, plain, change_under_rounding(want, *batch, **flags)


def change_under_rounding(want, regions, words, *counts, **flags):
    """How far the truth itself moves when every input moves by a rounding of float32 or so: small S are magnified."""
    changes = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        moved = [x.double() * (1 + 2**-23 * torch.randn(x.shape, generator=generator)) for x in (regions, words)]
        result = truth("cross_attention_similarity", *moved, *counts, **flags)
        changes.append([relative_error(*pair) for pair in zip(result, want, strict=True)])
    return [max(of_one) for of_one in zip(*changes, strict=True)]


def clean(x):
    return torch.nan_to_num(x) if x is not None and x.is_floating_point() else x


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 40), st.integers(1, 9), st.integers(1, 33), st.integers(1, 70),
    st.sampled_from(["t2i", "i2t"]), st.sampled_from(RAW_FEATURE_NORMS), st.integers(0, 1000),
)  # fmt: skip
def test_ragged_batches(n_images, max_regions, n_captions, max_words, dim, cross_attn, raw_feature_norm, seed):
    batch = random_batch(n_images, max_regions, n_captions, max_words, dim, seed=seed, ragged_regions=True)
    flags = {"cross_attn": cross_attn, "raw_feature_norm": raw_feature_norm, "lambda_softmax": 3.0}
    got = cross_attention_similarity(*batch, **flags)
    want, _, _ = truth("cross_attention_similarity", *batch, **flags)
    assert relative_error(got, want) < 1e-7  # l1 and l2 of nearly orthogonal vectors magnify roundings of 1e-16


@pytest.mark.all_backends(without=("emulated-races",))  # slow there
@pytest.mark.parametrize("cross_attn", ["t2i", "i2t"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_error_is_at_most_twice_that_of_plain_torch(dtype, cross_attn, backend):
    n_images, n_captions = (5, 8) if backend == "emulated" else (20, 30)
    regions, words, word_counts, _ = map(clean, random_batch(n_images, 36, n_captions, 25, 512, dtype=dtype))
    flags = {"cross_attn": cross_attn, **LAMBDAS[cross_attn]}
    batch = (regions, words, word_counts, None)
    got = scores_and_gradients(cross_attention_similarity, *batch, **flags)
    exact = truth("cross_attention_similarity", *batch, **flags)
    plain = scores_and_gradients(reference.cross_attention_similarity, *batch, **flags)
    for result, want, same_dtype in zip(got, exact, plain, strict=True):
        assert relative_error(result, want) <= 2 * relative_error(same_dtype, want) + 1e-6
    assert got[0].dtype == torch.float32
    assert got[1].dtype == got[2].dtype == dtype


@pytest.mark.all_backends(without=("emulated-races",))  # slow there
@pytest.mark.parametrize("cross_attn", ["t2i", "i2t"])
def test_float16_rounds_only_its_inputs_and_gradients(cross_attn, backend):
    # Plain torch gives NaN in float16 (1e-8 is 0 there), so the bound is the rounding of the gradients, 2^-11 each.
    n_images, n_captions = (5, 8) if backend == "emulated" else (20, 30)
    regions, words, word_counts, _ = map(clean, random_batch(n_images, 36, n_captions, 25, 512, dtype=torch.float16))
    flags = {"cross_attn": cross_attn, **LAMBDAS[cross_attn]}
    batch = (regions, words, word_counts, None)
    scores, *gradients = scores_and_gradients(cross_attention_similarity, *batch, **flags)
    exact, *exact_gradients = truth("cross_attention_similarity", *batch, **flags)
    assert relative_error(scores, exact) < 2e-6
    for got, want in zip(gradients, exact_gradients, strict=True):
        assert got.dtype == torch.float16
        assert relative_error(got, want) <= 2**-11 + 1e-4


@pytest.mark.all_backends(without=("cpu",))
def test_float32_products_are_tf32_where_torch_allows_it():
    batch = tuple(map(clean, random_batch(5, 20, 6, 9, 64, dtype=torch.float32)))
    exact = truth("cross_attention_similarity", *batch)[0]
    assert relative_error(cross_attention_similarity(*batch), exact) < 2e-6
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        rounded = relative_error(cross_attention_similarity(*batch), exact)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert 1e-6 < rounded < 9 * 2**-10  # two roundings to 2^-11 in a product; the cosine's slope in S is below lambda


@pytest.mark.all_backends
@pytest.mark.parametrize("cross_attn", ["t2i", "i2t"])
def test_gradcheck(cross_attn):
    regions, words, word_counts, region_counts = map(clean, random_batch(2, 4, 3, 5, 6, ragged_regions=True))
    regions.requires_grad_()
    words.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda r, w: cross_attention_similarity(r, w, word_counts, region_counts, cross_attn=cross_attn),
        (regions, words),
    )


@pytest.mark.all_backends
def test_only_the_gradient_that_is_needed():
    regions, words, word_counts, _ = map(clean, random_batch(2, 5, 3, 4, 8))
    for needed in (regions, words):
        for x in (regions, words):
            x.requires_grad_(x is needed)
            x.grad = None
        cross_attention_similarity(regions, words, word_counts).sum().backward()
        assert needed.grad is not None
        assert (regions if needed is words else words).grad is None


@pytest.mark.all_backends
def test_a_second_derivative_is_refused():
    regions, words, _, _ = map(clean, random_batch(2, 3, 2, 3, 4))
    regions.requires_grad_()
    (grad,) = torch.autograd.grad(cross_attention_similarity(regions, words).sum(), regions, create_graph=True)
    with pytest.raises(RuntimeError, match="can be differentiated once only"):
        grad.sum().backward()


@pytest.mark.all_backends
@pytest.mark.parametrize("raw_feature_norm", RAW_FEATURE_NORMS)
@pytest.mark.parametrize("cross_attn", ["t2i", "i2t"])
def test_zero_rows_have_similarity_0_and_gradient_0(cross_attn, raw_feature_norm):
    regions, words, word_counts, _ = map(clean, random_batch(3, 6, 4, 5, 8))
    regions[1, 2] = 0
    words[2, 0] = 0
    words[3] = 0
    flags = {"cross_attn": cross_attn, "raw_feature_norm": raw_feature_norm}
    got = scores_and_gradients(cross_attention_similarity, regions, words, word_counts, None, **flags)
    want = truth("cross_attention_similarity", regions, words, word_counts, None, **flags)
    for result, exact in zip(got, want, strict=True):
        assert torch.isfinite(result).all()
        assert relative_error(result, exact) < 1e-9
    assert (got[1][1, 2] == 0).all()
    assert (got[2][2, 0] == 0).all()
    assert (got[2][3] == 0).all()


@pytest.mark.all_backends
@pytest.mark.parametrize("cross_attn", ["t2i", "i2t"])
def test_norms_below_the_clamp(cross_attn):
    # |query| |attended| is about 1e-10, below 1e-8: the cosine then follows the length of the attention too.
    regions, words, word_counts, _ = map(clean, random_batch(3, 6, 4, 5, 8))
    flags = {"cross_attn": cross_attn, "raw_feature_norm": "l2norm"}
    batch = (1e-5 * regions, 1e-5 * words, word_counts, None)
    got = scores_and_gradients(cross_attention_similarity, *batch, **flags)
    for result, exact in zip(got, truth("cross_attention_similarity", *batch, **flags), strict=True):
        assert exact.abs().max() > 0
        assert relative_error(result / exact.abs().max(), exact / exact.abs().max()) < 1e-6


@pytest.mark.all_backends
def test_nan_reaches_its_image_and_caption_and_no_other():
    regions, words, word_counts, _ = map(clean, random_batch(4, 6, 5, 7, 8, dtype=torch.float32))
    whole = cross_attention_similarity(regions, words, word_counts)
    regions[1, 0, 3] = float("nan")
    words[2, 0, 0] = float("nan")
    for raw_feature_norm in RAW_FEATURE_NORMS:
        for agg_func in AGG_FUNCS:
            for cross_attn in ("t2i", "i2t"):
                scores = cross_attention_similarity(
                    regions,
                    words,
                    word_counts,
                    cross_attn=cross_attn,
                    raw_feature_norm=raw_feature_norm,
                    agg_func=agg_func,
                )
                hit = torch.zeros(4, 5, dtype=torch.bool)
                hit[1], hit[:, 2] = True, True
                assert torch.equal(scores.isnan(), hit), (raw_feature_norm, agg_func, cross_attn)
    scores = cross_attention_similarity(regions, words, word_counts)
    assert torch.equal(scores[~scores.isnan()], whole[~scores.isnan()])


@pytest.mark.all_backends
@pytest.mark.parametrize("raw_feature_norm", RAW_FEATURE_NORMS)
def test_nan_of_an_image_does_not_reach_the_gradients_of_others(raw_feature_norm):
    # A wide column block, then a narrow one: what the first leaves in a worker's scratch must not count in the second.
    regions = torch.nn.functional.normalize(torch.randn(3, 5, 8), dim=-1)
    regions[2] = float("nan")
    words = torch.nn.functional.normalize(torch.randn(18, 16, 8), dim=-1)
    word_counts = torch.tensor([16] * 16 + [5, 16])
    _, grad, _ = scores_and_gradients(
        cross_attention_similarity, regions, words, word_counts, None, raw_feature_norm=raw_feature_norm
    )
    assert torch.isfinite(grad[:2]).all()
    assert grad[2].isnan().all()


@pytest.mark.all_backends
def test_large_temperatures_stay_finite():
    regions, words, word_counts, _ = map(clean, random_batch(3, 9, 4, 8, 16, dtype=torch.float32))
    for flags in ({"lambda_lse": 1e4}, {"lambda_softmax": 1e4}, {"lambda_softmax": -1e4}, {"lambda_lse": 1e-4}):
        got = scores_and_gradients(cross_attention_similarity, 30 * regions, words, word_counts, None, **flags)
        assert all(torch.isfinite(x).all() for x in got), flags


@pytest.mark.all_backends
def test_non_contiguous_inputs():
    regions, words, word_counts, _ = map(clean, random_batch(4, 6, 5, 7, 8))
    want = cross_attention_similarity(regions, words, word_counts)
    strided = torch.zeros(4, 12, 16, dtype=torch.float64)[:, ::2, ::2]
    strided.copy_(regions)
    assert torch.equal(
        cross_attention_similarity(strided, words.transpose(1, 2).contiguous().transpose(1, 2), word_counts), want
    )
    assert torch.equal(
        cross_attention_similarity(regions[:1].expand(4, -1, -1), words, word_counts), want[:1].expand(4, -1)
    )


@pytest.mark.all_backends
def test_the_score_of_a_pair_does_not_depend_on_the_batch_or_the_threads(backend):
    regions, words, word_counts, _ = map(clean, random_batch(10, 36, 64, 20, 64, dtype=torch.float32))
    whole, alone = on_three_threads_and_on_one(
        lambda: scores_and_gradients(cross_attention_similarity, regions, words, word_counts, None)
    )
    # Elsewhere than on the CPU some products of the backward pass are torch's, whose sums may depend on its threads.
    bound = int(word_counts.sum()) * torch.finfo(torch.float32).eps
    same = torch.equal if backend == "cpu" else lambda a, b: relative_error(a, b) < bound
    assert torch.equal(whole[0], alone[0])
    assert all(same(a, b) for a, b in zip(whole, alone, strict=True))
    tile = cross_attention_similarity(regions[3:5], words[40:41], word_counts[40:41])
    assert torch.allclose(tile, whole[0][3:5, 40:41], rtol=0, atol=1e-6)


@pytest.mark.all_backends
@pytest.mark.parametrize(("n_images", "n_captions"), [(0, 3), (3, 0), (0, 0)])
def test_empty_batches(n_images, n_captions):
    regions = torch.randn(n_images, 4, 8, requires_grad=True)
    words = torch.randn(n_captions, 5, 8, requires_grad=True)
    scores = cross_attention_similarity(regions, words)
    assert scores.shape == (n_images, n_captions)
    scores.sum().backward()
    for vectors in (regions, words):
        assert torch.equal(vectors.grad, torch.zeros_like(vectors))  # of a side that compares with nothing


@pytest.mark.all_backends
@pytest.mark.compiled
def test_opcheck():
    regions, words, word_counts, region_counts = map(clean, random_batch(2, 4, 3, 5, 6, ragged_regions=True))
    for counts in ((word_counts, region_counts), (None, None)):
        inputs = (
            regions.requires_grad_(),
            words.requires_grad_(),
            *counts,
            "t2i",
            "clipped_l2norm",
            "LogSumExp",
            9.0,
            6.0,
        )
        torch.library.opcheck(torch.ops.itm_fast.cross_attention.default, inputs)
    grad = torch.randn(2, 3, dtype=torch.float64)
    inputs = (grad, regions.detach(), words.detach(), None, None, "i2t", "l2norm", "Mean", 4.0, 5.0, True, False)
    torch.library.opcheck(torch.ops.itm_fast.cross_attention_backward.default, inputs)


@pytest.mark.compiled
def test_compiled_without_graph_breaks_or_needless_recompilation():
    batches = [map(clean, random_batch(n, 6, n + 1, 7, 8, dtype=torch.float32, seed=n)) for n in (2, 3, 4, 5)]
    n_compiled = 0

    def count(graph, _inputs):
        nonlocal n_compiled
        n_compiled += 1
        return graph.forward

    compiled = torch.compile(cross_attention_similarity, fullgraph=True, backend=count)
    for regions, words, word_counts, _ in batches:
        got = compiled(regions, words, word_counts)
        assert torch.equal(got, cross_attention_similarity(regions, words, word_counts))
    assert n_compiled <= 2  # once with fixed sizes, once with open ones


@pytest.mark.all_backends
def test_autocast_scores_in_the_autocast_dtype():
    regions, words, word_counts, _ = map(clean, random_batch(3, 6, 4, 7, 32, dtype=torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = cross_attention_similarity(regions, words.bfloat16(), word_counts)
    want = cross_attention_similarity(regions.bfloat16(), words.bfloat16(), word_counts)
    assert torch.equal(scores, want)
    assert scores.dtype == torch.float32


R, W = torch.randn(2, 4, 8), torch.randn(3, 5, 8)
COUNTS = torch.tensor([5, 2, 1])


@pytest.mark.parametrize(
    ("arguments", "flags", "error", "message"),
    [
        ((R[0], W), {}, ValueError, r"regions must have shape \(n_images, max_regions, dim\), got \(4, 8\)"),
        ((R, W[0]), {}, ValueError, "words must have shape"),
        ((R, W[..., :7]), {}, ValueError, "same dim, got 8 and 7"),
        ((R[..., :0], W[..., :0]), {}, ValueError, "dim 0"),
        ((R.double(), W), {}, TypeError, "same dtype, got torch.float64 and torch.float32"),
        ((R.int(), W.int()), {}, TypeError, "regions must be float32"),
        ((R.numpy(), W), {}, TypeError, "regions must be a torch.Tensor, got ndarray"),
        ((R, W.to("meta")), {}, ValueError, "same device, got cpu and meta"),
        ((R, W, [5.0, 2.0, 1.0]), {}, TypeError, "word_counts must be a list, .* or None, got list of torch.float32"),
        (
            (R, W, COUNTS.float()),
            {},
            TypeError,
            "word_counts must be a list, array or tensor of integers, a boolean mask, or None, got torch.float32",
        ),
        ((R, W, COUNTS[:2]), {}, ValueError, r"word_counts must have shape \(3,\)"),
        ((R, W, torch.tensor([5, 0, 1])), {}, ValueError, r"word_counts\[1\] is 0; every count must be at least 1"),
        ((R, W, torch.tensor([5, 2, -1])), {}, ValueError, r"word_counts\[2\] is -1"),
        ((R, W, torch.tensor([6, 2, 1])), {}, ValueError, r"word_counts\[0\] is 6, but words has max_words = 5"),
        (
            (R, W, None, torch.tensor([4, 5])),
            {},
            ValueError,
            r"region_counts\[1\] is 5, but regions has max_regions = 4",
        ),
        ((R[:, :0], W), {}, ValueError, "max_regions = 0"),
        ((R, W), {"cross_attn": "t2t"}, ValueError, "cross_attn must be one of 'i2t', 't2i', got 't2t'"),
        ((R, W), {"raw_feature_norm": "l3norm"}, ValueError, "raw_feature_norm must be one of"),
        ((R, W), {"agg_func": "Median"}, ValueError, "agg_func must be one of"),
        ((R, W), {"lambda_lse": 0.0}, ValueError, "lambda_lse must be a finite number above 0"),
        ((R, W), {"lambda_softmax": float("nan")}, ValueError, "lambda_softmax must be a finite number"),
        ((R, W), {"lambda_softmax": "9"}, TypeError, "lambda_softmax must be a number, got str"),
    ],
)
def test_bad_input_is_named(arguments, flags, error, message):
    with pytest.raises(error, match=message):
        cross_attention_similarity(*arguments, **flags)


def test_the_operator_itself_refuses_what_would_be_unsafe():
    operator, flags = torch.ops.itm_fast.cross_attention, ("t2i", "clipped_l2norm", "LogSumExp", 9.0, 6.0)
    for arguments in (
        (R[0], W, None, None),
        (R, W[..., :7], None, None),
        (R, W.double(), None, None),
        (R, W, COUNTS[:2], None),
    ):
        with pytest.raises((ValueError, TypeError)):
            operator(*arguments, *flags)


def test_closed_form_of_the_reference():
    for cross_attn in ("t2i", "i2t"):
        regions, words, word_counts, _ = map(clean, random_batch(3, 7, 4, 9, 16))
        want = reference.cross_attention_similarity(regions, words, word_counts, cross_attn=cross_attn)
        got = reference.cross_attention_closed_form(regions, words, word_counts, cross_attn=cross_attn)
        assert relative_error(got, want) < 1e-12
