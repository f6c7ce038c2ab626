"""The kernels of ranks and top-k lists, emulated: sorting, counting, schedules, races, traffic, mutants."""

import ctypes

import numpy as np
import pytest
import torch
from emulation import CUDA, ORDERS, EmulationError
from kernels import HERE, NUMBERS, SCHEDULES, devices
from similarity_kernels import INT, LONG, POINTER, structure

SOURCES = (CUDA / "ranking.cu", CUDA / "topk.cu", HERE / "exports_ranking.cu")
NO_ITEM = np.iinfo(np.int64).max

Tile = structure("ScoreTile", (POINTER, "scores"), (LONG, "stride first_query first_item"), (INT, "rows columns"))
NanArgs = structure("NanArgs", (Tile, "tile"), (POINTER, "found"))
CountArgs = structure(
    "CountArgs",
    (Tile, "tile"),
    (POINTER, "scores index n_slots n_above n_at_least n_before"),
    (INT, "slots queries_are_rows"),
)
KeepArgs = structure(
    "KeepArgs",
    (Tile, "tile"),
    (POINTER, "values indices scratch_values scratch_indices"),
    (LONG, "k"),
    (INT, "capacity"),
)
TransposeArgs = structure("TransposeArgs", (Tile, "tile"), (POINTER, "out"))


plain, watched = devices(*SOURCES)


def scores(rows, columns, levels=7, dtype=torch.float32, seed=0):
    """Scores with many ties."""
    generator = torch.Generator().manual_seed(seed + rows + columns)
    return torch.randint(0, levels, (rows, columns), generator=generator).to(dtype)


class TopK:
    """The lists of some queries, tile after tile."""

    def __init__(self, device, n, k, dtype=torch.float32, *, on_chip=True):
        self.device, self.n, self.k, self.dtype, self.on_chip = device, n, k, dtype, on_chip
        self.capacity = 1
        while self.capacity < k + 1024:
            self.capacity *= 2
        self.values = device.array(torch.full((n, k), -torch.inf, dtype=dtype).numpy())
        self.indices = device.array(np.full((n, k), NO_ITEM))
        numbers = self.values.dtype
        self.scratch = None
        if not on_chip:
            self.scratch = device.empty((n, self.capacity), numbers), device.empty((n, self.capacity), np.int64)

    def add(self, tile, first_item=0, first_query=0):
        held = self.device.array(tile.numpy())
        scratch = [None, None] if self.scratch is None else [array.pointer for array in self.scratch]
        args = KeepArgs(
            Tile(held.pointer, tile.shape[1], first_query, first_item, *tile.shape),
            self.values.pointer,
            self.indices.pointer,
            *scratch,
            self.k,
            self.capacity,
        )
        self.device.run("keep_topk_", ctypes.byref(args), NUMBERS[self.dtype], int(self.on_chip))

    def lists(self):
        return torch.from_numpy(self.values.numpy()), torch.from_numpy(self.indices.numpy())


def best(sims, k):
    """Stable sort: higher score, then lower index."""
    order = sims.sort(dim=1, descending=True, stable=True)
    return order.values[:, :k], order.indices[:, :k]


