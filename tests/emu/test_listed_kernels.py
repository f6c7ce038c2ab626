"""The kernel of products and sums of listed matrices, emulated: float64, schedules, races, traffic, mutants."""

import ctypes
import itertools

import numpy as np
import pytest
import torch
from emulation import CUDA, ORDERS, EmulationError
from kernels import HERE, SCHEDULES, check_traffic, devices, raw
from similarity_kernels import INT, LONG, POINTER, PRODUCTS, TF32, structure

plain, watched = devices(CUDA / "listed_products.cu", HERE / "exports_listed.cu")

Side = structure("ListedSide", (POINTER, "data numbers"), (LONG, "n"), (INT, "rows"))
Args = structure("ListedArgs", (Side, "left right"), (POINTER, "bounds scale out"), (INT, "n_lists length dim"))
TYPES = [torch.float32, torch.bfloat16, torch.float16]
BOUND = 3e-6  # of up to 1,600 summands in float32
TOO_MANY = 2**40  # a number that 32 bits would make 0


def matrices(n, rows, dim, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed + 100 * n + rows)
    return torch.nn.functional.normalize(torch.randn(n, rows, dim, generator=generator), dim=-1).to(dtype)


def random_numbers(n, *shape, seed=0):
    """Numbers with repetitions, some of them of no matrix."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(-1, n, shape, generator=generator)
    numbers.view(-1)[0] = 0
    numbers.view(-1)[1:4] = torch.tensor([n, TOO_MANY, -TOO_MANY])[: numbers.numel() - 1]
    return numbers


class Run:
    """Launches the kernel, and holds what it reads."""

    def __init__(self, device):
        self.device, self.held = device, []

    def side(self, of, numbers):
        return Side(self._held(raw(of.contiguous())), self.numbers(numbers), *of.shape[:2])

    def products(self, left, right, owners, places, product=None):
        n_lists, length = places.shape
        out = self.device.empty((n_lists, left.shape[1], length, right.shape[1]))
        sides = self.side(left, owners), self.side(right, places)
        self.launch(Args(*sides, None, None, out.pointer, n_lists, length, left.shape[2]), left.dtype, product)
        return torch.from_numpy(out.numpy())

    def sums(self, sums, left, right, left_numbers, right_numbers, bounds, scale=None):
        out = self.device.array(sums.numpy())
        sides = self.side(left, left_numbers), self.side(right, right_numbers)
        by = None if scale is None else self._held(np.array([scale], np.float32))
        args = Args(*sides, self.numbers(bounds), by, out.pointer, len(sums), 1, left.shape[2])
        self.launch(args, left.dtype)
        return torch.from_numpy(out.numpy())

    def launch(self, args, dtype, product=None):
        self.device.run("multiply_lists_", ctypes.byref(args), PRODUCTS[dtype] if product is None else product)

    def numbers(self, numbers):
        return None if numbers is None else self._held(numbers.numpy())

    def _held(self, content):
        self.held.append(self.device.array(content))
        return self.held[-1].pointer


def found_at(of, numbers):
    """Matrices (..., rows, dim) in float64 by number, zeros where there is none."""
    there = (numbers >= 0) & (numbers < len(of))
    return of.double()[torch.where(there, numbers, 0)] * there[..., None, None]


def expected_products(left, right, owners, places):
    return torch.einsum("lad,lkbd->lakb", found_at(left, owners), found_at(right, places))


def expected_sums(sums, left, right, left_numbers, right_numbers, bounds, scale=1.0):
    some = left.double() if left_numbers is None else found_at(left, left_numbers)
    steps = torch.einsum("sad,sbd->sab", some, found_at(right, right_numbers)) / scale
    parts = [steps[first:end].sum(0) for first, end in itertools.pairwise(bounds.tolist())]
    return sums.double() + torch.stack(parts)


def error(found, want):
    return float((found.double() - want).abs().max() / want.abs().max().clamp(min=1e-3))


# Lists, rows, length, members, rows, dim: one of each; rows and columns in several tiles; dims in parts of a stage.
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 1, 1, 8), (3, 36, 9, 7, 12, 40), (2, 197, 3, 4, 70, 24), (5, 9, 70, 6, 3, 72)], ids=str
)
def test_products_equal_float64(plain, sizes, dtype):
    n_lists, rows, length, n_members, columns, dim = sizes
    plain.configure("random", 1)
    left = matrices(4, rows, dim, dtype)
    right = matrices(n_members, columns, dim, dtype, seed=1)
    owners = random_numbers(4, n_lists, seed=2)
    places = random_numbers(n_members, n_lists, length)
    want = expected_products(left, right, owners, places)
    assert error(Run(plain).products(left, right, owners, places), want) < BOUND
    if dtype == torch.float32:
        assert error(Run(plain).products(left, right, owners, places, TF32), want) < 2e-3


def bounds_of(counts, first=0):
    return first + torch.nn.functional.pad(torch.tensor(counts).cumsum(0), (1, 0))


# Steps of each list; matrices on the left, rows, on the right, rows; dim.
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("counts", "sizes"),
    [
        ((1,), (1, 1, 1, 1, 8)),
        ((3, 0, 5, 1), (6, 36, 5, 140, 24)),
        ((2, 40), (9, 150, 3, 20, 40)),
        ((0, 7), (3, 5, 2, 9, 8)),
    ],
    ids=str,
)
@pytest.mark.parametrize("by_number", [False, True])
def test_sums_equal_float64(plain, counts, sizes, dtype, by_number):
    n_left, rows, n_right, columns, dim = sizes
    plain.configure("random", 1)
    left = matrices(n_left if by_number else sum(counts), rows, dim, dtype)
    right = matrices(n_right, columns, dim, dtype, seed=1)
    given = torch.randn(len(counts), rows, columns, generator=torch.Generator().manual_seed(3))
    left_numbers = random_numbers(n_left, sum(counts), seed=2) if by_number else None
    inputs = (left, right, left_numbers, random_numbers(n_right, sum(counts)), bounds_of(counts))
    assert error(Run(plain).sums(given, *inputs), expected_sums(given, *inputs)) < BOUND
    found = Run(plain).sums(torch.zeros_like(given), *inputs, scale=0.25)
    assert error(found, expected_sums(torch.zeros_like(given), *inputs, scale=0.25)) < BOUND


def test_a_list_without_steps_is_left_alone(watched):
    watched.configure(check_races=True)
    run, nobody_wrote = Run(watched), watched.empty((2, 3, 4))
    sides = run.side(matrices(1, 3, 8), None), run.side(matrices(1, 4, 8), torch.tensor([0]))
    run.launch(Args(*sides, run.numbers(bounds_of((0, 0))), None, nobody_wrote.pointer, 2, 1, 8), torch.float32)


def test_steps_before_the_first_list_do_not_count(plain):
    plain.configure()
    left, right, numbers, bounds = (
        matrices(4, 3, 8),
        matrices(1, 4, 8),
        torch.zeros(4).long(),
        bounds_of((1, 1), first=2),
    )
    left[:2] = torch.nan
    found = Run(plain).sums(torch.zeros(2, 3, 4), left, right, None, numbers, bounds)
    assert error(found, expected_sums(torch.zeros(2, 3, 4), left, right, None, numbers, bounds)) < BOUND


def test_nan_of_a_member_stays_in_its_place(plain):
    plain.configure()
    left, right = matrices(2, 5, 16), matrices(3, 4, 16)
    right[1, 2] = torch.nan
    found = Run(plain).products(left, right, torch.tensor([0, 1]), torch.tensor([[0, 1, 2], [1, -1, 0]]))
    hit = torch.zeros(found.shape, dtype=torch.bool)
    hit[0, :, 1, 2] = hit[1, :, 0, 2] = True
    assert torch.equal(found.isnan(), hit)


def both(device, dtype):
    """Products and sums of several tiles: the bytes of both."""
    left, right = matrices(3, 140, 24, dtype), matrices(5, 50, 24, dtype, seed=1)
    run = Run(device)
    products = run.products(left, right, torch.tensor([2, 0, 1]), random_numbers(5, 3, 4))
    numbers = random_numbers(3, 9, seed=1), random_numbers(5, 9, seed=2)
    sums = run.sums(torch.zeros(3, 140, 50), left, right, *numbers, bounds_of((4, 0, 5)))
    return products.numpy().tobytes() + sums.numpy().tobytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_schedule_gives_the_same_bits(plain, dtype):
    results = set()
    for order, seed in SCHEDULES[::3]:
        plain.configure(order, seed, resident_blocks=1 + seed % 2)
        results.add(both(plain, dtype))
    assert len(results) == 1


@pytest.mark.parametrize("order", ORDERS)
def test_no_races(watched, order):
    watched.configure(order, 5, check_races=True, resident_blocks=2)
    for dtype in (torch.float32, torch.float16):
        both(watched, dtype)


def test_loads_are_whole_sectors_and_banks_are_free(watched):
    watched.configure(traffic=True)
    watched.traffic()
    left, right = matrices(2, 64, 256, torch.bfloat16), matrices(4, 32, 256, torch.bfloat16)
    Run(watched).products(left, right, torch.tensor([0, 1]), torch.tensor([[0, 3, 2, 1], [3, 3, 1, 0]]))
    rows = watched.traffic()
    watched.configure()
    check_traffic(rows, 1 / 100)
    matrices_read = [r for r in rows if r["shared"] and not r["write"] and r["bytes"] == 16]
    assert matrices_read
    assert all(row["units"] == row["ideal"] for row in matrices_read)


@pytest.mark.parametrize("number", [31, 32, 33, 121])
def test_every_barrier_and_wait_is_needed(watched, number):
    for order in ORDERS:
        watched.configure(order, 1, check_races=True)
        with watched.without(number), pytest.raises(EmulationError, match=r"race|nobody wrote|not arrived|wait"):
            both(watched, torch.float32)
