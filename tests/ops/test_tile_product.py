"""Tile products of every kind against float64: all sizes of a tile, all its edges."""

import pytest
import torch
from tile_products import ask_for_brgemm

from itm_fast.ops import _library

_library.load()
SUM_RUN = 128  # csrc/cpu/gemm.h: numbers that are summed from zero
DTYPES = (torch.float32, torch.float64, torch.bfloat16)


@pytest.fixture(params=["own", "brgemm"])
def kind(request, monkeypatch):
    if request.param == "brgemm":
        ask_for_brgemm(monkeypatch)
    else:
        monkeypatch.setenv("ITM_FAST_GEMM", request.param)
    return request.param


def operands(m, n, k, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(size, k, generator=generator, dtype=torch.float64).to(dtype) for size in (m, n))


def bound(rows, columns):
    """Of rounding at each addition of a run, of the sum over runs, and of the result."""
    eps = torch.finfo(torch.float64 if rows.dtype == torch.float64 else torch.float32).eps
    k = rows.shape[1]
    run = k if rows.dtype in (torch.bfloat16, torch.float64) else min(SUM_RUN, k)
    n_additions = run + (k + run - 1) // run + 2
    return n_additions * eps * (rows.double().abs() @ columns.double().abs().T)


def check(m, n, k, dtype):
    rows, columns = operands(m, n, k, dtype)
    out = torch.ops.itm_fast.tile_product(rows, columns)
    assert out.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    error = (out.double() - rows.double() @ columns.double().T).abs()
    assert (error <= bound(rows, columns)).all(), (m, n, k, dtype, float(error.max()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_number_of_rows_and_columns(kind, dtype):
    for m in range(1, 27):
        check(m, 33, 7, dtype)
    for n in range(1, 70):
        check(7, n, 5, dtype)
    for n in (127, 128, 129, 200):
        check(13, n, 64, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sums_of_every_length(kind, dtype):
    for k in (1, 2, 3, 15, 16, 17, 127, 128, 129, 255, 256, 257, 1000, 1024, 1025):
        check(25, 37, k, dtype)


def test_tiles_of_the_engine(kind):
    for m, n, k in ((36, 64, 128), (72, 512, 256), (144, 256, 1024)):
        check(m, n, k, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_products_that_are_made_in_parts(kind, dtype):
    for m, n, k in ((145, 257, 33), (290, 273, 260), (577, 40, 129), (5, 540, 130)):
        check(m, n, k, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_number_does_not_depend_on_its_tile(dtype, monkeypatch):
    monkeypatch.setenv("ITM_FAST_GEMM", "own")
    rows, columns = operands(31, 77, 300, dtype)
    whole = torch.ops.itm_fast.tile_product(rows, columns)
    for first, n in ((0, 1), (3, 5), (16, 61), (76, 1)):
        part = torch.ops.itm_fast.tile_product(rows[first % 7 :], columns[first : first + n])
        assert torch.equal(part, whole[first % 7 :, first : first + n])


def test_nan_and_infinity_stay_where_they_are(kind):
    rows, columns = operands(9, 40, 130, torch.float32)
    rows[4, 129], columns[39, 0] = float("nan"), float("inf")
    out = torch.ops.itm_fast.tile_product(rows, columns)
    odd = ~out.isfinite()
    assert odd[4].all()
    assert odd[:, 39].all()
    assert int(odd.sum()) == 9 + 40 - 1


def test_what_is_wrong_is_said():
    multiply = torch.ops.itm_fast.tile_product
    with pytest.raises(ValueError, match=r"got \[2, 3\] and \[2, 4\]"):
        multiply(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(ValueError, match="none of them empty"):
        multiply(torch.ones(2, 0), torch.ones(2, 0))
    with pytest.raises(TypeError, match=r"rows are Float, columns Double"):
        multiply(torch.ones(2, 3), torch.ones(2, 3).double())
