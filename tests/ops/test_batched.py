"""The device's batched products on any tensors: nothing waits for the host, memory stays within blocks, 16 bits."""

import importlib
import weakref

import pytest
import torch
from backends import BATCHED
from emulated_operators import batched_kernels, in_place_of_the_cpus
from operators import relative_error
from pairs_truth import picked, random_candidates
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import itm_fast
from itm_fast.nn.pooling import GPO
from itm_fast.nn.similarity.chan import CHANSimilarity
from itm_fast.nn.similarity.esl import ESLSimilarity
from itm_fast.nn.similarity.laps import LAPSSimilarity
from itm_fast.nn.similarity.sgraf import SGRAFSimilarity
from itm_fast.ops.batched import level_attention as batched_level_attention
from itm_fast.ops.batched import listed
from itm_fast.ops.batched.products import gradient_product

NAMES = ("attended_similarity", "generalised_pooling", "graph_reasoning", "level_attention", "patch_word_similarity")
KERNELS = batched_kernels()
every_operator = pytest.mark.parametrize("name", NAMES)


def numbers(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1).to(
        dtype
    )


def given(name, dtype=torch.float64, n_images=5, counts=(3, 1, 4, 2), regions=6, dim=24, width=8):
    """Arguments of an operator's kernel, and places of what has a gradient."""
    n_words, most, n = sum(counts), max(counts), len(counts)
    word_counts = torch.tensor(counts)

    def of(*shape, seed=0):
        return numbers(*shape, dtype=dtype, seed=seed)

    wide = torch.promote_types(dtype, torch.float32)
    images, captions = of(n_images, regions, dim), of(n, most, dim)
    return {
        "attended_similarity": (images, of(n_words, dim), word_counts, of(width, dim), of(1, width)[0] / 9, 9.0),
        "generalised_pooling": (
            images,
            of(n_images, regions, seed=1),
            torch.tensor([6, 1, 3, 2, 5]).repeat(n_images)[:n_images],
        ),
        "graph_reasoning": (
            *(of(n_images, n, width), of(n_images, n_words, width), word_counts),
            *(of(2, width, width), of(2, width), of(2, width, width, seed=1), of(2, width, seed=1), most),
        ),
        "level_attention": (images, captions, word_counts, None, torch.tensor(9.0, dtype=wide)),
        "patch_word_similarity": (
            *(images, captions, of(n_images, n, regions - 1).to(wide), of(n_images, regions - 1, 3).to(wide)),
            *(word_counts, 3, True),
        ),
    }[name]


N_NEEDED = {"level_attention": 3, "patch_word_similarity": 3}


