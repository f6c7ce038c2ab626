"""max_similarity's kernels for contexts of any size, emulated: reference, schedules, races, traffic, mutants."""

import pytest
import torch
from emulation import ORDERS, EmulationError
from kernels import SCHEDULES, check_traffic, devices, raw
from similarity_kernels import AGGREGATIONS, SOURCES, TF32, Largest, score_by_tiles
from test_similarity_kernels import SCORE_BOUND, WITHOUT, cotangent_of, error, expected, operands

plain, watched = devices(*SOURCES)

# Gradients are sums in float32, rounded once to the input's type.
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 2**-8, torch.float16: 2**-11 + 1e-5}


def all_of(device, *batch, contexts_at_a_time=None, **flags):
    """Scores and both gradients."""
    largest = Largest(device, *batch, **flags)
    scores = largest.scores()
    return scores, *largest.gradients(cotangent_of(scores), contexts_at_a_time=contexts_at_a_time)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1, 8),
        (3, 300, 2, 9, 24),  # three steps of 128 rows, the last one of 44
        (2, 257, 3, 140, 8),  # one row left; columns from several query groups
        (40, 3, 10, 5, 136),  # small contexts share a step
        (2, 128, 2, 128, 16),
    ],
)
def test_scores_and_gradients_equal_the_reference(plain, shape, dtype):
    batch = operands(*shape, dtype)
    plain.configure("random", 1)
    flags = {"agg_func": "LogSumExp", "lambda_lse": 6.0}
    got = all_of(plain, *batch, contexts_at_a_time=2, **flags)
    for result, want, bound in zip(
        got, expected(*batch, attends=False, **flags), (SCORE_BOUND, BOUNDS[dtype], BOUNDS[dtype]), strict=True
    ):
        assert error(result, want) < bound


@pytest.mark.parametrize("agg_func", AGGREGATIONS)
def test_every_aggregation(plain, agg_func):
    batch = operands(3, 150, 6, 19, 24)
    plain.configure("warp-random", 2)
    flags = {"agg_func": agg_func, "lambda_lse": 10.0}
    for result, want in zip(all_of(plain, *batch, **flags), expected(*batch, attends=False, **flags), strict=True):
        assert error(result, want) < 1e-5


def test_scores_are_those_of_the_tiles_to_the_last_bit(plain):
    # The backward pass of what tiles scored finds the largest similarities again: it must find the same.
    for shape in ((3, 36, 9, 12, 64), (5, 17, 4, 50, 72)):
        batch = operands(*shape)
        plain.configure()
        for product in (None, TF32):
            tiles = score_by_tiles(plain, *batch, attends=False, product=product)
            assert torch.equal(Largest(plain, *batch, product=product).scores(), tiles)


def test_ties_go_to_the_first_row_and_nan_wins(plain):
    plain.configure("random", 3)
    context = torch.zeros(2, 300, 8)
    context[0, [40, 170, 290], 0] = 1.0  # in other parts and steps
    context[1, [33, 250]] = torch.nan
    context[1, 0, 0] = 5.0
    query = torch.zeros(1, 1, 8)
    query[0, 0, 0] = 1.0
    largest = Largest(plain, context, None, query, None)
    assert largest.rows.numpy()[:, 0].tolist() == [40, 33]
    assert largest.largest.numpy()[0, 0] == 1.0
    assert largest.scores().isnan().tolist() == [[False], [True]]


@pytest.mark.parametrize("rows_of_context", [9, 200])
def test_counts_out_of_range_are_nan_and_harm_nobody(plain, rows_of_context):
    plain.configure()
    context, rows, query, columns = operands(4, rows_of_context, 5, 7, 16)
    rows[1], columns[3], columns[4] = 0, 8, -(2**40)
    largest = Largest(plain, context, rows, query, columns, agg_func="Sum")
    want = expected(context, rows.clamp(1), query, columns.clamp(1, 7), attends=False, agg_func="Sum")[0]
    want[1, :] = want[:, 3:] = torch.nan
    torch.testing.assert_close(largest.scores().double(), want, rtol=0, atol=2e-6, equal_nan=True)
    gradients = largest.gradients(torch.ones(4, 5))
    assert not any(gradient.isnan().any() for gradient in gradients)
    assert (gradients[0][1] == 0).all()
    assert (gradients[1][3:] == 0).all()
    assert (gradients[0][torch.arange(rows_of_context) >= rows[:, None]] == 0).all()


CASES = [
    ((2, 150, 3, 50, 40), torch.float32),
    ((9, 12, 3, 50, 16), torch.bfloat16),
    ((2, 140, 2, 9, 24), torch.float16),
]


@pytest.mark.parametrize(("shape", "dtype"), CASES)
def test_every_schedule_gives_the_same_bits(plain, shape, dtype):
    results = set()
    for order, seed in SCHEDULES:
        plain.configure(order, seed, resident_blocks=1 + seed % 3)
        found = all_of(plain, *operands(*shape, dtype), agg_func="LogSumExp", lambda_lse=6.0)
        results.add(b"".join(raw(result.contiguous()).tobytes() for result in found))
    assert len(results) == 1


@pytest.mark.parametrize("order", ORDERS)
def test_no_races(watched, order):
    watched.configure(order, 5, check_races=True, resident_blocks=2)
    for shape, dtype in CASES:
        all_of(watched, *operands(*shape, dtype), contexts_at_a_time=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loads_are_whole_sectors_and_banks_are_free(watched, dtype):
    batch = operands(2, 180, 4, 64, 128, dtype)
    watched.configure(traffic=True)
    watched.traffic()
    all_of(watched, *batch)
    rows = watched.traffic()
    watched.configure()
    check_traffic(rows, 1 / 200)
    matrices = [r for r in rows if r["line"].startswith("tile_product") and r["shared"] and not r["write"]]
    assert all(row["units"] == row["ideal"] for row in matrices if row["bytes"] == 16)
    wide = 16 if dtype == torch.float32 else 8
    vectors = [r for r in rows if r["line"].startswith("gather") and not r["shared"] and r["bytes"] == wide]
    assert sum(row["requests"] for row in vectors) > 100
    assert all(row["units"] == row["ideal"] for row in vectors)


# A context of several steps, a block with several tiles, more query vectors than are staged at a time, more contexts
# than that.
BARRIERS = {(1, 260, 1, 20): (61, 62, 63, 64), (2, 140, 1, 20): (65,), (1, 5, 3, 90): (71, 72), (40, 3, 1, 3): (73, 74)}


@pytest.mark.parametrize(("shape", "number"), [(shape, bug) for shape, bugs in BARRIERS.items() for bug in bugs])
def test_every_barrier_is_needed(watched, shape, number):
    n_contexts, rows, n_queries, columns = shape
    batch = torch.randn(n_contexts, rows, 8), None, torch.randn(n_queries, columns, 8), None
    for order in ORDERS:
        watched.configure(order, 1, check_races=True)
        with watched.without(number), pytest.raises(EmulationError, match=WITHOUT):
            all_of(watched, *batch)
