"""Batches in every form: equal results and gradients, and what a wrong form is told."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import random_batch
from pairs_truth import assert_same, forms

import itm_fast
from itm_fast import Packed, cross_attention_similarity, level_attention, max_similarity, maxsim
from itm_fast.nn.similarity.chan import CHANSimilarity
from itm_fast.nn.similarity.laps import LAPSSimilarity
from itm_fast.ops import _ragged

TAU = torch.tensor(3.0, dtype=torch.float64)
CALLS = {
    "max_similarity": max_similarity,
    "t2i": lambda *batch: cross_attention_similarity(*batch, agg_func="Mean"),
    "i2t": lambda *batch: cross_attention_similarity(*batch, cross_attn="i2t"),
    "level_attention": lambda regions, words, word_counts, region_counts: level_attention(
        regions, words, word_counts, TAU, region_counts
    ),
}
every_call = pytest.mark.parametrize("name", CALLS)


def weighted(scores):
    return (scores * torch.arange(1.0, scores.numel() + 1, dtype=scores.dtype).view(scores.shape)).sum()


def scores_and_gradients(call, regions, words, region_form, word_form):
    """Of padded leaves, through whichever form they are given in."""
    regions, words = regions.clone().requires_grad_(), words.clone().requires_grad_()
    (given_regions, region_counts), (given_words, word_counts) = region_form(regions), word_form(words)
    scores = call(given_regions, given_words, word_counts, region_counts)
    weighted(scores).backward()
    return scores.detach(), regions.grad, words.grad


@pytest.mark.all_backends(without=("emulated-races",))  # slow there
@every_call
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 9), st.integers(1, 5), st.integers(1, 7))
@settings(max_examples=8, deadline=None)
def test_all_forms_are_equal_to_the_last_bit_and_so_are_their_gradients(name, backend, seed, n, most_r, m, most_w):
    sizes = (n, most_r, m, most_w, 5)
    regions, words, word_counts, region_counts = random_batch(*sizes, seed=seed, ragged_regions=True)

    def form(counts, key):
        return lambda vectors: forms(vectors, counts)[key]

    call = CALLS[name]
    want = scores_and_gradients(call, regions, words, form(region_counts, "counts"), form(word_counts, "counts"))
    keys = list(forms(regions, region_counts))
    for place, key in enumerate(keys):
        other = keys[(place + seed) % len(keys)]
        got = scores_and_gradients(call, regions, words, form(region_counts, key), form(word_counts, other))
        for found, wanted in zip(got, want, strict=True):
            assert_same(found, wanted, backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrower_numbers_too(dtype):
    regions, words, word_counts, region_counts = random_batch(4, 9, 5, 7, 33, dtype=dtype, ragged_regions=True)
    for call in (max_similarity, cross_attention_similarity):
        want = call(regions, words, word_counts, region_counts)
        (packed, _), (listed, _) = forms(regions, region_counts)["packed"], forms(words, word_counts)["list"]
        assert torch.equal(call(packed, listed), want)


@pytest.mark.all_backends(without=("emulated-races",))
def test_attended_similarity_takes_the_forms_too():
    regions, words, word_counts, region_counts = random_batch(5, 6, 4, 7, 8, ragged_regions=True)
    weight, bias = torch.randn(3, 8, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    packed = forms(words, word_counts)["packed"][0]
    of_one = [
        itm_fast.attended_similarity(regions[i : i + 1, :n], packed.vectors, word_counts, weight, bias)
        for i, n in enumerate(region_counts.tolist())
    ]
    for key in ("packed", "list"):
        some_regions, some_words = (forms(x, n)[key][0] for x, n in ((regions, region_counts), (words, word_counts)))
        found = itm_fast.attended_similarity(some_regions, some_words, None, weight, bias)
        assert torch.equal(found, torch.cat(of_one))


@every_call
@pytest.mark.compiled
def test_compiled_whole_with_packed_and_listed_vectors(name):
    regions, words, word_counts, region_counts = random_batch(3, 5, 4, 6, 8, ragged_regions=True)
    (packed, _), (listed, _) = forms(regions, region_counts)["packed"], forms(words, word_counts)["list"]

    def call(vectors, offsets, matrices):
        return CALLS[name](Packed(vectors, offsets), matrices, None, None)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    leaves = packed.vectors.clone().requires_grad_()
    found, want = compiled(leaves, packed.offsets, listed), call(leaves, packed.offsets, listed)
    assert torch.equal(found, want)
    assert torch.equal(*(torch.autograd.grad(weighted(x), leaves)[0] for x in (found, want)))


@pytest.mark.compiled
def test_packed_is_opcheck_and_gradcheck_clean():
    regions, words, word_counts, region_counts = random_batch(2, 4, 3, 5, 6, ragged_regions=True)
    (packed, _), (others, _) = (forms(x, n)["packed"] for x, n in ((regions, region_counts), (words, word_counts)))
    leaves = packed.vectors.requires_grad_(), others.vectors.requires_grad_()
    inputs = (*leaves, word_counts, region_counts)
    torch.library.opcheck(torch.ops.itm_fast.max_similarity.default, (*inputs, "i2t", "LogSumExp", 10.0))
    torch.library.opcheck(torch.ops.itm_fast.level_attention.default, (*inputs, TAU))
    assert torch.autograd.gradcheck(
        lambda r, w: max_similarity(packed._replace(vectors=r), others._replace(vectors=w)), leaves
    )


def test_empty_and_padded_in_runs(monkeypatch):
    regions, words, word_counts, region_counts = random_batch(5, 6, 4, 7, 8, ragged_regions=True)
    (packed, _), (others, _) = (forms(x, n)["packed"] for x, n in ((regions, region_counts), (words, word_counts)))
    nothing = Packed(packed.vectors[:0], torch.zeros(1, dtype=torch.int64))
    want = max_similarity(packed, others)
    assert max_similarity(nothing, others).shape == (0, 4)
    monkeypatch.setattr(_ragged, "PACKED_ON", ())
    monkeypatch.setattr(_ragged, "_PADDED_BYTES", 12 * 8 * 8)  # a group or two at a time
    assert torch.equal(max_similarity(packed, others), want)
    assert max_similarity(nothing, others).shape == (0, 4)


V = torch.randn(7, 8)
WRONG = [
    (V, ValueError, r"regions must have shape \(n_images, max_regions, dim\), got \(7, 8\); packed vectors come with"),
    (Packed(V, torch.tensor([0, 3, 6])), ValueError, "got offsets from 0 to 6; expected 0 to 7"),
    (Packed(V, torch.tensor([1, 3, 7])), ValueError, "got offsets from 1 to 7; expected 0 to 7"),
    (Packed(V, torch.tensor([0, 4, 4, 7])), ValueError, r"region_counts\[1\] is 0"),
    (Packed(V, torch.tensor([0, 9, 7])), ValueError, r"region_counts\[1\] is -2|region_counts\[0\] is 9"),
    (Packed(V, torch.tensor([0.0, 7.0])), ValueError, "expected integers"),
    (Packed(V, [0, 7]), TypeError, "takes two tensors, got Tensor and list"),
    (Packed(V[None], torch.tensor([0, 7])), ValueError, "padded vectors are given as they are"),
    ([], ValueError, "regions is an empty list, which has no dim"),
    ([V, V[:, :4]], ValueError, r"regions\[1\] has shape \(7, 4\).*a list is of matrices \(n_i, dim\) alike"),
    ([V, V.double()], ValueError, r"regions\[1\] has shape \(7, 8\), torch.float64"),
    ([V, V[:0]], ValueError, r"region_counts\[1\] is 0"),
    ([V, V.tolist()], TypeError, r"regions\[1\] must be a torch.Tensor \(n_i, dim\), got list"),
    ([V[None]], ValueError, r"regions\[0\] has shape \(1, 7, 8\)"),
    ("regions", TypeError, "regions must be a torch.Tensor, got str"),
]


@pytest.mark.parametrize(("regions", "exception", "fragment"), WRONG)
def test_a_wrong_form_is_told_the_right_one(regions, exception, fragment):
    with pytest.raises(exception, match=fragment):
        max_similarity(regions, torch.randn(2, 3, 8))


def test_counts_beside_vectors_that_say_them_are_refused():
    with pytest.raises(ValueError, match="regions are a list, which says how many there are: leave region_counts out"):
        max_similarity([V], torch.randn(2, 3, 8), None, [7])
    with pytest.raises(ValueError, match="documents are Packed, which says how many there are: leave document_lengths"):
        maxsim(torch.randn(2, 3, 8), Packed(V, torch.tensor([0, 7])), None, [7])


META = torch.empty(3, 6, 8, device="meta")
ON_A_DEVICE = {
    **{name: lambda *batch, call=call: call(*batch, None, None) for name, call in CALLS.items()},
    "level_attention": lambda *batch: level_attention(*batch, None, META[0, 0, 0]),
    "of candidates": lambda *batch: max_similarity(*batch, candidates=META[..., :2, 0].long()),
    "maxsim": maxsim,
    "attended_similarity": lambda *batch: itm_fast.attended_similarity(*batch, None, META[0], META[0, :, 0]),
    "patch_word_similarity": lambda _, words: itm_fast.patch_word_similarity(META, words, META[:, :4, :6], META),
    "its candidates": lambda _, words: itm_fast.patch_word_similarity(
        META, words, META[:, :2, :6], META, candidates=META[..., :2, 0].long()
    ),
    "LAPS": lambda _, words: LAPSSimilarity(8, 40).to("meta")(META, words),
    "CHAN": CHANSimilarity("VSACoding", "MeanPooling"),
}


@pytest.mark.parametrize("name", ON_A_DEVICE)
def test_nothing_is_read_from_a_device_if_the_host_knows_the_counts(name, monkeypatch):
    """Tensors of the meta device hold no values: whoever read one would raise."""
    monkeypatch.setattr(_ragged, "PACKED_ON", ("cpu",))
    regions, words, word_counts, region_counts = random_batch(3, 6, 4, 7, 8, ragged_regions=True, dtype=torch.float32)
    of_regions, of_words = forms(regions, region_counts), forms(words, word_counts)

    def on_a_device(form):
        given = (of_regions[form][0], of_words[form][0])
        if form == "list":
            return [[matrix.to("meta") for matrix in matrices] for matrices in given]
        return [packed._replace(vectors=packed.vectors.to("meta")) for packed in given]

    for form in ("packed", "packed int32", "list"):
        assert ON_A_DEVICE[name](*on_a_device(form)).device.type == "meta"
    if name != "attended_similarity":
        with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
            ON_A_DEVICE[name](*[packed._replace(offsets=packed.offsets.to("meta")) for packed in on_a_device("packed")])
