"""The similarities' kernels, emulated: the reference, schedules, races, traffic, mutants.

The golden vectors and every option together with the host's side of the operators are in tests/ops.
"""

import math

import numpy as np
import pytest
import torch
from emulation import ORDERS, EmulationError
from kernels import SCHEDULES, check_traffic, devices, raw
from similarity_kernels import (
    AGGREGATIONS,
    FEATURE_NORMS,
    SOURCES,
    TF32,
    Batch,
    Chunk,
    score_by_tiles,
)

from itm_fast import reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


plain, watched = devices(*SOURCES)


def vectors(n_groups, longest, dim, dtype=torch.float32, seed=0):
    """Unit vectors and counts; NaN beyond every count: whoever reads the padding is found out."""
    generator = torch.Generator().manual_seed(seed + 100 * n_groups + longest)
    x = torch.nn.functional.normalize(torch.randn(n_groups, longest, dim, generator=generator).double(), dim=-1)
    counts = torch.randint(1, longest + 1, (n_groups,), generator=generator)
    counts[0] = longest
    x[torch.arange(longest)[None, :] >= counts[:, None]] = torch.nan
    return x.to(dtype), counts


def operands(n_contexts, rows, n_queries, columns, dim, dtype=torch.float32):
    return *vectors(n_contexts, rows, dim, dtype), *vectors(n_queries, columns, dim, dtype, seed=1)


def expected(context, context_counts, query, query_counts, *, attends=True, **flags):
    """Scores (n_contexts, n_queries) and the gradients of their sum under `cotangent`, in float64."""
    context, query = (torch.nan_to_num(x.double()).requires_grad_() for x in (context, query))
    operator = reference.cross_attention_similarity if attends else reference.max_similarity
    scores = operator(context, query, query_counts, context_counts, cross_attn="t2i", **flags)
    cotangent = cotangent_of(scores)
    return scores.detach(), *torch.autograd.grad((scores * cotangent).sum(), (context, query))


def cotangent_of(scores):
    generator = torch.Generator().manual_seed(7)
    return torch.randn(scores.shape, generator=generator, dtype=torch.float64)


def error(got, want):
    """Largest error relative to the largest number."""
    return float((got.double() - want).abs().max() / want.abs().max().clamp(min=1e-3))


# float32 products of unit vectors are off by 2^-24 a sum of 32, weights by a few roundings times lambda.
SCORE_BOUND = 2e-6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1, 16),
        (3, 36, 9, 12, 64),
        (5, 17, 4, 50, 72),
        (2, 128, 2, 128, 8),
        (40, 3, 20, 2, 200),
        (3, 100, 2, 5, 136),
    ],
)
def test_scores_of_tiles_equal_the_reference(plain, shape, dtype):
    batch = operands(*shape, dtype)
    plain.configure("random", 1)
    assert error(score_by_tiles(plain, *batch), expected(*batch)[0]) < SCORE_BOUND
    scores = score_by_tiles(plain, *batch, attends=False, agg_func="Sum", contexts_are_rows=False)
    assert error(scores.T, expected(*batch, attends=False, agg_func="Sum")[0]) < SCORE_BOUND


def test_tf32_keeps_eleven_bits(plain):
    batch = operands(3, 36, 5, 12, 64)
    plain.configure()
    # Two roundings of 2^-11 in a product of unit vectors; the cosine's own slope in S is below lambda.
    assert 1e-7 < error(score_by_tiles(plain, *batch, product=TF32), expected(*batch)[0]) < 9 * 2**-10


@pytest.mark.parametrize("agg_func", AGGREGATIONS)
@pytest.mark.parametrize("raw_feature_norm", FEATURE_NORMS)
def test_every_option(plain, raw_feature_norm, agg_func):
    flags = {"raw_feature_norm": raw_feature_norm, "agg_func": agg_func, "lambda_softmax": 4.0}
    plain.configure("warp-random", 2)
    batch = operands(3, 11, 6, 9, 24)
    assert error(score_by_tiles(plain, *batch, **flags), expected(*batch, **flags)[0]) < SCORE_BOUND
    batch = operands(3, 11, 6, 9, 24, torch.float64)
    for got, want in zip(all_of_chunk(plain, *batch, splits=2, **flags), expected(*batch, **flags), strict=True):
        assert error(got, want) < 1e-9
    batch = operands(2, 37, 3, 19, 24)
    got = Chunk(plain, *batch, **flags).scores_by_tensor_cores(*BLOCKS[-1])
    assert error(got, expected(*batch, **flags)[0]) < SCORE_BOUND


