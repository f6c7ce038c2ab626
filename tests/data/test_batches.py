"""The plan of a run: every epoch all captions once, the same for every reader, shares that make up the whole."""

import itertools
import pickle

import numpy as np
import pytest
import torch

from itm_fast.config import DataConfig
from itm_fast.data import (
    BatchPlan,
    CaptionTokens,
    Collator,
    PrecompDataset,
    SizeAugment,
    Vocabulary,
    make_data,
    training_captions,
)


@pytest.fixture(scope="module")
def collator(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_data(folder, n_train=9, n_dev=1, n_test=1, max_regions=5, dim=6)
    dataset, vocabulary = PrecompDataset(folder, "train"), Vocabulary.load(folder / "vocab.json")
    return Collator(dataset, CaptionTokens.from_captions(dataset.captions, vocabulary, "split"))


def test_an_epoch_has_every_caption_once_and_no_order_twice(collator):
    plan = BatchPlan(collator, 9, 3)
    epochs = [np.concatenate([plan.caption_ids(5 * epoch + k) for k in range(5)]) for epoch in range(3)]
    assert (len(plan), plan.steps_per_epoch) == (15, 5)
    assert all(sorted(epoch) == [*range(45)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert tuple(BatchPlan(collator, 9, 3, seed=1).caption_ids(0)) != tuple(plan.caption_ids(0))


def test_the_last_smaller_batch_is_left_out(collator):
    plan = BatchPlan(collator, 10, 2)
    assert (len(plan), plan.steps_per_epoch) == (8, 4)
    assert len(plan[7]) == 10


def test_steps_end_with_the_run(collator):
    plan = BatchPlan(collator, 10, 2)
    assert torch.equal(plan[-1].caption_ids, plan[7].caption_ids)
    assert len([*itertools.islice(plan, 99)]) == 8  # IndexError after the last: a loop ends
    for step in (8, -9):
        with pytest.raises(IndexError, match=f"step is {step}; expected -8 … 7"):
            plan[step]


def test_shares_make_up_the_batch(collator):
    whole, parts = BatchPlan(collator, 8, 1), [BatchPlan(collator, 8, 1, rank=r, world_size=2) for r in range(2)]
    for step in range(len(whole)):
        ids = torch.cat([part[step].caption_ids for part in parts])
        assert ids.tolist() == whole.caption_ids(step).tolist() == whole[step].caption_ids.tolist()


@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_batch_is_a_function_of_its_number(collator, n_workers):
    plan = BatchPlan(collator, 5, 2, augment=SizeAugment(4, 0))
    loader = torch.utils.data.DataLoader(plan, batch_size=None, sampler=range(7, 12), num_workers=n_workers)
    again = pickle.loads(pickle.dumps(plan))
    for step, batch in zip(range(7, 12), loader, strict=True):
        for one, other in ((batch, plan[step]), (batch, again[step])):
            assert torch.equal(one.regions, other.regions)
            assert torch.equal(one.tokens, other.tokens)


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"batch_size": 46}, "batch_size is 46, but the training split has only 45 captions"),
        ({"batch_size": 9, "world_size": 2}, "batch_size is 9; expected a multiple of the 2 processes"),
        ({"batch_size": 4, "caption_indices": np.arange(3)}, "only 3 captions"),
    ],
)
def test_errors(collator, options, fragment):
    with pytest.raises(ValueError, match=fragment):
        BatchPlan(collator, num_epochs=1, **options)


@pytest.mark.parametrize(
    ("options", "error", "fragment"),
    [
        ({"caption_indices": np.arange(45) < 9}, TypeError, "caption_indices has dtype bool; expected integers"),
        ({"caption_indices": [0.0, 1.0, 2.0]}, TypeError, "caption_indices has dtype float64; expected integers"),
        ({"caption_indices": [0, 1, 45]}, IndexError, "caption_indices holds 45; expected 0 … 44"),
        ({"batch_size": 0}, ValueError, "batch_size is 0, expected at least 1"),
    ],
)
def test_captions_that_are_no_numbers_of_captions(collator, options, error, fragment):
    with pytest.raises(error, match=fragment):
        BatchPlan(collator, **{"batch_size": 3, "num_epochs": 1, **options})


def test_reduced_data(collator):
    dataset = collator.dataset
    assert training_captions(dataset, DataConfig(), 0).tolist() == [*range(45)]
    assert training_captions(dataset, DataConfig(data_percent=29), 0).tolist() == [*range(13)]  # 13.05 captions
    drawn = training_captions(dataset, DataConfig(data_percent=50, data_subset="random"), 3)
    assert len(drawn) == 22
    assert (np.diff(drawn) > 0).all()
    counts = np.bincount(drawn // 5, minlength=9)
    assert sorted(counts) == [0, 0, 0, 0, 2, 5, 5, 5, 5]
    other = training_captions(dataset, DataConfig(data_percent=50, data_subset="random"), 4)
    assert drawn.tolist() != other.tolist()
    assert set(BatchPlan(collator, 11, 1, caption_indices=drawn).caption_ids(1)) < set(drawn)
    with pytest.raises(ValueError, match=r"data_percent 1\.0 of 45 captions leaves none"):
        training_captions(dataset, DataConfig(data_percent=1.0), 0)
    with pytest.raises(ValueError, match="data_percent must be above 0 and at most 100, got 0"):
        DataConfig(data_percent=0)
