"""The kernels of SGR's and SAF's similarity vectors, emulated: float64, schedules, races, traffic, mutants; and the
operator over them."""

import ctypes

import numpy as np
import pytest
import torch
from emulated_operators import emulated
from emulation import CUDA, ORDERS, EmulationError
from kernels import HERE, NUMBERS, SCHEDULES, check_traffic, devices, raw

from itm_fast import attended_similarity, reference

SOURCES = (CUDA / "attended_vectors.cu", HERE / "exports_attended.cu")
HALF = [torch.bfloat16, torch.float16]
# Images, words, regions, dim, width: two tiles of words and a part of a chunk; two tiles of columns, all warps' width.
SIZES = [(2, 70, 36, 72, 24), (1, 3, 5, 264, 200)]

plain, watched = devices(*SOURCES)


class Contexts(ctypes.Structure):
    """csrc/cuda/attended_vectors.h, AttendedContexts."""

    _fields_ = [
        *[(n, ctypes.c_void_p) for n in ("weights", "regions", "words", "images", "numbers", "vectors")],
        *[(n, ctypes.c_int32) for n in ("n_lists", "length", "n_images", "n_words", "dim", "pitch")],
    ]


def structure(name, *fields):
    return type(name, (ctypes.Structure,), {"_fields_": list(fields)})


def pointers(*names):
    return [(name, ctypes.c_void_p) for name in names]


WIDTH = ("width", ctypes.c_int32)
VectorsArgs = structure("AttendedVectorsArgs", ("of", Contexts), *pointers("weight", "bias", "units", "lengths"), WIDTH)
RowsArgs = structure(
    "AttendedRowsArgs", *pointers("grad", "units", "lengths", "vectors", "rows"), ("n_rows", ctypes.c_int64), WIDTH
)
GradientsArgs = structure(
    "AttendedGradientsArgs", ("of", Contexts), *pointers("rows", "weight", "differences", "squares"), WIDTH
)
WordsArgs = structure(
    "AttendedWordsArgs",
    *pointers("differences", "vectors", "bounds", "sums"),
    ("n_words", ctypes.c_int64),
    ("dim", ctypes.c_int32),
)