@pytest.mark.parametrize("agg_func", AGGREGATIONS)
def test_every_aggregation_of_the_largest_similarities(plain, agg_func):
    flags = {"attends": False, "agg_func": agg_func, "lambda_lse": 10.0}
    plain.configure("warp-random", 2)
    batch = operands(3, 11, 6, 19, 24)
    assert error(score_by_tiles(plain, *batch, **flags), expected(*batch, **flags)[0]) < SCORE_BOUND
    batch = operands(3, 11, 6, 19, 24, torch.float64)
    for got, want in zip(all_of_chunk(plain, *batch, splits=2, **flags), expected(*batch, **flags), strict=True):
        assert error(got, want) < 1e-12


def all_of_chunk(device, *batch, attends=True, **flags):
    """Scores and gradients by way of S in memory."""
    scores = Chunk(device, *batch, attends=attends, **flags).scores()
    return scores, *Chunk(device, *batch, attends=attends, **flags).gradients(cotangent_of(scores))


WAYS = {"on_chip": {}, "in_place": {"on_chip": False}, "in_parts": {"on_chip": False, "in_parts": True}}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 3), (3, 36, 9, 12, 20), (2, 150, 3, 70, 17), (4, 33, 20, 5, 64)])
def test_scores_and_gradients_of_chunks_equal_the_reference(plain, shape, way):
    plain.configure("random", 3)
    for dtype, bounds in (
        (torch.float64, (1e-12, 1e-9, 1e-9)),
        (torch.float32, (SCORE_BOUND, 1e-3, 1e-3)),  # with one region the gradient is what cancellation leaves
        (torch.bfloat16, (SCORE_BOUND, 2**-6, 2**-6)),  # dS and the gradient itself are rounded to 2^-9
        (torch.float16, (SCORE_BOUND, 2**-9, 2**-9)),
    ):
        batch = operands(*shape, dtype)
        for attends, agg_func in ((True, "LogSumExp"), (False, "Max"), (False, "LogSumExp")):
            flags = {"attends": attends, "agg_func": agg_func, "lambda_lse": 6.0}
            want = expected(*batch, **flags)
            got = all_of_chunk(plain, *batch, splits=3, **WAYS[way], **flags)
            floor = 1e-4 if shape[1] == 1 else 0  # gradients that are zero but for rounding
            for result, truth, bound in zip(got, want, bounds, strict=True):
                assert error(result, truth) < bound + floor, (dtype, attends, agg_func)


BLOCKS = [(64, 256), (64, 512), (32, 512), (16, 512)]  # of attention_chunks.cu: columns and threads


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 3), (2, 150, 3, 70, 17), (2, 133, 5, 13, 24), (3, 5, 1, 130, 16)])
def test_attention_beyond_tiles_by_tensor_cores(plain, shape, block):
    plain.configure("random", 3)
    for dtype in DTYPES:
        batch = operands(*shape, dtype)
        assert error(Chunk(plain, *batch).scores_by_tensor_cores(*block), expected(*batch)[0]) < SCORE_BOUND


@pytest.mark.parametrize("factor", [1.0, 1e12, 1e-5])  # the last above the clamp of the norms
def test_attention_to_vectors_of_very_different_norms(plain, factor):
    # The Gram matrix is in float16 but for powers of two: 2^24 between the largest and the smallest of its numbers.
    context, rows, query, columns = operands(2, 40, 3, 5, 24)
    context *= 2.0 ** torch.randint(-6, 7, (2, 40, 1), generator=torch.Generator().manual_seed(2)) * factor
    context[0, 3] = 0
    batch = context, rows, query, columns
    plain.configure("random", 4)
    assert error(Chunk(plain, *batch).scores_by_tensor_cores(), expected(*batch)[0]) < SCORE_BOUND


