"""Lists of candidates on a device, by the emulated host: one call's launches and memory, whatever the lists are."""

import emulated_operators
import emulation
import pytest
import torch
from operators import random_batch
from pairs_truth import picked, random_candidates
from torch.profiler import ProfilerActivity, profile

from itm_fast import cross_attention_similarity, max_similarity
from itm_fast.ops import _candidates, _counts

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(emulation.compiler() is None, reason="the emulator needs a C++ compiler (CXX, c++)"),
]
both_operators = pytest.mark.parametrize("operator", [cross_attention_similarity, max_similarity])
both_directions = pytest.mark.parametrize("cross_attn", ["t2i", "i2t"])
both_ways = pytest.mark.parametrize("candidates_of", ["images", "captions"])


def launches():
    _, loaded, _ = emulated_operators.library(False)
    return emulation.statistics(loaded)["launches"]


def launches_of(operator, batch, candidates, **more):
    before = launches()
    with emulated_operators.emulated():
        operator(*batch, candidates=candidates, **more)
    return launches() - before


@both_operators
@both_directions
@both_ways
def test_launches_do_not_grow_with_the_lists(operator, cross_attn, candidates_of):
    batch = random_batch(12, 7, 12, 5, 16, dtype=torch.float32, ragged_regions=True)
    few, many = torch.zeros(12, 1, dtype=torch.int64), random_candidates(12, 50, 12)
    more = {"cross_attn": cross_attn, "candidates_of": candidates_of}
    # The owners' plan, the lists' and the tiles; where there is attention norms, a plan for the Gram matrices, these.
    want = 6 if operator is cross_attention_similarity else 3
    assert launches_of(operator, batch, few, **more) == launches_of(operator, batch, many, **more) == want


@both_directions
@both_ways
def test_late_interaction_of_any_length_takes_lists_in_one_call(cross_attn, candidates_of):
    more = {"cross_attn": cross_attn, "candidates_of": candidates_of}
    for sizes in ((4, 140, 4, 9, 16), (4, 9, 4, 140, 16), (4, 150, 4, 150, 8)):
        for dtype in (torch.float32, torch.bfloat16):
            batch = random_batch(*sizes, dtype=dtype, ragged_regions=True)
            few, many = torch.zeros(4, 1, dtype=torch.int64), random_candidates(4, 8, 4)
            # The owners' plan, the lists', the largest similarities, scores.
            assert launches_of(max_similarity, batch, few, **more) == 4
            assert launches_of(max_similarity, batch, many, **more) == 4
            with emulated_operators.emulated():
                found = max_similarity(*batch, candidates=many, **more)
                want = picked(max_similarity(*batch, cross_attn=cross_attn), many, candidates_of)
            assert torch.equal(found, want)


