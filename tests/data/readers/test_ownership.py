"""Whose captions they are: from the numbers of rows and lines, from ids, from a file; by both kinds of data set."""

import json

import numpy as np
import pytest

from itm_fast.data import ImageDataset, PrecompDataset
from itm_fast.errors import DataError

RNG = np.random.default_rng(3)


def write(folder, rows, n_captions, ids=None, owners=None, split="train"):
    """A split of `rows`, an array of features or their number, each two regions of three numbers."""
    features = RNG.standard_normal((rows, 2, 3)).astype(np.float32) if isinstance(rows, int) else rows
    np.save(folder / f"{split}_ims.npy", features)
    (folder / f"{split}_caps.txt").write_text("".join(f"line {n} of it\n" for n in range(n_captions)))
    if ids is not None:
        (folder / f"{split}_ids.txt").write_text("".join(f"{number}\n" for number in ids))
    for suffix, content in (owners or {}).items():
        path = folder / f"{split}_owners.{suffix}"
        if suffix == "npy":
            np.save(path, content)
        else:
            path.write_text(content)
    return features


def repeated(*times):
    """Features of an image each, written so often."""
    return RNG.standard_normal((len(times), 2, 3)).astype(np.float32).repeat(times, axis=0)


VARYING = [0, 0, 0, 1, 2, 2]
READ = [
    # rows, captions, ids, owners -> owner of each caption, row of each image, captions an image, part of the note
    ("five an image", 2, 10, None, None, [0] * 5 + [1] * 5, [0, 1], 5, None),
    ("five rows an image", repeated(5, 5), 10, None, None, [0] * 5 + [1] * 5, [0, 5], 5, None),
    ("one an image", 7, 7, None, None, list(range(7)), list(range(7)), 1, "one caption an image, 7 images"),
    (
        "one an image, a multiple of five",
        10,
        10,
        None,
        None,
        list(range(10)),
        list(range(10)),
        1,
        "one caption an image",
    ),
    ("one image", 1, 1, None, None, [0], [0], 1, "one caption an image"),
    ("two an image", 3, 6, None, None, [0, 0, 1, 1, 2, 2], [0, 1, 2], 2, "2 captions an image, 3 images"),
    ("two rows an image", repeated(2, 2, 2), 6, None, None, [0, 0, 1, 1, 2, 2], [0, 2, 4], 2, "2 captions an image"),
    ("ids, one a caption", 3, 6, [9, 9, 9, 4, 7, 7], None, VARYING, [0, 1, 2], None, "images have 1 to 3 captions"),
    ("rows by ids", repeated(3, 1, 2), 6, [9, 9, 9, 4, 7, 7], None, VARYING, [0, 3, 4], None, "1 to 3 captions"),
    ("one id a row", 3, 3, [4, 9, 7], None, [0, 1, 2], [0, 1, 2], 1, "one caption an image"),
    ("five ids an image", repeated(5, 5), 10, [8] * 5 + [3] * 5, None, [0] * 5 + [1] * 5, [0, 5], 5, None),
    ("owners.txt", 3, 6, None, {"txt": "0\n0\n0\n1\n2\n2\n"}, VARYING, [0, 1, 2], None, None),
    ("owners.npy", 3, 6, None, {"npy": np.array(VARYING, np.int16)}, VARYING, [0, 1, 2], None, None),
    ("owners.json", 3, 6, None, {"json": json.dumps(VARYING)}, VARYING, [0, 1, 2], None, None),
    ("img2txt", 3, 6, None, {"json": '{"0": [0, 1, 2], "1": [3], "2": [4, 5]}'}, VARYING, [0, 1, 2], None, None),
    ("any order", 3, 6, None, {"txt": "2\n0\n1\n0\n2\n0\n"}, [2, 0, 1, 0, 2, 0], [0, 1, 2], None, None),
    ("owners before sizes", 2, 10, None, {"txt": "0\n" * 4 + "1\n" * 6}, [0] * 4 + [1] * 6, [0, 1], None, None),
    (
        "none of an image",
        3,
        5,
        None,
        {"txt": "0\n0\n2\n2\n2\n"},
        [0, 0, 2, 2, 2],
        [0, 1, 2],
        None,
        "1 of 3 images have no",
    ),
]
TABLE = pytest.mark.parametrize(
    ("rows", "n_captions", "ids", "owners", "expected", "at", "per_image", "note"),
    [row[1:] for row in READ],
    ids=[row[0] for row in READ],
)