@pytest.mark.parametrize("lambda_softmax", [9.0, 30.0])  # without and with the largest logit taken off
@pytest.mark.parametrize("rows", [3, 36, 90])  # weights in registers, and in the place of S
def test_norms_about_the_clamp_by_tiles(plain, rows, lambda_softmax):
    context, counts, query, columns = operands(2, rows, 3, 5, 24)
    context[0] *= 3e-8
    context[1] *= 2e-9
    batch = context, counts, query, columns
    want = expected(*batch, lambda_softmax=lambda_softmax)[0]
    plain.configure("random", 4)
    got = score_by_tiles(plain, *batch, lambda_softmax=lambda_softmax)
    assert error(got[1], want[1]) < SCORE_BOUND  # the clamp makes these small
    assert error(got, want) < SCORE_BOUND


def test_counts_out_of_range_are_nan_and_harm_nobody(plain):
    plain.configure()
    context, rows, query, columns = operands(4, 9, 5, 7, 16)
    rows[1], columns[3], columns[4] = 0, 8, -(2**40)
    want = expected(context, rows.clamp(1, 9), query, columns.clamp(1, 7))[0]
    want[1, :] = want[:, 3:] = torch.nan
    for scores in (
        score_by_tiles(plain, context, rows, query, columns),
        Chunk(plain, context, rows, query, columns).scores(),
        Chunk(plain, context, rows, query, columns).scores_by_tensor_cores(),
    ):
        torch.testing.assert_close(scores.double(), want, rtol=0, atol=SCORE_BOUND, equal_nan=True)
    gradients = Chunk(plain, context, rows, query, columns).gradients(torch.ones(4, 5))
    assert not any(gradient.isnan().any() for gradient in gradients)
    assert (gradients[0][1] == 0).all()
    assert (gradients[1][3:] == 0).all()


@pytest.mark.parametrize("largest", [1.0, 3e-9, 1e-42, 2.5e38, 0.0])
def test_cotangents_are_scaled_into_the_range_of_float16(plain, largest):
    plain.configure("random", 1)
    cotangent = np.array([largest / 3, -largest, 0, np.nan, np.inf] + [0.0] * 1100, np.float32)
    scale = plain.empty(1)
    plain.run("scale_for_float16_", plain.array(cotangent), len(cotangent), scale)
    found = float(scale.numpy()[0])
    assert math.frexp(found)[0] == 0.5  # a power of two: nothing is rounded
    if largest == 0:
        assert found == 1
    elif largest > 2.0**-122:
        assert 16 <= found * float(np.float32(largest)) < 32


@pytest.mark.parametrize("n", [1, 7, 1024, 1030, 9000])
def test_plan_takes_as_many_groups_as_fit(plain, n):
    plain.configure("random", n)
    generator = torch.Generator().manual_seed(n)
    counts = torch.randint(0, 60, (n,), generator=generator)  # 0 is out of range: no vectors
    batch = Batch(plain, torch.zeros(n, 50, 8), counts)
    batch.plan(16)
    sizes = [int(c) if 1 <= c <= 50 else 0 for c in counts]
    tiles, filled, taken = [0], 0, 0
    for group, size in enumerate(sizes):
        if filled + size > 128 or taken == 16:
            tiles.append(group)
            filled = taken = 0
        filled, taken = filled + size, taken + 1
    assert batch.tables["n_tiles"].numpy()[0] == len(tiles)
    assert batch.tables["tile_begin"].numpy()[: len(tiles) + 1].tolist() == [*tiles, n]
    assert batch.tables["sizes"].numpy().tolist() == sizes
    assert batch.tables["offsets"].numpy().tolist() == [sum(sizes[:i]) for i in range(n + 1)] if n < 2000 else True


def everything(device, batch, **flags):
    """Bytes of all results."""
    results = [score_by_tiles(device, *batch, **flags), *all_of_chunk(device, *batch, splits=2, **flags)]
    if flags.get("attends", True):
        results.append(Chunk(device, *batch, **flags).scores_by_tensor_cores())
    return b"".join(raw(result.contiguous()).tobytes() for result in results)


