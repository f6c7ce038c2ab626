"""Ragged vectors and their late interaction by tiles: against the readable reference, chosen, normalised, refused."""

from functools import partial

import numpy as np
import pytest
import torch

from itm_fast.metrics.retrieval import topk
from itm_fast.ops.max_similarity import max_similarity
from itm_fast.similarities import RaggedScorer, RaggedVectors, ragged, select

DIM = 8
COUNTS = {"images": [5, 1, 17, 3, 2], "captions": [1, 4, 2, 9, 3, 3, 1]}


def offsets(counts):
    return np.concatenate([[0], np.cumsum(counts)])


@pytest.fixture(params=[torch.float64, torch.float32, torch.float16])
def sides(request):
    """Images and captions, as arrays."""
    generator = torch.Generator().manual_seed(0)
    vectors = [torch.randn(sum(counts), DIM, generator=generator).to(request.param) for counts in COUNTS.values()]
    return [RaggedVectors(one.numpy(), offsets(counts)) for one, counts in zip(vectors, COUNTS.values(), strict=True)]


def items(side):
    return torch.from_numpy(side.vectors).double().split(side.counts.tolist())


def expected(sides, agg=torch.sum):
    images, captions = map(items, sides)
    return torch.stack([torch.stack([agg((c @ i.T).max(dim=1).values) for c in captions]) for i in images])


def tolerance(sides):
    """Of a sum of at most 9 dot products of 8 terms up to 10 each, in float32; halves are read as they are."""
    return 0 if sides[0].vectors.dtype == np.float64 else 9 * 8 * 10 * 2**-24


@pytest.mark.parametrize("block", [64 << 20, 4 * DIM * 6])  # all at once; six vectors
def test_tiles_as_the_reference(sides, block, monkeypatch):
    monkeypatch.setattr(ragged, "_BLOCK_BYTES", block)
    scorer, wanted = RaggedScorer(*sides), expected(sides)
    assert (scorer.n_images, scorer.n_captions) == (5, 7)
    for rows, columns in ((slice(0, 5), slice(0, 7)), (slice(1, 4), slice(3, 4)), (slice(2, 2), slice(0, 7))):
        found = scorer(rows, columns).double()
        torch.testing.assert_close(found, wanted[rows, columns], rtol=1e-14, atol=tolerance(sides))


def test_blocks_are_bounded(monkeypatch):
    monkeypatch.setattr(ragged, "_BLOCK_BYTES", 4 * DIM * 6)
    seen = []

    def looked_at(regions, words):
        seen.append((len(regions.vectors), len(words.vectors)))
        return max_similarity(regions, words)

    vectors = [RaggedVectors(np.ones((sum(counts), DIM), np.float32), offsets(counts)) for counts in COUNTS.values()]
    RaggedScorer(*vectors, similarity=looked_at)(slice(0, 5), slice(0, 7))
    assert {regions for regions, _ in seen} == {6, 17, 5}  # 5 + 1; one that is larger by itself; 3 + 2
    assert max(words for _, words in seen) == 9


def test_options(sides):
    scorer = RaggedScorer(*sides, similarity=partial(max_similarity, agg_func="Mean"))
    found = scorer(slice(0, 5), slice(0, 7)).double()
    torch.testing.assert_close(found, expected(sides, torch.mean), rtol=1e-14, atol=tolerance(sides))


def test_chosen_in_any_order(sides):
    rows, columns = np.array([4, 0, 2]), np.array([6, 5, 0, 1, 2])
    some = select(RaggedScorer(*sides), rows, columns)
    wanted = expected(sides)[rows][:, columns]
    torch.testing.assert_close(some(slice(0, 3), slice(0, 5)).double(), wanted, rtol=1e-14, atol=tolerance(sides))
    again = select(some, None, np.array([1, 0]))
    torch.testing.assert_close(
        again(slice(0, 3), slice(0, 2)).double(), wanted[:, [1, 0]], rtol=1e-14, atol=tolerance(sides)
    )


def test_normalised(sides):
    lengths = [np.linalg.norm(side.vectors.astype(np.float64), axis=1, keepdims=True) for side in sides]
    unit = [RaggedVectors(one.vectors / n, offsets(one.counts)) for one, n in zip(sides, lengths, strict=True)]
    found = RaggedScorer(*sides).normalised()(slice(0, 5), slice(0, 7)).double()
    torch.testing.assert_close(found, expected(unit), rtol=1e-14, atol=1e-14 + tolerance(sides))


def test_of_a_memory_map_nothing_is_read_but_blocks(tmp_path):
    """Also of two dtypes: stored halves, asked in float32."""
    stored = np.random.default_rng(0).standard_normal((28, DIM)).astype(np.float16)
    np.save(tmp_path / "vectors.npy", stored)
    images = RaggedVectors(np.load(tmp_path / "vectors.npy", mmap_mode="r"), offsets(COUNTS["images"]))
    words = RaggedVectors(torch.eye(DIM), offsets([3, 5]))
    found = RaggedScorer(images, words)(slice(0, 5), slice(0, 2))
    in_memory = RaggedScorer(RaggedVectors(stored.astype(np.float32), offsets(COUNTS["images"])), words)
    torch.testing.assert_close(found, in_memory(slice(0, 5), slice(0, 2)), rtol=0, atol=0)
    assert images.dtype == "float16"


def test_metrics_take_it(sides):
    assert topk(RaggedScorer(*sides), k=3).indices.tolist() == topk(expected(sides), k=3).indices.tolist()


@pytest.mark.parametrize(
    ("vectors", "places", "fragment"),
    [
        (np.ones(3), [0, 3], r"vectors has shape \(3,\), expected \(total, dim\)"),
        (np.ones((3, 2)), [0, 2], "integers from 0 to 3"),
        (np.ones((3, 2)), [1, 3], "integers from 0 to 3"),
        (np.ones((3, 2)), [[0, 3]], "integers from 0 to 3"),
        (np.ones((3, 2)), [0, 1, 1, 3], "item 1 has no vectors"),
        (np.ones((3, 2)), [0, 2, 1, 3], "item 1 has no vectors"),
    ],
)
def test_what_does_not_fit(vectors, places, fragment):
    with pytest.raises(ValueError, match=fragment):
        RaggedVectors(vectors, np.array(places))


def test_two_spaces():
    one, other = (RaggedVectors(np.ones((1, dim)), np.array([0, 1])) for dim in (2, 3))
    with pytest.raises(ValueError, match="regions has dim 2, but words has dim 3"):
        RaggedScorer(one, other)
