"""RegionWordScorer: tiles are those of the operators on everything at once, whatever the blocks, dtypes and counts."""

from functools import partial

import numpy as np
import pytest
import torch

from itm_fast.evaluation import evaluate
from itm_fast.nn.similarity.cross_attention import CrossAttention
from itm_fast.ops.cross_attention import cross_attention_similarity
from itm_fast.ops.max_similarity import max_similarity
from itm_fast.reference import cross_attention_similarity as reference_cross_attention
from itm_fast.reference import max_similarity as reference_max_similarity
from itm_fast.similarities import region_word_scorer
from itm_fast.similarities.region_word_scorer import RegionWordScorer


def embeddings(n_images=6, n_captions=30, dim=8, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    regions = rng.standard_normal((n_images, 5, dim)).astype(dtype)
    words = rng.standard_normal((n_captions, 7, dim)).astype(dtype)
    return regions, words, rng.integers(1, 8, n_captions), rng.integers(1, 6, n_images)


OPTIONS = {"cross_attn": "i2t", "agg_func": "Mean", "raw_feature_norm": "l2norm", "lambda_softmax": 4.0}
SIMILARITIES = {
    "max": (max_similarity, reference_max_similarity),
    "max i2t": [partial(f, cross_attn="i2t", agg_func="Mean") for f in (max_similarity, reference_max_similarity)],
    "scan": (cross_attention_similarity, reference_cross_attention),
    "scan i2t": [partial(f, **OPTIONS) for f in (cross_attention_similarity, reference_cross_attention)],
    "module": (CrossAttention("i2t", "l2norm", "Mean", 4.0), partial(reference_cross_attention, **OPTIONS)),
}


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("block_bytes", [1, 1000, 1 << 20])
def test_tiles_against_the_reference(name, block_bytes, monkeypatch):
    monkeypatch.setattr(region_word_scorer, "_BLOCK_BYTES", block_bytes)
    ours, reference = SIMILARITIES[name]
    regions, words, word_counts, region_counts = embeddings()
    scorer = RegionWordScorer(regions, words, word_counts, region_counts, similarity=ours)
    expected = reference(
        *(torch.from_numpy(x).double() for x in (regions, words)),
        *(torch.from_numpy(x) for x in (word_counts, region_counts)),
    )
    for rows, columns in ((slice(0, 6), slice(0, 30)), (slice(2, 5), slice(7, 8)), (slice(3, 3), slice(0, 4))):
        found = scorer(rows, columns)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected[rows, columns], rtol=1e-4, atol=1e-5)


def test_evaluate_from_half_precision_and_memory_maps(tmp_path):
    regions, words, word_counts, region_counts = embeddings(dtype=np.float16)
    np.save(tmp_path / "regions.npy", regions)
    mapped = np.load(tmp_path / "regions.npy", mmap_mode="r")
    torn = words.copy()
    for caption, count in enumerate(word_counts):
        torn[caption, count:] = np.nan  # never read
    tensors = (torch.from_numpy(x) for x in (word_counts, region_counts))
    expected = max_similarity(torch.from_numpy(regions).float(), torch.from_numpy(words).float(), *tensors)
    sources = {
        "float16": RegionWordScorer(mapped, torn, word_counts, region_counts),
        "mixed": RegionWordScorer(regions.astype(np.float32), torch.from_numpy(torn), word_counts, region_counts),
        "lists": RegionWordScorer(regions, torn, word_counts.tolist(), region_counts.tolist()),
    }
    for scorer in sources.values():
        report = evaluate(scorer, chunk_bytes=400)
        for key in ("i2t", "t2i", "rsum"):
            assert report[key] == evaluate(expected)[key]
    bfloat16 = torch.from_numpy(regions).bfloat16(), torch.from_numpy(words).bfloat16()
    found = RegionWordScorer(*bfloat16)(slice(0, 6), slice(0, 30))
    torch.testing.assert_close(found, max_similarity(*(x.float() for x in bfloat16)))


def test_counts_leave_vectors_out():
    regions, words, word_counts, _ = embeddings()
    all_words = RegionWordScorer(regions, words)(slice(0, 6), slice(0, 30))
    counted = RegionWordScorer(regions, words, word_counts)(slice(0, 6), slice(0, 30))
    short = torch.from_numpy(word_counts < 7)
    assert torch.equal(all_words[:, ~short], counted[:, ~short])
    assert (all_words[:, short] != counted[:, short]).all()


@pytest.mark.parametrize("name", SIMILARITIES)
def test_masks_are_counts(name):
    regions, words, word_counts, region_counts = embeddings()
    similarity, _ = SIMILARITIES[name]
    counted = RegionWordScorer(regions, words, word_counts, region_counts, similarity=similarity)
    tile = slice(1, 5), slice(3, 29)
    masks = np.arange(7) < word_counts[:, None], np.arange(5) < region_counts[:, None]
    behind = RegionWordScorer(regions, words, *masks, similarity=similarity)
    assert torch.equal(behind(*tile), counted(*tile))
    mirrored = regions[:, ::-1].copy(), torch.from_numpy(words).flip(1), *(mask[:, ::-1] for mask in masks)
    before = RegionWordScorer(*mirrored, similarity=similarity)
    torch.testing.assert_close(before(*tile), counted(*tile))
    torch.testing.assert_close(before.normalised()(*tile), counted.normalised()(*tile))


@pytest.mark.parametrize(
    ("call", "exception", "fragment"),
    [
        (lambda r, w, n, m: RegionWordScorer(r[0], w), ValueError, "regions has shape (5, 8), expected (n_images"),
        (lambda r, w, n, m: RegionWordScorer(r, w[0]), ValueError, "words has shape (7, 8)"),
        (lambda r, w, n, m: RegionWordScorer(r, w[..., :4]), ValueError, "regions has dim 8, but words has dim 4"),
        (
            lambda r, w, n, m: RegionWordScorer(r, w, m, n),
            ValueError,
            "word_counts must have shape (30,), one co",
        ),
        (
            lambda r, w, n, m: RegionWordScorer(r, w, n + 0.5),
            TypeError,
            "or None, got ndarray of torch.float64",
        ),
        (lambda r, w, n, m: RegionWordScorer(r, w, n * 0 + 8), ValueError, "word_counts[0] is 8, expected 1 ... 7"),
        (lambda r, w, n, m: RegionWordScorer(r, w, n, m * 0), ValueError, "region_counts[0] is 0, expected 1 ... 5"),
        (lambda r, w, n, m: evaluate(RegionWordScorer(r * np.nan, w)), ValueError, "sims is NaN at row (image) 0"),
        (lambda r, w, n, m: evaluate(RegionWordScorer(w, r)), ValueError, "looks transposed"),
    ],
)
def test_errors(call, exception, fragment):
    with pytest.raises(exception) as raised:
        call(*embeddings())
    assert fragment in str(raised.value)