@TABLE
def test_whose_captions(tmp_path, rows, n_captions, ids, owners, expected, at, per_image, note):
    features = write(tmp_path, rows, n_captions, ids, owners)
    dataset = PrecompDataset(tmp_path, "train")
    assert dataset.caption_to_image.tolist() == expected
    assert (dataset.n_images, dataset.n_captions, dataset.captions_per_image) == (len(at), n_captions, per_image)
    np.testing.assert_array_equal(dataset.regions(range(len(at))).numpy(), features[at])
    assert [note in found for found in dataset.notes] == ([] if note is None else [True])
    for caption in range(n_captions):
        np.testing.assert_array_equal(features[dataset.image_row(caption)], features[at[expected[caption]]])
    assert dataset.captions_by_image() == [
        [f"line {n} of it" for n in range(n_captions) if expected[n] == image] for image in range(len(at))
    ]
    if ids is not None:
        assert dataset.ids.tolist() == list(dict.fromkeys(ids))


OF_FILES = [
    ("five an image", [8, 3], 10, None, [0] * 5 + [1] * 5, None),
    ("two an image", [8, 3], 4, None, [0, 0, 1, 1], "2 captions an image"),
    ("one a caption", [8, 8, 8, 3], 4, None, [0, 0, 0, 1], "images have 1 to 3 captions"),
    ("one an image", [8, 3, 5], 3, None, [0, 1, 2], "images have 1 captions"),
    ("owners", [8, 3], 3, {"txt": "1\n0\n1\n"}, [1, 0, 1], None),
    ("owners, one id a caption", [8, 3, 8], 3, {"txt": "0\n1\n0\n"}, [0, 1, 0], None),
    ("owners, one id an image", [8, 3, 5], 3, {"txt": "1\n0\n1\n"}, [1, 0, 1], "1 of 3 images have no caption"),
]


@pytest.mark.parametrize(
    ("ids", "n_captions", "owners", "expected", "note"), [row[1:] for row in OF_FILES], ids=[row[0] for row in OF_FILES]
)
def test_whose_captions_of_image_files(tmp_path, ids, n_captions, owners, expected, note):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed (pip install 'itm-fast[images]')")
    write(tmp_path, 1, n_captions, ids, owners)
    (tmp_path / "images").mkdir()
    for number in set(ids):
        image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "id_mapping.json").write_text(json.dumps({str(number): f"{number}.png" for number in ids}))
    dataset = ImageDataset(tmp_path, "train", 4)
    assert dataset.caption_to_image.tolist() == expected
    order = list(dict.fromkeys(ids))
    assert dataset.ids.tolist() == order
    assert dataset.regions(range(len(order)))[:, 0, 0, 0].tolist() == order
    assert [note in found for found in dataset.notes] == ([] if note is None else [True])


half_repeated = np.concatenate([repeated(5, 5), RNG.standard_normal((5, 2, 3)).astype(np.float32)])
REFUSED = [
    ("neither", 4, 6, None, None, "has 4 rows and train_caps.txt 6 lines"),
    ("half repeated", half_repeated, 15, None, None, "written 5 times, but rows 10 … 14 differ"),
    ("repeated as often as it comes", repeated(3, 1, 4, 2, 3), 13, None, None, "rows equal the next"),
    (
        "rows that differ under one id",
        6,
        6,
        [9, 9, 9, 4, 7, 7],
        None,
        "the rows 0 … 2 are of one image, but they differ",
    ),
    ("an id that comes back", 6, 6, [9, 9, 4, 9, 7, 7], None, "train_caps.txt:4: its id 9 is there before"),
    ("owners beyond the rows", 3, 3, None, {"txt": "0\n1\n3\n"}, "train_owners.txt[2] is 3"),
    ("too few owners", 3, 3, None, {"txt": "0\n1\n"}, "train_owners.txt has shape (2,)"),
    ("no owners", 3, 3, None, {"txt": "a\n1\n2\n"}, "train_owners.txt:1"),
    (
        "owners twice",
        3,
        3,
        None,
        {"txt": "0\n1\n2\n", "npy": np.arange(3)},
        "both train_owners.txt and train_owners.npy",
    ),
    (
        "owners of images",
        repeated(2, 2),
        4,
        None,
        {"txt": "0\n0\n1\n1\n"},
        "2 of 4 rows have no caption",
    ),
    ("ids of images that differ", 2, 10, [8] * 4 + [3] * 6 + [1], None, "11 ids; expected 2"),
]


