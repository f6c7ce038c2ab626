import pytest
import torch
from backends import BATCHED
from operators import on_three_threads_and_on_one, relative_error

from itm_fast import reference
from itm_fast.ops.attended_similarity import attended_similarity

on_devices = pytest.mark.all_backends(of=BATCHED)

# Images, regions, words of each caption, dim, width: one of all; runs of the dimension and panels that do not come out
# even; captions in two blocks; one caption longer than a block; more images than sums over images.
SIZES = [
    (1, 1, [1], 1, 1),
    (3, 17, [5, 1, 9], 70, 20),
    (2, 36, [30, 50, 40, 17, 60], 24, 5),
    (2, 70, [200, 3], 130, 66),
    (35, 3, [2, 3], 8, 4),
]
NAMES = ("similarities", "regions", "words", "weight", "bias")


def made(n_images, n_regions, counts, dim, width, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    regions, words = (
        torch.nn.functional.normalize(numbers(*s, dim), dim=-1) for s in ((n_images, n_regions), (sum(counts),))
    )
    weight, bias = numbers(width, dim), 0.1 * numbers(width)
    regions, words, weight, bias = (x.to(dtype) for x in (regions, words, weight, bias))
    return regions, words, torch.tensor(counts, dtype=torch.int64), weight, bias


def with_gradients(operator, regions, words, counts, weight, bias, **options):
    leaves = [x.detach().clone().requires_grad_() for x in (regions, words, weight, bias)]
    similarities = operator(leaves[0], leaves[1], counts, *leaves[2:], **options)
    cotangent = torch.randn(similarities.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (similarities * cotangent.to(similarities.dtype)).sum().backward()
    return similarities.detach(), *(x.grad for x in leaves)


@on_devices
@pytest.mark.parametrize("lambda_softmax", [9.0, -2.0])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_vectors_and_gradients_equal_the_reference(sizes, lambda_softmax):
    inputs = made(*sizes)
    want = with_gradients(reference.attended_similarity, *inputs, lambda_softmax=lambda_softmax)
    found = with_gradients(attended_similarity, *inputs, lambda_softmax=lambda_softmax)
    for name, result, exact in zip(NAMES, found, want, strict=True):
        assert relative_error(result, exact) < 1e-11, name


@on_devices
@pytest.mark.parametrize("dim", [64, 512])
def test_float32(dim):
    inputs = made(6, 36, [12, 3, 20, 50, 9, 1], dim, 64, torch.float32)
    exact = with_gradients(reference.attended_similarity, *(x.double() if x.is_floating_point() else x for x in inputs))
    # A similarity is a sum of dim products: its error is about sqrt(dim) roundings, and 9 times that in an exponent.
    bound = 9 * dim**0.5 * torch.finfo(torch.float32).eps
    for name, found, want in zip(NAMES, with_gradients(attended_similarity, *inputs), exact, strict=True):
        assert found.dtype == torch.float32
        assert relative_error(found, want) <= bound, name


@pytest.mark.compiled
def test_gradcheck_and_opcheck():
    regions, words, counts, weight, bias = made(2, 4, [3, 1, 2], 6, 3)
    leaves = [x.requires_grad_() for x in (regions, words, weight, bias)]
    assert torch.autograd.gradcheck(lambda r, w, m, b: attended_similarity(r, w, counts, m, b), leaves)
    inputs = (regions, words, counts, weight, bias, 9.0)
    torch.library.opcheck(torch.ops.itm_fast.attended_similarity.default, inputs)
    regions, words, weight, bias = (x.detach() for x in leaves)
    forward = torch.ops.itm_fast.attended_similarity(regions, words, counts, weight, bias, 9.0)
    inputs = (torch.randn(2, 6, 3).double(), *forward, regions, words, counts, weight, 9.0)
    torch.library.opcheck(torch.ops.itm_fast.attended_similarity_backward.default, inputs)


@on_devices
def test_a_second_derivative_is_refused():
    regions, words, counts, weight, bias = made(2, 4, [3], 6, 3)
    vectors = attended_similarity(regions.requires_grad_(), words, counts, weight, bias)
    (grad,) = torch.autograd.grad(vectors.sum(), regions, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once only"):
        grad.sum().backward()


@on_devices
@pytest.mark.compiled
def test_compiled_without_graph_breaks():
    inputs = made(3, 5, [4, 2], 8, 4, torch.float32)
    compiled = torch.compile(attended_similarity, fullgraph=True, backend="aot_eager")
    for found, want in zip(
        with_gradients(compiled, *inputs), with_gradients(attended_similarity, *inputs), strict=True
    ):
        assert torch.equal(found, want)


def test_nothing_depends_on_the_threads_or_the_other_images():
    inputs = made(40, 36, [12, 3, 20, 50, 9, 70], 96, 24, torch.float32)
    whole, alone = on_three_threads_and_on_one(lambda: with_gradients(attended_similarity, *inputs))
    assert all(torch.equal(a, b) for a, b in zip(whole, alone, strict=True))
    assert torch.equal(attended_similarity(inputs[0][7:9], *inputs[1:]), whole[0][7:9])


def test_non_contiguous_inputs():
    regions, words, counts, weight, bias = made(4, 6, [3, 4], 8, 5)
    want = with_gradients(attended_similarity, regions, words, counts, weight, bias)
    wide = torch.full((4, 12, 16), torch.nan, dtype=torch.float64)[:, ::2, ::2].copy_(regions)
    strided = (wide, words.T.contiguous().T, torch.stack([counts, counts], 1)[:, 0], weight.T.contiguous().T)
    leaves = [x.requires_grad_() if x.is_floating_point() else x for x in strided]
    spread = torch.stack([bias, bias], 1)[:, 0]
    vectors = attended_similarity(*leaves, spread)
    assert torch.equal(vectors, want[0])
    vectors.square().sum().backward()  # the cotangent is contiguous; that of an expanded sum below is not
    leaves[0].grad = None
    attended_similarity(*leaves, spread).sum().backward()
    again = regions.clone().requires_grad_()
    (attended_similarity(again, words, counts, weight, bias) * torch.ones_like(want[0])).sum().backward()
    assert torch.equal(leaves[0].grad, again.grad)


@on_devices
@pytest.mark.parametrize(("n_images", "counts"), [(0, [2, 1]), (2, []), (0, [])])
def test_empty_batches(n_images, counts):
    results = with_gradients(attended_similarity, *made(n_images, 3, counts, 8, 4))
    assert results[0].shape == (n_images, sum(counts), 4)
    assert all(not gradient.any() for gradient in results[1:])


@on_devices
def test_nan_reaches_its_image_or_caption_and_no_other():
    regions, words, counts, weight, bias = made(3, 5, [4, 2, 3], 40, 6)
    whole = attended_similarity(regions, words, counts, weight, bias)
    regions[1, 0, 3], words[5, 2] = torch.nan, torch.nan  # the second caption's second word
    found = attended_similarity(regions, words, counts, weight, bias)
    hit = torch.zeros(3, 9, dtype=torch.bool)
    hit[1], hit[:, 4:6] = True, True
    assert torch.equal(found.isnan().all(2), hit)
    assert torch.equal(found[~hit], whole[~hit])


@on_devices
def test_zero_regions_words_and_vectors():
    regions, words, counts, weight, bias = made(3, 5, [4, 2], 10, 6)
    regions[0], regions[1, 2], words[1] = 0, 0, 0
    inputs = (regions, words, counts, weight, torch.zeros_like(bias))
    words[4:] = 0  # with the first image: differences, and vectors, of length 0
    want = with_gradients(reference.attended_similarity, *inputs)
    for name, found, exact in zip(NAMES, with_gradients(attended_similarity, *inputs), want, strict=True):
        assert found.isfinite().all()
        assert relative_error(found, exact) < 1e-11, name


REGIONS, WORDS, COUNTS, WEIGHT, BIAS = made(2, 4, [3, 2], 8, 5, torch.float32)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"regions": REGIONS[0]}, ValueError, r"regions must have shape \(n_images, n_regions, dim\), got \(4, 8\)"),
        ({"words": WORDS[None]}, ValueError, r"words must have shape \(n_words, dim\), got \(1, 5, 8\)"),
        ({"words": WORDS[:, :7]}, ValueError, r"the same dim, .* words \(5, 7\)"),
        ({"bias": BIAS[:4]}, ValueError, r"the same width, .* bias \(4,\)"),
        ({"weight": WEIGHT[:0], "bias": BIAS[:0]}, ValueError, "weight has no numbers"),
        ({"weight": WEIGHT.double()}, TypeError, "weight is torch.float64"),
        ({"regions": REGIONS.half()}, TypeError, "words is torch.float32, regions are torch.float16"),
        ({"bias": BIAS.tolist()}, TypeError, "bias must be a torch.Tensor, got list"),
        ({"words": WORDS.to("meta")}, ValueError, "words must be on the device of regions, cpu, got meta"),
        ({"word_counts": [3.0, 2.0]}, TypeError, "word_counts must be a list, array or tensor of integers"),
        ({"word_counts": torch.tensor([3, 1])}, ValueError, "word_counts sum to 4, but there are 5 words"),
        ({"word_counts": torch.tensor([5, 0])}, ValueError, r"word_counts\[1\] is 0"),
        ({"word_counts": torch.tensor([6, -1])}, ValueError, r"word_counts\[1\] is -1"),
        ({"regions": REGIONS[:, :0]}, ValueError, "max_regions = 0"),
        ({"lambda_softmax": float("inf")}, ValueError, "lambda_softmax must be a finite number"),
    ],
)
def test_bad_input_is_named(changed, error, message):
    given = {"regions": REGIONS, "words": WORDS, "word_counts": COUNTS, "weight": WEIGHT, "bias": BIAS}
    with pytest.raises(error, match=message):
        attended_similarity(**{**given, **changed})


def test_the_operator_itself_refuses_what_would_be_unsafe():
    operator, good = torch.ops.itm_fast.attended_similarity, (REGIONS, WORDS, COUNTS, WEIGHT, BIAS)
    for place, bad in ((0, REGIONS[0]), (1, WORDS[:, :7]), (2, COUNTS[:1]), (3, WEIGHT.double()), (4, BIAS[:4])):
        with pytest.raises((ValueError, TypeError)):
            operator(*good[:place], bad, *good[place + 1 :], 9.0)
    forward, backward = operator(*good, 9.0), torch.ops.itm_fast.attended_similarity_backward
    for grad, vectors, lengths in (
        (forward[0][:1], *forward),
        (forward[0], forward[0][:, :4], forward[1]),
        (forward[0], forward[0], forward[1].double()),
    ):
        with pytest.raises((ValueError, TypeError)):
            backward(grad, vectors, lengths, REGIONS, WORDS, COUNTS, WEIGHT, 9.0)
