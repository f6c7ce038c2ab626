from unittest import mock

import pytest
import torch
from backends import BATCHED
from operators import on_three_threads_and_on_one, random_batch, relative_error, threads

from itm_fast import reference
from itm_fast.ops.level_attention import level_attention

on_devices = pytest.mark.all_backends(of=BATCHED)
TEMPERATURE = 14.3
NAMES = ("sims", "regions", "words", "temperature")


def made(n_images, n_regions, n_captions, max_words, width, *, dtype=torch.float64, temperature=TEMPERATURE, seed=0):
    """Unit rows, NaN beyond every count, and a temperature."""
    regions, words, word_counts, _ = random_batch(
        n_images, n_regions, n_captions, max_words, width, dtype=dtype, seed=seed
    )
    score_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    return regions, words, word_counts, torch.tensor(temperature, dtype=score_dtype)


def with_gradients(operator, regions, words, word_counts, temperature):
    """Sims, and the gradients of their sum under a fixed random cotangent."""
    leaves = [x.detach().clone().requires_grad_() for x in (regions, words, temperature)]
    sims = operator(leaves[0], leaves[1], word_counts, leaves[2])
    cotangent = torch.randn(sims.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (sims * cotangent.to(sims.dtype)).sum().backward()
    return sims.detach(), *(x.grad for x in leaves)


def clean(inputs, dtype=None):
    """Padding replaced by zeros, floating tensors in `dtype`."""
    return [torch.nan_to_num(x).to(dtype or x.dtype) if x.is_floating_point() else x for x in inputs]


def truth(inputs):
    return with_gradients(reference.level_attention, *clean(inputs, torch.float64))


# One of all; groups that straddle vectors, several blocks of columns, a caption and an image longer than a block.
@on_devices
@pytest.mark.parametrize("temperature", [TEMPERATURE, 0.0, -3.0])
@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 1, 1), (3, 17, 5, 19, 20), (20, 36, 4, 9, 30), (2, 150, 3, 70, 5), (2, 300, 2, 200, 4)]
)
def test_sims_and_gradients_equal_the_reference(sizes, temperature):
    inputs = made(*sizes, temperature=temperature)
    exact = truth(inputs)
    for name, found, want in zip(NAMES, with_gradients(level_attention, *inputs), exact, strict=True):
        assert relative_error(found, want) < 1e-11, name


# Sizes straddle the vector (16), the panel (64), the column (256) and the row block (144).
@pytest.mark.parametrize("n_regions", [1, 2, 15, 16, 17, 36, 37, 150])
@pytest.mark.parametrize(("n_captions", "max_words"), [(1, 1), (3, 2), (40, 17), (2, 65), (1, 300)])
def test_sizes_across_every_tile_edge(n_captions, max_words, n_regions):
    within_rounding_of_plain_torch(made(5, n_regions, n_captions, max_words, 7, dtype=torch.float32))


def within_rounding_of_plain_torch(inputs):
    """Twice the error of plain torch, what roundings of the inputs alone may do, and roundings of what cancels."""
    exact, plain, uncancelled = truth(inputs), with_gradients(reference.level_attention, *clean(inputs)), terms(inputs)
    moved = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        regions, words, *rest = clean(inputs, torch.float64)
        vectors = [x * (1 + 2**-23 * torch.randn(x.shape, generator=generator)) for x in (regions, words)]
        moved.append(truth([*vectors, *rest]))
    for i, (name, found) in enumerate(zip(NAMES, with_gradients(level_attention, *inputs), strict=True)):
        scale = exact[i].abs().max().clamp(min=1e-3)  # of relative_error
        bound = 2 * relative_error(plain[i], exact[i]) + 8 * max(
            relative_error(result[i], exact[i]) for result in moved
        )
        assert relative_error(found, exact[i]) <= bound + 16 * 2**-23 * uncancelled[i] / scale, name


def terms(inputs):
    """How large what is summed is: sims, gradients but for the part through the norms, which may cancel with them."""
    norm = torch.linalg.vector_norm
    with mock.patch.object(torch.linalg, "vector_norm", lambda *x, **options: norm(*x, **options).detach()):
        sims, regions, words, _ = truth(inputs)
    cotangents = sims.numel()  # of about 1
    return [x.abs().max() for x in (sims, regions, words)] + [cotangents * sims.abs().max()]


