"""Lists of candidates in the similarities' kernels, emulated: how they are cut, and the scores of all pairs, picked."""

import itertools

import numpy as np
import pytest
import torch
from emulation import ORDERS
from kernels import SCHEDULES, devices
from similarity_kernels import AGGREGATIONS, SOURCES, Batch, Largest, score_by_tiles, score_lists, stream_lists

plain, watched = devices(*SOURCES)

both_owners = pytest.mark.parametrize("contexts_own", [True, False], ids=["contexts own", "queries own"])
TOO_MANY = 2**40  # an index that a 32-bit number would make 0


def vectors(n_groups, longest, dim, dtype=torch.float32, seed=0):
    """Vectors and counts; NaN beyond every count."""
    generator = torch.Generator().manual_seed(seed + 100 * n_groups + longest)
    x = torch.nn.functional.normalize(torch.randn(n_groups, longest, dim, generator=generator), dim=-1)
    counts = torch.randint(1, longest + 1, (n_groups,), generator=generator)
    x[torch.arange(longest)[None, :] >= counts[:, None]] = torch.nan
    return x.to(dtype), counts


def random_lists(n_lists, length, n_others, seed=0):
    """Candidates with repetitions, with none here and there and at the ends of lists, and out of range."""
    generator = torch.Generator().manual_seed(seed)
    lists = torch.randint(-1, n_others, (n_lists, length), generator=generator)
    lists[0] = -1
    lists[-1, length // 2 :] = -1
    wrong = torch.tensor([-2, n_others, TOO_MANY, -TOO_MANY])
    lists[1 % n_lists, : min(4, length)] = wrong[: min(4, length)]
    return lists


def cut(sizes, most_groups):
    """Tiles of one list as runs [begin, end) of its places; sizes: -1 where there is no member."""
    tiles, begin, last, filled = [], None, None, 0
    for place, size in enumerate(sizes):
        if size < 0:
            continue
        if begin is not None and (filled + size > 128 or place - begin >= most_groups):
            tiles.append((begin, last + 1))
            begin = None
        if begin is None:
            begin, filled = place, 0
        filled, last = filled + size, place
    return tiles if begin is None else [*tiles, (begin, last + 1)]


@pytest.mark.parametrize(
    ("n_lists", "length", "most", "most_groups"),
    [
        (1, 1, 1, 16),
        (3, 31, 9, 16),
        (11, 32, 60, 16),
        (9, 100, 128, 32),
        (20, 70, 3, 32),
        (2, 300, 4, 16),
        (4, 70, 300, 32),  # most members have a tile each
    ],
)
def test_lists_are_cut_into_as_few_tiles_as_fit(watched, n_lists, length, most, most_groups):
    n_others = 7
    counts = torch.randint(1, most + 1, (n_others,), generator=torch.Generator().manual_seed(length))
    counts[3], counts[5] = 0, most + 1  # out of range: members without vectors
    candidates = random_lists(n_lists, length, n_others, seed=length)
    if length > 60:
        candidates[2 % n_lists, 3:50] = -1  # more than a tile may have
    batch = Batch(watched, torch.zeros(n_others, most, 8), counts)
    for order, seed in SCHEDULES[:4]:
        watched.configure(order, seed, check_races=True, resident_blocks=2)
        scores = watched.array(np.full((n_lists, length), 7, np.float32))
        batch.lists(candidates, most_groups, scores)
        found = {name: table.numpy() for name, table in batch.listed.items()}
        there = (candidates >= 0) & (candidates < n_others)
        groups = torch.where(there, candidates, -1)
        sizes = counts.where(counts <= most, 0)[groups] * there
        assert found["groups"].tolist() == groups.flatten().tolist()
        assert found["sizes"].tolist() == sizes.flatten().tolist()
        assert found["offsets"].tolist() == (sizes.cumsum(1) - sizes).flatten().tolist()
        want = []
        for number, of_list in enumerate(torch.where(there, sizes, -1).tolist()):
            want += [(number * length + a, number * length + b) for a, b in cut(of_list, most_groups)]
        n_tiles = int(found["n_tiles"][0])
        tiles = list(zip(found["tile_begin"][:n_tiles].tolist(), found["tile_end"][:n_tiles].tolist(), strict=True))
        assert sorted(tiles) == want
        owners = [begin // length for begin, _ in tiles]
        runs = [owner for owner, _ in itertools.groupby(owners)]
        assert len(runs) == len({*runs})  # blocks that run at a time share an owner
        missing = torch.where(candidates == -1, -torch.inf, torch.nan)
        expected = torch.where(there, 7.0, missing)
        assert np.array_equal(scores.numpy(), expected.numpy(), equal_nan=True)


def operands(n_contexts, rows, n_queries, columns, dim, dtype):
    return *vectors(n_contexts, rows, dim, dtype), *vectors(n_queries, columns, dim, dtype, seed=1)


def picked(scores, candidates, contexts_own):
    """Of the scores of all pairs (n_contexts, n_queries) those of candidates."""
    of_lists = scores if contexts_own else scores.T
    there = (candidates >= 0) & (candidates < of_lists.shape[1])
    missing = torch.where(candidates == -1, -torch.inf, torch.nan)
    return torch.where(there, of_lists.gather(1, torch.where(there, candidates, 0)), missing)


def assert_bits(found, want):
    torch.testing.assert_close(found, want, rtol=0, atol=0, equal_nan=True)


@both_owners
@pytest.mark.parametrize("attends", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("shape", "length"),
    [((1, 1, 1, 1, 16), 3), ((3, 36, 9, 12, 40), 50), ((2, 128, 3, 128, 8), 4), ((9, 3, 20, 2, 24), 70)],
)
def test_scores_are_those_of_all_pairs_to_the_bit(plain, shape, length, dtype, attends, contexts_own):
    batch = operands(*shape, dtype)
    n, m = (shape[0], shape[2]) if contexts_own else (shape[2], shape[0])
    candidates = random_lists(n, length, m)
    plain.configure("random", 1)
    found = score_lists(plain, *batch, candidates, contexts_own=contexts_own, attends=attends)
    assert_bits(found, picked(score_by_tiles(plain, *batch, attends=attends), candidates, contexts_own))


@both_owners
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("shape", "length"),
    [
        ((2, 300, 3, 9, 24), 6),  # several steps of a context
        ((3, 36, 4, 200, 16), 5),  # several strips of an owner's or a list's query vectors
        ((4, 140, 3, 150, 8), 9),
        ((9, 30, 20, 20, 24), 40),  # small contexts share a step
    ],
)
def test_streamed_scores_are_those_of_all_pairs_to_the_bit(plain, shape, length, dtype, contexts_own):
    context, rows, query, columns = operands(*shape, dtype)
    rows[-1], columns[-1] = 0, shape[3] + 1  # out of range: NaN
    n, m = (shape[0], shape[2]) if contexts_own else (shape[2], shape[0])
    candidates = random_lists(n, length, m)
    plain.configure("random", 1)
    for agg_func in AGGREGATIONS:
        found = stream_lists(
            plain, context, rows, query, columns, candidates, contexts_own=contexts_own, agg_func=agg_func
        )
        of_all = Largest(plain, context, rows, query, columns, agg_func=agg_func).scores()
        assert_bits(found, picked(of_all, candidates, contexts_own))


@both_owners
def test_counts_out_of_range_are_nan_and_harm_nobody(plain, contexts_own):
    context, rows, query, columns = operands(5, 9, 6, 7, 16, torch.float32)
    rows[1], columns[3], columns[4] = 0, 8, -TOO_MANY
    batch = context, rows, query, columns
    candidates = random_lists(5, 40, 6) if contexts_own else random_lists(6, 40, 5)
    plain.configure()
    all_pairs = score_by_tiles(plain, *batch)
    assert all_pairs[1].isnan().all()
    assert all_pairs[:, 3:5].isnan().all()
    assert_bits(
        score_lists(plain, *batch, candidates, contexts_own=contexts_own), picked(all_pairs, candidates, contexts_own)
    )


@both_owners
@pytest.mark.parametrize("attends", [True, False])
def test_every_schedule_gives_the_same_bits(plain, contexts_own, attends):
    batch = operands(6, 20, 5, 9, 24, torch.bfloat16)
    candidates = random_lists(6, 40, 5) if contexts_own else random_lists(5, 40, 6)
    results = set()
    for order, seed in SCHEDULES:
        plain.configure(order, seed, resident_blocks=1 + seed % 3)
        found = score_lists(plain, *batch, candidates, contexts_own=contexts_own, attends=attends)
        results.add(found.numpy().tobytes())
        if not attends:
            results.add(stream_lists(plain, *batch, candidates, contexts_own=contexts_own).numpy().tobytes())
    assert len(results) == 1


@both_owners
@pytest.mark.parametrize("order", ORDERS)
def test_no_races(watched, order, contexts_own):
    batch = operands(5, 36, 4, 12, 40, torch.float32)
    candidates = random_lists(5, 40, 4) if contexts_own else random_lists(4, 40, 5)
    watched.configure(order, 5, check_races=True, resident_blocks=2)
    for attends in (True, False):
        score_lists(watched, *batch, candidates, contexts_own=contexts_own, attends=attends)
    batch = operands(3, 150, 4, 50, 8, torch.float32)
    candidates = random_lists(3, 6, 4) if contexts_own else random_lists(4, 6, 3)
    stream_lists(watched, *batch, candidates, contexts_own=contexts_own)
