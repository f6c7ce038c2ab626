"""Streaming ranks against a full sort, on matrices with and without ties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itm_fast.metrics import make_positives, ranks
from itm_fast.metrics.counting import positive_scores
from itm_fast.metrics.ranks import stream_ranks
from itm_fast.similarities.scorers import as_scorer
from itm_fast.similarities.tiles import Tiles


def full_sort(scores, positives):
    """Oracle: (optimistic, pessimistic, ranks of all positives) of one query by a stable sort of all items."""
    order = np.argsort(-scores, kind="stable")
    rank_of = np.empty(len(scores), int)
    rank_of[order] = np.arange(len(scores))
    best = scores[positives].max()
    others = np.delete(scores, positives)
    return int((others > best).sum()), int((others >= best).sum()), sorted(rank_of[positives].tolist())


def oracle(sims, owners, query):
    """Oracle over all queries: rows (optimistic, pessimistic, ranks of positives, ascending)."""
    if query == "caption":
        return [full_sort(sims[:, c], [owners[c]]) for c in range(sims.shape[1])]
    captions = [np.flatnonzero(owners == i).tolist() for i in range(sims.shape[0])]
    return [full_sort(sims[i], mine) if mine else (-1, -1, []) for i, mine in enumerate(captions)]


def as_rows(found):
    positives = [[rank for rank in row if rank >= 0] for row in found.positives.tolist()]
    rows = list(zip(found.optimistic.tolist(), found.pessimistic.tolist(), positives, strict=True))
    assert found.best.tolist() == [row[0] if row else -1 for row in positives]
    assert found.n_positives.tolist() == [len(row) for row in positives]
    return rows


KINDS = {
    "random": lambda rng, shape: rng.standard_normal(shape),
    "tied": lambda rng, shape: rng.integers(-2, 3, shape) / 2,
    "equal": lambda rng, shape: np.full(shape, 0.25),
    "infinite": lambda rng, shape: rng.choice([-np.inf, -1.0, 0.0, np.inf], shape),
}


@pytest.mark.parametrize("query", ["image", "caption"])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_same_as_full_sort(query, kind, data):
    n_images = data.draw(st.integers(1, 9))
    n_captions = data.draw(st.integers(1, 30))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    owners = rng.integers(0, n_images, n_captions)
    if data.draw(st.booleans()):
        owners = np.sort(owners)
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    sims = KINDS[kind](rng, (n_images, n_captions)).astype(dtype)
    expected = oracle(sims, owners, query)
    both = stream_ranks(
        as_scorer(sims),
        make_positives(n_images, n_captions, caption_to_image=owners),
        chunk_bytes=data.draw(st.integers(8, 2000)),
    )
    assert as_rows(both.image if query == "image" else both.caption) == expected


@pytest.mark.all_backends
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("query", ["image", "caption"])
def test_blocks_of_every_side(query, kind):
    # More rows and columns than one block (128 x 2048) has, so that positives lie before, in and after blocks.
    rng = np.random.default_rng(3)
    sims = KINDS[kind](rng, (450, 2250)).astype(np.float32)
    assert as_rows(ranks(sims, query=query)) == oracle(sims, np.arange(2250) // 5, query)


@pytest.mark.parametrize("kind", ["random", "tied", "equal"])
def test_independent_of_tile_size(kind):
    sims = torch.from_numpy(KINDS[kind](np.random.default_rng(5), (30, 150)))
    positives = make_positives(30, 150)
    whole = stream_ranks(as_scorer(sims), positives, folds=5)
    for chunk_bytes in (8, 100, 1001, 8 * 30 * 150):
        both = stream_ranks(as_scorer(sims), positives, folds=5, chunk_bytes=chunk_bytes)
        assert as_rows(both.image) == as_rows(whole.image)
        assert as_rows(both.caption) == as_rows(whole.caption)
        for fold in range(5):
            assert as_rows(both.image_folds[fold]) == as_rows(whole.image_folds[fold])
            assert as_rows(both.caption_folds[fold]) == as_rows(whole.caption_folds[fold])


@pytest.mark.all_backends
def test_folds_are_ranks_of_the_blocks():
    sims = KINDS["tied"](np.random.default_rng(7), (20, 100))
    both = stream_ranks(as_scorer(sims), make_positives(20, 100), folds=4, chunk_bytes=700)
    for fold in range(4):
        block = sims[5 * fold : 5 * fold + 5, 25 * fold : 25 * fold + 25]
        assert as_rows(both.image_folds[fold]) == as_rows(ranks(block, query="image"))
        assert as_rows(both.caption_folds[fold]) == as_rows(ranks(block, query="caption"))


@pytest.mark.all_backends
def test_folds_of_a_ragged_map_go_by_images():
    owners = np.array([0, 1, 1, 1, 2, 3])
    sims = np.random.default_rng(8).standard_normal((4, 6))
    both = stream_ranks(as_scorer(sims), make_positives(4, 6, caption_to_image=owners), folds=2)
    assert as_rows(both.image_folds[0]) == oracle(sims[:2, :4], owners[:4], "image")
    assert as_rows(both.caption_folds[1]) == oracle(sims[2:, 4:], owners[4:] - 2, "caption")


def test_every_pair_is_scored_once_after_the_positives():
    seen = np.zeros((40, 200), int)
    sims = np.random.default_rng(0).standard_normal((40, 200))
    calls = []

    def tile(rows, columns):
        calls.append((rows, columns))
        return sims[rows, columns]

    stream_ranks(as_scorer(tile, 40, 200), make_positives(40, 200), folds=5, chunk_bytes=8 * 400)
    n_positive_tiles = next(n for n in range(len(calls)) if sum(_n_pairs(call) for call in calls[n:]) == sims.size)
    for rows, columns in calls[n_positive_tiles:]:
        seen[rows, columns] += 1
    assert (seen == 1).all()
    assert all(_n_pairs(call) <= 400 for call in calls)
    assert sum(_n_pairs(call) for call in calls[:n_positive_tiles]) < sims.size


def _n_pairs(call):
    rows, columns = call
    return (rows.stop - rows.start) * (columns.stop - columns.start)


@pytest.mark.all_backends
def test_positives_scored_again_with_another_rounding_do_not_count():
    rng = np.random.default_rng(1)
    sims = rng.standard_normal((20, 100))
    own = np.arange(100) // 5 == np.arange(20)[:, None]

    def noisy(rows, columns):
        part = sims[rows, columns]
        return part + own[rows, columns] * rng.uniform(-1e-9, 1e-9, part.shape)

    both = stream_ranks(as_scorer(noisy, 20, 100), make_positives(20, 100))
    assert as_rows(both.image) == oracle(sims, np.arange(100) // 5, "image")
    assert as_rows(both.caption) == oracle(sims, np.arange(100) // 5, "caption")


def test_the_users_matrix_is_not_written():
    sims = torch.randn(10, 50, generator=torch.Generator().manual_seed(0))
    before = sims.clone()
    ranks(sims)
    assert torch.equal(sims, before)


def test_half_precision_embeddings_do_not_overflow():
    # 4 * 200 * 200 = 160,000 is beyond float16: the best two would tie at inf.
    images = torch.full((2, 4), 200.0, dtype=torch.float16)
    images[1] *= 1.5
    captions = torch.full((2, 4), 200.0, dtype=torch.float16)
    found = ranks((images, captions), query="caption", captions_per_image=1)
    assert found.best.tolist() == [1, 0]
    assert found.pessimistic.tolist() == [1, 0]


@pytest.mark.all_backends
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32])
def test_dtypes(dtype):
    sims = torch.tensor([[3, 1, 0, 0, 2], [1, 2, 2, 1, 3]]).to(dtype)
    owners = np.array([0, 0, 1, 1, 0])
    assert as_rows(ranks(sims, caption_to_image=owners)) == oracle(sims.double().numpy(), owners, "image")


@pytest.mark.all_backends
@pytest.mark.parametrize("make", [lambda a: a[::-1][::-1], lambda a: a.astype(">f4"), np.asfortranarray])
def test_unusual_arrays(make):
    sims = np.random.default_rng(2).standard_normal((4, 20)).astype(np.float32)
    assert as_rows(ranks(make(sims))) == as_rows(ranks(sims))


def test_memory_mapped_matrix(tmp_path):
    sims = np.random.default_rng(2).standard_normal((4, 20)).astype(np.float32)
    np.save(tmp_path / "sims.npy", sims)
    assert as_rows(ranks(np.load(tmp_path / "sims.npy", mmap_mode="r"))) == as_rows(ranks(sims))


NAN = np.zeros((40, 200))
NAN[31, 170] = np.nan


@pytest.mark.all_backends
@pytest.mark.parametrize("chunk_bytes", [64, 1 << 20])
def test_nan_is_named(chunk_bytes):
    with pytest.raises(ValueError, match=r"row \(image\) 31, column \(caption\) 170"):
        stream_ranks(as_scorer(NAN), make_positives(40, 200), chunk_bytes=chunk_bytes)


@pytest.mark.parametrize(
    ("call", "exception", "fragment"),
    [
        (lambda: ranks(np.zeros((50, 10))), ValueError, "looks transposed"),
        (lambda: ranks(np.zeros((20, 20))), ValueError, "repeated once a caption"),
        (lambda: ranks(np.zeros((4, 21))), ValueError, "expects 20 captions"),
        (lambda: ranks(np.zeros(20)), ValueError, "expected (n_images, n_captions)"),
        (lambda: ranks(np.zeros((4, 20)), query="text"), ValueError, "query is 'text'"),
        (lambda: ranks(np.zeros((4, 20)), captions_per_image=0), ValueError, "captions_per_image is 0"),
        (lambda: ranks(np.zeros((2, 3)), caption_to_image=[0, 2, 1]), ValueError, "caption_to_image[1] is 2"),
        (lambda: ranks(np.zeros((2, 3)), caption_to_image=[0, -1, 1]), ValueError, "caption_to_image[1] is -1"),
        (lambda: ranks(np.zeros((2, 3)), caption_to_image=[0, 1]), ValueError, "transposed"),
        (lambda: ranks(np.zeros((2, 3)), caption_to_image=[0.0, 1.5, 1.0]), TypeError, "float64, expected integers"),
        (
            lambda: ranks(np.zeros((2, 3)), caption_to_image=[0, 1, 1], captions_per_image=5),
            ValueError,
            "exclude each other",
        ),
        (lambda: ranks([[1.0]]), TypeError, "sims is a list"),
        (lambda: ranks((np.zeros((2, 3)),)), TypeError, "expected a pair"),
        (lambda: ranks((np.zeros((2, 3)), np.zeros((10, 4)))), ValueError, "images has dim 3, but captions has dim 4"),
        (lambda: ranks((np.zeros(2), np.zeros((10, 4)))), ValueError, "expected (n_images, dim)"),
        (lambda: ranks(lambda rows, columns: None), ValueError, "pass n_images=... and n_captions=..."),
        (lambda: ranks(np.zeros((1, 5), bool)), TypeError, "real numbers"),
        (lambda: ranks(torch.zeros((1, 5), dtype=torch.complex64)), TypeError, "real numbers"),
        (lambda: as_scorer(np.zeros((2, 3)), n_images=3), ValueError, "n_images is 3, but sims has 2"),
        (
            lambda: stream_ranks(as_scorer(lambda rows, columns: np.zeros((1, 1)), 2, 10), make_positives(2, 10)),
            ValueError,
            "the tile scorer returned shape (1, 1)",
        ),
        (
            lambda: stream_ranks(as_scorer(np.zeros((2, 10))), make_positives(2, 10), chunk_bytes=7),
            ValueError,
            "chunk_bytes is 7",
        ),
        (lambda: make_positives(5, 25).fold_bounds(2), ValueError, "n_images = 5 is not a multiple"),
        (lambda: make_positives(5, 25).fold_bounds(0), ValueError, "folds is 0"),
        (lambda: make_positives(2, 3, caption_to_image=[0, 1, 0]).fold_bounds(2), ValueError, "caption 2 belongs"),
        (lambda: make_positives(2, 1, caption_to_image=[0]).fold_bounds(2), ValueError, "fold 1"),
    ],
)
def test_errors(call, exception, fragment):
    with pytest.raises(exception) as raised:
        call()
    assert fragment in str(raised.value)


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("n_sims", [1, 7, 60, 500, 10_000])
def test_positive_scores_come_from_bounded_tiles(shuffled, n_sims):
    rng = np.random.default_rng(0)
    owners = rng.integers(0, 30, 170)
    positives = make_positives(30, 170, caption_to_image=owners if shuffled else np.sort(owners))
    sims, seen = torch.rand(30, 170), []

    def tile(rows, columns):
        seen.append((rows.stop - rows.start) * (columns.stop - columns.start))
        return sims[rows, columns]

    captions = torch.from_numpy(positives.padded())
    scores = positive_scores(Tiles(as_scorer(tile, 30, 170)), captions, n_sims)
    images, slots = (captions >= 0).nonzero(as_tuple=True)
    assert len(images) == 170
    assert torch.equal(scores[images, slots], sims[images, captions[images, slots]])
    assert max(seen) <= n_sims


@pytest.mark.parametrize("source", ["matrix", "embeddings", "callable"])
def test_scattered_positives_are_scored_too(source):
    rng = np.random.default_rng(0)
    images, captions = (rng.integers(-3, 4, (n, 5)).astype(np.float32) for n in (40, 3000))
    sims = images @ captions.T
    index = torch.from_numpy(np.sort(np.stack([rng.choice(3000, 6, replace=False) for _ in range(40)])))
    given = {"matrix": sims, "embeddings": (images, captions), "callable": lambda r, c: sims[r, c]}[source]
    scores = positive_scores(Tiles(as_scorer(given, 40, 3000)), index, 5000)
    np.testing.assert_array_equal(scores.numpy(), np.take_along_axis(sims, index.numpy(), 1))
    if source == "matrix":
        row, column = 17, int(index[17, 3])
        sims[row, column] = np.nan
        with pytest.raises(ValueError, match=rf"row \(image\) {row}, column \(caption\) {column};"):
            positive_scores(Tiles(as_scorer(sims)), index, 10**9)
