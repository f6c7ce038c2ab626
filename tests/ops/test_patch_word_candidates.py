"""LAPS's similarity of given pairs: that of all pairs, picked, to the last bit in float64; gradients; errors."""

import pytest
import torch
from emulated_operators import batched_kernels, in_place_of_the_cpus
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import on_three_threads_and_on_one
from pairs_truth import forms, picked, random_candidates
from test_patch_word_similarity import clean, made

from itm_fast import patch_word_similarity
from itm_fast.ops import _ragged


def scores_of(scores, candidates, candidates_of):
    """Of all pairs' patch scores those of the candidates."""
    of_lists = scores if candidates_of == "images" else scores.transpose(0, 1)
    return of_lists.gather(1, candidates.clamp(min=0)[..., None].expand(-1, -1, scores.shape[2]))


def with_gradients(operator, inputs, found_in=lambda sims: sims, **options):
    regions, words, scores, logits, word_counts = inputs
    leaves = [x.clone().requires_grad_() for x in (regions, words, logits)]
    sims = found_in(operator(leaves[0], leaves[1], scores, leaves[2], word_counts, **options))
    weights = torch.cos(torch.arange(sims.numel(), dtype=sims.dtype)).view(sims.shape)
    (weights * sims.masked_fill(sims.isinf(), 0)).sum().backward()
    return sims.detach(), *(leaf.grad for leaf in leaves)


def of_pairs(inputs, candidates, candidates_of):
    regions, words, scores, *rest = inputs
    return regions, words, scores_of(scores, candidates, candidates_of), *rest


def lists(inputs, candidates_of, k, seed=0):
    n_images, n_captions = inputs[2].shape[:2]
    of_images = candidates_of == "images"
    return random_candidates(n_images if of_images else n_captions, k, n_captions if of_images else n_images, seed)


@pytest.mark.parametrize("candidates_of", ["images", "captions"])
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 40), st.integers(1, 5), st.integers(1, 20))
@settings(max_examples=8, deadline=None)
def test_given_pairs_are_those_of_all_picked(candidates_of, seed, n, n_patches, m, max_words):
    class_token = bool(seed % 2)
    inputs = clean(made(n, n_patches, m, max_words, 2 + seed % 50, class_token=class_token, seed=seed))
    candidates = lists(inputs, candidates_of, 1 + seed % 6, seed)
    want = with_gradients(
        patch_word_similarity, inputs, lambda sims: picked(sims, candidates, candidates_of), class_token=class_token
    )
    more = {"candidates": candidates, "candidates_of": candidates_of}
    given = of_pairs(inputs, candidates, candidates_of)
    found = with_gradients(patch_word_similarity, given, class_token=class_token, **more)
    assert torch.equal(found[0], want[0])
    for got, wanted in zip(found[1:], want[1:], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-11 * float(wanted.abs().max().clamp(min=1)))
    with in_place_of_the_cpus(batched_kernels()):  # what other devices run
        found = with_gradients(patch_word_similarity, given, class_token=class_token, **more)
    for got, wanted in zip(found, want, strict=True):
        largest = float(wanted.masked_fill(wanted.isinf(), 0).abs().max())
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-9 * (largest + 1))


@pytest.mark.parametrize("candidates_of", ["images", "captions"])
def test_several_tiles_and_threads(candidates_of, monkeypatch):
    monkeypatch.setenv("ITM_FAST_GRAIN", "1")
    inputs = clean(made(5, 49, 30, 20, 24, 7))
    candidates = lists(inputs, candidates_of, 40)
    given = of_pairs(inputs, candidates, candidates_of)
    more = {"candidates": candidates, "candidates_of": candidates_of}
    shared, alone = on_three_threads_and_on_one(lambda: with_gradients(patch_word_similarity, given, **more))
    assert all(torch.equal(*pair) for pair in zip(shared, alone, strict=True))
    assert torch.equal(alone[0], picked(patch_word_similarity(*inputs), candidates, candidates_of))


@pytest.mark.parametrize("candidates_of", [None, "images", "captions"])
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 12), st.integers(1, 4), st.integers(1, 7))
@settings(max_examples=4, deadline=None)
def test_every_form_of_the_words_has_the_same_bits(candidates_of, seed, n, n_patches, m, max_words):
    regions, words, scores, logits, word_counts = clean(made(n, n_patches, m, max_words, 6, seed=seed))
    more = {}
    if candidates_of is not None:
        candidates = lists((regions, words, scores), candidates_of, 3, seed)
        scores = scores_of(scores, candidates, candidates_of)
        more = {"candidates": candidates, "candidates_of": candidates_of}

    def sims_and_gradients(key):
        leaves = [x.clone().requires_grad_() for x in (regions, words, logits)]
        given_words, counts = forms(leaves[1], word_counts)[key]
        sims = patch_word_similarity(leaves[0], given_words, scores, leaves[2], counts, **more)
        sims.masked_fill(sims.isinf(), 0).sin().sum().backward()
        return sims.detach(), *(leaf.grad for leaf in leaves)

    want = sims_and_gradients("counts")
    for key in forms(words, word_counts):
        assert all(torch.equal(*pair) for pair in zip(sims_and_gradients(key), want, strict=True)), key


