"""The kernels of the semantic margin loss, emulated: the reference, the CPU's operator, golden vectors, schedules."""

import ctypes
import math

import numpy as np
import pytest
import torch
from emulation import CUDA, ORDERS, EmulationError
from golden_files import golden
from kernels import HERE, NUMBERS, SCHEDULES, devices, raw

import itm_fast.ops.semantic_margin  # noqa: F401  the CPU's operator
from itm_fast import reference

SOURCES = (CUDA / "semantic_margin.cu", HERE / "exports_semantic_margin.cu")
VARIANTS = {"fixed": 0, "literal": 1, "released": 2}
SAMPLINGS = {"hardest": 0, "easiest": 1, "random": 2, "soft": 3, "hard": 4, "given": 5}
WAYS = [
    *[("fixed", sampling) for sampling in ("hardest", "easiest", "random", "all")],
    *[("literal", sampling) for sampling in ("hardest", "easiest", "random")],
    *[("released", sampling) for sampling in ("soft", "hard", "random")],
]
KERNELS = [("fixed", "hardest"), ("released", "soft"), ("literal", "random"), ("fixed", "all")]  # each once
NAN = float("nan")


class Args(ctypes.Structure):
    """csrc/cuda/semantic_margin.h, SemanticMarginArgs."""

    _fields_ = [
        *[(n, ctypes.c_void_p) for n in ("sims", "relevance", "image_ids", "given", "uniform", "chosen", "grad")],
        *[(n, ctypes.c_void_p) for n in ("loss", "numbers", "found", "counts", "finished")],
        *[(n, ctypes.c_int64) for n in ("down", "across")],
        *[(n, ctypes.c_double) for n in ("temperature", "margin_max", "margin_min", "divisor")],
        *[(n, ctypes.c_int32) for n in ("n", "relevance_is_double", "relevance_of_pairs", "column")],
        *[(n, ctypes.c_int32) for n in ("variant", "sampling")],
    ]


plain, watched = devices(*SOURCES)


def run(device, sims, relevance, image_ids=None, given=None, uniform=None, **options):
    """What torch.ops.itm_fast.semantic_margin_loss returns: loss, negatives, gradient."""
    n, dtype = len(sims), sims.dtype
    variant, sampling = options.get("variant", "fixed"), options.get("sampling", "hardest")
    wide = np.float64 if dtype == torch.float64 else np.float32
    inputs = {"sims": raw(sims.contiguous()), "relevance": relevance.contiguous().numpy()}
    inputs |= {"counts": np.zeros(n, np.int32), "finished": np.zeros(1, np.uint32)}
    optional = {"image_ids": None if variant == "released" else image_ids, "given": given, "uniform": uniform}
    inputs |= {name: tensor.contiguous().numpy() for name, tensor in optional.items() if tensor is not None}
    arrays = {name: device.array(array) for name, array in inputs.items()}
    arrays["chosen"] = device.empty((2, n), np.int64)
    arrays["numbers"], arrays["found"] = device.empty((5, n), np.float64), device.empty((4, n), np.int32)
    arrays["grad"], arrays["loss"] = device.empty((n, n), raw(sims).dtype), device.empty(1, wide)
    bounds = options.get("margin_max", 1.0), options.get("margin_min")
    args = Args(
        **{name: array.pointer for name, array in arrays.items()},
        down=relevance.shape[1],
        across=1,
        temperature=options.get("temperature", 10.0),
        margin_max=math.inf if bounds[0] is None else bounds[0],
        margin_min=-math.inf if bounds[1] is None else bounds[1],
        divisor=n if options.get("mean") else 1,
        n=n,
        relevance_is_double=relevance.dtype == torch.float64,
        relevance_of_pairs=options.get("of_pairs", False),
        column=options.get("column", False),
        variant=VARIANTS[variant],
        sampling=SAMPLINGS["given" if given is not None else "hardest" if sampling == "all" else sampling],
    )
    launcher = "semantic_margin_all" if sampling == "all" and given is None else "semantic_margin_chosen"
    device.run(launcher, ctypes.byref(args), NUMBERS[dtype])
    assert arrays["finished"].numpy()[0] == 0  # ready for the next launch
    assert (arrays["counts"].numpy() == 0).all()
    grad = torch.from_numpy(arrays["grad"].numpy())
    chosen = torch.empty(2, 0, dtype=torch.int64) if launcher.endswith("all") else arrays["chosen"].numpy()
    return (
        torch.from_numpy(arrays["loss"].numpy())[0],
        torch.as_tensor(chosen),
        grad.view(dtype) if grad.dtype != dtype else grad,
    )


def on_cpu(sims, relevance, image_ids=None, given=None, uniform=None, **options):
    """The same from the CPU's operator."""
    return torch.ops.itm_fast.semantic_margin_loss.default(
        sims,
        relevance,
        options.get("of_pairs", False),
        image_ids,
        given,
        uniform,
        options.get("temperature", 10.0),
        options.get("sampling", "hardest"),
        options.get("variant", "fixed"),
        options.get("margin_max", 1.0),
        options.get("margin_min"),
        options.get("column", False),
        options.get("mean", False),
    )


