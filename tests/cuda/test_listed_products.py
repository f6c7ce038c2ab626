"""Lists of candidates of the operators that are batched products on a device, over the emulated kernel: nothing is
gathered, nobody waits, and scores and gradients are those of all pairs."""

import importlib

import emulated_operators
import emulation
import pytest
import torch
from operators import random_batch, relative_error
from pairs_truth import forms, picked, random_candidates
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from itm_fast import cross_attention_similarity, level_attention, max_similarity, patch_word_similarity
from itm_fast.ops import _counts
from itm_fast.ops.batched.listed import Lists

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(emulation.compiler() is None, reason="the emulator needs a C++ compiler (CXX, c++)"),
]
KERNELS = emulated_operators.batched_kernels()
NAMES = ("level_attention", "patch_word_similarity")
N_IMAGES, N_REGIONS, N_CAPTIONS, N_WORDS, DIM, N_TOKENS = 5, 9, 7, 6, 72, 3
TAU = torch.tensor(3.0)
every_operator = pytest.mark.parametrize("name", NAMES)
both_ways = pytest.mark.parametrize("candidates_of", ["images", "captions"])


def launches():
    _, loaded, _ = emulated_operators.library(False)
    return emulation.statistics(loaded)["launches"]


class Case:
    """A batch, lists of it, and an operator's scores of either, by leaves: regions, words and what else is learnt."""

    def __init__(self, name, candidates_of, dtype=torch.float32, k=8):
        self.name, self.candidates_of = name, candidates_of
        ragged = name == "level_attention"
        regions, words, *self.counts = random_batch(
            N_IMAGES, N_REGIONS, N_CAPTIONS, N_WORDS, DIM, dtype=dtype, ragged_regions=ragged
        )
        of_images = candidates_of == "images"
        n_lists, n_others = (N_IMAGES, N_CAPTIONS) if of_images else (N_CAPTIONS, N_IMAGES)
        self.candidates = random_candidates(n_lists, k, n_others)
        self.candidates[1] = -1
        generator = torch.Generator().manual_seed(0)
        self.scores = torch.randn(N_IMAGES, N_CAPTIONS, N_REGIONS - 1, generator=generator)
        learnt = TAU if ragged else torch.randn(N_IMAGES, N_REGIONS - 1, N_TOKENS, generator=generator)
        self.leaves = regions, words, learnt

    def call(self, leaves, candidates=None, **more):
        regions, words, learnt = leaves
        if candidates is not None:
            more = {"candidates": candidates, "candidates_of": self.candidates_of}
        if self.name == "level_attention":
            return level_attention(regions, words, self.counts[0], learnt, self.counts[1], **more)
        scores = self.scores.to(torch.promote_types(regions.dtype, torch.float32))
        scores = scores if candidates is None else self.of_pairs(scores, candidates)
        return patch_word_similarity(regions, words, scores, learnt, self.counts[0], class_token=True, **more)

    def of_pairs(self, scores, candidates):
        of_lists = scores if self.candidates_of == "images" else scores.transpose(0, 1)
        inside = candidates.clamp(0, of_lists.shape[1] - 1)
        return of_lists.gather(1, inside[..., None].expand(-1, -1, scores.shape[2]))

    def inputs(self):
        """Of the operator of candidates under torch.ops."""
        (regions, words, learnt), of_captions = self.leaves, self.candidates_of == "captions"
        if self.name == "level_attention":
            return regions, words, *self.counts, self.candidates, learnt, of_captions
        scores = self.of_pairs(self.scores, self.candidates)
        return regions, words, scores, learnt, self.counts[0], self.candidates, of_captions, 4, True

    def results(self, given, dtype=None):
        """Scores and gradients of given pairs, or of all, picked."""
        leaves = [x.detach().to(dtype or x.dtype).requires_grad_() for x in self.leaves]
        scores = self.call(leaves, self.candidates if given else None)
        if not given:
            scores = picked(scores, self.candidates, self.candidates_of)
        weights = torch.cos(torch.arange(scores.numel())).view(scores.shape).to(scores)
        grads = torch.autograd.grad((weights * scores.masked_fill(self.candidates < 0, 0)).sum(), leaves)
        return scores.detach(), *grads