def check_lists(keeper, sims):
    for got, want in zip(keeper.lists(), best(sims, keeper.k), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("on_chip", [True, False], ids=["on_chip", "in_memory"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 2, 31, 33, 300])
def test_lists_equal_a_stable_sort(plain, k, dtype, on_chip):
    plain.configure("random", k)
    for levels in (3, 10**6):
        sims = scores(3, 2600, levels, dtype)
        keeper = TopK(plain, 3, k, dtype, on_chip=on_chip)
        for first, last in ((1000, 2600), (0, 999), (999, 1000)):  # in any order of tiles
            keeper.add(sims[:, first:last].contiguous(), first)
        check_lists(keeper, sims)


def test_lists_with_infinities_and_fewer_items_than_places(plain):
    plain.configure("random", 5)
    sims = torch.tensor([[-torch.inf, 3.0, torch.inf, -torch.inf]])
    keeper = TopK(plain, 1, 6)
    keeper.add(sims)
    values, indices = keeper.lists()
    assert indices.tolist() == [[2, 1, 0, 3, NO_ITEM, NO_ITEM]]
    assert values[0, :2].tolist() == [torch.inf, 3.0]


def test_a_tile_without_items_puts_the_lists_in_order(plain):
    plain.configure("random", 6)
    keeper = TopK(plain, 4, 50)
    shuffled = scores(4, 50, 9)
    keeper.values = plain.array(shuffled.numpy())
    keeper.indices = plain.array(np.tile(np.arange(50), (4, 1)))
    keeper.add(torch.empty(4, 0))
    check_lists(keeper, shuffled)


def count(device, tile, positives, *, rows=True, first_item=0):
    """(n_above, n_at_least, n_before) with positives (n_queries, slots), best first, -1 for none."""
    sims = tile if rows else tile.T
    n, slots = positives.shape
    own = sims.gather(1, (positives - first_item).clamp(0, sims.shape[1] - 1)).masked_fill(positives < 0, -torch.inf)
    order = own.sort(dim=1, descending=True, stable=True)
    index = positives.gather(1, order.indices)
    held = [device.array(x.numpy()) for x in (tile, order.values, index, (positives >= 0).sum(1))]
    out = [device.array(np.zeros(shape, np.int64)) for shape in ((n,), (n,), (n, slots))]
    args = CountArgs(
        Tile(held[0].pointer, tile.shape[1], 0, first_item, *tile.shape),
        *(array.pointer for array in (*held[1:], *out)),
        slots,
        int(rows),
    )
    device.run("count_ranks_", ctypes.byref(args), NUMBERS[tile.dtype])
    return [torch.from_numpy(array.numpy()) for array in out], order.values, index


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1), (3, 33), (33, 257), (5, 4100), (300, 40)])
@pytest.mark.parametrize("rows", [True, False])
def test_counts_equal_counting(plain, rows, shape, dtype):
    plain.configure("random", shape[1])
    tile = scores(*shape, dtype=dtype)
    sims = tile if rows else tile.T
    n, n_items = sims.shape
    generator = torch.Generator().manual_seed(n)
    slots = min(6, n_items)
    positives = torch.stack([torch.randperm(n_items, generator=generator)[:slots] for _ in range(n)]).sort(1).values
    positives[torch.rand(n, slots, generator=generator) < 0.3] = -1
    positives = positives.sort(1, descending=True).values
    (above, at_least, before), limits, index = count(plain, tile, positives, rows=rows)
    items = torch.arange(n_items)
    for q in range(n):
        used = int((index[q] >= 0).sum())
        others = torch.ones(n_items, dtype=torch.bool)
        others[index[q, :used]] = False
        for p in range(used):
            first = (sims[q] > limits[q, p]) | ((sims[q] == limits[q, p]) & (items < index[q, p]))
            assert before[q, p] == (first & others).sum()
        assert above[q] == ((sims[q] > limits[q, 0]) & others).sum() if used else above[q] == 0
        assert at_least[q] == ((sims[q] >= limits[q, 0]) & others).sum() if used else at_least[q] == 0


def find_nan(device, tile):
    held, found = device.array(tile.numpy()), device.array(np.zeros(1, np.int32))
    args = NanArgs(Tile(held.pointer, tile.shape[1], 0, 0, *tile.shape), found.pointer)
    device.run("find_nan_", ctypes.byref(args), NUMBERS[tile.dtype])
    return bool(found.numpy()[0])


def transposed(device, tile):
    held, out = device.array(tile.numpy()), device.empty((tile.shape[1], tile.shape[0]), tile.numpy().dtype)
    args = TransposeArgs(Tile(held.pointer, tile.shape[1], 0, 0, *tile.shape), out.pointer)
    device.run("transpose_scores_", ctypes.byref(args), NUMBERS[tile.dtype])
    return torch.from_numpy(out.numpy())


@pytest.mark.parametrize("shape", [(1, 1), (31, 33), (32, 64), (70, 5)])
def test_nan_is_found_and_tiles_are_transposed(plain, shape):
    plain.configure("random", shape[0])
    tile = torch.randn(shape, dtype=torch.float64)
    assert torch.equal(transposed(plain, tile), tile.T)
    assert not find_nan(plain, tile)
    for place in ((0, 0), (-1, -1)):
        broken = tile.clone()
        broken[place] = torch.nan
        assert find_nan(plain, broken)


