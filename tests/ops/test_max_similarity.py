import pytest
import torch
from operators import AGG_FUNCS, on_three_threads_and_on_one, random_batch, relative_error, scores_and_gradients, truth
from test_cross_attention import clean

from itm_fast import max_similarity, reference


@pytest.mark.all_backends
@pytest.mark.parametrize("ragged_regions", [False, True], ids=["all_regions", "ragged_regions"])
@pytest.mark.parametrize("agg_func", AGG_FUNCS)
@pytest.mark.parametrize("cross_attn", ["t2i", "i2t"])
@pytest.mark.parametrize("sizes", [(3, 17, 5, 19, 20), (1, 1, 1, 1, 1), (2, 150, 3, 70, 5), (7, 36, 2, 300, 9)])
def test_scores_and_gradients_equal_the_reference(sizes, cross_attn, agg_func, ragged_regions):
    batch = random_batch(*sizes, ragged_regions=ragged_regions)
    flags = {"cross_attn": cross_attn, "agg_func": agg_func}
    got = scores_and_gradients(max_similarity, *batch, **flags)
    for result, want in zip(got, truth("max_similarity", *batch, **flags), strict=True):
        assert relative_error(result, want) < 1e-12


@pytest.mark.all_backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "sizes",
    [
        (2, 300, 2, 257, 16),  # both sides in several steps
        (3, 140, 5, 9, 20),
        (5, 9, 2, 140, 7),
        (70, 2, 3, 200, 8),  # several rounds in the emulated build's little scratch memory
    ],
)
def test_any_length_in_every_type(sizes, dtype):
    batch = random_batch(*sizes, dtype=dtype, ragged_regions=True)
    for cross_attn, agg_func in (("t2i", "LogSumExp"), ("i2t", "Sum")):
        flags = {"cross_attn": cross_attn, "agg_func": agg_func}
        scores, *gradients = scores_and_gradients(max_similarity, *batch, **flags)
        exact, *exact_gradients = truth("max_similarity", *batch, **flags)
        assert relative_error(scores, exact) < 2e-6
        for got, want in zip(gradients, exact_gradients, strict=True):
            assert relative_error(got, want) <= torch.finfo(dtype).eps + 1e-5


@pytest.mark.all_backends(without=("emulated-races",))  # slow there
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sums_run_in_float32(dtype, backend):
    n_images, n_captions = (5, 8) if backend == "emulated" else (20, 30)
    batch = random_batch(n_images, 36, n_captions, 25, 512, dtype=dtype)
    scores, *gradients = scores_and_gradients(max_similarity, *batch)
    exact, *exact_gradients = truth("max_similarity", *batch)
    assert scores.dtype == torch.float32
    assert relative_error(scores, exact) < 2e-6
    for got, want in zip(gradients, exact_gradients, strict=True):
        assert relative_error(got, want) <= torch.finfo(dtype).eps + 1e-5


@pytest.mark.all_backends
def test_a_gradient_alone_is_the_same():
    inputs = random_batch(3, 140, 4, 9, 20, dtype=torch.float32, ragged_regions=True)
    gradients = torch.ops.itm_fast.max_similarity_backward
    grad, flags = torch.ones(3, 4), ("t2i", "LogSumExp", 6.0)
    both = gradients(grad, *inputs, *flags, True, True)
    assert torch.equal(gradients(grad, *inputs, *flags, True, False)[0], both[0])
    assert torch.equal(gradients(grad, *inputs, *flags, False, True)[1], both[1])
    assert gradients(grad, *inputs, *flags, False, True)[0].shape == (0,)


@pytest.mark.parametrize("agg_func", AGG_FUNCS)
@pytest.mark.parametrize("cross_attn", ["t2i", "i2t"])
def test_maxima_that_were_kept_give_the_gradients_of_those_found_again(cross_attn, agg_func):
    inputs, flags = random_batch(3, 40, 4, 9, 20, ragged_regions=True), (cross_attn, agg_func, 6.0)
    grad = torch.randn(3, 4, dtype=torch.float64)
    scores, rows, values = torch.ops.itm_fast.max_similarity_kept(*inputs, *flags)
    assert torch.equal(scores, torch.ops.itm_fast.max_similarity(*inputs, *flags))
    kept = torch.ops.itm_fast.max_similarity_kept_backward
    found = kept(grad, *inputs, rows, values, *flags, True, True)
    again = torch.ops.itm_fast.max_similarity_backward(grad, *inputs, *flags, True, True)
    assert all(torch.equal(*pair) for pair in zip(found, again, strict=True))
    for wrong in (rows - 1, rows + 40, rows[:1], rows.long()):
        with pytest.raises(ValueError, match="rows"):
            kept(grad, *inputs, wrong, values, *flags, True, True)


