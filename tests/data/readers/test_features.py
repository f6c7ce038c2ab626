"""Features on disk: every kind of number and order, fewer regions, single vectors, numbers that are none."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from itm_fast.data import Collator, PrecompDataset, Vocabulary
from itm_fast.data.readers import feature_file
from itm_fast.data.text.caption_tokens import CaptionTokens
from itm_fast.errors import DataError

N, R, DIM = 6, 4, 5
REGIONS = np.random.default_rng(5).integers(-40, 40, (N, R, DIM)).astype(np.float64) / 4
KINDS = ["<f4", ">f4", "<f2", ">f2", "<f8", ">f8", "<i8", ">i4", "i1", "<u2"]


def write(folder, features, counts=None, split="train", n_captions=None):
    np.save(folder / f"{split}_ims.npy", features)
    n = 5 * len(features) if n_captions is None else n_captions
    (folder / f"{split}_caps.txt").write_text("".join(f"line {line}\n" for line in range(n)))
    if counts is not None:
        np.save(folder / f"{split}_counts.npy", counts)
    return PrecompDataset(folder, split)


@pytest.mark.parametrize("is_fortran", [False, True])
@pytest.mark.parametrize("shape", [(N, R, DIM), (N, R * DIM)], ids=["regions", "vectors"])
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_of_every_kind(tmp_path, kind, shape, is_fortran):
    numbers = np.abs(REGIONS * 4) if kind[-2] in "iu" else REGIONS  # whole ones, or quarters: exact in each
    numbers = numbers.reshape(shape).astype(kind)
    dataset = write(tmp_path, np.asfortranarray(numbers) if is_fortran else numbers)
    found = dataset.regions([4, 0, 4])
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    expected = numbers.astype(np.float32).reshape(N, -1, DIM if len(shape) == 3 else R * DIM)
    np.testing.assert_array_equal(found.numpy(), expected[[4, 0, 4]])
    assert [("Fortran order" in note) for note in dataset.notes] == [True] * is_fortran
    assert pickle.loads(pickle.dumps(dataset)).regions([1]).equal(dataset.regions([1]))


@pytest.mark.parametrize("n_rows", [3, 15, 7])
def test_one_vector_an_image(tmp_path, n_rows):
    """VSE++'s layout, also with every row written five times; or one caption an image."""
    n_images = {3: 3, 15: 3, 7: 7}[n_rows]
    vectors = REGIONS.reshape(-1, DIM)[:n_images].astype(np.float32)
    repeated = vectors.repeat(n_rows // n_images, axis=0)
    dataset = write(tmp_path, repeated, n_captions=7 if n_rows == 7 else 15)
    assert (dataset.n_images, dataset.max_regions, dataset.dim, dataset.has_regions) == (n_images, 1, DIM, False)
    np.testing.assert_array_equal(dataset.regions(range(n_images)).numpy(), vectors[:, None])
    assert f"{n_images} images of one vector of {DIM}" in repr(dataset)
    vectors[1] = 0  # a vector of zeros is no missing region
    assert write(tmp_path, vectors, n_captions=5 * n_images).counted_regions([0, 1])[1] is None


COUNTS = np.array([4, 2, 1, 4, 3, 4])
PADDED = np.where((np.arange(R) < COUNTS[:, None])[..., None], REGIONS + 20, 0).astype(np.float32)
NOISE = np.where((np.arange(R) < COUNTS[:, None])[..., None], PADDED, np.nan).astype(np.float32)


@pytest.mark.parametrize(
    ("features", "counts"),
    [
        (PADDED, None),
        (PADDED, COUNTS),
        (NOISE, COUNTS.astype(np.uint8)),
        (NOISE.repeat(5, axis=0), COUNTS),
        (NOISE.repeat(5, axis=0), COUNTS.repeat(5)),
    ],
    ids=["trailing zeros", "counts", "counts before NaN", "rows five times", "a count a row"],
)
def test_images_with_fewer_regions(tmp_path, features, counts):
    dataset = write(tmp_path, features, counts, n_captions=5 * N)
    regions, found = dataset.counted_regions([4, 0, 2])
    assert found.tolist() == [3, 4, 1]
    assert found.dtype == torch.int64
    np.testing.assert_array_equal(regions.numpy(), PADDED[[4, 0, 2]])
    assert dataset.regions([1]).equal(torch.from_numpy(PADDED[[1]]))
    assert dataset.counted_regions([0, 3, 5])[1] is None
    (note,) = dataset.look()
    assert "3 of 6 images have fewer than 4 regions" in note
    assert ("are zeros" in note) == (counts is None)
    assert pickle.loads(pickle.dumps(dataset)).counted_regions([2])[1].tolist() == [1]


def test_a_batch_is_as_wide_as_the_image_that_has_most(tmp_path):
    dataset = write(tmp_path, PADDED)
    tokens = CaptionTokens.from_captions(dataset.captions, Vocabulary.build([["line"]], threshold=1), "split")
    collator = Collator(dataset, tokens)
    batch = collator([5, 20, 10])  # of images 1, 4, 2
    assert batch.region_counts.tolist() == [2, 3, 1]
    np.testing.assert_array_equal(batch.regions.numpy(), PADDED[[1, 4, 2], :3])
    assert collator([0, 15]).region_counts.tolist() == [R, R]


def test_zeros_that_are_no_padding(tmp_path):
    """A region of zeros before others is one; an image of nothing but zeros has all its regions, and is named."""
    features = REGIONS.astype(np.float32) + 20
    features[0, 1] = features[2, 0] = features[3] = 0
    dataset = write(tmp_path, features)
    assert dataset.counted_regions(range(N))[1] is None
    np.testing.assert_array_equal(dataset.regions(range(N)).numpy(), features)
    assert [note.partition(": ")[2] for note in dataset.look()] == [
        "1 of 6 images are zeros only",
        "2 of 6 images have rows of zeros before or between others, which are read as regions: padding belongs at the "
        "end",
    ]
    dataset = write(tmp_path, PADDED, COUNTS)
    assert not any("before or between" in note for note in dataset.look())


def test_counts_of_dev_are_cut_with_it(tmp_path):
    write(tmp_path, PADDED, COUNTS, split="dev")
    dataset = PrecompDataset(tmp_path, "dev", dev_captions=15)
    assert dataset.counted_regions([1, 2])[1].tolist() == [2, 1]
    assert dataset.n_images == 3


@pytest.mark.parametrize(
    ("features", "counts", "fragment"),
    [
        (PADDED, [4, 2, 0, 4, 3, 4], "counts[2] is 0; expected 1 … 4"),
        (PADDED, [4, 2, 1, 5, 3, 4], "counts[3] is 5; expected 1 … 4"),
        (PADDED, [4, 2], "2 counts; expected 6, one an image"),
        (PADDED, [[4], [2]], "expected integers (n_images,)"),
        (PADDED, [4.0] * N, "float64 (6,); expected integers"),
        (PADDED[:, 0], [1] * N, "has one vector an image; take it away"),
    ],
)
def test_counts_that_are_refused(tmp_path, features, counts, fragment):
    with pytest.raises(DataError) as caught:
        write(tmp_path, features, np.array(counts))
    assert "train_counts.npy: " in str(caught.value)
    assert fragment in str(caught.value)


WRONG = [
    ("<f4", np.nan, "number 3 is nan, expected finite numbers"),
    (">f4", -np.inf, "number 3 is -inf, expected finite numbers"),
    ("<f2", 1e6, "number 3 is inf, expected finite numbers"),
    ("<f8", 1e300, "number 3 is 1e+300, too large for float32"),
]


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
@pytest.mark.parametrize("look", [lambda d: d.look(), lambda d: d.regions([5, 2, 0])], ids=["look", "as it is read"])
@pytest.mark.parametrize("repeated", [1, 5])
@pytest.mark.parametrize(("kind", "value", "fragment"), WRONG)
def test_numbers_that_are_none_are_named(tmp_path, kind, value, fragment, repeated, look):
    features = REGIONS.astype(kind).repeat(repeated, axis=0)
    features[2 * repeated, 1, 3] = np.array(value).astype(kind)
    dataset = write(tmp_path, features, n_captions=5 * N)
    assert dataset.regions([0, 1, 3]).isfinite().all()
    with pytest.raises(DataError) as caught:
        look(dataset)
    assert f"train_ims.npy: row {2 * repeated}, region 1: {fragment}" in str(caught.value)


def test_sums_that_are_too_large_are_no_error(tmp_path):
    features = np.full((2, R, DIM), 3e38, np.float32)
    assert write(tmp_path, features).regions([0, 1]).eq(3e38).all()


def test_of_a_large_file_a_sample_is_looked_at(tmp_path, monkeypatch):
    n_bytes = R * DIM * 4
    monkeypatch.setattr(feature_file, "WHOLE_BYTES", 20 * n_bytes)
    monkeypatch.setattr(feature_file, "_SAMPLE_BYTES", 5 * n_bytes)
    monkeypatch.setattr(feature_file, "_CHUNK_BYTES", 2 * n_bytes)
    features = np.ones((33, R, DIM), np.float32)
    features[8, 1:] = 0
    read = []
    dataset = write(tmp_path, features)
    original = feature_file.FeatureFile.read
    monkeypatch.setattr(feature_file.FeatureFile, "read", lambda s, rows, c: read.append(rows) or original(s, rows, c))
    (note,) = dataset.look()
    assert [rows.tolist() for rows in read] == [[0, 8], [16, 24], [32]]
    assert "1 of 5 images of a sample have fewer than 4 regions" in note
    features[9, 0, 0] = np.nan  # beside the sample: found when it is read
    dataset = write(tmp_path, features)
    dataset.look()
    with pytest.raises(DataError, match="row 9, region 0"):
        dataset.regions(range(33))


PEAK = """
import resource, sys
from itm_fast.data import PrecompDataset
dataset = PrecompDataset(sys.argv[1], "train")
dataset.regions([0])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
dataset.look()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
def test_looking_takes_little_memory(tmp_path):
    """256 MiB of holes: what was read of a mapped file may be counted as memory, a copy of it may not."""
    n = 1 << 8
    ims = np.lib.format.open_memmap(tmp_path / "train_ims.npy", mode="w+", dtype=np.float64, shape=(n, 8, 1 << 14))
    del ims
    (tmp_path / "train_caps.txt").write_text("a dog\n" * (5 * n))
    command = [sys.executable, "-c", PEAK, str(tmp_path)]
    run = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=120, env={**os.environ})
    assert int(run.stdout) < (256 + 200) << 10  # KiB: the file, and a chunk or two
