"""LAPS's similarity against the reference in float64: choice of patches, tokens, gradients; what is refused."""

import pytest
import torch
from backends import BATCHED
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import on_three_threads_and_on_one, relative_error

from itm_fast import patch_word_similarity, reference

on_devices = pytest.mark.all_backends(of=BATCHED)
NAMES = ("sims", "regions", "words", "logits")
# Images, patches, captions, words, dim, tokens. In one dimension every cosine is 1 or -1, and every gradient rounding.
RANGES = ((1, 4), (1, 40), (1, 5), (1, 9), (2, 20), (1, 18))


def made(
    n_images, n_patches, n_captions, max_words, dim, n_aggregated=3, *, class_token=False, dtype=torch.float64, seed=0
):
    """Vectors of any length, NaN beyond every count: whoever reads the padding is found out."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    word_counts = torch.randint(1, max_words + 1, (n_captions,), generator=generator)
    words = numbers(n_captions, max_words, dim)
    words[torch.arange(max_words) >= word_counts[:, None]] = torch.nan
    scores, logits = numbers(n_images, n_captions, n_patches), 2 * numbers(n_images, n_patches, n_aggregated)
    return numbers(n_images, n_patches + class_token, dim), words, scores, logits, word_counts


def with_gradients(operator, regions, words, scores, logits, word_counts, **options):
    """Sims, and the gradients of their sum under a fixed random cotangent."""
    leaves = [x.clone().requires_grad_() for x in (regions, words, logits)]
    sims = operator(leaves[0], leaves[1], scores, leaves[2], word_counts, **options)
    cotangent = torch.randn(sims.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (sims * cotangent.to(sims.dtype)).sum().backward()
    return sims.detach(), *(leaf.grad for leaf in leaves)


def truth(inputs, **options):
    *tensors, word_counts = inputs
    exact = (torch.nan_to_num(x.double()) for x in tensors)
    return with_gradients(reference.patch_word_similarity, *exact, word_counts, **options)


def agree(found, want, bound=1e-10):
    for name, result, exact in zip(NAMES, found, want, strict=True):
        assert relative_error(torch.nan_to_num(result), exact) < bound, name


@on_devices
@settings(max_examples=25, deadline=None)
@given(
    sizes=st.tuples(*(st.integers(least, most) for least, most in RANGES)),
    sparse_ratio=st.sampled_from([0.01, 0.3, 0.5, 0.8, 1.0]),
    class_token=st.booleans(),
    seed=st.integers(0, 100),
)
def test_sims_and_gradients_equal_the_reference(sizes, sparse_ratio, class_token, seed):
    inputs = made(*sizes, class_token=class_token, seed=seed)
    options = {"sparse_ratio": sparse_ratio, "class_token": class_token}
    agree(with_gradients(patch_word_similarity, *inputs, **options), truth(inputs, **options))


@pytest.mark.parametrize("sizes", [(2, 196, 3, 30, 24, 39), (3, 49, 20, 40, 16, 23), (1, 300, 2, 280, 5, 17)])
def test_sizes_of_the_paper_and_beyond_a_tile(sizes):
    inputs = made(*sizes, class_token=True)
    agree(with_gradients(patch_word_similarity, *inputs, class_token=True), truth(inputs, class_token=True))


@on_devices
def test_float32_is_as_good_as_plain_torch():
    inputs = made(5, 49, 6, 20, 512, 23, dtype=torch.float32)
    want = truth(inputs)
    clean = (*map(torch.nan_to_num, inputs[:4]), inputs[4])
    for name, found, of_torch, exact in zip(
        NAMES,
        with_gradients(patch_word_similarity, *inputs),
        with_gradients(reference.patch_word_similarity, *clean),
        want,
        strict=True,
    ):
        assert found.dtype == torch.float32
        assert relative_error(torch.nan_to_num(found), exact) < 3 * relative_error(of_torch, exact) + 1e-6, name


@on_devices
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_only_its_inputs_and_gradients(dtype):
    inputs = made(5, 16, 6, 9, 64, dtype=dtype)
    exact = truth(inputs)
    for operator in (patch_word_similarity, lambda *x: patch_word_similarity(x[0], x[1], x[2].float(), x[3], x[4])):
        sims, *gradients = with_gradients(operator, *inputs)
        assert sims.dtype == torch.float32
        assert relative_error(sims, exact[0]) < 3e-6
        for name, found, want in zip(NAMES[1:], gradients, exact[1:], strict=True):
            assert found.dtype == dtype, name
            assert relative_error(torch.nan_to_num(found), want) <= torch.finfo(dtype).eps + 1e-5, name


@on_devices
def test_of_equal_scores_the_first_patches_are_kept_and_nan_before_all():
    regions, words, scores, logits, word_counts = made(2, 9, 3, 4, 8)
    scores = scores.round()
    agree(
        with_gradients(patch_word_similarity, regions, words, scores, logits, word_counts),
        truth((regions, words, scores, logits, word_counts)),
    )
    scores[:, 1, 6] = torch.nan
    above_all = scores.nan_to_num(nan=9.0)
    found = patch_word_similarity(regions, words, scores, logits, word_counts)
    assert torch.equal(found, patch_word_similarity(regions, words, above_all, logits, word_counts))
    moved = patch_word_similarity(regions, words, scores, logits + 1000, word_counts)  # softmax takes no notice
    assert torch.allclose(found, moved, rtol=0, atol=1e-12)


@on_devices
def test_what_is_left_out_counts_by_its_scores():
    regions, words, scores, logits, word_counts = made(1, 4, 1, 1, 8, 1)
    scores[0, 0] = torch.tensor([3.0, 2.0, 1.0, -500.0])
    # Two patches kept, the third is all of the token that the others make: the fourth has no weight beside it.
    unit = torch.nn.functional.normalize
    weights = logits[0, :2, 0].softmax(0)
    tokens = torch.stack([weights @ regions[0, :2], regions[0, 2]])
    cosines = torch.nn.functional.leaky_relu(unit(tokens, dim=1) @ unit(words[0, 0], dim=0), 0.1)
    want = cosines.max() + cosines.mean()
    assert torch.allclose(patch_word_similarity(regions, words, scores, logits, word_counts)[0, 0], want, rtol=1e-12)


def clean(inputs):
    return (*map(torch.nan_to_num, inputs[:4]), inputs[4])


@pytest.mark.compiled
def test_gradcheck_and_opcheck():
    for class_token in (False, True):
        regions, words, scores, logits, word_counts = clean(made(2, 5, 3, 4, 6, class_token=class_token))
        leaves = [x.requires_grad_() for x in (regions, words, logits)]

        def similarity(regions, words, logits, rest=(scores, word_counts, class_token)):
            return patch_word_similarity(regions, words, rest[0], logits, rest[1], class_token=rest[2])

        assert torch.autograd.gradcheck(similarity, leaves)
    inputs = (regions, words, scores, logits, word_counts, 3, True)
    torch.library.opcheck(torch.ops.itm_fast.patch_word_similarity.default, inputs)
    detached = (x.detach() if isinstance(x, torch.Tensor) else x for x in inputs)
    inputs = (torch.randn(2, 3, dtype=torch.float64), *detached, True, False, True)
    torch.library.opcheck(torch.ops.itm_fast.patch_word_similarity_backward.default, inputs)


@on_devices
@pytest.mark.parametrize("needed", [0, 1, 3])
def test_only_the_gradient_that_is_needed(needed):
    inputs = made(3, 9, 4, 5, 8)
    exact = with_gradients(patch_word_similarity, *inputs)
    leaves = [x.clone() if i < 4 else x for i, x in enumerate(inputs)]
    leaves[needed].requires_grad_()
    sims = patch_word_similarity(*leaves)
    cotangent = torch.randn(sims.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (sims * cotangent).sum().backward()
    assert [leaf.grad is not None for leaf in leaves] == [i == needed for i in range(5)]
    assert torch.equal(leaves[needed].grad, exact[(1, 2, None, 3)[needed]])


@pytest.mark.compiled
def test_compiled_without_graph_breaks_and_under_autocast():
    inputs = clean(made(3, 9, 4, 5, 16, dtype=torch.float32))
    compiled = torch.compile(patch_word_similarity, fullgraph=True, backend="aot_eager")
    for found, want in zip(
        with_gradients(compiled, *inputs), with_gradients(patch_word_similarity, *inputs), strict=True
    ):
        assert torch.equal(found, want)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sims = patch_word_similarity(*inputs)
    assert sims.dtype == torch.float32
    regions, words, *rest = inputs
    assert torch.equal(sims, patch_word_similarity(regions.bfloat16(), words.bfloat16(), *rest))


@on_devices
def test_nan_reaches_its_image_or_caption_and_no_other():
    regions, words, *rest = made(4, 9, 5, 7, 8, dtype=torch.float32)
    whole = patch_word_similarity(regions, words, *rest)
    spoiled = regions.clone(), words.clone()
    spoiled[0][1, 4, 3], spoiled[1][2, 0, 0] = torch.nan, torch.nan
    sims = patch_word_similarity(*spoiled, *rest)
    hit = torch.zeros(4, 5, dtype=torch.bool)
    hit[1], hit[:, 2] = True, True
    assert torch.equal(sims.isnan(), hit)
    torch.testing.assert_close(sims[~hit], whole[~hit], rtol=0, atol=0)


def test_nothing_depends_on_the_threads_or_the_other_pairs():
    inputs = clean(made(20, 49, 20, 20, 96, 23, dtype=torch.float32))
    whole, alone = on_three_threads_and_on_one(lambda: with_gradients(patch_word_similarity, *inputs))
    assert all(torch.equal(a, b) for a, b in zip(whole, alone, strict=True))
    regions, words, scores, logits, word_counts = inputs
    alone = patch_word_similarity(regions[7:9], words[3:4], scores[7:9, 3:4], logits[7:9], word_counts[3:4])
    assert torch.allclose(alone, whole[0][7:9, 3:4], rtol=0, atol=1e-6)


def test_non_contiguous_inputs():
    inputs = clean(made(4, 9, 5, 7, 8))
    want = with_gradients(patch_word_similarity, *inputs)
    strided = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in inputs[:4]]
    assert not any(x.is_contiguous() for x in strided)
    for found, exact in zip(with_gradients(patch_word_similarity, *strided, inputs[4]), want, strict=True):
        assert torch.equal(found, exact)


@on_devices
@pytest.mark.parametrize(("n_images", "n_captions"), [(0, 3), (3, 0), (0, 0)])
def test_empty_batches(n_images, n_captions):
    shapes = (n_images, 4, 8), (n_captions, 5, 8), (n_images, n_captions, 4), (n_images, 4, 2)
    inputs = [torch.randn(*shape) for shape in shapes]
    sims, *gradients = with_gradients(patch_word_similarity, *inputs, None)
    assert sims.shape == (n_images, n_captions)
    assert sims.dtype == torch.float32
    for gradient, of in zip(gradients, (inputs[0], inputs[1], inputs[3]), strict=True):
        assert gradient is None or (gradient.shape == of.shape and not gradient.any())


@on_devices
def test_zero_vectors_are_finite():
    regions, words, scores, logits, word_counts = clean(made(3, 6, 4, 5, 8))
    regions[1, 2], regions[2], words[2, 0], words[3] = 0, 0, 0, 0
    inputs = (regions, words, scores, logits, word_counts)
    exact = truth(inputs)
    found = with_gradients(patch_word_similarity, *inputs)
    assert all(x.isfinite().all() for x in found)
    assert relative_error(found[0], exact[0]) < 1e-11
    assert not found[2][2, 0].any()


R, W = torch.randn(2, 5, 8), torch.randn(3, 4, 8)
GOOD = {"regions": R, "words": W, "scores": torch.randn(2, 3, 5), "logits": torch.randn(2, 5, 2), "word_counts": None}


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"regions": R[0]}, ValueError, r"regions must have shape \(n_images, max_regions, dim\), got \(5, 8\)"),
        ({"words": W.double()}, TypeError, "same dtype, got torch.float32 and torch.float64"),
        ({"words": W[:, :0]}, ValueError, "words"),
        ({"word_counts": torch.tensor([4, 0, 1])}, ValueError, r"word_counts\[1\] is 0"),
        (
            {"scores": GOOD["scores"][0]},
            ValueError,
            r"scores must have shape \(n_images, n_captions, n_patches\), here",
        ),
        ({"scores": GOOD["scores"][:, :, :4]}, ValueError, r"here \(2, 3, 5, ...\), got \(2, 3, 4\)"),
        ({"class_token": True}, ValueError, r"scores must .* here \(2, 3, 4, ...\), got \(2, 3, 5\)"),
        ({"scores": GOOD["scores"].long()}, TypeError, "scores must be float32, .*, got torch.int64"),
        ({"logits": GOOD["logits"][:1]}, ValueError, r"logits must have shape \(n_images, n_patches, n_aggregated\)"),
        ({"logits": GOOD["logits"][:, :, :0]}, ValueError, r"logits must have shape .*, got \(2, 5, 0\)"),
        ({"logits": None}, TypeError, "logits must be a torch.Tensor, got NoneType"),
        ({"logits": GOOD["logits"].to("meta")}, ValueError, "logits must be on the device of words, cpu, got meta"),
        ({"regions": R[:, :1], "class_token": True}, ValueError, "must have patches beside the class token, got 1"),
        ({"regions": R[:, :0]}, ValueError, "regions must have patches, got 0"),
        ({"sparse_ratio": 0}, ValueError, "sparse_ratio must be a finite number above 0, got 0"),
        ({"sparse_ratio": 1.01}, ValueError, "sparse_ratio must be at most 1, got 1.01"),
    ],
)
def test_bad_input_is_named(changed, error, message):
    with pytest.raises(error, match=message):
        patch_word_similarity(**{**GOOD, **changed})


def test_the_operator_itself_refuses_what_would_be_unsafe():
    operator, good = torch.ops.itm_fast.patch_word_similarity, (*GOOD.values(), 3, False)
    wrong = ((0, R[0]), (1, W.double()), (2, good[2][:1]), (2, good[2].double()), (3, good[3][:, :4]), (5, 0), (5, 6))
    for place, bad in (*wrong, (6, True)):
        with pytest.raises((ValueError, TypeError)):
            operator(*good[:place], bad, *good[place + 1 :])
    with pytest.raises(ValueError, match="grad must have shape"):
        torch.ops.itm_fast.patch_word_similarity_backward(torch.ones(3, 2), *good, True, True, True)