def made(n_images, n_words, n_regions, dim, width, dtype):
    """Weights of contexts, regions, words, weight, bias and the vectors' cotangent."""
    generator = torch.Generator().manual_seed(n_words)

    def numbers(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    regions, words = (
        torch.nn.functional.normalize(numbers(*s, dim), dim=-1) for s in ((n_images, n_regions), (n_words,))
    )
    weights = (0.3 * numbers(n_images, n_words, n_regions)).softmax(2) * 2
    of_vectors = numbers(width, dim), 0.1 * numbers(width), numbers(n_images, n_words, width)
    return tuple(x.to(dtype) for x in (weights, regions, words, *of_vectors))


def lists_of(n_lists, length, n_images, n_words, seed=0):
    """Images of lists, words with repetitions, of which some lists have none, and vectors in an order of their own."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, n_images, (n_lists,), generator=generator).sort().values
    numbers = torch.randint(0, n_words, (n_lists, length), generator=generator)
    full = torch.randint(0, length + 1, (n_lists,), generator=generator)
    full[0] = length
    missing = torch.arange(length) >= full[:, None]
    vectors = torch.full((n_lists, length), -1)
    vectors[~missing] = torch.randperm(int(full.sum()), generator=generator)
    return images, numbers.masked_fill(missing, -1), vectors


class Run:
    """The kernels in the order in which the operator launches them; results as tensors of the inputs' type."""

    def __init__(self, device, weights, regions, words, weight, bias, grad, given=(None, None, None)):
        self.device, self.dtype = device, words.dtype
        (n_lists, length, n_regions), (width, dim) = weights.shape, weight.shape
        room = (0, -n_regions % 16)
        held = [torch.nn.functional.pad(x, room).contiguous() for x in (weights, regions.transpose(1, 2))]
        held = [device.array(raw(x)) for x in (*held, words)]
        held += [None if x is None else device.array(x.numpy()) for x in given]
        at = [None if x is None else x.pointer for x in held]
        of = Contexts(*at, n_lists, length, len(regions), len(words), dim, n_regions + room[1])
        n = n_lists * length if given[0] is None else int((given[1] >= 0).sum())
        held += [device.array(raw(x)) for x in (weight, bias, grad.reshape(-1, width)[:n], weight.T.contiguous())]
        at = [x.pointer for x in held[6:]]
        units, rows = self._empty(n, width), self._empty(n_lists, length, width)
        differences, squares = (self._empty(n_lists, length, dim) for _ in range(2))
        lengths = device.empty((n,))
        number = NUMBERS[self.dtype]

        def launch(name, kind, *arguments):
            device.run(name, ctypes.byref(kind(*arguments, width)), number)

        launch("attended_vectors_", VectorsArgs, of, at[0], at[1], units.pointer, lengths.pointer)
        places = None if given[0] is None else held[5].pointer
        launch(
            "attended_rows_", RowsArgs, at[2], units.pointer, lengths.pointer, places, rows.pointer, n_lists * length
        )
        launch("attended_gradients_", GradientsArgs, of, rows.pointer, at[3], differences.pointer, squares.pointer)
        shape = (n_lists, length) if given[0] is None else (n,)
        self.lengths = torch.from_numpy(lengths.numpy()).view(shape)
        self.units, self.rows, self.differences, self.squares = (
            torch.from_numpy(x.numpy()).view(self.dtype) for x in (units, rows, differences, squares)
        )
        self.units = self.units.view(*shape, width)

    def _empty(self, *shape):
        return self.device.empty(shape, np.int16)

    def results(self):
        return self.units, self.lengths, self.rows, self.differences, self.squares


def word_sums(device, differences, vectors, bounds, sums):
    """What `sums` become."""
    held = [device.array(x) for x in (raw(differences), vectors.numpy(), bounds.numpy(), sums.numpy())]
    args = WordsArgs(*(x.pointer for x in held), len(sums), sums.shape[1])
    device.run("attended_words_", ctypes.byref(args), NUMBERS[differences.dtype])
    return torch.from_numpy(held[3].numpy())


def expected(weights, regions, words, weight, bias, grad):
    """In float64; the difference is rounded to the type, as the operator promises, and so is the gradient of y."""
    dtype = words.dtype
    weights, regions, words, weight, bias, grad = (x.double() for x in (weights, regions, words, weight, bias, grad))
    difference = (weights @ regions - words).to(dtype).double()
    vectors = (difference.square().to(dtype).double() @ weight.T + bias).requires_grad_()
    length = torch.linalg.vector_norm(vectors, dim=2)
    units = vectors / (length[..., None] + 1e-8)
    (rows,) = torch.autograd.grad((units * grad).sum(), vectors)
    through = 2 * (rows.to(dtype).double() @ weight) * difference
    return units.detach(), length.detach(), rows, through, difference.square()


def error(found, want):
    return float((found.double() - want).abs().max() / want.abs().max())


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_equals_float64(plain, sizes, dtype):
    plain.configure("random", 1)
    inputs = made(*sizes, dtype)
    results = Run(plain, *inputs).results()
    assert all(result.isfinite().all() for result in results)
    for found, want in zip(results, expected(*inputs), strict=True):
        # Rounded once or twice; a difference may be rounded the other way, by its last bit.
        assert error(found, want) < 2 * torch.finfo(dtype).eps


# Lists, their length, images, words, regions, dim, width: several tiles a list, one, and lists without words.
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("sizes", [(5, 130, 3, 7, 36, 72, 24), (9, 8, 4, 30, 5, 264, 200)], ids=str)
def test_lists_equal_float64(plain, sizes, dtype):
    n_lists, length, n_images, n_words, n_regions, dim, width = sizes
    plain.configure("random", 1)
    weights, _, _, weight, bias, grad = made(n_lists, length, n_regions, dim, width, dtype)
    _, regions, words, *_ = made(n_images, n_words, n_regions, dim, width, dtype)
    images, numbers, vectors = lists_of(n_lists, length, n_images, n_words)
    found = Run(plain, weights, regions, words, weight, bias, grad, (images, numbers, vectors)).results()
    there = numbers >= 0
    of_lists = torch.zeros_like(grad)
    of_lists[there] = grad.reshape(-1, width)[vectors[there]]
    want = expected(weights, regions[images], words[numbers], weight, bias, of_lists)
    for result, exact in zip(found[:2], want[:2], strict=True):
        assert error(result[vectors[there]], exact[there]) < 2 * torch.finfo(dtype).eps
    for result, exact in zip(found[2:], want[2:], strict=True):
        assert not result[~there].any()
        assert error(result[there], exact[there]) < 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(("counts", "dim"), [((3, 0, 70, 1), 264), ((1,), 8)])
def test_sums_of_words_equal_float64(plain, counts, dim, dtype):
    plain.configure("random", 1)
    generator = torch.Generator().manual_seed(dim)
    differences = torch.randn(80, dim, generator=generator).to(dtype)
    vectors = torch.randint(0, 80, (2 + sum(counts),), generator=generator)  # the first two are of no word
    bounds = 2 + torch.nn.functional.pad(torch.tensor(counts).cumsum(0), (1, 0))
    before = torch.randn(len(counts), dim, generator=generator)
    parts = torch.split(differences.double()[vectors[2:]], list(counts))
    want = before.double() - torch.stack([part.sum(0) for part in parts])
    assert error(word_sums(plain, differences, vectors, bounds, before), want) < 1e-6


def test_a_vector_of_length_0_has_no_gradient(plain):
    plain.configure()
    weights, regions, words, weight, bias, grad = made(1, 3, 4, 16, 8, torch.bfloat16)
    weights[0, 1] = words[1] = bias[:] = 0
    run = Run(plain, weights, regions, words, weight, bias, grad)
    assert run.lengths[0, 1] == 0
    assert not run.units[0, 1].any()
    assert not run.rows[0, 1].any()
    assert run.rows[0, 0].any()


def test_every_schedule_gives_the_same_bits(plain):
    inputs, results = made(2, 66, 17, 40, 72, torch.bfloat16), set()
    for order, seed in SCHEDULES[::3]:
        plain.configure(order, seed, resident_blocks=1 + seed % 2)
        results.add(b"".join(raw(result).tobytes() for result in Run(plain, *inputs).results()))
    assert len(results) == 1


@pytest.mark.parametrize("order", ORDERS)
def test_no_races(watched, order):
    watched.configure(order, 5, check_races=True, resident_blocks=2)
    inputs = made(1, 66, 17, 40, 72, torch.float16)
    Run(watched, *inputs)
    weights, _, words, weight, bias, grad = inputs
    regions = torch.randn(3, 17, 40).half()
    Run(watched, weights.view(2, 33, 17), regions, words, weight, bias, grad, lists_of(2, 33, 3, 66))
    word_sums(watched, words, torch.tensor([4, 0, 4, 65]), torch.tensor([0, 3, 3, 4]), torch.zeros(3, 40))


def test_loads_are_whole_sectors_and_banks_are_free(watched):
    watched.configure(traffic=True)
    watched.traffic()
    Run(watched, *made(1, 64, 48, 256, 256, torch.bfloat16))
    rows = watched.traffic()
    watched.configure()
    check_traffic(rows, 1 / 100)
    matrices = [r for r in rows if r["shared"] and not r["write"] and r["bytes"] == 16]
    assert matrices
    assert all(row["units"] == row["ideal"] for row in matrices)


@pytest.mark.parametrize("number", [81, 82, 83, 85, 91, 92, 93, 94])
def test_every_barrier_and_wait_is_needed(watched, number):
    inputs = made(1, 5, 7, 72, 72, torch.bfloat16)
    for order in ORDERS:
        watched.configure(order, 1, check_races=True)
        with watched.without(number), pytest.raises(EmulationError, match=r"race|nobody wrote|not arrived|wait"):
            Run(watched, *inputs)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("is_watched", [False, True])
def test_the_operator_over_them(dtype, is_watched):
    generator = torch.Generator().manual_seed(0)
    regions, words, weight, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((3, 7, 24), (9, 24), (16, 24), (16,))
    )
    regions, words = (torch.nn.functional.normalize(x, dim=-1) for x in (regions, words))
    inputs = [x.to(dtype) for x in (regions, words, weight, 0.1 * bias)]
    grad = torch.randn(3, 9, 16, generator=generator, dtype=torch.float64).to(dtype)

    def results(operator, inputs):
        leaves = [x.clone().requires_grad_() for x in inputs]
        vectors = operator(leaves[0], leaves[1], torch.tensor([4, 5]), *leaves[2:])
        vectors.backward(grad.to(vectors.dtype))
        return vectors.detach(), *(x.grad for x in leaves)

    want = results(reference.attended_similarity, [x.double() for x in inputs])
    with emulated(watched=is_watched):
        found = results(attended_similarity, inputs)
    for result, exact in zip(found, want, strict=True):
        assert result.dtype == dtype
        assert error(result, exact) < 12 * torch.finfo(dtype).eps  # as of the batched products