@pytest.mark.parametrize("cross_attn", ["t2i", "i2t"])
@pytest.mark.compiled
def test_opcheck_of_what_keeps_its_maxima(cross_attn):
    regions, words, word_counts, region_counts = map(clean, random_batch(2, 4, 3, 5, 6, ragged_regions=True))
    inputs = (regions.requires_grad_(), words, word_counts, region_counts, cross_attn, "LogSumExp", 10.0)
    torch.library.opcheck(torch.ops.itm_fast.max_similarity_kept.default, inputs)
    grad = torch.randn(2, 3, dtype=torch.float64)
    detached = (regions.detach(), words, word_counts, region_counts)
    _, rows, values = torch.ops.itm_fast.max_similarity_kept(*detached, *inputs[4:])
    inputs = (grad, *detached, rows, values, *inputs[4:], False, True)
    torch.library.opcheck(torch.ops.itm_fast.max_similarity_kept_backward.default, inputs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_gradients_of_several_runs_of_contexts_and_threads(dtype, monkeypatch):
    monkeypatch.setenv("ITM_FAST_GRAIN", "1")
    batch = random_batch(6, 30, 9, 30, 3000, dtype=dtype, ragged_regions=True)
    want = scores_and_gradients(max_similarity, *batch, agg_func="Max")
    shared, alone = on_three_threads_and_on_one(lambda: scores_and_gradients(max_similarity, *batch, agg_func="Max"))
    for one, another, exact in zip(shared, alone, want, strict=True):
        assert torch.equal(one, another)
        assert torch.equal(one, exact)


@pytest.mark.all_backends
@pytest.mark.parametrize("lambda_lse", [0.01, 1000.0])
def test_logsumexp_of_any_temperature(lambda_lse):
    regions, *rest = random_batch(3, 17, 5, 19, 20, ragged_regions=True)
    batch = (30 * regions, *rest)  # exp(1000 * 30) overflows
    flags = {"agg_func": "LogSumExp", "lambda_lse": lambda_lse}
    got = scores_and_gradients(max_similarity, *batch, **flags)
    for result, want in zip(got, truth("max_similarity", *batch, **flags), strict=True):
        assert relative_error(result, want) < 1e-10  # lambda_lse * r is off by a few times 30000 * 2^-52


@pytest.mark.all_backends
def test_logsumexp_of_nan_is_nan_and_harms_nobody():
    regions, words, word_counts, _ = map(clean, random_batch(3, 6, 4, 7, 32))
    want = max_similarity(regions, words, word_counts, agg_func="LogSumExp")
    words[1, 0], want[:, 1] = torch.nan, torch.nan
    got = max_similarity(regions, words, word_counts, agg_func="LogSumExp")
    torch.testing.assert_close(got, want, rtol=0, atol=1e-15, equal_nan=True)


@pytest.mark.all_backends
def test_ties_go_to_the_first_and_nan_wins():
    regions = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]], requires_grad=True)
    words = torch.tensor([[[1.0, 0.0]]])
    max_similarity(regions, words).sum().backward()
    assert regions.grad.tolist() == [[[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]]
    regions = torch.tensor([[[5.0, 0.0], [float("nan"), 0.0], [0.0, 1.0]]])
    assert max_similarity(regions, words).isnan().all()


@pytest.mark.all_backends
@pytest.mark.compiled
def test_gradcheck_and_opcheck():
    regions, words, word_counts, region_counts = map(clean, random_batch(2, 4, 3, 5, 6, ragged_regions=True))
    regions.requires_grad_()
    words.requires_grad_()
    for agg_func in ("Sum", "LogSumExp"):

        def similarity(regions, words, agg_func=agg_func):
            return max_similarity(regions, words, word_counts, region_counts, agg_func=agg_func)

        assert torch.autograd.gradcheck(similarity, (regions, words))
    inputs = (regions, words, word_counts, region_counts, "i2t", "LogSumExp", 10.0)
    torch.library.opcheck(torch.ops.itm_fast.max_similarity.default, inputs)
    grad = torch.randn(2, 3, dtype=torch.float64)
    inputs = (grad, regions.detach(), words.detach(), None, None, "t2i", "Sum", 10.0, False, True)
    torch.library.opcheck(torch.ops.itm_fast.max_similarity_backward.default, inputs)


@pytest.mark.all_backends
@pytest.mark.compiled
def test_compiled_under_autocast_and_empty():
    torch.compiler.reset()  # what other tests of this process have compiled counts towards dynamo's limit
    regions, words, word_counts, _ = map(clean, random_batch(3, 6, 4, 7, 32, dtype=torch.float32))
    compiled = torch.compile(max_similarity, fullgraph=True, backend="eager")
    assert torch.equal(compiled(regions, words, word_counts), max_similarity(regions, words, word_counts))
    flags = {"agg_func": "LogSumExp", "lambda_lse": 4.0}
    assert torch.equal(
        compiled(regions, words, word_counts, **flags), max_similarity(regions, words, word_counts, **flags)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = max_similarity(regions, words, word_counts)
    assert torch.equal(scores, max_similarity(regions.bfloat16(), words.bfloat16(), word_counts))
    assert max_similarity(regions[:0], words).shape == (0, 4)


@pytest.mark.all_backends
def test_reads_what_late_interaction_writes_in_one_line():
    documents, query = torch.randn(5, 512, 128), torch.randn(1, 32, 128)
    want = (documents @ query[0].T).max(dim=1).values.sum(dim=1)
    assert torch.allclose(max_similarity(documents, query)[:, 0], want, rtol=1e-5)
    assert torch.allclose(reference.max_similarity(documents, query)[:, 0], want, rtol=1e-5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"agg_func": "Median"}, "agg_func must be one of 'LogSumExp', 'Max', 'Mean', 'Sum', got 'Median'"),
        ({"lambda_lse": 0}, "lambda_lse must be a finite number above 0, got 0"),
        ({"cross_attn": "i2i"}, "cross_attn"),
    ],
)
def test_bad_input_is_named(flags, message):
    with pytest.raises(ValueError, match=message):
        max_similarity(torch.randn(1, 2, 3), torch.randn(1, 2, 3), **flags)