def test_tall_tiles(plain):
    """More strips of rows than a grid has blocks in its second dimension."""
    plain.configure("forward")
    tile = torch.arange(65536 * 32 + 1, dtype=torch.float32)[:, None]
    assert torch.equal(transposed(plain, tile), tile.T)
    (above, at_least, _), _, _ = count(plain, tile, torch.tensor([[5]]), rows=False)
    assert above.tolist() == at_least.tolist() == [len(tile) - 6]


def everything(device, n=4, n_items=1500, k=20):
    """Bytes of all results."""
    sims = scores(n, n_items, 50)
    first = n_items * 2 // 3
    keeper = TopK(device, n, k)
    keeper.add(sims[:, :first].contiguous())
    keeper.add(sims[:, first:].contiguous(), first)
    positives = torch.tensor([[5, 9, 70, 71, 72]] * n)
    results = [*keeper.lists(), *count(device, sims, positives)[0]]
    columns = sims[:, :40].contiguous()
    results += [
        *count(device, columns, torch.zeros(40, 1, dtype=torch.int64), rows=False)[0],
        transposed(device, columns),
    ]
    return b"".join(result.contiguous().numpy().tobytes() for result in results)


@pytest.mark.parametrize("shape", [(4, 1500, 20), (2, 100, 1), (1, 1300, 70)])
def test_every_schedule_gives_the_same_bits(plain, shape):
    results = set()
    for order, seed in SCHEDULES:
        plain.configure(order, seed, resident_blocks=1 + seed % 3)
        results.add(everything(plain, *shape))
    assert len(results) == 1


@pytest.mark.parametrize("order", ORDERS)
def test_no_races(watched, order):
    watched.configure(order, 7, check_races=True, resident_blocks=2)
    everything(watched)
    keeper = TopK(watched, 2, 5, on_chip=False)
    keeper.add(scores(2, 1100))
    assert find_nan(watched, torch.full((3, 40), torch.nan))


def test_scores_are_read_in_whole_lines(watched):
    watched.configure(traffic=True)
    tile = torch.rand(64, 4096)
    keeper = TopK(watched, 64, 10)
    for work, hot in (
        (lambda: keeper.add(tile), 64 * 4096 / 32),
        (lambda: count(watched, tile, torch.zeros(64, 1, dtype=torch.int64)), 64 * 4096 / 32),
        (lambda: count(watched, tile, torch.zeros(4096, 1, dtype=torch.int64), rows=False), 64 * 4096 / 32),
        (lambda: transposed(watched, tile), 64 * 4096 / 32),
        (lambda: find_nan(watched, tile), 64 * 4096 / 32),
    ):
        watched.traffic()
        work()
        busy = [row for row in watched.traffic() if row["requests"] >= hot]
        assert any(not row["shared"] and not row["write"] for row in busy)
        for row in busy:  # the exchanges of a sort aren't in the loop over the scores
            assert row["units"] <= (2 if row["shared"] else 1.1) * row["ideal"] or row["line"].startswith("topk"), row
            assert row["shared"] or row["units"] <= 1.1 * row["ideal"], row
    watched.configure()


def test_candidates_are_collected_without_conflicts(watched):
    watched.configure(traffic=True)
    keeper = TopK(watched, 4, 1000)
    watched.traffic()
    keeper.add(torch.rand(4, 4096))
    text = (CUDA / "topk.cu").read_text()
    loop = text[: text.index("\nkeep_kernel(")].count("\n")
    rows = [row for row in watched.traffic() if row["shared"] and int(row["line"].split(":")[1]) > loop]
    assert any(row["write"] for row in rows)
    for row in rows:
        assert row["units"] <= 2 * row["ideal"], row
    watched.configure()


BARRIERS = [("ranking", 1), *(("topk", bug) for bug in range(1, 7))]


@pytest.mark.parametrize("bug", BARRIERS, ids=str)
def test_every_barrier_is_needed(watched, bug):
    file, number = bug
    sims = scores(1, 4000, 10**6)

    def work():
        if file == "ranking":
            return transposed(watched, torch.rand(40, 40))
        keeper = TopK(watched, 1, 20)
        if number == 2:  # lists that are only put in order
            keeper.values = watched.array(sims[:, :20].numpy())
        return keeper.add(sims[:, :0] if number == 2 else sims)

    for order in ORDERS:
        watched.configure(order, 1, check_races=True)
        with watched.without(number), pytest.raises(EmulationError, match=r"race|nobody wrote|divergent"):
            work()