def compare(device, *operands, **options):
    found, want = run(device, *operands, **options), on_cpu(*operands, **options)
    # Sums in float64 of the very same hinges, then one rounding.
    eps = torch.finfo(want[0].dtype).eps
    torch.testing.assert_close(found[0], want[0], rtol=eps + len(operands[0]) ** 2 * 2**-52, atol=0, equal_nan=True)
    assert torch.equal(found[1], want[1])
    # The quotient is rounded to the type of the scores: once here, twice by the CPU.
    torch.testing.assert_close(found[2], want[2], rtol=torch.finfo(found[2].dtype).eps, atol=0)
    return found


def batch(n, dtype=torch.float32, seed=0, levels=0):
    """Scores, relevance, image ids, uniform numbers."""
    generator = torch.Generator().manual_seed(1000 * seed + n)
    sims = torch.randn(n, n, generator=generator)
    relevance = 10 * torch.rand(n, n, generator=generator, dtype=torch.float64)
    if levels:
        sims, relevance = (sims * 2).round() / levels, (relevance / 2).round() / 4
    ids = torch.randint(0, max(1, n // 2), (n,), generator=generator)
    return sims.to(dtype), relevance, ids, torch.rand(2, n, generator=generator, dtype=torch.float64)


def drawn(sampling, uniform):
    return {"uniform": uniform} if sampling == "random" else {}


@pytest.mark.parametrize(("variant", "sampling"), WAYS)
@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 31, 32, 33, 65, 260])
def test_equals_the_cpu(plain, n, variant, sampling):
    plain.configure("random", n)
    for dtype in NUMBERS:
        sims, relevance, ids, uniform = batch(n, dtype)
        options = {"variant": variant, "sampling": sampling, "temperature": 3.0, **drawn(sampling, uniform)}
        compare(plain, sims, relevance, **options)
        if dtype in (torch.float64, torch.bfloat16):
            compare(plain, sims, relevance.float(), ids, **options, mean=True, margin_max=None, margin_min=-0.1)
        if variant == "fixed" and dtype == torch.float32:
            compare(plain, sims, relevance, ids, **options, column=True)


@pytest.mark.parametrize(("variant", "sampling"), WAYS)
def test_ties_and_hinges_of_zero(plain, variant, sampling):
    for seed in range(4):
        plain.configure("random", seed)
        sims, relevance, ids, uniform = batch(40, seed=seed, levels=2)
        options = {"variant": variant, "sampling": sampling, "temperature": 2.0, **drawn(sampling, uniform)}
        compare(plain, sims, relevance, ids, **options)
        if sampling == "random":
            continue
        wide, graph = sims.double(), sims.double().clone().requires_grad_()
        want = reference.semantic_margin_loss(
            graph, relevance, variant=variant, sampling=sampling, temperature=2.0, image_ids=ids
        )
        want.backward()
        loss, _, grad = run(plain, wide, relevance, ids, **options)
        assert loss.item() == pytest.approx(want.item(), rel=1e-12)
        assert torch.equal(grad, graph.grad)


