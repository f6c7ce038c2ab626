import pytest
import torch
from golden_files import golden
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import on_three_threads_and_on_one

from itm_fast import reference, triplet_loss

SAM_FILES = ["sam_B8_seed101", "sam_B8_seed102", "sam_B32_seed111", "sam_B32_seed112", "sam_B128_seed121"]
NAN = float("nan")


def loss_and_gradient(loss, sims, **options):
    sims = sims.clone().requires_grad_()
    value = loss(sims, **options)
    value.backward()
    return value.detach(), sims.grad


@st.composite
def batches(draw, largest=9):
    """Scores with many ties that every dtype holds exactly, and image ids with repeats or None."""
    n = draw(st.integers(0, largest))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    levels = draw(st.sampled_from([3, 65]))
    sims = torch.randint(0, levels, (n, n), generator=generator) / (levels - 1)
    image_ids = torch.randint(0, max(n // 2, 1), (n,), generator=generator) if draw(st.booleans()) else None
    return sims.double(), image_ids


@pytest.mark.all_backends
@pytest.mark.parametrize("name", SAM_FILES)
@pytest.mark.parametrize(("kind", "max_violation"), [("max", True), ("sum", False)])
def test_golden_vectors_of_the_original(name, kind, max_violation):
    arrays = golden(f"{name}.npz")
    images, captions = (torch.from_numpy(arrays[side]).double().requires_grad_() for side in ("im", "s"))
    sims = images @ captions.T
    sims.retain_grad()
    loss = triplet_loss(sims, max_violation=max_violation)
    loss.backward()
    want = float(arrays[f"triplet_{kind}_loss"])
    assert loss.item() == pytest.approx(want, rel=1e-12)
    assert torch.equal(sims.grad, torch.from_numpy(arrays[f"triplet_{kind}_dS"]).double())
    for found, side in ((images.grad, "dim"), (captions.grad, "ds")):
        stored = torch.from_numpy(arrays[f"triplet_{kind}_{side}"]).double()
        torch.testing.assert_close(found, stored, rtol=1e-6, atol=1e-6)
    assert triplet_loss(sims.float(), max_violation=max_violation).item() == pytest.approx(want, rel=1e-5)


@given(
    batch=batches(),
    margin=st.sampled_from([0.0, 0.25, 0.5, -0.125]),
    max_violation=st.booleans(),
    reduction=st.sampled_from(["sum", "mean"]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
)
@settings(max_examples=200, deadline=None)
def test_equals_the_reference_under_ties(batch, margin, max_violation, reduction, dtype):
    sims, image_ids = batch
    options = {"margin": margin, "max_violation": max_violation, "image_ids": image_ids, "reduction": reduction}
    want, want_gradient = loss_and_gradient(reference.triplet_loss, sims, **options)
    loss, gradient = loss_and_gradient(triplet_loss, sims.to(dtype), **options)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert gradient.dtype == dtype
    torch.testing.assert_close(loss.double(), want, rtol=torch.finfo(loss.dtype).eps, atol=0)
    if reduction == "sum":
        assert torch.equal(gradient.double(), want_gradient)
    torch.testing.assert_close(gradient.double(), want_gradient, rtol=2 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.all_backends
@pytest.mark.parametrize("image_ids", [None, torch.arange(700) % 300], ids=["diagonal", "same_image"])
@pytest.mark.parametrize("max_violation", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_large_batch(dtype, max_violation, image_ids):
    sims = torch.randn(700, 700, generator=torch.Generator().manual_seed(0), dtype=dtype)
    options = {"max_violation": max_violation, "image_ids": image_ids}
    want, want_gradient = loss_and_gradient(reference.triplet_loss, sims.double(), **options)
    loss, gradient = loss_and_gradient(triplet_loss, sims, **options)
    assert loss.item() == pytest.approx(want.item(), rel=1e-12 if dtype == torch.float64 else 1e-6)
    # A score within a rounding of the margin's edge may fall to either side in float32.
    assert (gradient.double() != want_gradient).sum() <= (0 if dtype == torch.float64 else 4)


@pytest.mark.parametrize("image_ids", [None, torch.arange(1100) % 500], ids=["diagonal", "same_image"])
@pytest.mark.parametrize("max_violation", [True, False])
def test_threads_change_nothing(max_violation, image_ids):
    sims = torch.randn(1100, 1100, generator=torch.Generator().manual_seed(0))
    options = {"max_violation": max_violation, "image_ids": image_ids}
    shared, alone = on_three_threads_and_on_one(lambda: loss_and_gradient(triplet_loss, sims, **options))
    assert all(torch.equal(a, b) for a, b in zip(shared, alone, strict=True))


@pytest.mark.all_backends
def test_hardest_is_the_first_of_equal_ones_and_a_hinge_of_zero_passes_nothing():
    sims = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    _, gradient = loss_and_gradient(triplet_loss, sims)
    # Rows take columns 1, 0, 0; columns take rows 1, 0, 0.
    assert gradient.tolist() == [[-2, 2, 1], [2, -2, 0], [1, 0, -2]]
    for max_violation in (True, False):
        loss, gradient = loss_and_gradient(triplet_loss, torch.zeros(3, 3), margin=0.0, max_violation=max_violation)
        assert loss == 0
        assert not gradient.any()


@pytest.mark.all_backends
@pytest.mark.parametrize("max_violation", [True, False])
@pytest.mark.parametrize(
    ("sims", "image_ids"),
    [
        (torch.ones(0, 0), None),
        (torch.ones(1, 1), None),
        (torch.rand(40, 40), torch.zeros(40, dtype=torch.int64)),
        (torch.full((3, 3), -float("inf")).fill_diagonal_(0.0), None),
    ],
    ids=["none", "one", "one_image", "all_far_away"],
)
def test_without_negatives_it_is_zero(sims, image_ids, max_violation):
    for reduction in ("sum", "mean"):
        options = {"max_violation": max_violation, "image_ids": image_ids, "reduction": reduction}
        loss, gradient = loss_and_gradient(triplet_loss, sims, **options)
        assert loss == 0
        assert gradient.shape == sims.shape
        assert not gradient.any()


@pytest.mark.all_backends
@pytest.mark.parametrize("max_violation", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_nan_ends_in_the_loss_unless_it_is_masked(dtype, max_violation):
    image_ids = torch.tensor([5, 5, 7, 8])
    for i in range(4):
        for j in range(4):
            sims = torch.eye(4, dtype=dtype)
            sims[i, j] = NAN
            masked = {i, j} == {0, 1}
            assert triplet_loss(sims, max_violation=max_violation).isnan()
            assert triplet_loss(sims, max_violation=max_violation, image_ids=image_ids).isnan() == (not masked)
    assert triplet_loss(torch.full((40, 40), NAN), max_violation=max_violation).isnan()


@pytest.mark.all_backends
@pytest.mark.parametrize("max_violation", [True, False])
@pytest.mark.compiled
def test_gradcheck_and_opcheck(max_violation):
    sims = torch.randn(5, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64, requires_grad=True)
    image_ids = torch.tensor([1, 1, 2, 3, 4])

    def loss(s):
        return triplet_loss(s, max_violation=max_violation, image_ids=image_ids, reduction="mean")

    assert torch.autograd.gradcheck(loss, sims)
    torch.library.opcheck(torch.ops.itm_fast.triplet_loss.default, (sims, image_ids, 0.2, max_violation, True))
    torch.library.opcheck(
        torch.ops.itm_fast.triplet_loss.default, (torch.rand(4, 4).bfloat16(), None, 0.2, max_violation, False)
    )


@pytest.mark.all_backends
def test_second_derivative_goes_through_what_comes_after_the_loss():
    sims = torch.rand(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(triplet_loss(sims) ** 2, sims, create_graph=True)
    (second,) = torch.autograd.grad(first[0, 1], sims)
    unit = loss_and_gradient(triplet_loss, sims.detach())[1]
    torch.testing.assert_close(second, 2 * unit[0, 1] * unit)
    assert second.any()


@pytest.mark.all_backends
@pytest.mark.compiled
def test_compiled_under_autocast_and_with_any_strides():
    sims = torch.rand(6, 6, generator=torch.Generator().manual_seed(0))
    image_ids = torch.tensor([0, 0, 1, 2, 3, 4])
    compiled = torch.compile(triplet_loss, fullgraph=True, backend="aot_eager")
    for max_violation in (True, False):
        options = {"max_violation": max_violation, "image_ids": image_ids}
        want, want_gradient = loss_and_gradient(triplet_loss, sims, **options)
        wide = torch.full((6, 18), NAN)
        wide[:, ::3] = sims
        wide.requires_grad_()
        loss = triplet_loss(wide[:, ::3], **options)
        loss.backward()
        assert torch.equal(loss, want)
        assert torch.equal(wide.grad[:, ::3], want_gradient)
        assert torch.equal(triplet_loss(sims.T.contiguous().T, **options), want)
        loss, gradient = loss_and_gradient(compiled, sims, **options)
        assert torch.equal(loss, want)
        assert torch.equal(gradient, want_gradient)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(triplet_loss(sims, **options), want)


SIMS = torch.rand(3, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "fragment"),
    [
        ({"sims": [[1.0]]}, TypeError, "sims must be a torch.Tensor, got list"),
        ({"sims": SIMS[:2]}, ValueError, r"sims must be a square matrix .* got \(2, 3\)"),
        ({"sims": SIMS[0]}, ValueError, r"sims must be a square matrix .* got \(3,\)"),
        ({"sims": SIMS.long()}, TypeError, "sims must be float32, .* got torch.int64"),
        ({"sims": SIMS.to_sparse()}, TypeError, "sims must be a dense tensor"),
        ({"margin": "0.2"}, TypeError, "margin must be a number, got str"),
        ({"max_violation": "False"}, TypeError, "max_violation must be True or False, got 'False'"),
        ({"margin": NAN}, ValueError, "margin must be a finite number, got nan"),
        ({"image_ids": [1, 2, 3]}, TypeError, "image_ids must be an int64 tensor, got list"),
        ({"image_ids": torch.zeros(3)}, TypeError, "image_ids must be int64, got torch.float32"),
        ({"image_ids": torch.arange(4)}, ValueError, r"image_ids must have shape \(3,\), one per pair, got \(4,\)"),
        ({"image_ids": torch.arange(3, device="meta")}, ValueError, "image_ids must be on the device of sims, cpu"),
        ({"reduction": "none"}, ValueError, "reduction must be one of 'mean', 'sum', got 'none'"),
    ],
)
def test_bad_input_is_named(arguments, error, fragment):
    with pytest.raises(error, match=fragment):
        triplet_loss(**{"sims": SIMS, **arguments})


@pytest.mark.parametrize(
    ("sims", "image_ids", "error", "fragment"),
    [
        (SIMS[:2], None, ValueError, "sims must be a square matrix"),
        (SIMS.long(), None, TypeError, "sims must be float32"),
        (SIMS, torch.arange(2), ValueError, r"image_ids must have shape \(3,\)"),
        (SIMS, SIMS[0], TypeError, "image_ids must be int64"),
    ],
)
def test_the_operator_itself_refuses_what_it_cannot_read(sims, image_ids, error, fragment):
    with pytest.raises(error, match=fragment):
        torch.ops.itm_fast.triplet_loss(sims, image_ids, 0.2, True, False)