# A dim that is no multiple of 16 bytes too: operands are padded then.
@every_operator
@both_ways
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", [DIM, 70])
def test_scores_and_gradients_are_those_of_all_pairs(name, candidates_of, dtype, dim):
    case = Case(name, candidates_of, dtype)
    case.leaves = tuple(x[..., :dim] if i < 2 else x for i, x in enumerate(case.leaves))
    want = case.results(given=False, dtype=torch.float64)
    before = launches()
    with emulated_operators.emulated():
        found = case.results(given=True)
    assert launches() > before
    inside = case.candidates >= 0
    assert torch.equal(found[0][~inside], torch.full((int((~inside).sum()),), -torch.inf))
    bound = {"level_attention": 1e-5, "patch_word_similarity": 1e-5}[name]
    assert relative_error(found[0][inside], want[0][inside]) < bound
    for leaf, got, wanted in zip(case.leaves, found[1:], want[1:], strict=True):
        assert got.dtype == leaf.dtype
        assert relative_error(got, wanted) < 1e-5 + 12 * torch.finfo(dtype).eps * (dtype != torch.float32)


@every_operator
@both_ways
@pytest.mark.parametrize("n_pairs", [1, 3, 20])  # a list in parts, several lists, with a rest
def test_blocks_change_nothing_but_the_order_of_sums(name, candidates_of, n_pairs, monkeypatch):
    case = Case(name, candidates_of)
    with emulated_operators.emulated():
        want = case.results(given=True)
        module = importlib.import_module(f"itm_fast.ops.batched.{name}")
        monkeypatch.setattr(module, "BLOCK_NUMBERS", n_pairs * N_REGIONS * N_WORDS)
        found = case.results(given=True)
    for got, wanted in zip(found, want, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


@every_operator
@both_ways
def test_launches_do_not_grow_with_the_lists(name, candidates_of):
    counts = []
    for k in (2, 40):
        case = Case(name, candidates_of, k=k)
        with emulated_operators.emulated():
            before = launches()
            forward = KERNELS[f"{name}_candidates"](*case.inputs())
            between = launches()
            KERNELS[f"{name}_candidates_backward"](torch.ones_like(forward), *case.inputs(), True, True, True)
        counts.append((between - before, launches() - between))
    # Products, and Gram matrices of patches; sums for owners, members and Gram matrices.
    assert counts == [{"level_attention": (1, 3), "patch_word_similarity": (2, 5)}[name]] * 2


SIMILARITIES = {
    "cross_attention_similarity": cross_attention_similarity,
    "max_similarity": max_similarity,
    "level_attention": lambda regions, words, word_counts, region_counts, **more: level_attention(
        regions, words, word_counts, TAU, region_counts, **more
    ),
    "patch_word_similarity": lambda regions, words, word_counts, _, scores, **more: patch_word_similarity(
        regions, words, scores, torch.ones(N_IMAGES, N_REGIONS, N_TOKENS), word_counts, **more
    ),
}


@both_ways
@pytest.mark.parametrize("name", SIMILARITIES)
def test_packed_vectors_are_padded_once_for_all_lists(name, candidates_of):
    case, more, of_patches = Case("level_attention", candidates_of, k=40), {}, name == "patch_word_similarity"
    (regions, words, _), (word_counts, region_counts) = case.leaves, case.counts
    if of_patches:
        regions = regions.nan_to_num()
        more["scores"] = torch.randn(*case.candidates.shape, N_REGIONS, generator=torch.Generator().manual_seed(0))
    packed = [forms(x, n)["packed"][0] for x, n in ((regions, region_counts), (words, word_counts))]
    found, counts = [], []
    given = (
        (regions, words, word_counts, region_counts),
        (regions if of_patches else packed[0], packed[1], None, None),
    )
    for inputs in given:
        with emulated_operators.emulated():
            before = launches()
            similarity = SIMILARITIES[name]
            found.append(similarity(*inputs, candidates=case.candidates, candidates_of=candidates_of, **more))
        counts.append(launches() - before)
    assert torch.equal(*found)
    assert counts[0] == counts[1] > 0


class Results(TorchDispatchMode):
    """Every tensor that is made meanwhile, by its shape."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        self.shapes += [tuple(x.shape) for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        return result


@every_operator
@both_ways
@pytest.mark.parametrize("ampere", [True, False])
def test_no_vector_is_gathered(name, candidates_of, ampere):
    case = Case(name, candidates_of, torch.bfloat16, k=40)
    with emulated_operators.emulated(ampere=ampere), Results() as results:
        forward = KERNELS[f"{name}_candidates"](*case.inputs())
        KERNELS[f"{name}_candidates_backward"](torch.ones_like(forward), *case.inputs(), True, True, True)
    vectors = [shape for shape in results.shapes if DIM in shape]
    batch = max(N_IMAGES * N_REGIONS, N_CAPTIONS * N_WORDS) + 8 * max(N_IMAGES, N_CAPTIONS)  # turned, rows are padded
    gathered = [shape for shape in vectors if torch.Size(shape).numel() > batch * DIM]
    assert vectors
    assert bool(gathered) != ampere  # before 8.0 they are


@every_operator
@both_ways
def test_nobody_looks_at_indices_on_a_device(name, candidates_of, monkeypatch):
    case = Case(name, candidates_of)
    n_others = N_CAPTIONS if candidates_of == "images" else N_IMAGES
    case.candidates[2, :4] = torch.tensor([n_others, -2, 2**40, -(2**40)])
    outside = (case.candidates < -1) | (case.candidates >= n_others)
    with emulated_operators.emulated():
        monkeypatch.setattr(_counts, "READ_ON", ())
        leaves = [x.clone().requires_grad_() for x in case.leaves]
        found = case.call(leaves, case.candidates)
        want = case.call(leaves, case.candidates.masked_fill(outside, -1))
        assert torch.equal(found.isnan(), outside)
        assert torch.equal(found[~outside], want[~outside])
        grads = [torch.autograd.grad(x, leaves, torch.ones_like(x)) for x in (found, want)]
    for got, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


@every_operator
@both_ways
def test_strides_and_places_in_memory_change_nothing(name, candidates_of):
    case = Case(name, candidates_of)

    def spread(x):
        room = torch.full((2 * x.numel() + 1,), torch.nan if x.is_floating_point() else -1, dtype=x.dtype)
        return room[1:].view(*x.shape, 2)[..., 0].copy_(x) if x.ndim else x  # between others, and misaligned

    with emulated_operators.emulated():
        want = case.results(given=True)
        case.leaves, case.candidates = tuple(spread(x) for x in case.leaves), case.candidates.T.contiguous().T
        for got, wanted in zip(case.results(given=True), want, strict=True):
            assert torch.equal(got, wanted)
        shifted = torch.empty(case.leaves[0].numel() + 1)[1:].view(case.leaves[0].shape).copy_(case.leaves[0])
        case.leaves = (shifted, *case.leaves[1:])
        for got, wanted in zip(case.results(given=True), want, strict=True):
            assert torch.equal(got, wanted)


@every_operator
@both_ways
def test_empty_lists_and_batches(name, candidates_of):
    case = Case(name, candidates_of)
    with emulated_operators.emulated():
        assert case.call(case.leaves, case.candidates[:, :0]).shape == (len(case.candidates), 0)
        none = torch.full_like(case.candidates, -1)
        assert torch.equal(case.call(case.leaves, none), torch.full(none.shape, -torch.inf))
        side = int(candidates_of == "images")  # of the members, of whom there are none now
        regions, words, learnt = (
            x[:0] if i == side or (side, x.ndim, i) == (0, 3, 2) else x for i, x in enumerate(case.leaves)
        )
        case.counts[1 - side] = None
        leaves = [x.clone().requires_grad_() for x in (regions, words, learnt)]
        found = case.call(leaves, none)
        assert torch.equal(found, torch.full(none.shape, -torch.inf))
        grads = torch.autograd.grad(found.masked_fill(none < 0, 0).sum(), leaves)
        assert not any(grad.any() for grad in grads)


@every_operator
@both_ways
def test_opcheck(name, candidates_of):
    case = Case(name, candidates_of)
    case.leaves = tuple(x.nan_to_num() for x in case.leaves)
    with emulated_operators.emulated():
        inputs = case.inputs()
        leaves = [x.clone().requires_grad_() if any(x is leaf for leaf in case.leaves) else x for x in inputs]
        torch.library.opcheck(getattr(torch.ops.itm_fast, f"{name}_candidates").default, leaves)
        backward = getattr(torch.ops.itm_fast, f"{name}_candidates_backward").default
        for needed in ((True, False, True), (False, True, False)):
            torch.library.opcheck(backward, (torch.randn(case.candidates.shape), *inputs, *needed))


@pytest.mark.parametrize(("n_lists", "k", "n_owners"), [(1, 1, 1), (3, 7, 4), (20, 9, 5), (6, 2, 40), (4, 0, 3)])
def test_pairs_by_place_are_each_in_one_list_of_their_owner(n_lists, k, n_owners):
    places = torch.randint(0, n_owners, (n_lists, k), generator=torch.Generator().manual_seed(k))
    lists = Lists.by_place(places, n_owners)
    assert (lists.owners.diff() >= 0).all()
    there = lists.pairs >= 0
    assert torch.equal(lists.pairs[there].sort().values, torch.arange(places.numel()))
    owners = lists.owners[:, None].expand_as(lists.pairs)[there]
    assert torch.equal(places.flatten()[lists.pairs[there]], owners)
    of_owner = [lists.pairs[there][owners == owner] for owner in range(n_owners)]
    assert all((of.diff() > 0).all() for of in of_owner)  # in their order
    assert lists.pairs.numel() <= 3 * places.numel() + n_owners