@pytest.mark.parametrize("name", ["sam_B8_seed101", "sam_B32_seed112"])
def test_golden_vectors(plain, name):
    arrays = golden(f"{name}.npz")
    images, captions, phi = (torch.from_numpy(arrays[side]).double() for side in ("im", "s", "phi"))
    plain.configure("random", 1)
    for sampling in ("soft", "hard", "random"):
        for temperature in (3, 5, 10):
            case = f"released_{sampling}_tau{temperature}"
            given = torch.stack([torch.from_numpy(arrays[f"{case}_idx{k}"]) for k in (0, 1)])
            options = {"variant": "released", "temperature": temperature}
            loss, _, grad = run(plain, images @ captions.T, phi, given=given, **options)
            assert loss.item() == pytest.approx(float(arrays[f"{case}_loss"]), rel=1e-12, abs=1e-12)
            assert np.array_equal(grad.numpy(), arrays[f"{case}_dS"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_given_negatives_and_the_relevance_of_pairs(plain, variant):
    plain.configure("random", 5)
    sims, relevance, _, _ = batch(40)
    given = torch.randint(-1, 40, (2, 40), generator=torch.Generator().manual_seed(1))  # also the pair itself
    compare(plain, sims, relevance, given=given, variant=variant)
    compare(plain, sims, relevance[:3], given=given, variant=variant, of_pairs=True)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("bad", [-2, 40, 2**62, -(2**62)])
def test_a_given_negative_out_of_range_makes_the_loss_nan(watched, variant, bad):
    watched.configure(check_races=True)
    sims, relevance, _, _ = batch(40)
    for side in (0, 1):
        given = (torch.arange(40) + 1).remainder(40).repeat(2, 1)
        given[side, 7] = bad
        loss, chosen, grad = run(watched, sims, relevance, given=given, variant=variant)
        assert loss.isnan()
        assert torch.equal(chosen, given)
        assert grad.isfinite().all()


def test_nan_and_infinity(plain):
    plain.configure("random", 2)
    for place, value in [((3, 5), NAN), ((4, 4), NAN), ((39, 0), NAN), ((7, 8), math.inf), ((0, 1), -math.inf)]:
        sims, relevance, _, _ = batch(40)
        sims[place] = value
        for variant, sampling in WAYS:
            if sampling != "random":
                compare(plain, sims, relevance, variant=variant, sampling=sampling)
    sims, relevance, _, _ = batch(40)
    relevance[::3] = NAN  # a margin that is no number is not brought into its bounds
    for variant, sampling in WAYS:
        if sampling != "random":
            compare(plain, sims, relevance, variant=variant, sampling=sampling, margin_min=-0.25)
    sims, relevance, _, _ = batch(5)
    for value in (-math.inf, math.inf, NAN):  # all equally bad: the first
        sims.fill_(value)
        for sampling in ("hardest", "easiest"):
            compare(plain, sims, relevance, sampling=sampling)


def test_random_draws_outside_their_range_stay_in_the_batch(plain):
    plain.configure()
    sims, relevance, ids, _ = batch(3)
    uniform = torch.tensor([[NAN, -1.0, 1.0], [math.inf, 1e300, -math.inf]], dtype=torch.float64)
    for image_ids in (None, torch.arange(3), torch.tensor([1, 1, 2]), torch.zeros(3, dtype=torch.int64)):
        compare(plain, sims, relevance, image_ids, uniform=uniform, sampling="random")
    assert run(plain, sims, relevance, uniform=uniform, sampling="random")[1].tolist() == [[1, 0, 1], [2, 2, 0]]
    assert len(ids) == 3


@pytest.mark.parametrize(("variant", "sampling"), KERNELS)
@pytest.mark.parametrize("n", [9, 40])
def test_every_schedule_gives_the_same_bits(plain, n, variant, sampling):
    results = set()
    sims, relevance, ids, uniform = batch(n)
    for order, seed in SCHEDULES:
        plain.configure(order, seed, resident_blocks=1 + seed % 4)
        options = {"variant": variant, "sampling": sampling, **drawn(sampling, uniform)}
        loss, _, grad = run(plain, sims, relevance, ids, **options)
        results.add((loss.item(), grad.numpy().tobytes()))
    assert len(results) == 1


@pytest.mark.parametrize("order", ORDERS)
def test_no_races(watched, order):
    for variant, sampling in KERNELS:
        watched.configure(order, 1, check_races=True, resident_blocks=2)
        sims, relevance, ids, uniform = batch(40)
        compare(watched, sims, relevance, ids, variant=variant, sampling=sampling, **drawn(sampling, uniform))


@pytest.mark.parametrize(("variant", "sampling"), KERNELS)
def test_matrices_are_read_in_whole_lines(watched, variant, sampling):
    sims, relevance, ids, uniform = batch(128)
    options = {"variant": variant, "sampling": sampling, **drawn(sampling, uniform)}
    watched.configure(traffic=True)
    watched.traffic()
    run(watched, sims, relevance.float(), ids, **options)
    rows = watched.traffic()
    watched.configure()
    text = (CUDA / "semantic_margin.cu").read_text(encoding="utf-8").splitlines()

    def on_the_diagonal(row):  # one number of a line, but only n of them: they stay in the cache
        place, _, number = row["line"].partition(":")
        return place == "semantic_margin.cu" and "(n + 1)" in text[int(number.split(" ")[0]) - 1]

    busy = [row for row in rows if row["requests"] >= 128 * 128 / 32 and not on_the_diagonal(row)]
    assert len(busy) >= (1 if sampling == "random" else 2)
    shared = [row for row in busy if row["shared"]]
    assert all(row["units"] <= 1.1 * row["ideal"] for row in busy if not row["shared"])
    assert all(row["units"] <= 2 * row["ideal"] for row in shared)
    assert shared or sampling != "all"


# Of each choice: its barriers, those of the block that finishes last among them.
BARRIERS = [(1, 2, 3, 4), (2, 3, 4), (2, 3, 4), (5, 6, 7, 8, 9)]


@pytest.mark.parametrize(("kernel", "bug"), [(i, bug) for i, bugs in enumerate(BARRIERS) for bug in bugs])
def test_every_barrier_is_needed(watched, kernel, bug):
    variant, sampling = KERNELS[kernel]
    sims, relevance, ids, uniform = batch(300 if sampling == "all" else 40)
    for order in ORDERS:
        watched.configure(order, 1, check_races=True)
        with watched.without(bug), pytest.raises(EmulationError, match=r"race|nobody wrote|another block|two blocks"):
            run(watched, sims, relevance, ids, variant=variant, sampling=sampling, **drawn(sampling, uniform))
