import pytest
import torch
from backends import BATCHED
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import on_three_threads_and_on_one, relative_error

from itm_fast import reference
from itm_fast.ops.generalised_pooling import generalised_pooling

on_devices = pytest.mark.all_backends(of=BATCHED)
SIZES = [
    (1, 1, 1),
    (3, 2, 5),
    (4, 15, 16),
    (2, 16, 17),
    (3, 17, 33),
    (5, 36, 40),
    (2, 37, 15),
    (2, 101, 8),
    (1, 256, 3),
]


def made(n, most, dim, dtype=torch.float64, seed=0, ties=False):
    """NaN beyond every count: whoever reads the padding is found out."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(n, most, dim, generator=generator, dtype=torch.float64)
    vectors = vectors.round() if ties else vectors
    counts = torch.randint(1, most + 1, (n,), generator=generator)
    counts[0] = most
    theta = torch.softmax(torch.randn(n, most, generator=generator, dtype=torch.float64), dim=1)
    vectors[torch.arange(most) >= counts[:, None]] = torch.nan
    return vectors.to(dtype), theta.to(dtype), counts


def with_gradients(operator, vectors, theta, counts):
    leaves = [x.detach().clone().requires_grad_() for x in (vectors, theta)]
    pooled = operator(*leaves, counts)
    cotangent = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (pooled * cotangent.to(pooled.dtype)).sum().backward()
    return pooled.detach(), *(x.grad for x in leaves)


def assert_equal_to_rounding(inputs):
    """Each result and gradient is a sum of at most `most` or `dim` products, whose factors are below these bounds."""
    vectors, _, _ = inputs
    _, most, dim = vectors.shape
    bound = (most + dim) * max(1.0, float(vectors.nan_to_num().abs().max())) * 4  # no cotangent is larger than 4
    want = with_gradients(reference.generalised_pooling, *inputs)
    for found, exact in zip(with_gradients(generalised_pooling, *inputs), want, strict=True):
        assert float((found - exact).abs().max()) <= bound * torch.finfo(torch.float64).eps


@on_devices
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_pooled_vectors_and_gradients_equal_the_reference(sizes, ties):
    inputs = made(*sizes, ties=ties)
    want = with_gradients(reference.generalised_pooling, *inputs)
    for found, exact in zip(with_gradients(generalised_pooling, *inputs), want, strict=True):
        assert relative_error(found, exact) < 1e-14


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 70), st.integers(1, 35), st.integers(0, 99))
def test_any_shape(n, most, dim, seed):
    assert_equal_to_rounding(made(n, most, dim, seed=seed, ties=bool(seed % 2)))


@on_devices
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_error_is_at_most_twice_that_of_plain_torch(dtype):
    vectors, theta, counts = made(6, 36, 100, dtype)
    exact = with_gradients(reference.generalised_pooling, vectors.double(), theta.double(), counts)
    plain = with_gradients(reference.generalised_pooling, vectors, theta, counts)
    found = with_gradients(generalised_pooling, vectors, theta, counts)
    for result, other, want in zip(found, plain, exact, strict=True):
        assert result.dtype == dtype
        assert relative_error(result, want) <= 2 * relative_error(other, want) + torch.finfo(dtype).eps


@pytest.mark.compiled
def test_gradcheck_and_opcheck():
    vectors, theta, counts = made(3, 5, 4)
    vectors = vectors.nan_to_num(9.0)
    leaves = [x.requires_grad_() for x in (vectors, theta)]
    assert torch.autograd.gradcheck(lambda v, t: generalised_pooling(v, t, counts), leaves)
    torch.library.opcheck(torch.ops.itm_fast.generalised_pooling.default, (*leaves, counts))
    grad = torch.randn(3, 4, dtype=torch.float64)
    arguments = (grad, vectors.detach(), theta.detach(), counts)
    torch.library.opcheck(torch.ops.itm_fast.generalised_pooling_backward.default, arguments)
    with pytest.raises(RuntimeError, match="differentiated once only"):
        torch.autograd.gradgradcheck(lambda v, t: generalised_pooling(v, t, counts), leaves)


@pytest.mark.compiled
def test_threads_compilation_and_strides_change_nothing():
    inputs = made(70, 36, 250)
    whole, alone = on_three_threads_and_on_one(lambda: with_gradients(generalised_pooling, *inputs))
    compiled = with_gradients(torch.compile(generalised_pooling, fullgraph=True, backend="aot_eager"), *inputs)
    for a, b, c in zip(whole, alone, compiled, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    strided = [torch.stack([x, x], dim=-1)[..., 0] for x in inputs]
    assert torch.equal(generalised_pooling(*strided), whole[0])


@on_devices
def test_nan_reaches_its_channel_and_no_other():
    vectors, theta, counts = made(3, 20, 33)
    want = generalised_pooling(vectors, theta, counts)
    vectors[0, 7, 5] = torch.nan
    found = generalised_pooling(vectors, theta, counts)
    hit = torch.zeros(3, 33, dtype=torch.bool)
    hit[0, 5] = True
    assert torch.equal(found.isnan(), hit)
    assert torch.equal(found[~hit], want[~hit])


@on_devices
@pytest.mark.parametrize("shape", [(0, 4, 5), (3, 4, 0)])
def test_empty(shape):
    vectors, theta = torch.randn(shape), torch.randn(shape[:2])
    pooled, of_vectors, of_theta = with_gradients(
        generalised_pooling, vectors, theta, torch.full((shape[0],), shape[1], dtype=torch.int64)
    )
    assert (pooled.shape, of_vectors.shape) == ((shape[0], shape[2]), shape)
    assert not of_theta.any()


VECTORS, THETA, COUNTS = torch.randn(2, 4, 5), torch.rand(2, 4), torch.tensor([4, 1])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((VECTORS[0], THETA, COUNTS), ValueError, r"vectors must have shape \(n, max, dim\), got \[4, 5\]"),
        ((VECTORS, THETA[:, :3], COUNTS), ValueError, r"theta must have shape \(2, 4\), got \[2, 3\]"),
        ((VECTORS, THETA.double(), COUNTS), TypeError, "both float32 or both float64, got Float and Double"),
        ((VECTORS, THETA, COUNTS[:1]), ValueError, r"counts must have shape \(2,\)"),
        ((VECTORS, THETA, COUNTS.float()), TypeError, "counts must be a list, array or tensor of integers"),
        ((VECTORS, THETA, torch.tensor([4, 0])), ValueError, r"counts\[1\] is 0, but sets have 1 to 4 vectors"),
        ((VECTORS, THETA, torch.tensor([5, 1])), ValueError, r"counts\[0\] is 5, but sets have 1 to 4 vectors"),
    ],
)
def test_bad_input_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        generalised_pooling(*arguments)