@pytest.mark.parametrize("candidates_of", [None, "images", "captions"])
@pytest.mark.parametrize("key", ["packed", "list"])
def test_packed_and_listed_words_have_the_bits_of_padded_ones(candidates_of, key, monkeypatch):
    regions, words, scores, logits, word_counts = clean(made(3, 9, 4, 7, 6, class_token=True))
    more = {"class_token": True}
    if candidates_of is not None:
        candidates = lists((regions, words, scores), candidates_of, 3)
        scores = scores_of(scores, candidates, candidates_of)
        more |= {"candidates": candidates, "candidates_of": candidates_of}

    def sims_and_gradients(padded):
        leaves = [x.clone().requires_grad_() for x in (regions, words, logits)]
        given, counts = (leaves[1], word_counts) if padded else forms(leaves[1], word_counts)[key]
        sims = patch_word_similarity(leaves[0], given, scores, leaves[2], counts, **more)
        sims.masked_fill(sims.isinf(), 0).sin().sum().backward()
        return sims.detach(), *(leaf.grad for leaf in leaves)

    want = sims_and_gradients(True)
    assert all(torch.equal(*pair) for pair in zip(sims_and_gradients(False), want, strict=True))
    monkeypatch.setattr(_ragged, "PACKED_ON", ())  # as other devices do it
    monkeypatch.setattr(_ragged, "_PADDED_BYTES", 500)
    for found, wanted in zip(sims_and_gradients(False), want, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.compiled
def test_opcheck_gradcheck_and_compiled_whole():
    regions, words, scores, logits, word_counts = clean(made(2, 5, 3, 4, 6))
    candidates = torch.tensor([[0, 2, -1], [1, 1, 0]])
    scores = scores_of(scores, candidates, "images")
    leaves = [x.requires_grad_() for x in (regions, words, logits)]

    def similarity(regions, words, logits):
        return patch_word_similarity(regions, words, scores, logits, word_counts, candidates=candidates)

    assert torch.autograd.gradcheck(lambda *x: similarity(*x).masked_fill(candidates < 0, 0), leaves)
    assert torch.equal(torch.compile(similarity, fullgraph=True, backend="aot_eager")(*leaves), similarity(*leaves))
    inputs = (regions, words, scores, logits, word_counts, candidates, False, 3, False)
    torch.library.opcheck(torch.ops.itm_fast.patch_word_similarity_candidates.default, inputs)
    detached = (x.detach() if isinstance(x, torch.Tensor) else x for x in inputs)
    inputs = (torch.randn(2, 3, dtype=torch.float64), *detached, True, False, True)
    torch.library.opcheck(torch.ops.itm_fast.patch_word_similarity_candidates_backward.default, inputs)


def test_no_lists_empty_lists_and_what_does_not_fit():
    regions, words, scores, logits, word_counts = clean(made(2, 5, 3, 4, 6))
    nothing = torch.zeros(2, 0, dtype=torch.int64)
    assert patch_word_similarity(regions, words, scores[:, :0], logits, candidates=nothing).shape == (2, 0)
    none = torch.full((3, 2), -1)
    more = {"candidates": none, "candidates_of": "captions"}
    found = patch_word_similarity(regions, words, torch.randn(3, 2, 5), logits, word_counts, **more)
    assert torch.equal(found, torch.full((3, 2), -torch.inf, dtype=torch.float64))
    for wrong, message in (
        ({"candidates": none}, r"candidates must have shape \(n_images, k\).*want candidates_of=\"captions\""),
        ({"candidates": none[:2]}, r"scores must have shape \(n_images, k, n_patches\), here \(2, 2, 5, ...\)"),
        ({"candidates": torch.full((2, 3), 3)}, r"candidates\[0, 0\] is 3; expected -1 for none, or 0 to 2"),
    ):
        with pytest.raises(ValueError, match=message):
            patch_word_similarity(regions, words, scores, logits, word_counts, **wrong)
    with pytest.raises(TypeError, match=r"regions must be a torch.Tensor \(n_images, n_tokens, dim\), got list"):
        patch_word_similarity([regions[0]], words, scores, logits)