@pytest.mark.parametrize(
    ("rows", "n_captions", "ids", "owners", "fragment"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_what_is_refused(tmp_path, rows, n_captions, ids, owners, fragment):
    write(tmp_path, rows, n_captions, ids, owners)
    with pytest.raises(DataError) as caught:
        PrecompDataset(tmp_path, "train")
    assert fragment in str(caught.value)


@pytest.mark.parametrize(
    ("n_rows", "n_captions", "owners", "kept"),
    [
        (8, 8, None, (5, 5)),  # one an image
        (4, 8, None, (2, 4)),  # two an image: half an image is none
        (4, 8, {"txt": "0\n0\n0\n1\n2\n2\n2\n3\n"}, (2, 4)),
        (4, 8, {"txt": "3\n0\n0\n1\n2\n2\n2\n3\n"}, (4, 8)),  # in no order, that there were a first part
        (2, 8, {"txt": "0\n" * 6 + "1\n" * 2}, (1, 6)),  # one image at least
    ],
)
def test_dev_is_cut_between_images(tmp_path, n_rows, n_captions, owners, kept):
    features = write(tmp_path, n_rows, n_captions, owners=owners, split="dev")
    dataset = PrecompDataset(tmp_path, "dev", dev_captions=5)
    assert (dataset.n_images, dataset.n_captions) == kept
    np.testing.assert_array_equal(dataset.regions(range(kept[0])).numpy(), features[: kept[0]])
    assert dataset.caption_to_image.max() < kept[0]


BLANK = [3, 4, 12]


def with_blank(folder, n_images=4, split="train"):
    lines = ["" if n in BLANK else f"line {n}" for n in range(5 * n_images)]
    features = write(folder, n_images, 5 * n_images, split=split)
    (folder / f"{split}_caps.txt").write_text("\n".join(lines) + "\n")
    return features


def test_blank_captions_are_named_at_once(tmp_path):
    with_blank(tmp_path)
    with pytest.raises(DataError) as caught:
        PrecompDataset(tmp_path, "train")
    for fragment in ("train_caps.txt:4: blank line", "3 of them: lines 4, 5, 13", "--drop-blank", "drop_blank=True"):
        assert fragment in str(caught.value)


def test_blank_captions_dropped_keep_the_others_in_step(tmp_path):
    features = with_blank(tmp_path)
    dataset = PrecompDataset(tmp_path, "train", drop_blank=True)
    left = [n for n in range(20) if n not in BLANK]
    assert dataset.captions == [f"line {n}" for n in left]
    assert dataset.caption_to_image.tolist() == [n // 5 for n in left]
    assert [dataset.caption_line(caption) for caption in range(17)] == [n + 1 for n in left]
    assert (dataset.n_images, dataset.captions_per_image) == (4, None)
    np.testing.assert_array_equal(dataset.regions(range(4)).numpy(), features)
    assert [note.split(": ")[1] for note in dataset.notes] == ["3 lines (4, 5, 13) left out, which are blank"]
    assert PrecompDataset(tmp_path, "train", drop_blank=True).image_row(16) == 3


def test_blank_captions_of_dev_are_dropped_after_the_cut(tmp_path):
    with_blank(tmp_path, split="dev")
    dataset = PrecompDataset(tmp_path, "dev", dev_captions=10, drop_blank=True)
    assert (dataset.n_images, dataset.n_captions) == (2, 8)


def test_nothing_but_blank_captions(tmp_path):
    write(tmp_path, 1, 5)
    (tmp_path / "train_caps.txt").write_text("\n \n\t\n\n\n")
    with pytest.raises(DataError, match="blank lines only"):
        PrecompDataset(tmp_path, "train", drop_blank=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test_counts.txt", "test_counts.npy"),
        ("test_counts.npz", "test_counts.npy"),
        ("test_ids.npy", "test_ids.txt"),
        ("test_owners.csv", "test_owners.txt or .npy or .npz or .json"),
    ],
)
def test_files_of_the_layout_in_a_form_that_is_not_read_are_said(tmp_path, name, expected):
    np.save(tmp_path / "test_ims.npy", np.ones((2, 3, 4), np.float32))
    (tmp_path / "test_caps.txt").write_text("a dog\n" * 10)
    for other in ("test_counts_of_boxes.txt", "dev_counts.txt", "test_tags.txt"):
        (tmp_path / other).write_text("2\n2\n")
    assert PrecompDataset(tmp_path, "test").notes == []
    (tmp_path / name).write_text("2\n2\n")
    assert PrecompDataset(tmp_path, "test").notes == [f"{tmp_path / name}: not read; expected {expected}"]
