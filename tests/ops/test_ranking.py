"""The operators behind ranks, top-k and φ: opcheck, layouts, vector edges, last-resort checks."""

import numpy as np
import pytest
import torch
from torch.library import opcheck

from itm_fast.ops.cider import EncodedText, cider_pairs, cider_relevance
from itm_fast.ops.ranking import NO_ITEM, count_ranks_, dot_products, dot_products_of_candidates, keep_topk_, sort_topk_
from itm_fast.relevance import Cider

OPS = torch.ops.itm_fast
REFERENCES = [["a dog runs", "a dog"], ["a red bus", "the bus is red"], ["a a cat"]]


LISTS = torch.tensor([[0, -1, 4], [3, 3, 2]])
GENERATOR = torch.Generator().manual_seed(0)
VECTORS, EMBEDDINGS = (torch.randn(shape, generator=GENERATOR) for shape in ((2, 37, 300), (5, 300)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_products_of_given_pairs(dtype):
    vectors, embeddings = VECTORS.to(dtype), EMBEDDINGS.to(dtype)
    want = torch.einsum("nrd,nkd->nkr", vectors.double(), embeddings.double()[LISTS.clamp(min=0)])
    found = dot_products_of_candidates(vectors.transpose(0, 1).contiguous().transpose(0, 1), embeddings, LISTS)
    assert found.dtype == dtype
    assert not found[0, 1].any()
    bound = 300**0.5 * (torch.finfo(dtype).eps + torch.finfo(torch.float64).eps) * 300**0.5  # found's and want's
    torch.testing.assert_close(found[LISTS >= 0].double(), want[LISTS >= 0], rtol=0, atol=bound)
    if dtype != torch.float16:
        torch.library.opcheck(OPS.dot_products_candidates.default, (vectors, embeddings, LISTS))
    assert dot_products_of_candidates(vectors, embeddings, LISTS[:, :0]).shape == (2, 0, 37)
    assert not dot_products_of_candidates(vectors, embeddings[:0], torch.full((2, 1), -1)).any()


def heaps(n, k, dtype):
    return torch.full((n, k), -torch.inf, dtype=dtype), torch.full((n, k), NO_ITEM)


def ranks_state(n, slots, dtype):
    scores = torch.randn(n, slots, generator=torch.Generator().manual_seed(1)).to(dtype).sort(1, descending=True).values
    index = torch.arange(n * slots).reshape(n, slots)
    counts = [torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=torch.int64)]
    return scores, index, torch.full((n,), slots), *counts, torch.zeros(n, slots, dtype=torch.int64)


@pytest.mark.all_backends(without=("emulated-races",))  # it looks at schemas, whatever is watched meanwhile
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.compiled
def test_opcheck(dtype, rows):
    tile = torch.randn(9, 37, dtype=dtype)
    n = 9 if rows else 37
    opcheck(OPS.keep_topk_.default, (tile, 0, 5, rows, *heaps(n, 3, dtype)))
    opcheck(OPS.count_ranks_.default, (tile, 0, 5, rows, *ranks_state(n, 2, dtype)))
    opcheck(OPS.sort_topk_.default, (torch.randn(4, 6, dtype=dtype), torch.randint(0, 99, (4, 6))))
    opcheck(OPS.dot_products.default, (torch.randn(300, 8, dtype=dtype), torch.randn(5, 8, dtype=dtype)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.compiled
def test_opcheck_of_phi(dtype):
    corpus = Cider().fit(REFERENCES).encode(REFERENCES)
    arguments = (*corpus._text, torch.tensor([0, 2]), torch.tensor([1, 4]), True, 6.0, dtype)
    opcheck(OPS.cider_relevance.default, arguments)
    opcheck(OPS.cider_pairs.default, arguments)


@pytest.mark.all_backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_items", [1, 3, 4, 7, 8, 15, 16, 17, 31, 63, 64, 65, 300, 5000])
@pytest.mark.parametrize("rows", [True, False])
def test_ranks_at_the_edges_of_vectors(dtype, n_items, rows):
    """Three queries (as rows or columns of a wider tile), two of which share scores with many items."""
    rng = np.random.default_rng(n_items)
    scores = rng.integers(0, 6, (3, n_items)).astype(np.float64)
    own = rng.integers(0, n_items, 3)
    tile = torch.from_numpy(scores).to(dtype)
    layout = torch.full((n_items, 3 + 2), 9.0, dtype=dtype)
    layout[:, :3] = tile.T
    state = {
        "scores": torch.from_numpy(scores[np.arange(3), own]).to(dtype)[:, None],
        "index": torch.from_numpy(own)[:, None] + 100,
        "n_positives": torch.tensor([1, 1, 0]),
        "n_above": torch.zeros(3, dtype=torch.int64),
        "n_at_least": torch.zeros(3, dtype=torch.int64),
        "n_before": torch.zeros(3, 1, dtype=torch.int64),
    }
    count_ranks_(tile if rows else layout[:, :3], 0, 100, rows, **state)
    for query in range(2):
        others = np.delete(scores[query], own[query])
        limit = scores[query, own[query]]
        before = (scores[query] > limit).sum() + (scores[query, : own[query]] == limit).sum()
        assert state["n_above"][query] == (others > limit).sum()
        assert state["n_at_least"][query] == (others >= limit).sum()
        assert state["n_before"][query, 0] == before
    assert state["n_above"][2] == state["n_at_least"][2] == state["n_before"][2, 0] == 0


@pytest.mark.all_backends
@pytest.mark.parametrize("rows", [True, False])
def test_many_positives_of_many_queries(rows):
    """Up to twenty a query, of queries as rows or columns of two tiles; items share scores; positives count nobody."""
    rng = np.random.default_rng(0)
    n_queries, n_items, first = 37, 90, 64
    scores = rng.integers(0, 9, (n_queries, n_items)).astype(np.float32)
    own = [rng.permutation(n_items)[: query % 21] for query in range(n_queries)]
    own = [mine[np.lexsort((mine, -scores[query, mine]))] for query, mine in enumerate(own)]  # best first
    index = np.full((n_queries, 20), -1)
    for query, mine in enumerate(own):
        index[query, : len(mine)] = mine
    sims = torch.from_numpy(scores)
    state = {
        "scores": sims.gather(1, torch.from_numpy(index).clamp(min=0)),
        "index": torch.from_numpy(index),
        "n_positives": torch.tensor([len(mine) for mine in own]),
        "n_above": torch.zeros(n_queries, dtype=torch.int64),
        "n_at_least": torch.zeros(n_queries, dtype=torch.int64),
        "n_before": torch.zeros(n_queries, 20, dtype=torch.int64),
    }
    for part in (slice(0, first), slice(first, n_items)):
        tile = sims[:, part].contiguous()
        count_ranks_(tile if rows else tile.T.contiguous(), 0, part.start, rows, **state)
    for query, mine in enumerate(own):
        others = np.setdiff1d(np.arange(n_items), mine)
        theirs = scores[query, others]
        for slot, item in enumerate(mine):
            limit = scores[query, item]
            before = (theirs > limit).sum() + (theirs[others < item] == limit).sum()
            assert state["n_before"][query, slot] == before
        best = scores[query, mine[0]] if len(mine) else np.inf
        assert state["n_above"][query] == (theirs > best).sum()
        assert state["n_at_least"][query] == (theirs >= best).sum()
        assert not state["n_before"][query, len(mine) :].any()


@pytest.mark.all_backends
def test_the_order_of_tiles_does_not_matter():
    sims = torch.randint(0, 9, (40, 333), generator=torch.Generator().manual_seed(0)).float()
    whole = heaps(40, 20, torch.float32)
    keep_topk_(sims, 0, 0, True, values=whole[0], indices=whole[1])
    sort_topk_(*whole)
    for order in ([0, 100, 200, 300], [300, 100, 0, 200]):
        parts = heaps(40, 20, torch.float32)
        for left in order:
            keep_topk_(sims[:, left : left + 100], 0, left, True, values=parts[0], indices=parts[1])
        sort_topk_(*parts)
        assert torch.equal(parts[0], whole[0])
        assert torch.equal(parts[1], whole[1])


CORPUS = Cider().fit(REFERENCES).encode(REFERENCES)
TEXT: EncodedText = CORPUS._text
IDS = torch.tensor([0])
OPTIONS = {"unary": True, "sigma": 6.0, "dtype": torch.float32}


@pytest.mark.parametrize(
    ("call", "exception", "fragment"),
    [
        (lambda: OPS.keep_topk_(torch.ones(3), 0, 0, True, *heaps(3, 1, torch.float32)), ValueError, "two dimensions"),
        (lambda: OPS.keep_topk_(torch.ones(3, 3), 1, 0, True, *heaps(3, 1, torch.float32)), ValueError, "exceeds"),
        (lambda: OPS.keep_topk_(torch.ones(3, 3), -1, 0, True, *heaps(3, 1, torch.float32)), ValueError, "exceeds"),
        (
            lambda: OPS.keep_topk_(torch.ones(3, 3), 0, 0, True, *heaps(3, 1, torch.float64)),
            TypeError,
            "values must be",
        ),
        (
            lambda: OPS.keep_topk_(torch.ones(3, 3), 0, 0, True, torch.ones(3, 1), torch.ones(3, 2).long()),
            ValueError,
            "indices must be contiguous",
        ),
        (
            lambda: OPS.keep_topk_(torch.ones(3, 3).half(), 0, 0, True, *heaps(3, 1, torch.float16)),
            TypeError,
            "float32 or float64",
        ),
        (lambda: OPS.sort_topk_(torch.ones(3, 1).long(), torch.ones(3, 1).long()), TypeError, "float32 or float64"),
        (lambda: OPS.dot_products(torch.ones(3, 4), torch.ones(3, 5)), ValueError, "embeddings must have shapes"),
        (lambda: dot_products(torch.ones(3, 4), torch.ones(3, 4).double()), TypeError, "the same dtype"),
        (
            lambda: OPS.dot_products_candidates(torch.ones(3, 4), torch.ones(3, 4), LISTS),
            ValueError,
            "vectors must have",
        ),
        (lambda: OPS.dot_products_candidates(VECTORS, EMBEDDINGS.half(), LISTS), TypeError, "both float32 or both"),
        (
            lambda: OPS.dot_products_candidates(VECTORS, EMBEDDINGS, LISTS[:1]),
            ValueError,
            "candidates must have shape (2, k)",
        ),
        (lambda: OPS.dot_products_candidates(VECTORS, EMBEDDINGS[:2], LISTS), ValueError, "candidates[0, 2] is 4"),
        (lambda: cider_relevance(TEXT, torch.tensor([3]), IDS, **OPTIONS), IndexError, "image_ids[0] is 3"),
        (lambda: cider_relevance(TEXT, IDS, torch.tensor([-1]), **OPTIONS), IndexError, "caption_ids[0] is -1"),
        (lambda: cider_pairs(TEXT, IDS, torch.tensor([0, 1]), **OPTIONS), ValueError, "the same length"),
        (lambda: cider_pairs(TEXT, IDS.float(), IDS, **OPTIONS), TypeError, "image_ids must be int64"),
        (lambda: cider_pairs(TEXT, IDS, IDS, **{**OPTIONS, "dtype": torch.half}), TypeError, "dtype must be"),
        (
            lambda: cider_pairs(TEXT._replace(bigrams=TEXT.bigrams[:-1]), IDS, IDS, **OPTIONS),
            ValueError,
            "do not fit each other",
        ),
        (
            lambda: cider_pairs(TEXT._replace(references=TEXT.references + 1), IDS, IDS, **OPTIONS),
            ValueError,
            "do not fit its features",
        ),
    ],
)
def test_errors(call, exception, fragment):
    with pytest.raises(exception) as raised:
        call()
    assert fragment in str(raised.value)