def test_float32_at_the_width_of_esl():
    within_rounding_of_plain_torch(made(6, 36, 7, 20, 1022, dtype=torch.float32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_only_its_inputs_and_gradients(dtype):
    inputs = made(6, 36, 7, 20, 512, dtype=dtype)
    exact = truth(inputs)
    results = with_gradients(level_attention, *inputs)
    for name, found, want, given in zip(NAMES, results, exact, (inputs[3], *inputs[:2], inputs[3]), strict=True):
        assert found.dtype == given.dtype
        # A similarity is off by about sqrt(512) roundings of float32, and 14 times that in an exponent.
        rounded = 0 if name in ("sims", "temperature") else torch.finfo(dtype).eps
        assert relative_error(found, want) <= rounded + TEMPERATURE * 512**0.5 * 2**-24, name


@on_devices
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_smallest_affinities_keep_their_accuracy(dtype):
    # Both norms take their size away: a tanh that is right only in absolute terms would show here.
    regions, words, word_counts, temperature = made(3, 17, 4, 9, 20, dtype=dtype)
    inputs = (1e-4 * regions, 1e-3 * words, word_counts, temperature)
    for name, found, want in zip(NAMES, with_gradients(level_attention, *inputs), truth(inputs), strict=True):
        scale = want.abs().max()
        assert relative_error(found.double() / scale, want / scale) < 1000 * torch.finfo(dtype).eps, name


@on_devices
def test_large_affinities_and_temperatures_stay_finite():
    for dtype in (torch.float32, torch.float64):
        for temperature in (1e4, -1e4, 1e-4):
            regions, words, word_counts, tau = made(3, 9, 4, 8, 16, dtype=dtype, temperature=temperature)
            for factor in (1, 1e3):
                found = with_gradients(level_attention, factor * regions, words, word_counts, tau)
                assert all(x.isfinite().all() for x in clean(found[:1]) + list(found[1:]))
                want = truth((factor * regions, words, word_counts, tau))
                assert relative_error(found[0], want[0]) < 1e4 * 100 * torch.finfo(dtype).eps


@pytest.mark.compiled
def test_gradcheck_and_opcheck():
    regions, words, word_counts, temperature = made(2, 4, 3, 5, 6)
    words = torch.where(words.isnan(), torch.randn(words.shape, generator=torch.Generator().manual_seed(2)), words)
    for x in (regions, words, temperature):
        x.requires_grad_()
    for counts in (word_counts, None):
        inputs = (regions, words, counts, temperature)
        assert torch.autograd.gradcheck(level_attention, inputs)
        torch.library.opcheck(torch.ops.itm_fast.level_attention.default, (*inputs[:3], None, temperature))
    grad = torch.randn(2, 3, dtype=torch.float64)
    for needed in ((True, False, True), (False, True, False)):
        inputs = (grad, regions.detach(), words.detach(), word_counts, None, temperature.detach(), *needed)
        torch.library.opcheck(torch.ops.itm_fast.level_attention_backward.default, inputs)


@on_devices
def test_only_the_gradient_that_is_needed():
    inputs = clean(made(2, 5, 3, 4, 8))
    want = with_gradients(level_attention, *inputs)[1:]
    for needed, exact in zip((0, 1, 3), want, strict=True):
        leaves = [x.clone().requires_grad_(i == needed) if i != 2 else x for i, x in enumerate(inputs)]
        sims = level_attention(*leaves)
        (
            sims * torch.randn(sims.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        ).sum().backward()
        assert [x.grad is not None for x in leaves] == [i == needed for i in range(4)]
        assert torch.equal(leaves[needed].grad, exact)


@on_devices
def test_a_second_derivative_is_refused():
    regions, *rest = clean(made(2, 4, 3, 5, 6))
    sims = level_attention(regions.requires_grad_(), *rest)
    (grad,) = torch.autograd.grad(sims.sum(), regions, create_graph=True)
    with pytest.raises(RuntimeError, match="level_attention can be differentiated once only"):
        grad.sum().backward()


@pytest.mark.compiled
def test_compiled_without_graph_breaks_or_needless_recompilation():
    n_compiled = 0

    def count(graph, _inputs):
        nonlocal n_compiled
        n_compiled += 1
        return graph.forward

    compiled = torch.compile(level_attention, fullgraph=True, backend=count)
    for n in (2, 3, 4, 5):
        inputs = made(n, 6, n + 1, 7, 8, dtype=torch.float32, temperature=1.0 + n, seed=n)
        assert torch.equal(compiled(*inputs), level_attention(*inputs))
    assert n_compiled <= 2  # once with fixed sizes, once with open ones
    compiled = torch.compile(level_attention, fullgraph=True, backend="aot_eager")
    for found, want in zip(with_gradients(compiled, *inputs), with_gradients(level_attention, *inputs), strict=True):
        assert torch.equal(found, want)


def test_autocast_scores_in_the_autocast_dtype():
    regions, words, word_counts, temperature = made(3, 6, 4, 7, 32, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sims = level_attention(regions, words.bfloat16(), word_counts, temperature)
    assert torch.equal(sims, level_attention(regions.bfloat16(), words.bfloat16(), word_counts, temperature))
    assert sims.dtype == torch.float32


@on_devices
def test_zero_rows_have_gradient_0():
    regions, words, word_counts, temperature = clean(made(3, 6, 4, 5, 8))
    word_counts[2] = 5
    regions[1, 2], regions[2], words[2, 0], words[3] = 0, 0, 0, 0
    words[0, :, 4:], regions[0, 0, :4] = 0, 0  # orthogonal, and neither is 0
    inputs = (regions, words, word_counts, temperature)
    exact = truth(inputs)
    found = with_gradients(level_attention, *inputs)
    for name, result, want in zip(NAMES, found, exact, strict=True):
        assert result.isfinite().all()
        assert relative_error(result, want) < 1e-11, name
    for gradient in (found[1][1, 2], found[1][2], found[2][2, 0], found[2][3]):
        assert not gradient.any()
    assert found[1][0, 0].any()


@on_devices
def test_nan_reaches_its_image_or_caption_and_no_other():
    regions, words, word_counts, temperature = made(4, 6, 5, 7, 8, dtype=torch.float32)
    whole = level_attention(regions, words, word_counts, temperature)
    spoiled = regions.clone(), words.clone()
    spoiled[0][1, 0, 3], spoiled[1][2, 0, 0] = torch.nan, torch.nan
    sims = level_attention(*spoiled, word_counts, temperature)
    hit = torch.zeros(4, 5, dtype=torch.bool)
    hit[1], hit[:, 2] = True, True
    assert torch.equal(sims.isnan(), hit)
    torch.testing.assert_close(sims[~hit], whole[~hit], rtol=0, atol=0)
    assert level_attention(regions, words, word_counts, temperature * torch.nan).isnan().all()


@on_devices
def test_nan_of_an_image_does_not_reach_the_gradients_of_others():
    # A wide column block, then a narrow one: what the first leaves in a worker's scratch must not count in the second.
    regions, words, word_counts, temperature = clean(made(18, 16, 3, 5, 8, dtype=torch.float32))
    regions[15] = torch.nan
    _, of_regions, of_words, _ = with_gradients(level_attention, regions, words, word_counts, temperature)
    for image, gradient in enumerate(of_regions):
        assert (gradient.isnan() if image == 15 else gradient.isfinite()).all()
    valid = torch.arange(5) < word_counts[:, None]
    assert of_words[valid].isnan().all()
    assert not of_words[~valid].any()


def test_nothing_depends_on_the_threads_or_the_other_images():
    inputs = clean(made(40, 36, 30, 20, 96, dtype=torch.float32))
    whole, alone = on_three_threads_and_on_one(lambda: with_gradients(level_attention, *inputs))
    assert all(torch.equal(a, b) for a, b in zip(whole, alone, strict=True))
    with threads(2):
        assert all(torch.equal(a, b) for a, b in zip(whole, with_gradients(level_attention, *inputs), strict=True))
    alone = level_attention(inputs[0][7:9], inputs[1][3:4], inputs[2][3:4], inputs[3])
    assert torch.allclose(alone, whole[0][7:9, 3:4], rtol=0, atol=1e-6)


def test_non_contiguous_inputs():
    regions, words, word_counts, temperature = clean(made(4, 6, 5, 7, 8))
    want = with_gradients(level_attention, regions, words, word_counts, temperature)
    wide = torch.full((4, 12, 16), torch.nan, dtype=torch.float64)[:, ::2, ::2].copy_(regions)
    strided = (wide, words.transpose(1, 2).contiguous().transpose(1, 2), torch.stack([word_counts] * 2, 1)[:, 0])
    leaves = [x.requires_grad_() if x.is_floating_point() else x for x in strided]
    sims = level_attention(*leaves, temperature)
    assert torch.equal(sims, want[0])
    sims.sum().backward()  # its cotangent is expanded, not contiguous
    again = regions.clone().requires_grad_()
    (level_attention(again, words, word_counts, temperature) * torch.ones_like(sims)).sum().backward()
    assert torch.equal(leaves[0].grad, again.grad)


@on_devices
@pytest.mark.parametrize(("n_images", "n_captions"), [(0, 3), (3, 0), (0, 0)])
def test_empty_batches(n_images, n_captions):
    regions, words = torch.randn(n_images, 4, 8), torch.randn(n_captions, 5, 8)
    sims, *gradients = with_gradients(level_attention, regions, words, None, torch.tensor(2.0))
    assert sims.shape == (n_images, n_captions)
    assert sims.dtype == torch.float32
    for gradient, of in zip(gradients, (regions, words, torch.tensor(0.0)), strict=True):
        assert gradient is None or (gradient.shape == of.shape and not gradient.any())


R, W, TAU = torch.randn(2, 4, 8), torch.randn(3, 5, 8), torch.tensor(2.0)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"regions": R[0]}, ValueError, r"regions must have shape \(n_images, max_regions, dim\), got \(4, 8\)"),
        ({"words": W[..., :7]}, ValueError, "same dim, got 8 and 7"),
        ({"words": W.double()}, TypeError, "same dtype, got torch.float32 and torch.float64"),
        ({"regions": R.numpy()}, TypeError, "regions must be a torch.Tensor, got ndarray"),
        ({"word_counts": [5.0, 2, 1]}, TypeError, "word_counts must be a list, array or tensor of integers"),
        ({"word_counts": torch.tensor([5, 2])}, ValueError, r"word_counts must have shape \(3,\)"),
        ({"word_counts": torch.tensor([5, 0, 1])}, ValueError, r"word_counts\[1\] is 0"),
        ({"word_counts": torch.tensor([5, 2, 6])}, ValueError, r"word_counts\[2\] is 6"),
        ({"regions": R[:, :0]}, ValueError, "regions"),
        ({"temperature": 2.0}, TypeError, "temperature must be a torch.Tensor, got float; use torch.as_tensor"),
        ({"temperature": TAU[None]}, ValueError, r"temperature must have shape \(\), got \(1,\)"),
        ({"temperature": TAU.long()}, TypeError, "temperature must be float32, .*, got torch.int64"),
        ({"temperature": TAU.to("meta")}, ValueError, "temperature must be on the device of regions, cpu, got meta"),
    ],
)
def test_bad_input_is_named(changed, error, message):
    given = {"regions": R, "words": W, "word_counts": None, "temperature": TAU}
    with pytest.raises(error, match=message):
        level_attention(**{**given, **changed})