@pytest.mark.parametrize("attends", [True, False])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((3, 36, 6, 12, 40), torch.float32), ((5, 9, 3, 40, 16), torch.bfloat16), ((2, 20, 5, 7, 24), torch.float16)],
)
def test_every_schedule_gives_the_same_bits(plain, shape, dtype, attends):
    results = set()
    for order, seed in SCHEDULES:
        plain.configure(order, seed, resident_blocks=1 + seed % 3)
        results.add(everything(plain, operands(*shape, dtype), attends=attends))
    assert len(results) == 1


@pytest.mark.parametrize("order", ORDERS)
def test_no_races(watched, order):
    watched.configure(order, 5, check_races=True, resident_blocks=2)
    for batch in (operands(3, 36, 5, 12, 40), operands(4, 10, 3, 36, 40)):
        for attends in (True, False):
            everything(watched, batch, attends=attends)
        for way in ("in_place", "in_parts"):
            all_of_chunk(watched, *batch, **WAYS[way])


def parts_of_gram(row):
    """Gram matrices come 16 bytes a lane (LDG.E.128 in test_device_code.py), here in parts as the compiler likes."""
    return 16 // row["bytes"] if row["line"].startswith("attention_tile") and not row["shared"] else 1


@pytest.mark.parametrize("kind", ["t2i", "i2t"])
def test_loads_are_whole_sectors_and_banks_are_free(watched, kind):
    batch = operands(8, 36, 16, 20, 128) if kind == "t2i" else operands(16, 20, 8, 36, 128)
    watched.configure(traffic=True)
    watched.traffic()
    score_by_tiles(watched, *batch)
    tiles = watched.traffic()
    chunk = Chunk(watched, *batch, splits=2)
    watched.traffic()
    chunk.gradients(torch.ones(len(batch[0]), len(batch[2])))
    backward = watched.traffic()
    # Whole steps of 16 rows, and groups of a multiple of eight columns: fewer are parts of sectors.
    context, _, query, _ = operands(2, 48, 8, 24, 16) if kind == "t2i" else operands(4, 32, 3, 40, 16)
    chunk = Chunk(watched, torch.nan_to_num(context), None, torch.nan_to_num(query), None)
    watched.traffic()
    chunk.scores_by_tensor_cores()
    beyond = watched.traffic()
    watched.configure()
    for rows in (tiles, backward, beyond):
        check_traffic(rows, 1 / 200, parts_of_gram)
    matrices = [row for row in tiles if row["line"].startswith("tile_product") and row["shared"] and not row["write"]]
    assert sum(row["requests"] for row in matrices if row["bytes"] == 16) > 1000
    assert all(row["units"] == row["ideal"] for row in matrices if row["bytes"] == 16)  # chunks are permuted for that
    # Vectors, S and the Gram matrices come 16 bytes at a time.
    for rows, file in ((tiles, "tile_product"), (backward, "attention"), (backward, "chunks")):
        assert any(r["bytes"] == 16 and not r["shared"] and r["line"].startswith(file) for r in rows)


BARRIERS = {
    "vectors": (11, 12, 13, 14),
    "tiles": (21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33),
    "chunks": (41, 42, 43, 44, 45, 46, 47, 48),
    "attention_chunks": (101, 102, 103, 104),
    "gradients": (51, 52, 53),
}


WITHOUT = r"race|nobody wrote|wait|another|out of bounds"


@pytest.mark.parametrize("bug", [(file, bug) for file, bugs in BARRIERS.items() for bug in bugs], ids=str)
def test_every_barrier_and_wait_is_needed(watched, bug):
    file, number = bug
    work = {
        "vectors": lambda: Batch(watched, torch.zeros(9000, 5, 8), torch.full((9000,), 5)).plan(16),
        "tiles": lambda: score_by_tiles(watched, *operands(12, 36, 3, 12, 80)),  # several tiles a block
        "chunks": lambda: Chunk(watched, *operands(3, 36, 16, 12, 10)).gradients(torch.ones(3, 16)),
        "attention_chunks": lambda: Chunk(watched, *operands(2, 36, 16, 12, 10)).scores_by_tensor_cores(),
        "gradients": lambda: Chunk(watched, *operands(3, 36, 16, 12, 10, torch.float16)).gradients(torch.ones(3, 16)),
    }
    for order in ORDERS:
        watched.configure(order, 1, check_races=True)
        with watched.without(number), pytest.raises(EmulationError, match=WITHOUT):
            work[file]()
