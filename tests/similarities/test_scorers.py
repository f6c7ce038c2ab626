"""Dot products over memory maps: read where they lie, whatever their storage, and never written to."""

import warnings

import numpy as np
import pytest
import torch

from itm_fast.similarities import DotProductScorer
from itm_fast.similarities.scorers import _read

WHOLE = slice(0, 9)


def images_of(dtype):
    return np.random.default_rng(0).integers(-8, 8, (9, 4)).astype(dtype)  # products are exact in every dtype


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ">f4", ">f2", np.int32])
def test_a_memory_map_scores_as_the_array_does(dtype, tmp_path):
    np.save(tmp_path / "images.npy", images_of(dtype))
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of memory that it must not write to
        for stored in (mapped, mapped[::-1]):
            found = DotProductScorer(stored, torch.eye(4))(WHOLE, slice(0, 4))
            np.testing.assert_array_equal(found.double().numpy(), np.array(stored, dtype=np.float64))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_is_not_copied(dtype, tmp_path):
    np.save(tmp_path / "images.npy", images_of(dtype))
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    assert _read(mapped[2:5]).data_ptr() == mapped.ctypes.data + 2 * mapped.strides[0]
    assert not mapped.flags.writeable
