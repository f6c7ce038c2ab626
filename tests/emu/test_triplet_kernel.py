"""The kernel of the triplet loss, emulated: the reference, golden vectors, schedules, races, traffic, mutants."""

import ctypes

import numpy as np
import pytest
import torch
from emulation import CUDA, ORDERS, EmulationError
from golden_files import golden
from kernels import HERE, NUMBERS, SCHEDULES, devices, raw

from itm_fast import reference

SOURCES = (CUDA / "triplet.cu", HERE / "exports_triplet.cu")


class Args(ctypes.Structure):
    """csrc/cuda/hinge.h, TripletArgs."""

    _fields_ = [
        *[(n, ctypes.c_void_p) for n in ("sims", "image_ids", "grad", "loss", "costs", "found", "finished")],
        *[(n, ctypes.c_double) for n in ("margin", "scale")],
        ("n", ctypes.c_int32),
    ]


plain, watched = devices(*SOURCES)


def run(device, sims, *, max_violation=True, margin=0.2, image_ids=None, mean=False):
    """(loss, gradient) as tensors."""
    n, dtype = len(sims), sims.dtype
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    arrays = {
        "sims": device.array(raw(sims.contiguous())),
        "grad": device.empty((n, n), raw(sims).dtype),
        "loss": device.empty(1, np.dtype(str(wide).split(".")[1])),
        "costs": device.empty((2, n), np.float64),
        "found": device.empty((2, n), np.int32),
        "finished": device.array(np.zeros(1, np.uint32)),
    }
    if image_ids is not None:
        arrays["image_ids"] = device.array(image_ids.numpy())
    pointers = {name: array.pointer for name, array in arrays.items()}
    args = Args(**pointers, margin=margin, scale=1 / n if mean else 1, n=n)
    device.run("triplet_hardest" if max_violation else "triplet_all", ctypes.byref(args), NUMBERS[dtype])
    assert arrays["finished"].numpy()[0] == 0  # ready for the next launch
    grad = torch.from_numpy(arrays["grad"].numpy())
    return torch.from_numpy(arrays["loss"].numpy())[0], grad.view(dtype) if grad.dtype != dtype else grad


def expected(sims, **options):
    sims = sims.double().clone().requires_grad_()
    loss = reference.triplet_loss(sims, **options)
    loss.backward()
    return loss.detach(), sims.grad


def compare(device, sims, *, max_violation=True, mean=False, image_ids=None):
    loss, grad = run(device, sims, max_violation=max_violation, mean=mean, image_ids=image_ids)
    want, want_grad = expected(sims, image_ids=image_ids, max_violation=max_violation)
    if mean:
        want, want_grad = want / len(sims), want_grad / len(sims)
    # Sums of at most 2 n hinges, each of two roundings in the type of the sum.
    scale = float(want) + sims.float().abs().max().item() + 1
    torch.testing.assert_close(loss.double(), want, rtol=0, atol=8 * scale * torch.finfo(loss.dtype).eps * len(sims))
    # A count times 1 / n: two roundings, and that to the type of the scores.
    torch.testing.assert_close(grad.double(), want_grad, rtol=2 * torch.finfo(sims.dtype).eps, atol=0)


def batch(n, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed + n)
    return torch.randn(n, n, generator=generator).to(dtype)


@pytest.mark.parametrize("max_violation", [True, False])
@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 31, 32, 33, 65, 130, 260])
def test_equals_the_reference(plain, dtype, n, max_violation):
    plain.configure("random", n)
    sims = batch(n, dtype)
    compare(plain, sims, max_violation=max_violation)
    compare(plain, sims, max_violation=max_violation, mean=True, image_ids=torch.randint(0, max(1, n // 2), (n,)))


def test_no_negatives_and_ties(plain):
    plain.configure("random", 3)
    loss, grad = run(plain, batch(20), image_ids=torch.zeros(20, dtype=torch.int64))
    assert loss == 0
    assert (grad == 0).all()
    levels = torch.randint(0, 3, (40, 40), generator=torch.Generator().manual_seed(0)).float()
    loss, grad = run(plain, levels)
    own = levels.diagonal()
    for i in range(40):  # the first of equal ones, both ways
        others = levels[i].clone()
        others[i] = -9
        assert (grad[i, int(others.argmax())] > 0) == (0.2 + others.max() - own[i] > 0)
    compare(plain, levels)


def test_nan_reaches_the_loss(plain):
    plain.configure()
    for place in ((3, 5), (4, 4), (39, 0)):
        sims = batch(40)
        sims[place] = torch.nan
        assert run(plain, sims)[0].isnan()
        assert run(plain, sims, max_violation=False)[0].isnan()


@pytest.mark.parametrize("name", ["sam_B8_seed101", "sam_B8_seed102", "sam_B32_seed111", "sam_B32_seed112"])
def test_golden_vectors(plain, name):
    arrays = golden(f"{name}.npz")
    sims = torch.from_numpy(arrays["im"]).double() @ torch.from_numpy(arrays["s"]).double().T
    plain.configure("random", 1)
    for kind in ("max", "sum"):
        loss, grad = run(plain, sims, max_violation=kind == "max")
        assert loss.item() == pytest.approx(float(arrays[f"triplet_{kind}_loss"]), rel=1e-12)
        assert np.array_equal(grad.numpy(), arrays[f"triplet_{kind}_dS"])


@pytest.mark.parametrize("max_violation", [True, False])
@pytest.mark.parametrize("n", [9, 70])
def test_every_schedule_gives_the_same_bits(plain, n, max_violation):
    results = set()
    for order, seed in SCHEDULES:
        plain.configure(order, seed, resident_blocks=1 + seed % 4)
        loss, grad = run(plain, batch(n), max_violation=max_violation, image_ids=torch.arange(n) // 2)
        results.add((loss.item(), grad.numpy().tobytes()))
    assert len(results) == 1


@pytest.mark.parametrize("order", ORDERS)
def test_no_races(watched, order):
    for n in (9, 40):
        watched.configure(order, n, check_races=True, resident_blocks=2)
        compare(watched, batch(n), image_ids=torch.arange(n) // 3)
        compare(watched, batch(n), image_ids=torch.arange(n) // 3, max_violation=False)


@pytest.mark.parametrize("max_violation", [True, False])
def test_scores_are_read_in_whole_lines(watched, max_violation):
    watched.configure(traffic=True)
    watched.traffic()
    run(watched, batch(128), max_violation=max_violation)
    rows = watched.traffic()
    watched.configure()
    busy = [row for row in rows if row["requests"] >= 128 * 128 / 32]  # the loops over all scores
    assert len(busy) >= 3  # rows, columns, the cleared gradient
    assert all(row["units"] <= 1.1 * row["ideal"] for row in busy)
    assert all(row["units"] <= 2 * row["ideal"] for row in rows if row["shared"] and row["requests"] > 32)


@pytest.mark.parametrize("bug", range(1, 11))
def test_every_barrier_is_needed(watched, bug):
    for order in ORDERS:
        watched.configure(order, 1, check_races=True)
        with watched.without(bug), pytest.raises(EmulationError, match=r"race|nobody wrote|another block|two blocks"):
            run(watched, batch(40 if bug < 5 else 300), max_violation=bug < 5)
