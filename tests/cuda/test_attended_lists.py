"""Similarity vectors of given pairs over the emulated kernels: those of all pairs, picked; vectors are found by number,
the host waits once, and launches do not grow with the lists."""

import emulated_operators
import emulation
import pytest
import torch
from operators import random_batch, relative_error
from pairs_truth import forms, random_candidates
from test_batched import Watch
from test_candidates import attended_pairs
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from itm_fast import attended_similarity
from itm_fast.ops import _counts
from itm_fast.ops._candidates import Candidates
from itm_fast.ops._ragged import Batches
from itm_fast.ops.batched import attended_similarity as batched
from itm_fast.ops.batched import listed
from itm_fast.ops.batched.pair_rows import PairRows
from itm_fast.ops.batched.products import Captions

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(emulation.compiler() is None, reason="the emulator needs a C++ compiler (CXX, c++)"),
]
KERNELS = emulated_operators.batched_kernels()
N_IMAGES, N_REGIONS, N_CAPTIONS, N_WORDS, DIM, WIDTH = 5, 9, 7, 20, 72, 16
FORWARD, BACKWARD = "attended_similarity_candidates", "attended_similarity_candidates_backward"
HALF, TYPES = torch.bfloat16, [torch.float32, torch.bfloat16, torch.float16]
both_ways = pytest.mark.parametrize("candidates_of", ["images", "captions"])


def launches():
    _, loaded, _ = emulated_operators.library(False)
    return emulation.statistics(loaded)["launches"]


class Case:
    """A batch, lists of it, and the operator's vectors of either, by leaves: regions, words, weight and bias."""

    def __init__(self, candidates_of, dtype=HALF, k=8, n_regions=N_REGIONS, dim=DIM, is_packed=False):
        regions, words, self.counts, region_counts = random_batch(
            N_IMAGES, n_regions, N_CAPTIONS, N_WORDS, dim, ragged_regions=is_packed
        )
        self.offsets = None
        if is_packed:
            (regions, self.offsets), _ = forms(regions, region_counts)["packed"]
        of_images = candidates_of == "images"
        n_lists, self.n_others = (N_IMAGES, N_CAPTIONS) if of_images else (N_CAPTIONS, N_IMAGES)
        self.candidates, self.candidates_of = random_candidates(n_lists, k, self.n_others), candidates_of
        self.candidates[1] = -1
        flat = forms(words, self.counts)["packed"][0].vectors
        generator = torch.Generator().manual_seed(1)
        weight, bias = (torch.randn(*shape, generator=generator).double() for shape in ((WIDTH, dim), (WIDTH,)))
        self.leaves = [x.to(dtype) for x in (regions, flat, weight, 0.1 * bias)]

    def call(self, leaves, **more):
        regions = leaves[0] if self.offsets is None else forms_of(leaves[0], self.offsets)
        return attended_similarity(regions, leaves[1], self.counts, *leaves[2:], **more)

    def given(self):
        return {"candidates": self.candidates, "candidates_of": self.candidates_of}

    def inputs(self):
        """Of the operator of candidates under torch.ops."""
        regions, words, weight, bias = self.leaves
        return regions, words, self.counts, None, self.candidates, weight, bias, self.candidates_of == "captions", 9.0

    def both_passes(self):
        """By the kernels alone."""
        *inputs, bias, of_captions, lambda_softmax = self.inputs()
        units, lengths = KERNELS[FORWARD](*inputs, bias, of_captions, lambda_softmax)
        between = launches()
        KERNELS[BACKWARD](torch.ones_like(units), units, lengths, *inputs, of_captions, lambda_softmax)
        return between

    def results(self, given, dtype=None):
        """Vectors and gradients of given pairs, or of all, picked."""
        leaves = [x.detach().to(dtype or x.dtype).requires_grad_() for x in self.leaves]
        found = self.call(leaves, **(self.given() if given else {}))
        if not given:
            found = attended_pairs(found, self.counts, self.candidates, self.candidates_of)
        cotangent = torch.cos(torch.arange(found.numel())).view(found.shape).to(found)
        return found.detach(), *torch.autograd.grad((found * cotangent).sum(), leaves)


def forms_of(vectors, offsets):
    return type(forms(torch.zeros(1, 1, 1), None)["packed"][0])(vectors, offsets)


# Regions and dims that the kernels take, and some that only the products do; packed ones, whose counts differ.
@both_ways
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "sizes",
    [{}, {"n_regions": 70}, {"dim": 70}, {"is_packed": True}, {"n_regions": 140, "k": 2}],
    ids=["few", "many regions", "odd dim", "packed", "beyond 128"],
)
def test_vectors_and_gradients_are_those_of_all_pairs(candidates_of, dtype, sizes):
    case = Case(candidates_of, dtype, **sizes)
    want = case.results(given=False, dtype=torch.float64)
    before = launches()
    with emulated_operators.emulated():
        found = case.results(given=True)
    assert launches() > before
    assert found[0].shape == want[0].shape
    bound = 1e-5 if dtype == torch.float32 else 12 * torch.finfo(dtype).eps
    for leaf, got, wanted in zip([case.leaves[0], *case.leaves], found, want, strict=True):
        assert got.dtype == leaf.dtype
        assert relative_error(got, wanted) < bound


