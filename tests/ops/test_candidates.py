"""Given pairs: the scores of all pairs, picked, to the last bit in float64; gradients; and what does not fit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import on_three_threads_and_on_one, random_batch, relative_error
from pairs_truth import assert_same, forms, picked, random_candidates

import itm_fast
from itm_fast import cross_attention_similarity, level_attention, max_similarity

TAU = torch.tensor(3.0, dtype=torch.float64)
CALLS = {
    "max_similarity t2i": max_similarity,
    "max_similarity i2t": lambda *batch, **more: max_similarity(*batch, cross_attn="i2t", agg_func="LogSumExp", **more),
    "cross_attention t2i": cross_attention_similarity,
    "cross_attention i2t": lambda *batch, **more: cross_attention_similarity(
        *batch, cross_attn="i2t", raw_feature_norm="softmax", agg_func="Mean", lambda_softmax=4.0, **more
    ),
    "level_attention": lambda regions, words, word_counts, region_counts, **more: level_attention(
        regions, words, word_counts, TAU, region_counts, **more
    ),
}
FORMS = ("counts", "mask", "mask before", "wider", "packed", "packed int32", "list")
every_call = pytest.mark.parametrize("name", CALLS)
both_ways = pytest.mark.parametrize("candidates_of", ["images", "captions"])
some_backends = pytest.mark.all_backends(without=("emulated-races",))  # slow there


def finite(batch):
    return [x if x is None or not x.is_floating_point() else x.nan_to_num() for x in batch]


def weighted(scores):
    weights = torch.cos(torch.arange(scores.numel(), dtype=scores.dtype)).view(scores.shape)
    return (weights * scores.masked_fill(scores.isinf(), 0)).sum()


def gradients(call, batch, form="counts", **more):
    """Scores of a batch in one of its forms, and how to get the gradients of its padded vectors."""
    regions, words, word_counts, region_counts = batch
    regions, words = regions.clone().requires_grad_(), words.clone().requires_grad_()
    if form != "counts":
        (given_regions, region_counts), (given_words, word_counts) = (
            forms(x, n)[form] for x, n in ((regions, region_counts), (words, word_counts))
        )
    else:
        given_regions, given_words = regions, words
    scores = call(given_regions, given_words, word_counts, region_counts, **more)
    return scores, lambda loss: torch.autograd.grad(loss, (regions, words))


@some_backends
@every_call
@both_ways
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 40), st.integers(1, 6), st.integers(1, 40))
@settings(max_examples=6, deadline=None)
def test_scores_are_those_of_all_pairs_picked_and_so_are_gradients(
    name, candidates_of, backend, seed, n, most_r, m, most_w
):
    batch = random_batch(n, most_r, m, most_w, 1 + seed % 150, seed=seed, ragged_regions=True)
    of_images = candidates_of == "images"
    candidates = random_candidates(n if of_images else m, 1 + seed % 7, m if of_images else n, seed)
    more = {"candidates": candidates, "candidates_of": candidates_of}
    all_pairs, of_all = gradients(CALLS[name], batch)
    want = picked(all_pairs, candidates, candidates_of)
    form = FORMS[seed % len(FORMS)]
    found, of_given = gradients(CALLS[name], batch, form, **more)
    assert_same(found, want, backend)
    if batch[0].shape[-1] == 1:
        return  # cosines of numbers are 1 or -1: their gradient is what rounding leaves, magnified by short vectors
    for got, wanted in zip(of_given(weighted(found)), of_all(weighted(want)), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-11 * float(wanted.abs().max().clamp(min=1)))


@pytest.mark.parametrize("name", ["cross_attention t2i", "cross_attention i2t"])
def test_a_member_that_all_threads_meet_first(name, monkeypatch):
    """Who comes while another makes its lengths or Gram matrix makes them too; 50 times: threads meet by chance."""
    monkeypatch.setenv("ITM_FAST_GRAIN", "1")
    batch = random_batch(12, 16, 2, 60, 1024)
    candidates = torch.ones(12, 1, dtype=torch.int64)

    def calls():
        return [CALLS[name](*batch, candidates=candidates) for _ in range(50)]

    shared, alone = on_three_threads_and_on_one(calls)
    assert all(torch.equal(scores, alone[0]) for scores in shared)


@every_call
@pytest.mark.parametrize(
    "sizes", [(3, 36, 40, 12, 64), (40, 7, 3, 30, 64), (2, 300, 5, 290, 70), (1, 2, 300, 9, 33), (2, 76, 9, 8, 40)]
)
def test_several_tiles_blocks_and_threads(name, sizes, monkeypatch):
    monkeypatch.setenv("ITM_FAST_GRAIN", "1")
    batch = random_batch(*sizes, ragged_regions=True)
    n, _, m, _, _ = sizes
    for candidates_of in ("images", "captions"):
        of_images = candidates_of == "images"
        candidates = random_candidates(n if of_images else m, 60, m if of_images else n)
        more = {"candidates": candidates, "candidates_of": candidates_of}

        def call(more=more):
            found, of_given = gradients(CALLS[name], batch, **more)
            return [found.detach(), *of_given(weighted(found))]

        shared, alone = on_three_threads_and_on_one(call)
        assert all(torch.equal(*pair) for pair in zip(shared, alone, strict=True))
        all_pairs, of_all = gradients(CALLS[name], batch)
        want = picked(all_pairs, candidates, candidates_of)
        assert torch.equal(alone[0], want)
        for got, wanted in zip(alone[1:], of_all(weighted(want)), strict=True):
            assert relative_error(got, wanted) < 1e-10


@every_call
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrower_numbers_are_within_their_bound(name, dtype):
    batch = random_batch(5, 36, 9, 12, 200, dtype=dtype)
    candidates = random_candidates(5, 6, 9)
    exact, of_exact = gradients(CALLS[name], [x if x is None else x.double() for x in batch[:2]] + [*batch[2:]])
    want = picked(exact, candidates, "images")
    found, of_given = gradients(CALLS[name], batch, candidates=candidates)
    assert found.dtype == torch.float32
    inside = candidates >= 0
    assert relative_error(found[inside].detach(), want[inside].detach()) < 1e-5
    for got, wanted in zip(of_given(weighted(found)), of_exact(weighted(want)), strict=True):
        assert got.dtype == dtype
        assert relative_error(got, wanted) <= torch.finfo(dtype).eps + 1e-4


@some_backends
@both_ways
@every_call
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrower_numbers_of_lists_are_scored_as_in_all_pairs(name, dtype, candidates_of, backend):
    batch = random_batch(5, 36, 9, 12, 72, dtype=dtype, ragged_regions=True)
    of_images = candidates_of == "images"
    candidates = random_candidates(5 if of_images else 9, 40, 9 if of_images else 5)
    candidates[1] = -1
    exact, of_exact = gradients(CALLS[name], [x if i > 1 else x.double() for i, x in enumerate(batch)])
    want = picked(exact, candidates, candidates_of)
    found, of_given = gradients(CALLS[name], batch, candidates=candidates, candidates_of=candidates_of)
    batched = name == "level_attention" and backend != "cpu"
    if backend == "emulated" and not batched:  # by the same kernels there
        assert torch.equal(found, picked(CALLS[name](*batch), candidates, candidates_of))
    inside = candidates >= 0
    assert found.dtype == torch.float32
    assert relative_error(found[inside].detach(), want[inside].detach()) < 1e-5
    roundings = 12 if batched else 1  # of the gradient of S too
    for got, wanted in zip(of_given(weighted(found)), of_exact(weighted(want)), strict=True):
        assert got.dtype == dtype
        assert relative_error(got, wanted) <= roundings * torch.finfo(dtype).eps + 1e-4


def test_packed_vectors_and_vectors_of_zeros():
    regions, words, word_counts, region_counts = random_batch(4, 6, 5, 7, 12, ragged_regions=True)
    regions[1, 0], words[2, 0] = 0, 0
    candidates = random_candidates(4, 8, 5)
    (packed, _), (listed, _) = forms(regions, region_counts)["packed"], forms(words, word_counts)["list"]
    for call in CALLS.values():
        want = call(regions, words, word_counts, region_counts, candidates=candidates)
        assert torch.equal(call(packed, listed, None, None, candidates=candidates), want)
    leaves = packed.vectors.clone().requires_grad_()
    packed = packed._replace(vectors=leaves)
    cross_attention_similarity(packed, listed, candidates=candidates).masked_fill(candidates < 0, 0).sum().backward()
    assert leaves.grad.isfinite().all()
    assert not leaves.grad[int(region_counts[0])].any()


def test_temperature_has_its_gradient():
    batch = random_batch(4, 6, 5, 7, 12, ragged_regions=True)
    candidates = random_candidates(4, 8, 5)
    regions, words, word_counts, region_counts = batch
    found = []
    for pick in (True, False):
        temperature = TAU.clone().requires_grad_()
        more = {"candidates": candidates} if pick else {}
        scores = level_attention(regions, words, word_counts, temperature, region_counts, **more)
        weighted(scores if pick else picked(scores, candidates, "images")).backward()
        found.append(temperature.grad)
    torch.testing.assert_close(*found, rtol=1e-12, atol=0)


def attended_pairs(everything, counts, candidates, candidates_of):
    """Of the similarity vectors of all pairs (n_images, n_words, width) those of the candidates, pair by pair."""
    captions = torch.split(everything, counts.tolist(), dim=1)
    pairs = [(a, b) if candidates_of == "images" else (b, a) for a, row in enumerate(candidates.tolist()) for b in row]
    parts = [captions[caption][image] for image, caption in pairs if min(image, caption) >= 0]
    return torch.cat([everything[:1, :0], torch.cat(parts)[None]], 1) if parts else everything[:1, :0]


@some_backends
@both_ways
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 40), st.integers(1, 6), st.integers(1, 40))
@settings(max_examples=6, deadline=None)
def test_attended_vectors_are_those_of_all_pairs_picked_and_so_are_gradients(
    candidates_of, backend, seed, n, most_r, m, most_w
):
    regions, words, word_counts, region_counts = random_batch(
        n, most_r, m, most_w, 1 + seed % 150, seed=seed, ragged_regions=True
    )
    of_images = candidates_of == "images"
    candidates = random_candidates(n if of_images else m, 1 + seed % 7, m if of_images else n, seed)
    if seed % 3 == 0:  # images of one size, as one tensor
        regions, region_counts = regions.nan_to_num(), torch.full((n,), most_r)
    weight, bias = torch.randn(3, words.shape[-1]).double(), torch.randn(3).double()
    leaves = [x.clone().requires_grad_() for x in (regions, words, weight, bias)]
    some_words = forms(leaves[1], word_counts)[("packed", "list")[seed % 2]][0]
    forms_of_regions = forms(leaves[0], region_counts)
    some_regions = leaves[0] if seed % 3 == 0 else forms_of_regions[("packed", "list", "packed int32")[seed % 3]][0]
    more = {"candidates": candidates, "candidates_of": candidates_of}
    found = itm_fast.attended_similarity(some_regions, some_words, None, *leaves[2:], **more)
    everything = itm_fast.attended_similarity(forms_of_regions["list"][0], some_words, None, *leaves[2:])
    want = attended_pairs(everything, word_counts, candidates, candidates_of)
    # To the last bit on the CPU; products of another shape may round otherwise elsewhere.
    torch.testing.assert_close(found, want, rtol=0, atol=0 if backend == "cpu" else 1e-14)
    cotangent = torch.cos(torch.arange(found.numel()).double()).view(found.shape)
    grads = [torch.autograd.grad((x * cotangent).sum(), leaves, materialize_grads=True) for x in (found, want)]
    for got, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-10 * float(wanted.abs().max().clamp(min=1)))


@both_ways
def test_attended_vectors_of_pairs_do_not_depend_on_the_threads(candidates_of, monkeypatch):
    monkeypatch.setenv("ITM_FAST_GRAIN", "1")
    regions, words, word_counts, region_counts = random_batch(9, 17, 8, 70, 33, ragged_regions=True)
    candidates = random_candidates(9 if candidates_of == "images" else 8, 40, 8)
    weight, bias = torch.randn(3, 33).double(), torch.randn(3).double()

    def call():
        leaves = [x.clone().requires_grad_() for x in (regions, words, weight, bias)]
        some = [forms(x, n)["packed"][0] for x, n in zip(leaves, (region_counts, word_counts), strict=False)]
        more = {"candidates": candidates, "candidates_of": candidates_of}
        found = itm_fast.attended_similarity(*some, None, *leaves[2:], **more)
        return [found.detach(), *torch.autograd.grad(weighted(found), leaves)]

    shared, alone = on_three_threads_and_on_one(call)
    assert all(torch.equal(*pair) for pair in zip(shared, alone, strict=True))


@some_backends
@both_ways
def test_attended_vectors_of_pairs_go_on_to_graph_reasoning(candidates_of, backend):
    regions, words, word_counts, region_counts = random_batch(3, 4, 5, 6, 8, ragged_regions=True)
    packed, (listed, _) = forms(words, word_counts)["packed"][0], forms(regions, region_counts)["list"]
    weight, bias = torch.randn(3, 8, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    n_lists, n_others = (3, 5) if candidates_of == "images" else (5, 3)
    candidates = random_candidates(n_lists, 4, n_others)
    more = {"candidates": candidates, "candidates_of": candidates_of}
    found = itm_fast.attended_similarity(listed, packed, None, weight, bias, **more)
    captions = candidates if candidates_of == "images" else torch.arange(5)[:, None].expand(-1, 4)
    counts = word_counts[captions[candidates >= 0]]
    layer = torch.zeros(1, 3, 3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)
    whole = torch.randn(1, len(counts), 3, dtype=torch.float64)
    assert itm_fast.graph_reasoning(whole, found, counts, *layer, *layer).shape == whole.shape
    more["candidates"] = torch.full((n_lists, 2), -1)
    assert itm_fast.attended_similarity(listed, packed, None, weight, bias, **more).shape == (1, 0, 3)
    more["candidates"] = torch.full((n_lists, 1), n_others)
    with pytest.raises(ValueError, match=rf"candidates\[0, 0\] is {n_others}; expected -1"):
        itm_fast.attended_similarity(listed, packed, None, weight, bias, **more)


@pytest.mark.compiled
def test_attended_vectors_of_pairs_compiled_whole_opcheck_and_gradcheck():
    regions, words, word_counts, region_counts = random_batch(2, 4, 3, 5, 6, ragged_regions=True)
    (packed, _), (flat, _) = forms(regions, region_counts)["packed"], forms(words, word_counts)["packed"]
    candidates = torch.tensor([[0, 2, -1], [1, 1, 0]])
    leaves = [
        x.requires_grad_() for x in (packed.vectors, flat.vectors, torch.randn(3, 6).double(), torch.randn(3).double())
    ]

    def call(regions, words, weight, bias):
        some = packed._replace(vectors=regions), flat._replace(vectors=words)
        return itm_fast.attended_similarity(*some, None, weight, bias, candidates=candidates)

    assert torch.autograd.gradcheck(call, leaves)
    # How many words the pairs have is in the indices: torch needs to be told that such sizes are welcome.
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        found = torch.compile(call, fullgraph=True, backend="aot_eager")(*leaves)
    want = call(*leaves)
    assert torch.equal(found, want)
    grads = [torch.autograd.grad(weighted(x), leaves) for x in (found, want)]
    assert all(torch.equal(*pair) for pair in zip(*grads, strict=True))
    inputs = (*leaves[:2], word_counts, region_counts, candidates, *leaves[2:], False, 9.0)
    torch.library.opcheck(torch.ops.itm_fast.attended_similarity_candidates.default, inputs)
    detached = [x.detach() if isinstance(x, torch.Tensor) else x for x in inputs]
    forward = torch.ops.itm_fast.attended_similarity_candidates(*detached)
    inputs = (torch.randn_like(forward[0]), *forward, *detached[:6], False, 9.0)
    torch.library.opcheck(torch.ops.itm_fast.attended_similarity_candidates_backward.default, inputs)


@every_call
@pytest.mark.compiled
def test_compiled_whole_opcheck_and_gradcheck(name):
    regions, words, word_counts, region_counts = finite(random_batch(2, 4, 3, 5, 6, ragged_regions=True))
    candidates = torch.tensor([[0, 2, -1], [1, 1, 0]])

    def call(regions, words):
        return CALLS[name](regions, words, word_counts, region_counts, candidates=candidates)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    found, want = (f(regions.requires_grad_(), words.requires_grad_()) for f in (compiled, call))
    assert torch.equal(found, want)
    pair = [torch.autograd.grad(weighted(x), (regions, words)) for x in (found, want)]
    assert all(torch.equal(a, b) for a, b in zip(*pair, strict=True))
    assert torch.autograd.gradcheck(lambda r, w: call(r, w).masked_fill(candidates < 0, 0), (regions, words))


@pytest.mark.compiled
def test_every_operator_of_candidates_is_opcheck_clean():
    regions, words, word_counts, region_counts = finite(random_batch(2, 4, 3, 5, 6, ragged_regions=True))
    candidates = torch.tensor([[0, 2, -1], [1, 1, 0]])
    inputs = (regions.requires_grad_(), words.requires_grad_(), word_counts, region_counts, candidates)
    detached = [x.detach() for x in inputs]
    grad = torch.randn(2, 3, dtype=torch.float64)
    options = {
        "max_similarity": (False, "i2t", "Sum", 10.0),
        "cross_attention": (False, "t2i", "l2norm", "Sum", 9.0, 6.0),
        "level_attention": (TAU, False),
    }
    for name, rest in options.items():
        operator = getattr(torch.ops.itm_fast, f"{name}_candidates").default
        torch.library.opcheck(operator, (*inputs, *rest))
        needed = (True, False) + (True,) * (name == "level_attention")
        operator = getattr(torch.ops.itm_fast, f"{name}_candidates_backward").default
        torch.library.opcheck(operator, (grad, *detached, *rest, *needed))


@some_backends
def test_no_lists_and_empty_lists():
    regions, words = torch.randn(2, 3, 4), torch.randn(5, 6, 4)
    empty = torch.zeros(2, 0, dtype=torch.int64)
    assert max_similarity(regions, words, candidates=empty).shape == (2, 0)
    none = torch.full((2, 3), -1)
    leaves = regions.clone().requires_grad_()
    scores = max_similarity(leaves, words, candidates=none)
    assert torch.equal(scores, torch.full((2, 3), -torch.inf))
    scores.masked_fill(none < 0, 0).sum().backward()
    assert not leaves.grad.any()
    assert max_similarity(regions[:0], words, candidates=empty[:0]).shape == (0, 0)
    assert torch.equal(max_similarity(regions, words[:0], candidates=none), torch.full((2, 3), -torch.inf))


R, W = torch.randn(2, 3, 4), torch.randn(5, 6, 4)


@some_backends
@pytest.mark.parametrize(
    ("candidates", "more", "exception", "fragment"),
    [
        (torch.zeros(5, 1, dtype=torch.int64), {}, ValueError, r"= 2, got \(5, 1\); lists of captions want candidates"),
        (torch.zeros(2, dtype=torch.int64), {}, ValueError, r"candidates must have shape \(n_images, k\)"),
        (torch.zeros(2, 1), {}, TypeError, "candidates must be int64, got torch.float32"),
        ([[0], [1]], {}, TypeError, r"candidates must be an int64 tensor \(n_images, k\), got list"),
        (torch.tensor([[0], [5]]), {}, ValueError, r"candidates\[1, 0\] is 5; expected -1 for none, or 0 to 4"),
        (torch.tensor([[0], [-2]]), {}, ValueError, r"candidates\[1, 0\] is -2"),
        (torch.tensor([[0, 1, 2], [3, 4, 5]]), {}, ValueError, r"candidates\[1, 2\] is 5; expected -1 .* 0 to 4"),
        (torch.zeros(2, 1, dtype=torch.int64), {"candidates_of": "words"}, ValueError, "candidates_of must be one of"),
        (torch.full((5, 1), 2), {"candidates_of": "captions"}, ValueError, r"\[0, 0\] is 2; expected -1 .* 0 to 1"),
    ],
)
def test_what_does_not_fit_is_named(candidates, more, exception, fragment):
    with pytest.raises(exception, match=fragment):
        max_similarity(R, W, candidates=candidates, **more)
