"""Top-k and ranks of one direction, and the folding of tiles behind them, against a sort of everything."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import itm_fast
from itm_fast.metrics.ranks import stream_topk
from itm_fast.ops.ranking import NO_ITEM, dot_products
from itm_fast.similarities.scorers import MatrixScorer, as_scorer


def plain_topk(sims, k):
    order = np.argsort(-sims, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(sims, order, 1), order


@given(
    n=st.integers(1, 70),
    m=st.integers(1, 300),
    k=st.integers(1, 300),
    levels=st.sampled_from([1, 2, 5, 1000]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    chunk_bytes=st.sampled_from([8, 100, 5000, 64 << 20]),
    turned=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_topk_equals_a_stable_sort(n, m, k, levels, dtype, chunk_bytes, turned, seed):
    if chunk_bytes < 5000 and n * m > 400:
        return  # a tile a pair takes its time
    rng = np.random.default_rng(seed)
    sims = torch.from_numpy(rng.integers(-levels, levels, (n, m)) / 3).to(dtype)
    sims = sims.T.contiguous().T if turned else sims
    k = min(k, m)
    values, order = plain_topk(sims.numpy(), k)
    found = itm_fast.topk(sims, k, chunk_bytes=chunk_bytes)
    assert np.array_equal(found.indices.numpy(), order)
    assert np.array_equal(found.values.numpy(), values)
    whole, _ = stream_topk(as_scorer(sims), k, chunk_bytes=chunk_bytes)
    assert torch.equal(whole.image.indices, found.indices)
    _, order = plain_topk(sims.numpy().T, min(k, n))
    assert np.array_equal(whole.caption.indices.numpy(), order)


@pytest.mark.all_backends
def test_infinite_scores():
    sims = torch.tensor([[-torch.inf, 1.0, torch.inf, -torch.inf, torch.inf]])
    assert itm_fast.topk(sims, 5).indices.tolist() == [[2, 4, 1, 0, 3]]
    assert itm_fast.ranks(sims, [[0]]) == (torch.tensor([3]), torch.tensor([4 - 1 + 1]))


@pytest.mark.all_backends
def test_a_thousand_and_more():
    sims = torch.randn(5, 4000, generator=torch.Generator().manual_seed(0))
    for k in (1000, 3000, 4000):
        _, order = plain_topk(sims.numpy(), k)
        found = itm_fast.topk(sims, k)
        assert np.array_equal(found.indices.numpy(), order)


def test_the_result_may_be_used_in_training():
    sims = torch.randn(4, 9, requires_grad=True)
    sims.gather(1, itm_fast.topk(sims.detach(), 2).indices).sum().backward()
    assert sims.grad.sum() == 8


@pytest.mark.all_backends(without=("emulated-races",))  # slow there
def test_embeddings_as_scores():
    generator = torch.Generator().manual_seed(0)
    queries, gallery = torch.randn(300, 40, generator=generator), torch.randn(517, 40, generator=generator)
    sims = dot_products(queries, gallery)
    for chunk_bytes in (64 << 20, 8 * 300 * 517):
        found = itm_fast.topk(queries, gallery, 7, chunk_bytes=chunk_bytes)
        assert torch.equal(found.indices, itm_fast.topk(sims, 7).indices)
    assert torch.equal(itm_fast.topk(queries.numpy(), gallery.numpy(), k=7).indices, found.indices)


@pytest.mark.parametrize("n", [1, 71, 72, 73, 255, 256, 300])
@pytest.mark.parametrize("m", [1, 15, 16, 63, 64, 65, 127, 128, 129, 200])
def test_dot_products(n, m):
    generator = torch.Generator().manual_seed(n * m)
    for dim in (1, 7, 33, 300):
        images, captions = torch.randn(n, dim, generator=generator), torch.randn(m, dim, generator=generator)
        expected = images.double() @ captions.double().T
        bound = 4 * dim**0.5 * 2**-24 * images.norm(dim=1).max() * captions.norm(dim=1).max()
        for x, y in ((images, captions), (images.T.contiguous().T, torch.cat([captions, captions], 1)[:, :dim])):
            assert (dot_products(x, y) - expected).abs().max() <= bound
    assert torch.equal(dot_products(images.double(), captions.double()), images.double() @ captions.double().T)


def test_dot_products_of_nothing():
    assert dot_products(torch.ones(300, 0), torch.ones(2, 0)).tolist() == [[0.0, 0.0]] * 300
    assert dot_products(torch.ones(0, 4), torch.ones(2, 4)).shape == (0, 2)
    assert dot_products(torch.ones(300, 4), torch.ones(0, 4)).shape == (300, 0)


def plain_ranks(sims, positives):
    best, worst = [], []
    for row, items in zip(sims, positives, strict=True):
        others = np.delete(row, list(items))
        best.append(int((others > row[list(items)].max()).sum()) if items else -1)
        worst.append(int((others >= row[list(items)].max()).sum()) if items else -1)
    return best, worst


@given(n=st.integers(1, 20), m=st.integers(1, 90), levels=st.integers(1, 40), seed=st.integers(0, 999))
@settings(max_examples=80, deadline=None)
def test_ranks_of_any_positives(n, m, levels, seed):
    rng = np.random.default_rng(seed)
    sims = rng.integers(0, levels, (n, m)) / 7
    positives = [rng.choice(m, rng.integers(0, min(m, 6) + 1), replace=False).tolist() for _ in range(n)]
    optimistic, pessimistic = itm_fast.ranks(sims, positives)
    assert (optimistic.tolist(), pessimistic.tolist()) == plain_ranks(sims, positives)
    again = itm_fast.ranks(torch.from_numpy(sims), positives=positives, chunk_bytes=800)
    assert torch.equal(again.optimistic, optimistic)


@pytest.mark.all_backends
def test_the_ways_to_give_positives():
    generator = torch.Generator().manual_seed(0)
    images, captions = torch.randn(6, 16, generator=generator), torch.randn(30, 16, generator=generator)
    sims = images @ captions.T
    lists = [list(range(5 * i, 5 * i + 5)) for i in range(6)]
    expected = itm_fast.ranks(sims, lists)
    for positives in (5, torch.arange(30) // 5, np.arange(30) // 5, [c // 5 for c in range(30)]):
        for found in (itm_fast.ranks(sims, positives), itm_fast.ranks(images, captions, positives)):
            assert torch.equal(found.optimistic, expected.optimistic)
            assert torch.equal(found.pessimistic, expected.pessimistic)
    of_captions = itm_fast.ranks(sims.T, 5)
    assert torch.equal(of_captions.optimistic, itm_fast.ranks(sims.T, torch.arange(30) // 5).optimistic)
    assert torch.equal(of_captions.optimistic, itm_fast.ranks(captions, images, 5).optimistic)


def test_a_tile_scorer_is_never_asked_for_the_matrix():
    class Scorer(MatrixScorer):
        largest = 0

        def __call__(self, rows, columns, /):
            tile = super().__call__(rows, columns)
            self.largest = max(self.largest, tile.numel())
            return tile

    scorer = Scorer(torch.rand(100, 400))
    found = itm_fast.topk(scorer, 3, chunk_bytes=8000)
    assert torch.equal(found.indices, itm_fast.topk(scorer.sims, 3).indices)
    itm_fast.ranks(scorer, 4, chunk_bytes=8000)
    assert scorer.largest <= 1000


@pytest.mark.all_backends
def test_progress_and_empty_galleries():
    calls = []
    itm_fast.topk(torch.rand(7, 9), 2, progress=lambda *at: calls.append(at), chunk_bytes=8 * 9)
    assert calls[0] == (0, 63)
    assert calls[-1] == (63, 63)
    assert itm_fast.topk(torch.rand(0, 9), 2).indices.shape == (0, 2)
    assert itm_fast.ranks(torch.rand(0, 9), []).optimistic.shape == (0,)
    assert NO_ITEM > 10**18


SIMS = torch.rand(4, 20)


@pytest.mark.parametrize(
    ("call", "exception", "fragment"),
    [
        (lambda: itm_fast.topk(SIMS, 21), ValueError, "k is 21, expected 1 ... 20"),
        (lambda: itm_fast.topk(SIMS, 0), ValueError, "k is 0"),
        (lambda: itm_fast.topk(SIMS), TypeError, "k is missing"),
        (lambda: itm_fast.topk(SIMS, k=2.5), TypeError, "k is 2.5"),
        (lambda: itm_fast.topk(SIMS, 3, 4), TypeError, "gallery is 3"),
        (lambda: itm_fast.topk(SIMS, SIMS[:, :3], 1), ValueError, "images has dim 20, but captions has dim 3"),
        (lambda: itm_fast.topk("sims", 1), TypeError, "sims is a str"),
        (lambda: itm_fast.topk(SIMS.where(SIMS.min() < SIMS, torch.nan), 1), ValueError, "NaN at row"),
        (lambda: itm_fast.topk(SIMS, 1, chunk_bytes=1), ValueError, "chunk_bytes is 1"),
        (lambda: itm_fast.ranks(SIMS), TypeError, "positives are missing"),
        (lambda: itm_fast.ranks(SIMS, 3), ValueError, "not in that proportion"),
        (lambda: itm_fast.ranks(SIMS, [0, 1, 2]), ValueError, "positives has 3 entries, expected one a query (4)"),
        (lambda: itm_fast.ranks(SIMS, [0, 1, 2, 20]), ValueError, "positives holds 0 ... 20, expected 0 ... 19"),
        (lambda: itm_fast.ranks(SIMS, [[0], [1], [2]]), ValueError, "positives has 3 lists"),
        (lambda: itm_fast.ranks(SIMS, [[0], [1], [2], [20]]), ValueError, "expected 0 ... 19"),
        (lambda: itm_fast.ranks(SIMS, [[0], [1], [2], [-1]]), ValueError, "negative item"),
        (lambda: itm_fast.ranks(SIMS, [[0], [1], [2], "x"]), TypeError, "positives[3] is 'x'"),
        (lambda: itm_fast.ranks(SIMS, torch.rand(4)), TypeError, "expected (n,) integers"),
        (lambda: itm_fast.ranks(SIMS, {"a": 1}), TypeError, "positives is a dict"),
        (lambda: itm_fast.ranks([[1.0]], SIMS, 5), TypeError, "queries and gallery are list and Tensor"),
    ],
)
def test_errors(call, exception, fragment):
    with pytest.raises(exception) as raised:
        call()
    assert fragment in str(raised.value)
