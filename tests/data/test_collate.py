import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from itm_fast.data.collate import Collator
from itm_fast.data.readers.precomp import PrecompDataset
from itm_fast.data.text.caption_tokens import CaptionTokens
from itm_fast.data.text.vocabulary import SPECIALS, Vocabulary

RAGGED = st.lists(st.lists(st.integers(1, 2**31 - 1), max_size=9), min_size=1, max_size=12)


def tokens_of(captions):
    flat = np.array([token for caption in captions for token in caption], dtype=np.int32)
    return CaptionTokens(flat, np.cumsum([0, *map(len, captions)]))


@given(RAGGED, st.data())
def test_padding_of_ragged_captions(captions, data):
    indices = data.draw(st.lists(st.integers(0, len(captions) - 1), max_size=15))
    tokens, word_counts = tokens_of(captions).pad(indices)
    assert tokens.dtype == word_counts.dtype == torch.int64
    assert word_counts.tolist() == [len(captions[index]) for index in indices]
    width = max((len(captions[index]) for index in indices), default=0)
    assert tokens.shape == (len(indices), width)
    for row, index in enumerate(indices):
        assert tokens[row].tolist() == captions[index] + [0] * (width - len(captions[index]))


@pytest.fixture
def parts(write_split):
    folder, distinct = write_split()
    dataset = PrecompDataset(folder, "train")
    vocabulary = Vocabulary([*SPECIALS, "caption", "of", "image", ".", *map(str, range(10))])
    return dataset, distinct, vocabulary, CaptionTokens.from_captions(dataset.captions, vocabulary, "split")


def test_tokens_of_captions(parts):
    dataset, _, vocabulary, tokens = parts
    assert (len(tokens), tokens.flat.dtype, tokens.offsets.dtype) == (20, np.int32, np.int64)
    padded, word_counts = tokens.pad(range(20))
    for caption, ids, count in zip(dataset.captions, padded.tolist(), word_counts.tolist(), strict=True):
        assert ids[:count] == vocabulary.encode(caption.lower().split())
    assert padded[13].tolist()[:4] == [1, 4, 3, 5]  # "13" is unknown
    assert len(CaptionTokens.from_captions(iter([]), vocabulary, "split")) == 0


@pytest.mark.parametrize("caption", [None, float("nan"), b"a dog", ["a", "dog"], 3])
def test_captions_that_are_no_texts(parts, caption):
    with pytest.raises(TypeError, match=r"captions\[1\] is .*; expected a text"):
        CaptionTokens.from_captions(["a dog", caption], parts[2], "split")


def test_batch_keeps_the_order_and_pairs_each_caption_with_its_image(parts):
    dataset, distinct, _, tokens = parts
    batch = Collator(dataset, tokens)([17, 3, 4, 3])
    assert batch.caption_ids.tolist() == [17, 3, 4, 3]
    assert batch.image_ids.tolist() == [3, 0, 0, 0]
    assert (len(batch), batch.regions.dtype, batch.image_ids.dtype) == (4, torch.float32, torch.int64)
    np.testing.assert_array_equal(batch.regions.numpy(), distinct[[3, 0, 0, 0]])
    expected_tokens, expected_counts = tokens.pad([17, 3, 4, 3])
    assert torch.equal(batch.tokens, expected_tokens)
    assert torch.equal(batch.word_counts, expected_counts)
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.tokens = None


def test_batch_does_not_alias_the_indices_given(parts):
    dataset, _, _, tokens = parts
    indices = np.array([1, 2])
    batch = Collator(dataset, tokens)(indices)
    indices[:] = 9
    assert batch.caption_ids.tolist() == [1, 2]


def test_empty_batch(parts):
    dataset, _, _, tokens = parts
    batch = Collator(dataset, tokens)([])
    assert batch.regions.shape == (0, 3, 6)
    assert batch.tokens.shape == (0, 0)
    assert len(batch.word_counts) == len(batch) == 0


def test_tokens_of_all_captions_of_an_image(parts):
    dataset, _, _, tokens = parts
    batch = Collator(dataset, tokens, has_image_tokens=True)([7, 0, 5])
    for row, image in zip(batch.image_tokens.tolist(), (1, 0, 1), strict=True):
        want = [token for k in range(5) for token in tokens.pad([5 * image + k])[0][0].tolist()]
        assert row == want + [0] * (len(row) - len(want))
    without = Collator(dataset, tokens)([7, 0, 5])
    assert without.image_tokens is None
    assert without.to("cpu").image_tokens is None


def test_to_moves_every_tensor(parts):
    dataset, _, _, tokens = parts
    batch = Collator(dataset, tokens, has_image_tokens=True)([0, 5])
    assert batch.to("meta").kept_cells is None
    assert batch.caption_states is None
    rest = {"kept_cells": torch.ones(2, 4, dtype=torch.bool), "caption_states": torch.ones(2, 3, 4)}
    moved = dataclasses.replace(batch, **rest).to("meta")
    assert {getattr(moved, field.name).device.type for field in dataclasses.fields(moved)} == {"meta"}


def test_pin_memory_pins_every_tensor(parts, monkeypatch):
    dataset, _, _, tokens = parts
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    Collator(dataset, tokens)([0, 5]).pin_memory()
    assert len(pinned) == 6


@pytest.mark.parametrize("workers", [0, 1])
def test_data_loader_visits_every_pair_once(parts, workers):
    dataset, distinct, _, tokens = parts
    loader = DataLoader(
        range(dataset.n_captions), 7, shuffle=True, num_workers=workers, collate_fn=Collator(dataset, tokens)
    )
    seen = []
    for batch in loader:
        np.testing.assert_array_equal(batch.regions.numpy(), distinct[batch.caption_ids // 5])
        seen += batch.caption_ids.tolist()
    assert sorted(seen) == list(range(20))


def offsets(*values):
    return lambda parts: CaptionTokens(np.arange(5, dtype=np.int32), np.array(values, dtype=np.int64))


BAD = [
    (offsets(), ValueError, "offsets have shape (0,)"),
    (offsets(1, 5), ValueError, "from 0"),
    (offsets(0, 4, 3, 5), ValueError, "never decreasing"),
    (offsets(0, 4), ValueError, "offsets end at 4, but flat has 5 tokens"),
    (lambda parts: parts[3].pad([20]), IndexError, "caption_indices holds 20; expected 0 … 19"),
    (lambda parts: parts[3].pad([1.0]), TypeError, "caption_indices has dtype float64"),
    (lambda parts: Collator(parts[0], parts[3])([-1]), IndexError, "caption_indices holds -1"),
    (lambda parts: Collator(*parts[::3])([parts[0][2]]), TypeError, "give the DataLoader range(dataset.n_captions)"),
    (lambda parts: Collator(parts[0], tokens_of([[1]])), ValueError, "tokens has 1 captions, but dataset 20"),
]


@pytest.mark.parametrize(("call", "exception", "fragment"), BAD)
def test_bad_calls(parts, call, exception, fragment):
    with pytest.raises(exception) as caught:
        call(parts)
    assert fragment in str(caught.value)