@both_ways
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("n_numbers", [1, 300, 4000])  # a pair at a time, several, with a rest
def test_blocks_change_nothing_but_the_order_of_sums(candidates_of, dtype, n_numbers, monkeypatch):
    case = Case(candidates_of, dtype)
    with emulated_operators.emulated():
        want = case.results(given=True)
        monkeypatch.setattr(batched, "BLOCK_NUMBERS", n_numbers)
        found = case.results(given=True)
    bound = 1e-5 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    for got, wanted in zip(found, want, strict=True):
        assert relative_error(got, wanted) < bound


# S, Gram matrices and vectors; both again, vectors' rows and gradients, words, weights of contexts, and images by Gram
# matrices, images and captions by S. Without kernels of the vectors: contexts by a product.
@both_ways
@pytest.mark.parametrize(("dtype", "expected"), [(HALF, (3, 9)), (torch.float32, (3, 7))])
def test_launches_do_not_grow_with_the_lists(candidates_of, dtype, expected):
    counts = []
    for k in (2, 40):
        case = Case(candidates_of, dtype, k=k)
        with emulated_operators.emulated():
            before = launches()
            between = case.both_passes()
        counts.append((between - before, launches() - between))
    assert counts == [expected] * 2


class Gathered(TorchDispatchMode):
    """Shapes of what is gathered meanwhile."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        if function.name().startswith(("aten::index.", "aten::index_select", "aten::gather", "aten::take")):
            self.shapes += [x.shape for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        return result


@both_ways
@pytest.mark.parametrize("ampere", [True, False])
def test_no_vector_is_gathered(candidates_of, ampere):
    case = Case(candidates_of, k=40)
    with emulated_operators.emulated(ampere=ampere), Gathered() as gathered:
        case.both_passes()
    vectors = [shape for shape in gathered.shapes if DIM in shape]
    batch = max(case.leaves[0].numel(), case.leaves[1].numel())  # the words' gradients are put together from pieces
    assert gathered.shapes
    assert any(shape.numel() > batch for shape in vectors) != ampere  # before 8.0 they are


@both_ways
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_the_host_waits_once(candidates_of, dtype, monkeypatch):
    case, lists, reads = Case(candidates_of, dtype), torch.Tensor.tolist, []
    monkeypatch.setattr(torch.Tensor, "tolist", lambda x: reads.append(x.shape) or lists(x))
    with emulated_operators.emulated():
        monkeypatch.setattr(_counts, "READ_ON", ())
        with Watch():
            case.both_passes()
    assert reads == [(2 * case.candidates.numel() + 1,)] * 2  # a pass


@both_ways
def test_an_index_out_of_range_is_named_on_a_device_too(candidates_of, monkeypatch):
    case = Case(candidates_of)
    case.candidates[2, 3] = case.n_others
    with emulated_operators.emulated():
        monkeypatch.setattr(_counts, "READ_ON", ())
        with pytest.raises(ValueError, match=rf"candidates\[2, 3\] is {case.n_others}; expected -1 for none, or 0 to"):
            case.call(case.leaves, **case.given())


@pytest.mark.parametrize("change", [(0, 1), (0, -1), (2, -100)])
def test_counts_that_do_not_fit_give_nan_and_no_gradient(change):
    case = Case("images")
    case.counts[change[0]] += change[1]
    leaves = [x.clone().requires_grad_() for x in case.leaves]
    with emulated_operators.emulated():
        found = case.call(leaves, **case.given())
        grads = torch.autograd.grad(found.sum(), leaves)
    assert found.numel()
    assert found.isnan().all()
    assert not any(grad.any() for grad in grads)


@both_ways
def test_nan_of_a_word_stays_with_its_caption(candidates_of):
    case = Case(candidates_of)
    case.leaves[1][0, 3] = torch.nan
    with emulated_operators.emulated():
        found = case.call(case.leaves, **case.given())
    captions = case.candidates if candidates_of == "images" else torch.arange(N_CAPTIONS)[:, None].expand(-1, 8)
    captions = captions[case.candidates >= 0]
    hit = torch.repeat_interleave(captions == 0, case.counts[captions])
    assert torch.equal(found[0].isnan().all(1), hit)
    assert torch.equal(found[0].isnan().any(1), hit)


@both_ways
def test_strides_and_places_in_memory_change_nothing(candidates_of):
    case = Case(candidates_of)

    def spread(x):
        room = torch.full((2 * x.numel() + 1,), torch.nan if x.is_floating_point() else -1, dtype=x.dtype)
        return room[1:].view(*x.shape, 2)[..., 0].copy_(x)  # between others, and misaligned

    def shifted(x):
        return torch.empty(x.numel() + 1, dtype=x.dtype)[1:].view(x.shape).copy_(x)

    with emulated_operators.emulated():
        want, leaves = case.results(given=True), case.leaves
        case.leaves = [shifted(x) for x in leaves]
        for got, wanted in zip(case.results(given=True), want, strict=True):
            assert torch.equal(got, wanted)
        case.leaves, case.candidates = [spread(x) for x in leaves], case.candidates.T.contiguous().T
        case.counts = spread(case.counts)
        for got, wanted in zip(case.results(given=True), want, strict=True):
            assert torch.equal(got, wanted)


@both_ways
def test_empty_lists_and_batches(candidates_of):
    case = Case(candidates_of)
    side = int(candidates_of == "images")  # of the members, of whom there are none later
    with emulated_operators.emulated():
        for candidates in (case.candidates[:, :0], torch.full_like(case.candidates, -1)):
            leaves = [x.clone().requires_grad_() for x in case.leaves]
            more = {"candidates": candidates, "candidates_of": candidates_of}
            for _ in range(2):
                found = case.call(leaves, **more)
                assert found.shape == (1, 0, WIDTH)
                assert not any(grad.any() for grad in torch.autograd.grad(found.sum(), leaves))
                leaves[side] = leaves[side].detach()[:0].requires_grad_()
                case.counts = case.counts[: 0 if side else None]
            case = Case(candidates_of)


@both_ways
@pytest.mark.compiled
def test_opcheck(candidates_of):
    case = Case(candidates_of, torch.float32)
    with emulated_operators.emulated():
        inputs = [
            x.clone().requires_grad_() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
            for x in case.inputs()
        ]
        torch.library.opcheck(getattr(torch.ops.itm_fast, FORWARD).default, inputs)
        *inputs, bias, of_captions, lambda_softmax = case.inputs()
        units, lengths = KERNELS[FORWARD](*inputs, bias, of_captions, lambda_softmax)
        given = (torch.randn_like(units), units, lengths, *inputs, of_captions, lambda_softmax)
        torch.library.opcheck(getattr(torch.ops.itm_fast, BACKWARD).default, given)


@both_ways
@pytest.mark.parametrize(("n_images", "k", "n_rows", "length"), [(1, 1, 50, 8), (4, 9, 70, 16), (6, 30, 200, 64)])
def test_every_word_of_a_pair_is_one_row_and_one_step(candidates_of, n_images, k, n_rows, length):
    of_captions = candidates_of == "captions"
    n_lists, n_others = (N_CAPTIONS, n_images) if of_captions else (n_images, N_CAPTIONS)
    candidates = random_candidates(n_lists, k, n_others)
    counts = torch.tensor([3, 40, 1, 17, 16, 2, 9])
    first = counts.cumsum(0) - counts
    batches = Batches(torch.zeros(n_images, 2, 4), torch.zeros(int(counts.sum()), 4), counts, None)
    rows = PairRows(Candidates(candidates, of_captions), batches, Captions(counts, int(counts.sum())))
    want = []
    for own, others in enumerate(candidates.tolist()):
        for other in others:
            image, caption = (other, own) if of_captions else (own, other)
            of_caption = range(int(first[caption]), int(first[caption] + counts[caption])) if other >= 0 else ()
            want += [(image, word) for word in of_caption]
    assert rows.n == len(want)
    found, stepped = {}, {}
    for block in rows.blocks(first, n_rows, length):
        assert (block.images.diff() >= 0).all()
        there = block.words >= 0
        assert torch.equal(there, block.vectors >= 0)
        assert not (there.int().diff(dim=1) > 0).any()  # none at the end of a list
        images = block.images[:, None].expand_as(there)[there].tolist()
        found |= dict(
            zip(block.vectors[there].tolist(), zip(images, block.words[there].tolist(), strict=True), strict=True)
        )
        steps, vectors = rows.steps(block, first), block.vectors.flatten()
        for image, piece, places in zip(
            steps.images.tolist(), steps.pieces.flatten().tolist(), steps.rows.tolist(), strict=True
        ):
            assert (piece >= 0) == (places[0] >= 0)
            stepped |= {int(vectors[place]): image for place in places if place >= 0}
        of_pairs = block.pairs.spread(torch.arange(len(block.pairs.counts)))
        assert (of_pairs.diff() >= 0).all()
        assert int(block.pairs.counts.sum()) == there.numel()
    assert [found[vector] for vector in range(rows.n)] == want
    assert [stepped[vector] for vector in range(rows.n)] == [image for image, _ in want]


@both_ways
def test_what_is_gathered_elsewhere_is_bounded(candidates_of, monkeypatch):
    case, largest = Case(candidates_of, torch.float64, k=20), []
    want = case.results(given=False)
    for most in (1 << 26, 3 * (N_REGIONS + 64) * DIM, 1):
        monkeypatch.setattr(listed, "_GATHERED_NUMBERS", most)
        with emulated_operators.emulated():
            found = case.results(given=True)
            with Gathered() as gathered:
                case.both_passes()
        for got, wanted in zip(found, want, strict=True):
            assert relative_error(got, wanted) < 1e-12
        largest.append(max(shape.numel() for shape in gathered.shapes if DIM in shape))
    assert largest[0] > 2 * largest[1] >= 2 * largest[2]
