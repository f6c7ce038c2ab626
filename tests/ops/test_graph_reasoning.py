import pytest
import torch
from backends import BATCHED
from operators import on_three_threads_and_on_one, relative_error

from itm_fast import reference
from itm_fast.ops.graph_reasoning import graph_reasoning

on_devices = pytest.mark.all_backends(of=BATCHED)

# Images, words of each caption, width, steps: one of all; several blocks of captions; one caption longer than a block;
# more tiles than sums over tiles; panels that do not come out even.
SIZES = [(1, [1], 1, 1), (3, [5, 1, 9], 20, 3), (2, [70, 60, 40, 3], 33, 2), (2, [200], 66, 3), (20, [2, 3], 70, 2)]
NAMES = ("vectors", "whole", "local", "forms", "form_biases", "weights", "biases")


def made(n_images, counts, width, steps, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    # Of unit length, as SGR's are; edges of about 1, and steps that keep the length.
    whole, local = (
        torch.nn.functional.normalize(numbers(n_images, n, width), dim=2) for n in (len(counts), sum(counts))
    )
    matrices = [numbers(steps, width, width), numbers(steps, width, width) / width**0.5]
    biases = [0.1 * numbers(steps, width) for _ in range(2)]
    word_counts = torch.tensor(counts, dtype=torch.int64)
    return whole, local, word_counts, matrices[0], biases[0], matrices[1], biases[1]


def with_gradients(operator, *inputs):
    leaves = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs]
    vectors = operator(*leaves)
    cotangent = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (vectors * cotangent.to(vectors.dtype)).sum().backward()
    return vectors.detach(), *(x.grad for x in leaves if x.requires_grad)


@on_devices
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_vectors_and_gradients_equal_the_reference(sizes):
    inputs = made(*sizes)
    want = with_gradients(reference.graph_reasoning, *inputs)
    for name, result, exact in zip(NAMES, with_gradients(graph_reasoning, *inputs), want, strict=True):
        assert relative_error(result, exact) < 1e-11, name


def test_float32():
    inputs = made(6, [12, 3, 20, 9, 1], 256, 3, torch.float32)
    exact = with_gradients(reference.graph_reasoning, *(x.double() if x.is_floating_point() else x for x in inputs))
    plain = with_gradients(reference.graph_reasoning, *inputs)
    for name, found, other, want in zip(NAMES, with_gradients(graph_reasoning, *inputs), plain, exact, strict=True):
        assert found.dtype == torch.float32
        assert relative_error(found, want) <= 2 * relative_error(other, want) + torch.finfo(torch.float32).eps, name


@pytest.mark.compiled
def test_gradcheck_and_opcheck():
    whole, local, counts, *parameters = made(2, [3, 1], 4, 2)
    leaves = [x.requires_grad_() for x in (whole, local, *parameters)]
    assert torch.autograd.gradcheck(lambda w, x, *p: graph_reasoning(w, x, counts, *p), leaves)
    inputs = (whole, local, counts, *parameters, None)
    torch.library.opcheck(torch.ops.itm_fast.graph_reasoning.default, inputs)
    inputs = (torch.randn(2, 2, 4).double(), *(x.detach() for x in inputs[:-1]), 3)
    torch.library.opcheck(torch.ops.itm_fast.graph_reasoning_backward.default, inputs)


@on_devices
def test_a_second_derivative_is_refused():
    whole, *others = made(2, [3, 1], 4, 2)
    (grad,) = torch.autograd.grad(graph_reasoning(whole.requires_grad_(), *others).sum(), whole, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once only"):
        grad.sum().backward()


@pytest.mark.compiled
def test_compiled_on_any_number_of_threads_and_strided():
    inputs = made(30, [12, 3, 20, 50, 9, 70], 24, 3, torch.float32)
    whole, alone = on_three_threads_and_on_one(lambda: with_gradients(graph_reasoning, *inputs))
    compiled = with_gradients(torch.compile(graph_reasoning, fullgraph=True, backend="aot_eager"), *inputs)
    for a, b, c in zip(whole, alone, compiled, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    strided = [torch.stack([x, x], dim=-1)[..., 0] for x in inputs]
    assert torch.equal(graph_reasoning(*strided), whole[0])


@on_devices
@pytest.mark.parametrize(("n_images", "counts"), [(0, [2, 1]), (2, [])])
def test_empty_batches(n_images, counts):
    results = with_gradients(graph_reasoning, *made(n_images, counts, 8, 2))
    assert results[0].shape == (n_images, len(counts), 8)
    assert all(not gradient.any() for gradient in results[1:])


@on_devices
def test_nan_reaches_its_pair_and_no_other():
    inputs = made(3, [4, 2, 3], 20, 2)
    want = graph_reasoning(*inputs)
    inputs[1][1, 5] = torch.nan  # a word of the second caption, beside the second image
    found = graph_reasoning(*inputs)
    hit = torch.zeros(3, 3, dtype=torch.bool)
    hit[1, 1] = True
    assert torch.equal(found.isnan().any(2), hit)
    assert torch.equal(found[~hit], want[~hit])


GIVEN = dict(zip(("whole", "local", "word_counts", *NAMES[3:]), made(2, [3, 2], 8, 2, torch.float32), strict=True))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"whole": GIVEN["whole"][0]}, ValueError, "whole and local must have three dimensions"),
        ({"whole": GIVEN["whole"][:, :1]}, ValueError, r"whole must have shape \[2, 2, 8\], got \[2, 1, 8\]"),
        ({"local": GIVEN["local"][:1]}, ValueError, r"local must have shape \[2, 5, 8\]"),
        ({"word_counts": torch.tensor([3, 1])}, ValueError, "word_counts sum to 4, but there are 5 words"),
        ({"word_counts": torch.tensor([5, 0])}, ValueError, r"word_counts\[1\] is 0"),
        ({"forms": GIVEN["forms"][:, :7]}, ValueError, r"forms must have shape \[2, 8, 8\]"),
        ({"forms": GIVEN["forms"][:0]}, ValueError, "at least one step"),
        ({"biases": GIVEN["biases"].double()}, TypeError, "biases must be float32 or float64 as all others"),
    ],
)
def test_bad_input_is_named(changed, error, message):
    with pytest.raises(error, match=message):
        graph_reasoning(**{**GIVEN, **changed})