def test_the_operator_itself_refuses_what_would_be_unsafe():
    operator, good = torch.ops.itm_fast.level_attention, (R, W, None, None, TAU)
    for place, bad in ((0, R[0]), (1, W[..., :7]), (1, W.double()), (2, torch.tensor([1, 2])), (4, TAU[None])):
        with pytest.raises((ValueError, TypeError)):
            operator(*good[:place], bad, *good[place + 1 :])
    with pytest.raises(ValueError, match="grad must have shape"):
        torch.ops.itm_fast.level_attention_backward(torch.ones(3, 2), *good, True, True, True)


@pytest.mark.parametrize("n_images", [0, 1, 6])
def test_images_with_fewer_regions(n_images):
    """Each as if it were alone with its regions; NaN beyond is never read, and gets no gradient."""
    regions, words, word_counts, temperature = made(n_images, 9, 4, 7, 5)
    counts = torch.tensor([3, 9, 1, 3, 8, 9])[:n_images]
    missing = torch.arange(9) >= counts[:, None]
    regions = torch.nan_to_num(regions).masked_fill(missing[..., None], torch.nan)

    def of_fewer(regions, words, word_counts, temperature):
        return level_attention(regions, words, word_counts, temperature, counts)

    def one_by_one(regions, words, word_counts, temperature):
        rows = [
            reference.level_attention(regions[image : image + 1, :count], words, word_counts, temperature)
            for image, count in enumerate(counts.tolist())
        ]
        return torch.cat([regions.new_zeros(0, len(words)), *rows]) + 0 * regions[:, 0].nansum() + 0 * words.nansum()

    found = with_gradients(of_fewer, regions, words, word_counts, temperature)
    assert not found[1][missing].any()
    if n_images:
        words = torch.nan_to_num(words)
        for name, one, want in zip(
            NAMES, found, with_gradients(one_by_one, regions, words, word_counts, temperature), strict=True
        ):
            assert relative_error(torch.nan_to_num(one), torch.nan_to_num(want)) < 1e-11, name


@pytest.mark.parametrize(
    ("counts", "exception", "fragment"),
    [
        (torch.tensor([1, 0, 2]), ValueError, r"region_counts\[1\] is 0; every count must be at least 1"),
        (torch.tensor([1, 2, 6]), ValueError, r"region_counts\[2\] is 6"),
        (torch.tensor([1, 2]), ValueError, r"region_counts must have shape \(3,\)"),
        (torch.tensor([1.0, 2.0, 3.0]), TypeError, "region_counts must be a list, array or tensor of integers"),
    ],
)
def test_region_counts_that_are_refused(counts, exception, fragment):
    with pytest.raises(exception, match=fragment):
        level_attention(*made(3, 5, 2, 4, 6), counts)