@both_directions
@both_ways
def test_streamed_lists_take_several_rounds_and_no_copy(cross_attn, candidates_of):
    regions, words, *counts = random_batch(6, 140, 8, 24, 16, dtype=torch.bfloat16, ragged_regions=True)
    n, m = (6, 8) if candidates_of == "images" else (8, 6)
    of_query = 24 if cross_attn == "t2i" else 140
    for k, least in ((20, 1), (500, 2)):
        candidates = random_candidates(n, k, m)
        of_list = k * (20 + 4 * of_query)
        most = min(n, max(1, emulated_operators.SCRATCH_BYTES // of_list))
        assert -(-n // most) >= least  # rounds
        arguments = regions, words, *counts, candidates, candidates_of == "captions", cross_attn, "Sum", 1.0
        with emulated_operators.emulated():
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
                found = torch.ops.itm_fast.max_similarity_candidates(*arguments)
            of_all = torch.ops.itm_fast.max_similarity(regions, words, *counts, cross_attn, "Sum", 1.0)
        assert torch.equal(found, picked(of_all, candidates, candidates_of))
        taken = sum(max(0, event.self_cpu_memory_usage) for event in recorded.events())
        rounds = -(-n // most)
        assert taken <= most * of_list + 4 * candidates.numel() + rounds * (4 + 4 * (3 * n + 3))  # tables and scores


@both_operators
@both_ways
def test_what_has_no_room_in_tiles_is_gathered(operator, candidates_of):
    long = random_batch(3, 129, 3, 5, 16, dtype=torch.float32)
    double = random_batch(3, 7, 3, 5, 16)
    batch = random_batch(3, 7, 3, 5, 16, dtype=torch.float32)
    candidates = random_candidates(3, 4, 3)
    for given, ampere in ((long, True), (double, True), (batch, False)):
        with emulated_operators.emulated(ampere=ampere):
            found = operator(*given, candidates=candidates, candidates_of=candidates_of)
            want = picked(operator(*given), candidates, candidates_of)
        torch.testing.assert_close(found, want, rtol=1e-6, atol=1e-6)
    few = random_batch(3, 7, 40, 5, 16, dtype=torch.float32)
    if candidates_of == "images":  # Gram matrices or norms of 40 are more than 12 pairs' own
        assert launches_of(operator, few, candidates) >= 3 * 3


@both_operators
@both_directions
def test_nobody_looks_at_indices_on_a_device(operator, cross_attn, monkeypatch):
    batch = random_batch(4, 7, 5, 6, 16, dtype=torch.float32, ragged_regions=True)
    candidates = random_candidates(4, 6, 5)
    candidates[2, :4] = torch.tensor([5, -2, 2**40, -(2**40)])
    outside = (candidates < -1) | (candidates >= 5)
    with emulated_operators.emulated():
        monkeypatch.setattr(_counts, "READ_ON", ())
        leaves = [x.clone().requires_grad_() for x in batch[:2]]
        found = operator(*leaves, *batch[2:], candidates=candidates, cross_attn=cross_attn)
        want = picked(operator(*batch, cross_attn=cross_attn), candidates.masked_fill(outside, 0), "images")
        torch.testing.assert_close(found, want.masked_fill(outside, torch.nan), rtol=0, atol=0, equal_nan=True)
        grads = torch.autograd.grad(found, leaves, torch.ones_like(found))
        inside = candidates.masked_fill(outside, -1)
        again = operator(*leaves, *batch[2:], candidates=inside, cross_attn=cross_attn)
        expected = torch.autograd.grad(again, leaves, torch.ones_like(again))
    assert all(torch.equal(got, wanted) for got, wanted in zip(grads, expected, strict=True))


@both_directions
@both_ways
def test_several_rounds_of_lists(cross_attn, candidates_of):
    batch = random_batch(3, 4, 5, 3, 8, dtype=torch.bfloat16, ragged_regions=True)
    length = emulated_operators.SCRATCH_BYTES // 20 // 2  # two lists a round
    n, m = (3, 5) if candidates_of == "images" else (5, 3)
    candidates = torch.full((n, length), -1)
    candidates[:, -40:] = random_candidates(n, 40, m)
    more = {"cross_attn": cross_attn}
    with emulated_operators.emulated():
        for operator in (cross_attention_similarity, max_similarity):
            found = operator(*batch, candidates=candidates, candidates_of=candidates_of, **more)
            assert torch.equal(found, picked(operator(*batch, **more), candidates, candidates_of))


@both_ways
@pytest.mark.parametrize("operator", ["cross_attention", "max_similarity"])
def test_no_vector_is_copied(operator, candidates_of):
    regions, words, *counts = random_batch(6, 40, 8, 24, 16, dtype=torch.bfloat16, ragged_regions=True)
    candidates = random_candidates(6, 90, 8) if candidates_of == "images" else random_candidates(8, 90, 6)
    attends = operator == "cross_attention"
    options = ("t2i", *(["l2norm"] if attends else []), "Sum", *([9.0, 6.0] if attends else [1.0]))
    with emulated_operators.emulated(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call = getattr(torch.ops.itm_fast, f"{operator}_candidates")
        call(regions, words, *counts, candidates, candidates_of == "captions", *options)
    taken = sum(max(0, event.self_cpu_memory_usage) for event in recorded.events())
    plans = 4 * (3 * 6 + 3) * (attends or candidates_of == "images") + 4 * (3 * 8 + 3) * (candidates_of == "captions")
    prepared = attends * (4 * 8 * 24 + 4 * 6 * 15 * 128)  # norms, Gram matrices
    assert taken == 24 * candidates.numel() + 4 + plans + prepared  # five tables and the scores


@both_operators
@both_directions
@both_ways
@pytest.mark.parametrize("all_at_once", [True, False])
def test_gradients_are_those_of_all_pairs(operator, cross_attn, candidates_of, all_at_once, monkeypatch):
    regions, words, *counts = random_batch(4, 7, 5, 6, 16, dtype=torch.float32, ragged_regions=True)
    candidates = random_candidates(*((4, 9, 5) if candidates_of == "images" else (5, 9, 4)))
    candidates[1] = -1
    monkeypatch.setattr(_candidates, "_ALL_AT_ONCE", _candidates._ALL_AT_ONCE if all_at_once else 0)
    monkeypatch.setattr(_candidates, "_GATHERED_BYTES", 4 * 7 * 16 * 4)  # a list in parts
    cotangent = torch.randn(candidates.shape, generator=torch.Generator().manual_seed(1))
    for needed in ((0, 1), (0,), (1,)):
        grads = []
        for given in (True, False):
            leaves = [regions.clone(), words.clone()]
            wanted = [leaves[side].requires_grad_() for side in needed]
            with emulated_operators.emulated():
                if given:
                    more = {"candidates": candidates, "candidates_of": candidates_of}
                    scores = operator(*leaves, *counts, cross_attn=cross_attn, **more)
                else:
                    scores = picked(operator(*leaves, *counts, cross_attn=cross_attn), candidates, candidates_of)
                before = launches()
                grads.append(torch.autograd.grad(scores, wanted, cotangent))
            done = launches() - before
            if given:
                by_list = done
        for got, want in zip(*grads, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
        done += 2 * (operator is max_similarity)  # lists keep no rows: the contexts' plan, the largest similarities
        assert (by_list == done) == all_at_once


@pytest.mark.parametrize("operator", ["cross_attention", "max_similarity"])
def test_opcheck_compiled_whole_and_once_only(operator, monkeypatch):
    regions, words, word_counts, region_counts = random_batch(3, 4, 3, 5, 8, dtype=torch.float32, ragged_regions=True)
    regions, words = regions.nan_to_num(), words.nan_to_num()
    candidates = torch.tensor([[0, 2, -1], [1, 1, 0], [-1, -1, -1]])
    call = {"cross_attention": cross_attention_similarity, "max_similarity": max_similarity}[operator]
    options = {"cross_attention": ("t2i", "l2norm", "Sum", 9.0, 6.0), "max_similarity": ("i2t", "Sum", 10.0)}[operator]

    def scores(regions, words):
        found = call(regions, words, word_counts, region_counts, candidates=candidates)
        return found.masked_fill(candidates < 0, 0)

    with emulated_operators.emulated():
        leaves = regions.requires_grad_(), words.requires_grad_()
        inputs = (*leaves, word_counts, region_counts, candidates, False, *options)
        torch.library.opcheck(getattr(torch.ops.itm_fast, f"{operator}_candidates").default, inputs)
        detached = [x.detach() if isinstance(x, torch.Tensor) else x for x in inputs]
        backward = getattr(torch.ops.itm_fast, f"{operator}_candidates_backward").default
        torch.library.opcheck(backward, (torch.randn(3, 3), *detached, True, False))
        with monkeypatch.context() as changed:
            changed.setattr(_candidates, "_ALL_AT_ONCE", 0)
            torch.library.opcheck(backward, (torch.randn(3, 3), *detached, True, False))
        before = launches()
        monkeypatch.setattr(_counts, "READ_ON", ())  # a graph has no place for who reads indices on the host
        compiled = torch.compile(scores, fullgraph=True, backend="aot_eager")
        found, want = compiled(*leaves), scores(*leaves)
        assert torch.equal(found, want)
        grads = [torch.autograd.grad(x.square().sum(), leaves, retain_graph=True) for x in (found, want)]
        assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
        assert launches() > before
        with pytest.raises(RuntimeError, match="differentiated once only"):
            torch.autograd.grad(torch.autograd.grad(want.sum(), leaves, create_graph=True)[0].sum(), leaves)