def cotangent(result):
    return torch.randn(result.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(result)


def both_passes(name, arguments):
    """Forward and backward kernel: results, then gradients."""
    results = KERNELS[name](*arguments)
    first, *others = results if isinstance(results, tuple) else (results,)
    grad = torch.zeros_like(first) if isinstance(first, torch._subclasses.FakeTensor) else cotangent(first)
    if name == "attended_similarity":
        regions, words, counts, weight, _, lambda_softmax = arguments
        kept = (grad, first, *others, regions, words, counts, weight, lambda_softmax)
    else:
        kept = (grad, *arguments, *[True] * N_NEEDED.get(name, 0))
    return first, *KERNELS[f"{name}_backward"](*kept)


class Watch(TorchDispatchMode):
    """Fails where a value would be read on the host; measures the tensors that live at a time."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal", "_assert_async")

    def __init__(self):
        super().__init__()
        self.live, self.largest, self.peak = 0, 0, 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function.name().removeprefix("aten::").partition(".")[0]
        assert not name.startswith(self.WAITS), f"{function} waits for the host"
        if name in ("index", "index_put_"):
            indices = [x for x in tree_leaves(arguments[1]) if x is not None]
            assert not any(x.dtype in (torch.bool, torch.uint8) for x in indices), f"{function} counts a mask"
        result = function(*arguments, **(options or {}))
        old = {x.untyped_storage().data_ptr() for x in tree_leaves((arguments, options)) if isinstance(x, torch.Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in old:
                size = tensor.untyped_storage().nbytes()
                self.live += size
                self.largest, self.peak = max(self.largest, size), max(self.peak, self.live)
                weakref.finalize(tensor.untyped_storage(), self._gone, size)
        return result

    def _gone(self, size):
        self.live -= size


@every_operator
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_value_is_read_on_the_host(name, dtype):
    with Watch():
        both_passes(name, given(name, dtype))


@every_operator
def test_tensors_that_hold_no_values_are_enough(name):
    """Whatever wanted to read one, by tolist too, would raise."""
    with FakeTensorMode() as mode:
        fake = [mode.from_tensor(x) if isinstance(x, torch.Tensor) else x for x in given(name, torch.float32)]
        results = both_passes(name, fake)
        with pytest.raises(DataDependentOutputException):
            fake[2].tolist()
    assert [tuple(x.shape) for x in results] == [tuple(x.shape) for x in both_passes(name, given(name))]


def test_the_watch_sees_what_waits():
    x = torch.arange(4.0)
    for wait in (lambda: x.sum().item(), lambda: x[x > 1], lambda: x.nonzero()):
        with pytest.raises(AssertionError, match=r"waits for the host|counts a mask"), Watch():
            wait()


@every_operator
@pytest.mark.parametrize("block", [1, 200, 700])
def test_blocks_change_nothing(name, block, monkeypatch):
    whole = both_passes(name, given(name))
    monkeypatch.setattr(importlib.import_module(f"itm_fast.ops.batched.{name}"), "BLOCK_NUMBERS", block)
    for found, want in zip(both_passes(name, given(name)), whole, strict=True):
        assert relative_error(found, want) < 1e-13


# Inputs, results and gradients are there anyway: how many tensors of a block's size there are beside them.
TENSORS_OF_A_BLOCK = {
    "attended_similarity": 14,
    "generalised_pooling": 1,
    "graph_reasoning": 18,
    "level_attention": 14,
    "patch_word_similarity": 10,
}


@every_operator
def test_memory_is_that_of_a_block(name, monkeypatch):
    block = 1 << 12
    monkeypatch.setattr(importlib.import_module(f"itm_fast.ops.batched.{name}"), "BLOCK_NUMBERS", block)
    extra = []
    for n in (1, 3):
        arguments = given(name, n_images=8 * n, counts=(3, 1, 4, 2) * (8 * n), dim=64)
        with Watch() as watch:
            results = both_passes(name, arguments)
        outside = sum(x.numel() * 8 for x in (*results, *arguments) if isinstance(x, torch.Tensor))
        assert watch.largest <= max(8 * block * 2, *(x.numel() * 8 for x in results)), "more than a block, or a result"
        extra.append(watch.peak - 2 * outside)
    assert max(extra) <= TENSORS_OF_A_BLOCK[name] * 8 * block


@every_operator
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_good_as_its_rounding(name, dtype):
    arguments = given(name, dtype, dim=64)
    wide = [x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in arguments]
    found, want = both_passes(name, arguments), both_passes(name, wide)
    # Sums of products of what was rounded once or twice, attention among it, whose logits are 9 times a cosine.
    for result, exact in zip(found, want, strict=True):
        assert relative_error(result, exact) < 12 * torch.finfo(dtype).eps


@every_operator
def test_fake_kernels_and_schemas(name):
    arguments = given(name)
    torch.library.opcheck(
        getattr(torch.ops.itm_fast, name).default, arguments, test_utils=("test_schema", "test_faketensor")
    )


@pytest.mark.parametrize("counts", [(3, 1, 4, 0), (3, 1, 4, 3), (3, 1, -2, 8), (11, 0, 0, 0)])
@pytest.mark.parametrize("name", ["attended_similarity", "graph_reasoning"])
def test_packed_counts_that_do_not_fit_give_nan_and_no_gradient(name, counts):
    arguments = [*given(name)]
    arguments[2] = torch.tensor(counts)
    result, *gradients = both_passes(name, arguments)
    assert result.isnan().all()
    assert not any(gradient.nan_to_num(1).any() for gradient in gradients)


@pytest.mark.parametrize("name", ["level_attention", "patch_word_similarity"])
def test_a_count_out_of_range_gives_its_caption_nan(name):
    arguments, place = [*given(name)], {"level_attention": 2, "patch_word_similarity": 4}[name]
    want = KERNELS[name](*arguments)
    arguments[place] = torch.tensor([3, 0, 5, 2])
    result, *gradients = both_passes(name, arguments)
    assert torch.equal(result.isnan(), torch.tensor([False, True, True, False]).expand(5, -1))
    assert torch.equal(result[:, [0, 3]], want[:, [0, 3]])
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_a_caption_longer_than_it_may_be_is_nan():
    *arguments, _ = given("graph_reasoning")
    result, *_ = both_passes("graph_reasoning", [*arguments, 3])
    assert torch.equal(result.isnan().all(2), torch.tensor([False, False, True, False]).expand(5, -1))
    assert torch.equal(result.isnan().any(2), result.isnan().all(2))


def test_counts_on_a_device_need_max_words():
    *arguments, _ = given("graph_reasoning")
    arguments = [x.to("meta") if isinstance(x, torch.Tensor) else x for x in arguments]
    with pytest.raises(ValueError, match="word_counts are on meta, where nobody waits to look at them: say max_words"):
        KERNELS["graph_reasoning"].__wrapped__(*arguments, None)


def test_gradients_of_float16_do_not_underflow():
    a, b = 1e-9 * numbers(8, 16, dtype=torch.float32), numbers(16, 4, dtype=torch.float16)
    assert relative_error(1e9 * gradient_product(a, b), 1e9 * (a.double() @ b.double())) < 2e-3
    assert not gradient_product(torch.zeros(2, 16), b).any()


@every_operator
def test_strides_and_places_in_memory_change_nothing(name):
    def spread(x):
        room = torch.full((2 * x.numel() + 1,), torch.nan if x.is_floating_point() else -1, dtype=x.dtype)
        return room[1:].view(*x.shape, 2)[..., 0].copy_(x) if x.ndim else x  # between others, and misaligned

    arguments = given(name)
    want = both_passes(name, arguments)
    strided = [spread(x) if isinstance(x, torch.Tensor) else x for x in arguments]
    for found, exact in zip(both_passes(name, strided), want, strict=True):
        assert relative_error(found, exact) < 1e-13


@pytest.mark.parametrize("name", ["attended_similarity", "graph_reasoning"])
def test_the_cpu_widens_and_rounds_once(name):
    *arguments, option = given(name, torch.bfloat16)
    options = {} if name == "attended_similarity" else {"max_words": option}
    operator = getattr(itm_fast, name)
    wide = [x.float() if x.is_floating_point() else x for x in arguments]
    found = operator(*arguments, **options)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, operator(*wide, **options).bfloat16())


@pytest.mark.parametrize(
    ("max_words", "error", "message"),
    [
        (3, ValueError, r"word_counts\[2\] is 4, above max_words = 3"),
        (0, ValueError, "max_words must be at least 1, got 0"),
        (2.0, TypeError, "max_words must be an integer, got float"),
    ],
)
def test_most_words_are_checked(max_words, error, message):
    *arguments, _ = given("graph_reasoning")
    with pytest.raises(error, match=message):
        itm_fast.graph_reasoning(*arguments, max_words=max_words)


@pytest.mark.all_backends(of=BATCHED, without=("cpu", "cuda"))
def test_autocast_multiplies_in_its_type():
    regions, words, counts, weight, bias, _ = given("attended_similarity", torch.float32)
    leaves = [x.requires_grad_() for x in (regions, words, weight, bias)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = itm_fast.attended_similarity(*leaves[:2], counts, *leaves[2:])
    assert found.dtype == torch.bfloat16
    halves = [x.detach().bfloat16() for x in leaves]
    assert torch.equal(found, itm_fast.attended_similarity(*halves[:2], counts, *halves[2:]))
    found.float().sum().backward()
    assert all(x.grad.dtype == torch.float32 for x in leaves)


MODULES = {
    "SGR": lambda: SGRAFSimilarity(16, 8, n_regions=5),
    "SAF": lambda: SGRAFSimilarity(16, 8, module_name="SAF", n_regions=5),
    "ESL": lambda: ESLSimilarity(256),
    "CHAN, soft": lambda: CHANSimilarity("VSACoding", "MeanPooling"),
    "CHAN, softmax": lambda: CHANSimilarity("VHACoding", "SoftmaxPooling"),
    "LAPS": lambda: LAPSSimilarity(16, 5),
}


@pytest.mark.parametrize("counts_are_read", [True, False])
@pytest.mark.parametrize("name", MODULES)
def test_models_are_the_same_on_a_device(name, counts_are_read):
    torch.manual_seed(0)
    module, dim = MODULES[name]().double().eval(), 256 if name == "ESL" else 16
    inputs = [numbers(3, 5, dim), numbers(6, 6, dim)]
    counts = torch.tensor([6, 1, 3, 2, 5, 1])
    inputs[1][torch.arange(6) >= counts[:, None]] = torch.nan

    def step():
        leaves = [x.clone().requires_grad_() for x in inputs]
        sims = module(*leaves, counts)
        module.zero_grad()
        (sims * cotangent(sims)).sum().backward()
        return sims.detach(), *(x.grad for x in (*leaves, *module.parameters()) if x.grad is not None)

    want = step()
    with in_place_of_the_cpus(KERNELS, counts_are_read=counts_are_read):
        found = step()
    for result, exact in zip(found, want, strict=True):
        assert relative_error(result, exact) < 1e-11


def test_pooling_weights_of_sizes_that_nobody_reads():
    torch.manual_seed(0)
    module, vectors, counts = GPO().double(), numbers(4, 6, 16), torch.tensor([6, 1, 3, 3])
    want = module(vectors, counts)
    with in_place_of_the_cpus(KERNELS, counts_are_read=False):
        assert relative_error(module(vectors, counts).detach(), want.detach()) < 1e-12


def of_pairs(name, candidates, candidates_of, regions, words, counts):
    """Scores of given pairs by an operator whose kernels are batched products."""
    more = {"candidates": candidates, "candidates_of": candidates_of}
    if name == "level_attention":
        return itm_fast.level_attention(regions, words, counts, torch.tensor(3.0, dtype=torch.float64), **more)
    scores, logits = numbers(*candidates.shape, 6), numbers(len(regions), 6, 2)
    return itm_fast.patch_word_similarity(regions, words, scores, logits, counts, **more)


@pytest.mark.parametrize("candidates_of", ["images", "captions"])
@pytest.mark.parametrize("name", ["level_attention", "patch_word_similarity"])
def test_given_pairs_on_a_device_wait_for_nobody(name, candidates_of):
    candidates = torch.tensor([[0, -1, 2], [1, 1, 0], [2, 0, 1]])
    regions, words, counts = numbers(3, 6, 8), numbers(3, 5, 8), torch.tensor([5, 1, 3])
    want = of_pairs(name, candidates, candidates_of, regions, words, counts)
    out_of_range = candidates.clone()
    out_of_range[1, 0], out_of_range[2, 2] = 3, -2
    with in_place_of_the_cpus(KERNELS, counts_are_read=False), Watch():
        leaves = [x.clone().requires_grad_() for x in (regions, words)]
        found = of_pairs(name, candidates, candidates_of, *leaves, counts)
        found.masked_fill(candidates < 0, 0).sum().backward()
        beside = of_pairs(name, out_of_range, candidates_of, regions, words, counts)
    assert found[0, 1] == -torch.inf
    torch.testing.assert_close(found.detach(), want, rtol=1e-12, atol=1e-13)
    changed = out_of_range != candidates
    assert torch.equal(beside.isnan(), changed)
    torch.testing.assert_close(beside[~changed], want[~changed], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("candidates_of", ["images", "captions"])
@pytest.mark.parametrize("n_pairs", [1, 3, 14])  # a list in parts, several lists, with a rest
def test_lists_of_levels_in_blocks_are_all_pairs_picked(n_pairs, candidates_of, monkeypatch):
    regions, words = numbers(5, 6, 8), numbers(4, 3, 8)
    counts, temperature = (torch.tensor([3, 1, 2, 3]), torch.tensor([6, 2, 1, 5, 6])), torch.tensor(3.0).double()
    candidates = random_candidates(*((5, 7, 4) if candidates_of == "images" else (4, 7, 5)))
    if n_pairs == 3:
        monkeypatch.setattr(batched_level_attention, "BLOCK_NUMBERS", n_pairs * 18)
    else:
        monkeypatch.setattr(listed, "_GATHERED_NUMBERS", n_pairs * (3 + 6) * 8)
    results = []
    with in_place_of_the_cpus(KERNELS):
        for given in (True, False):
            leaves = [x.clone().requires_grad_() for x in (regions, words, temperature)]
            more = {"candidates": candidates, "candidates_of": candidates_of} if given else {}
            scores = itm_fast.level_attention(leaves[0], leaves[1], counts[0], leaves[2], counts[1], **more)
            scores = scores if given else picked(scores, candidates, candidates_of)
            weights = torch.cos(torch.arange(scores.numel())).view(scores.shape)
            grads = torch.autograd.grad((scores.masked_fill(candidates < 0, 0) * weights).sum(), leaves)
            results.append((scores.detach(), *grads))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


class Count(Watch):
    """Counts what is called, too."""

    n = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.n += 1
        return super().__torch_dispatch__(function, types, arguments, options)


def test_lists_of_levels_are_made_a_block_at_a_time():
    calls = []
    for n in (3, 9):
        inputs = [numbers(n, 6, 8), numbers(4, 3, 8), None, None, random_candidates(n, 7, 4), torch.tensor(3.0), False]
        with in_place_of_the_cpus(KERNELS, counts_are_read=False), Count() as count:
            KERNELS["level_attention_candidates"](*inputs)
            KERNELS["level_attention_candidates_backward"](numbers(n, 7), *inputs, True, True, True)
        calls.append(count.n)
    assert calls[0] == calls[1]


@pytest.mark.parametrize("of_captions", [False, True])
@pytest.mark.compiled
def test_lists_of_levels_are_opcheck_clean(of_captions):
    inputs = [numbers(3, 4, 8), numbers(3, 5, 8), torch.tensor([5, 2, 3]), None, torch.tensor([[0, 2, -1]] * 3)]
    inputs += [torch.tensor(3.0, dtype=torch.float64), of_captions]
    with in_place_of_the_cpus(KERNELS):
        leaves = [x.requires_grad_() if i in (0, 1, 5) else x for i, x in enumerate(inputs)]
        torch.library.opcheck(torch.ops.itm_fast.level_attention_candidates.default, leaves)
        detached = [x.detach() if isinstance(x, torch.Tensor) else x for x in inputs]
        backward = torch.ops.itm_fast.level_attention_candidates_backward.default
        for needed in ((True, False, True), (False, True, False)):
            torch.library.opcheck(backward, (numbers(3, 3), *detached, *needed))


@pytest.mark.parametrize("candidates_of", ["images", "captions"])
def test_vectors_of_lists_are_made_a_block_at_a_time(candidates_of):
    calls = []
    for n in (3, 9):
        regions, words, counts, weight, bias, slope = given("attended_similarity", n_images=n, counts=(3, 1, 4) * n)
        sizes = (n, 7, 3 * n) if candidates_of == "images" else (3 * n, 7, n)
        inputs = [regions, words, counts, None, random_candidates(*sizes), weight]
        rest = [candidates_of == "captions", slope]
        with in_place_of_the_cpus(KERNELS, counts_are_read=False), Count() as count:
            units, lengths = KERNELS["attended_similarity_candidates"](*inputs, bias, *rest)
            KERNELS["attended_similarity_candidates_backward"](units, units, lengths, *inputs, *rest)
        calls.append(count.n)
    assert calls[0] == calls[1]


@pytest.mark.parametrize("n_numbers", [1 << 26, 2 * 14 * 24, 1])
def test_the_images_of_captions_are_attended_together(n_numbers, monkeypatch):
    regions, words, counts, weight, bias, _ = given("attended_similarity", n_images=4, counts=(3, 1, 4))
    candidates = torch.tensor([[2, -1, 0, 1], [-1, -1, -1, -1], [3, 3, -1, -1]])
    monkeypatch.setattr(listed, "_GATHERED_NUMBERS", n_numbers)
    more = {"candidates": candidates, "candidates_of": "captions"}
    want = itm_fast.attended_similarity(regions, words, counts, weight, bias, **more)

    def of_all(*_):
        raise AssertionError("all pairs are attended")

    with in_place_of_the_cpus({**KERNELS, "attended_similarity": of_all}):
        found = itm_fast.attended_similarity(regions, words, counts, weight, bias, **more)
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-13)
