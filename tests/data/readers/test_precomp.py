import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from patience import HANG_SECONDS

from itm_fast.data.readers.precomp import PrecompDataset
from itm_fast.errors import DataError


@pytest.mark.parametrize("repeated", [False, True], ids=["row an image", "row a caption"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_both_kinds_of_file_read_the_same(write_split, repeated, dtype):
    folder, distinct = write_split(repeated=repeated, dtype=dtype)
    dataset = PrecompDataset(folder, "train")
    assert (dataset.n_images, dataset.n_captions, len(dataset)) == (4, 20, 20)
    assert (dataset.captions_per_image, dataset.max_regions, dataset.dim, dataset.ids) == (5, 3, 6, None)
    assert dataset.captions[7] == "Caption 7 of image 1 ."
    assert isinstance(dataset.images, np.memmap)
    assert not dataset.images.flags.writeable
    for indices in ([3, 0, 3], np.array([3, 0, 3], dtype=np.int32), torch.tensor([3, 0, 3])):
        regions = dataset.regions(indices)
        assert regions.dtype == torch.float32
        np.testing.assert_array_equal(regions.numpy(), distinct[[3, 0, 3]].astype(np.float32))
    for caption in range(20):
        row = dataset.image_row(caption)
        assert row == (caption if repeated else caption // 5)
        np.testing.assert_array_equal(dataset.images[row], distinct[caption // 5])


def test_regions_are_a_copy_and_may_be_empty(write_split):
    folder, distinct = write_split()
    dataset = PrecompDataset(folder, "train")
    dataset.regions(range(4)).zero_()
    np.testing.assert_array_equal(dataset.regions(range(4)).numpy(), distinct)
    assert dataset.regions([]).shape == (0, 3, 6)


def test_regions_reads_only_what_was_asked_for(tmp_path):
    # 5 GB on paper, a few blocks on disk: reading the file as a whole could not pass unnoticed.
    n_images = 2**15
    images = np.lib.format.open_memmap(
        tmp_path / "train_ims.npy", mode="w+", dtype=np.float32, shape=(n_images, 20, 2048)
    )
    images[-1] = 1.5
    del images
    (tmp_path / "train_caps.txt").write_text("a dog .\n" * (5 * n_images))
    dataset = PrecompDataset(tmp_path, "train")
    assert dataset.regions([n_images - 1, 0]).mean(dim=(1, 2)).tolist() == [1.5, 0.0]


@pytest.mark.parametrize(("dev_captions", "kept"), [(5000, 5000), (None, 5050), (10, 10), (10000, 5050)])
@pytest.mark.parametrize("repeated", [False, True])
def test_dev_is_cut_after_the_rule_is_applied(write_split, dev_captions, kept, repeated):
    folder, distinct = write_split("dev", n_images=1010, repeated=repeated, ids=range(1010), max_regions=1, dim=2)
    dataset = PrecompDataset(folder, "dev", dev_captions=dev_captions)
    assert (dataset.n_captions, dataset.n_images, len(dataset.ids)) == (kept, kept // 5, kept // 5)
    np.testing.assert_array_equal(dataset.regions([kept // 5 - 1])[0].numpy(), distinct[kept // 5 - 1])
    with pytest.raises(IndexError, match=f"expected 0 … {kept // 5 - 1}"):
        dataset.regions([kept // 5])


def test_other_splits_are_not_cut(write_split):
    folder, _ = write_split("testall", n_images=1010, max_regions=1, dim=2)
    assert PrecompDataset(folder, "testall").n_captions == 5050


@pytest.mark.parametrize("ids", [[7, 5, 9, 2], np.repeat([7, 5, 9, 2], 5)], ids=["an image", "a caption"])
@pytest.mark.parametrize("repeated", [False, True])
def test_ids_per_image_or_per_caption(write_split, ids, repeated):
    folder, _ = write_split(ids=ids, repeated=repeated)
    dataset = PrecompDataset(folder, "train")
    assert (dataset.ids.tolist(), dataset.notes) == ([7, 5, 9, 2], [])
    (folder / "train_ids.txt").write_text("7\n5\n5\n2\n")
    said = "train_ids.txt: 4 images have 3 ids: some are the same image, or misnamed"
    assert PrecompDataset(folder, "train").notes == [f"{folder}/{said}"]


def test_captions_split_at_line_feeds_only(write_split):
    folder, _ = write_split(n_images=1)
    text = "\ufeffa\u2028b\r\n  caf\u00e9 \x0c au lait \r\nc\x85d\x1eD\ne\nf"  # no line feed at the end
    (folder / "train_caps.txt").write_bytes(text.encode())
    captions = PrecompDataset(folder, "train").captions
    assert captions == ["a\u2028b", "caf\u00e9 \x0c au lait", "c\x85d\x1eD", "e", "f"]


def test_header_written_by_python_2(write_split, recwarn):
    folder, distinct = write_split()
    path = folder / "train_ims.npy"
    content = path.read_bytes()
    assert b"(4, 3, 6), }   " in content
    path.write_bytes(content.replace(b"(4, 3, 6), }   ", b"(4L, 3L, 6L), }"))
    np.testing.assert_array_equal(PrecompDataset(folder, "train").regions(range(4)).numpy(), distinct)
    assert not recwarn.list


def test_pickling_opens_the_files_again(write_split):
    folder, distinct = write_split("dev", n_images=40, max_regions=20, dim=64)
    dataset = PrecompDataset(folder, "dev", dev_captions=50)
    content = pickle.dumps(dataset)
    assert len(content) < 1000 < distinct.nbytes
    again = pickle.loads(content)
    assert again.n_captions == 50
    np.testing.assert_array_equal(again.regions([9]).numpy(), distinct[[9]])


FIRST_VALUE = "import pickle, sys; print(float(pickle.load(sys.stdin.buffer).regions([1])[0, 0, 0]))"


@pytest.mark.slow
def test_dataset_reaches_a_spawned_process(write_split):
    # A pool would wait for ever for a worker that dies while starting; run() ends, at the latest at its timeout.
    folder, distinct = write_split()
    child = subprocess.run(
        [sys.executable, "-c", FIRST_VALUE],
        input=pickle.dumps(PrecompDataset(folder, "train")),
        stdout=subprocess.PIPE,
        timeout=HANG_SECONDS,
        check=True,
    )
    assert float(child.stdout) == distinct[1, 0, 0]


def _save(array, **options):
    return lambda folder: np.save(folder / "train_ims.npy", array, **options)


def _write(name, content):
    return lambda folder: (folder / f"train_{name}").write_bytes(content)


def _edit(name, change):
    def spoil(folder):
        path = folder / f"train_{name}"
        path.write_bytes(change(path.read_bytes()))

    return spoil


def _declare(shape):
    old, new = b"(4, 3, 6), }", f"({shape}), }}".encode()
    return _edit("ims.npy", lambda content: content.replace(old + b" " * (len(new) - len(old)), new))


LINES = [b"caption %d ." % c for c in range(20)]
BAD_FILES = [
    ("truncated data", _edit("ims.npy", lambda c: c[:-7]), "truncated: the header promises (4, 3, 6) float32 = 288"),
    ("data missing", _edit("ims.npy", lambda c: c[:128]), "288 bytes, the file holds 0"),
    ("longer than promised", _edit("ims.npy", lambda c: c + b"\0" * 9), "bytes, the file holds 297"),
    ("header promises more", _declare("4, 3, 600000"), "truncated: the header promises (4, 3, 600000)"),
    ("header overflows", _declare("4, 3, 9223372036854775807"), "truncated"),
    ("negative axis", _declare("4, -3, 6"), "is empty"),
    ("truncated header", _edit("ims.npy", lambda c: c[:40]), "readable header"),
    ("empty npy", _write("ims.npy", b""), "readable header"),
    ("not npy", _write("ims.npy", b"PK\x03\x04" + b"\0" * 200), "readable header"),
    ("garbage header", _edit("ims.npy", lambda c: c[:10] + b"\xff" * 118 + c[128:]), "readable header"),
    ("code in header", _edit("ims.npy", lambda c: c.replace(b"(4, 3, 6)", b"exit(321)")), "readable header"),
    ("format 3.0", _edit("ims.npy", lambda c: c[:6] + b"\x03\x00" + c[8:]), "format version (3, 0)"),
    ("format 9.9", _edit("ims.npy", lambda c: c[:6] + b"\x09\x09" + c[8:]), "readable header"),
    ("objects", _save(np.array([[[{}]]] * 4, dtype=object), allow_pickle=True), "dtype |O"),
    ("rank 1", _save(np.zeros(4, np.float32)), "shape (4,); expected 3 axes, (n, max_regions, dim), or (n, dim)"),
    ("rank 4", _save(np.zeros((4, 1, 3, 6), np.float32)), "save features.reshape(n, max_regions, dim)"),
    ("rank 0", _save(np.float32(1)), "shape (); expected 3 axes"),
    ("complex numbers", _save(np.zeros((4, 3, 6), complex)), "dtype <c16; expected real numbers"),
    ("truths", _save(np.zeros((4, 3, 6), bool)), "save features.astype(np.float32)"),
    ("texts", _save(np.zeros((4, 3, 6), "U3")), "dtype <U3"),
    ("no images", _save(np.zeros((0, 3, 6), np.float32)), "is empty"),
    ("no regions", _save(np.zeros((4, 0, 6), np.float32)), "is empty"),
    ("rows and lines disagree", _save(np.zeros((3, 3, 6), np.float32)), "3 rows and train_caps.txt 20 lines"),
    ("only the end is not repeated", _save(np.eye(20, 6, -15, np.float32)[:, None]), "rows 15 … 19 differ"),
    ("no fixed number an image", _write("caps.txt", b"\n".join(LINES[:19])), "has 4 rows and train_caps.txt 19 lines"),
    ("fewer captions than images", _write("caps.txt", b"\n".join(LINES[:3])), "4 rows and train_caps.txt 3 lines"),
    ("no captions", _write("caps.txt", b""), "train_caps.txt: empty"),
    ("only a byte order mark", _write("caps.txt", b"\xef\xbb\xbf"), "train_caps.txt: empty"),
    ("blank line", _write("caps.txt", b"\n".join([*LINES[:6], b" \t\r", *LINES[7:]])), "caps.txt:7: blank line"),
    ("blank line at the end", _write("caps.txt", b"\n".join(LINES) + b"\n\n"), "caps.txt:21: blank line"),
    ("not UTF-8", _write("caps.txt", b"\n".join([*LINES[:2], b"caf\xe9", *LINES[3:]])), "caps.txt:3: not UTF-8"),
    ("too few ids", _write("ids.txt", b"1\n2\n3"), "3 ids; expected 4 (one an image) or 20 (one a caption)"),
    ("id is a name", _write("ids.txt", b"1\n2\ncat.jpg\n4"), "ids.txt:3: 'cat.jpg' is no 64-bit integer"),
    ("id too large", _write("ids.txt", b"1\n2\n3\n%d" % 2**63), "ids.txt:4"),
    ("blank id", _write("ids.txt", b"1\n\n3\n4"), "ids.txt:2: blank line"),
    ("no ids in the file", _write("ids.txt", b""), "ids.txt: empty"),
    ("ids differ in an image", _write("ids.txt", b"1\n" * 7 + b"2\n" * 13), "ids.txt:8: id 2 differs within"),
]


@pytest.mark.parametrize(("spoil", "fragment"), [row[1:] for row in BAD_FILES], ids=[row[0] for row in BAD_FILES])
def test_bad_files(write_split, spoil, fragment):
    folder, _ = write_split()
    spoil(folder)
    with pytest.raises(DataError) as caught:
        PrecompDataset(folder, "train")
    assert fragment in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("name", ["test_ims.npy", "test_caps.txt"])
def test_missing_file_names_itself_and_the_splits_present(write_split, name):
    write_split("train")
    folder, _ = write_split("test")
    (folder / name).rename((folder / name).with_suffix(".h5"))
    with pytest.raises(FileNotFoundError) as caught:
        PrecompDataset(folder, "test")
    for fragment in (
        f"{name}: no such file ({Path(name).stem}.h5 is not read)",
        "splits present: test, train",
        "SCAN's precomp layout",
        "(n, max_regions, dim)",
        "make-data",
    ):
        assert fragment in str(caught.value)


def test_missing_folder_and_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        PrecompDataset(tmp_path / "absent", "train")
    with pytest.raises(FileNotFoundError, match="splits present: none"):
        PrecompDataset(tmp_path, "train")


BAD_CALLS = [
    (lambda folder: PrecompDataset(folder, "../train"), ValueError, "split is '../train'"),
    (lambda folder: PrecompDataset(folder, ""), ValueError, "split is ''"),
    (lambda folder: PrecompDataset(folder, "train", dev_captions=7), ValueError, "dev_captions is 7"),
    (lambda folder: PrecompDataset(folder, "train", dev_captions=0), ValueError, "dev_captions is 0"),
    (lambda folder: PrecompDataset(folder, "train").image_row(20), IndexError, "caption_index is 20; expected 0 … 19"),
    (lambda folder: PrecompDataset(folder, "train").image_row(-1), IndexError, "caption_index is -1"),
    (lambda folder: PrecompDataset(folder, "train").regions([0, 4]), IndexError, "image_indices holds 4"),
    (lambda folder: PrecompDataset(folder, "train").regions([-1]), IndexError, "image_indices holds -1"),
    (lambda folder: PrecompDataset(folder, "train").regions([0.5]), TypeError, "image_indices has dtype float64"),
    (lambda folder: PrecompDataset(folder, "train").regions(torch.ones(4).bool()), TypeError, "has dtype bool"),
    (lambda folder: PrecompDataset(folder, "train").regions([[0]]), ValueError, "image_indices has shape (1, 1)"),
]


@pytest.mark.parametrize(("call", "exception", "fragment"), BAD_CALLS)
def test_bad_calls(write_split, call, exception, fragment):
    folder, _ = write_split()
    with pytest.raises(exception) as caught:
        call(folder)
    assert fragment in str(caught.value)


def test_real_captions(real_captions, tmp_path):
    (tmp_path / "test_caps.txt").write_bytes(real_captions.read_bytes())
    np.save(tmp_path / "test_ims.npy", np.zeros((1000, 1, 1), np.float32))
    dataset = PrecompDataset(tmp_path, "test")
    assert (dataset.n_images, dataset.n_captions) == (1000, 5000)
    assert dataset.captions[5] == ("A black and white dog is running in a grassy garden surrounded by a white fence .")
