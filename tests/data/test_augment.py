"""Size augmentation: what is dropped, how often, and what stays."""

import numpy as np
import pytest
import torch

from itm_fast.data import SizeAugment
from itm_fast.data.collate import Batch

N, R, L, MASK = 400, 9, 12, 99


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    word_counts = torch.randint(3, L + 1, (N,), generator=generator)
    word_counts[0] = L
    tokens = torch.arange(10, 10 + L).expand(N, L).clone()
    tokens[torch.arange(L) >= word_counts[:, None]] = 0
    regions = torch.randn(N, R, 4, generator=generator)
    ids = torch.arange(N)
    return Batch(regions, tokens, word_counts, ids, ids, torch.full((N,), R))


def augmented(batch, seed=0, **options):
    return SizeAugment(**{"n_tokens": 1, "mask_id": MASK, **options})(batch, torch.Generator().manual_seed(seed))


def test_regions_that_stay_are_in_front_and_in_order(batch):
    found = augmented(batch)
    assert found.regions.shape[1] == found.region_counts.max()
    for old, new, count in zip(batch.regions, found.regions, found.region_counts, strict=True):
        assert count >= 1
        rows = [int((old == row).all(1).nonzero()) for row in new[:count]]
        assert rows == sorted(set(rows))
        assert not new[count:].any()
    assert found.region_counts.sum() / (N * R) == pytest.approx(0.8, abs=4 * (0.16 / (N * R)) ** 0.5)


def test_an_image_of_one_region_keeps_it(batch):
    one = Batch(batch.regions[:, :1], batch.tokens, batch.word_counts, batch.image_ids, batch.caption_ids, None)
    assert augmented(one).region_counts.tolist() == [1] * N


def test_words_are_masked_replaced_or_deleted(batch):
    found = augmented(batch)  # a replaced word becomes 0, which is no word of these captions
    n_inner = int((batch.word_counts - 2).sum())
    shares = {"masked": 0, "replaced": 0, "deleted": int((batch.word_counts - found.word_counts).sum())}
    for old, new, before, after in zip(batch.tokens, found.tokens, batch.word_counts, found.word_counts, strict=True):
        words, left = old[:before].tolist(), new[:after].tolist()
        assert (left[0], left[-1]) == (words[0], words[-1])
        assert not new[after:].any()
        kept = [word for word in left if word not in (MASK, 0)]
        assert kept == sorted(kept)
        shares["masked"] += left.count(MASK)
        shares["replaced"] += left.count(0)
    for name, share in {"masked": 0.1, "replaced": 0.02, "deleted": 0.08}.items():
        assert shares[name] / n_inner == pytest.approx(share, abs=4 * (share / n_inner) ** 0.5), name


def test_pieces_share_the_fate_of_their_word(batch):
    continues = np.zeros(100, dtype=bool)
    continues[[12, 13, 16]] = True  # the words are 11 12 13, 14, 15 16, 17 ...
    found = augmented(batch, continues=continues)
    for new, after, before in zip(found.tokens, found.word_counts, batch.word_counts, strict=True):
        if before < 9:
            continue
        left = set(new[:after].tolist())
        assert {11, 12, 13} <= left or not {11, 12, 13} & left
        assert {15, 16} <= left or not {15, 16} & left


def test_the_generator_decides(batch):
    first, again, other = augmented(batch, 3), augmented(batch, 3), augmented(batch, 4)
    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(first.regions, again.regions)
    assert not torch.equal(first.region_counts, other.region_counts)
