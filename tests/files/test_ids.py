"""Ids of images and captions: one table of spellings, read alike wherever ids are read."""

import json
from pathlib import Path

import numpy as np
import pytest

import itm_fast
from itm_fast.data import ImageDataset, PrecompDataset
from itm_fast.data.readers.images import image_names
from itm_fast.errors import DataError
from itm_fast.evaluation.protocols.eccv_caption import read_positives
from itm_fast.evaluation.protocols.relevant_pairs import read_relevant_pairs
from itm_fast.files.ids import Ids, as_spelt, coco_ids, id_list, integer_id, read_ids
from itm_fast.sources.ensemble import check_ids

NUMBER = 391895
SPELLINGS = [
    NUMBER,
    np.int32(NUMBER),
    391895.0,
    np.float64(391895.0),
    "391895",
    " 391895 ",
    "391895.0",
    "391895.",
    "000000391895",
    "000000391895.jpg",
    "000000391895.JPEG",
    "000000391895.png",
    "val2017/000000391895.jpg",
    "/data/coco/val2017/000000391895.png",
    "C:\\coco\\val2017\\000000391895.jpg",
    "COCO_val2014_000000391895.jpg",
    "val2014/COCO_val2014_000000391895.jpg",
    "COCO_val2014_000000391895",
    "COCO_val2014:sentid:391895",
    "coco_391895",
]
NO_IDS = [
    "000000391895_mirrored_2.jpg",
    "COCO_val2014_000000391895_mirrored_2.jpg",
    "a_mirrored_2.jpg",
    "391895 (1).jpg",
    "391895-copy.jpg",
    "391895.5",
    391895.5,
    float("nan"),
    float("inf"),
    "3.91895e5",
    "",
    "dog.jpg",
    "9" * 2000,
    None,
    True,
    [391895],
]


@pytest.mark.parametrize("key", SPELLINGS, ids=repr)
def test_an_id_in_all_spellings(key):
    assert integer_id(key) == NUMBER
    assert coco_ids([key], "ids") == [NUMBER]


@pytest.mark.parametrize("key", NO_IDS, ids=lambda key: repr(key)[:40])
def test_what_is_no_id(key):
    assert integer_id(key) is None
    with pytest.raises(ValueError, match=r"ids\[1\] is .*expected an id of COCO") as raised:
        coco_ids([1, key], "ids")
    assert ("the float" in str(raised.value)) == (str(key) in ("391895.5", "nan", "inf", "3.91895e5"))


def _text_lines(spelling: object, folder: Path) -> object:
    """Ids of a data set in SCAN's layout."""
    np.save(folder / "train_ims.npy", np.zeros((1, 2, 3), np.float32))
    (folder / "train_caps.txt").write_text("a\n" * 5)
    (folder / "train_ids.txt").write_text(f"{spelling}\n")
    ids = PrecompDataset(folder, "train").ids
    return None if ids is None else ids.tolist()[0]


def _mapping(spelling: object, folder: Path) -> object:
    """The key of id_mapping.json; the data set says 391895."""
    _text_lines(NUMBER, folder)
    (folder / "id_mapping.json").write_text(json.dumps({str(spelling): "x.png"}))
    return NUMBER if image_names(PrecompDataset(folder, "train")) == ["x.png"] else None


def _positives_of_coco(spelling: object, folder: Path) -> object:
    (folder / "a.json").write_text(json.dumps({str(spelling): [spelling]}))
    ((key, (item,)),) = read_positives(folder / "a.json").items()
    assert key == item
    return key


def _positives(spelling: object, folder: Path) -> object:
    """Ids beside similarities, under a protocol whose ids are numbers."""
    pairs = {"image_ids": [7, NUMBER], "caption_ids": [1, 2], "image_to_captions": {"7": [1], str(spelling): [2]}}
    (folder / "pairs.json").write_text(json.dumps(pairs))
    (folder / "ids.json").write_text(json.dumps({"image_ids": [spelling, 7], "caption_ids": [2, "1"]}))
    sims = np.array([[2.0, 1.0], [1.0, 2.0]])  # in the order of ids.json every positive is first, in the other none
    report = itm_fast.evaluate(sims, protocol="positives", annotations=folder / "pairs.json", ids=folder / "ids.json")
    return NUMBER if report["i2t"]["R@1"] == report["t2i"]["R@1"] == 100 else None


PLAIN = [key for key in SPELLINGS if isinstance(key, (str, int, float)) and not isinstance(key, np.generic)]


@pytest.mark.parametrize("read", [_text_lines, _mapping, _positives_of_coco, _positives])
@pytest.mark.parametrize("spelling", PLAIN, ids=repr)
def test_every_reader_reads_them(read, spelling, tmp_path):
    assert read(spelling, tmp_path) == NUMBER


@pytest.mark.parametrize("read", [_text_lines, _mapping, _positives_of_coco, _positives])
@pytest.mark.parametrize("spelling", ["391895_mirrored_2.jpg", "391895.5"])
def test_every_reader_refuses_others(read, spelling, tmp_path):
    with pytest.raises(ValueError, match=r"391895(_mirrored_2\.jpg|\.5|)"):
        read(spelling, tmp_path)


def _as_json(ids: list[object], folder: Path) -> Path:
    (folder / "ids.json").write_text(json.dumps({"image_ids": ids}))
    return folder / "ids.json"


def _as_npz(ids: list[object], folder: Path) -> Path:
    np.savez(folder / "ids.npz", image_ids=np.array(ids))
    return folder / "ids.npz"


def _as_npy(ids: list[object], folder: Path) -> Path:
    np.save(folder / "ids.npy", np.array(ids))
    return folder / "ids.npy"


def _as_text(ids: list[object], folder: Path) -> Path:
    (folder / "ids.txt").write_text("".join(f"{key}\n" for key in ids))
    return folder / "ids.txt"


@pytest.mark.parametrize("write", [_as_json, _as_npz, _as_npy, _as_text])
@pytest.mark.parametrize(
    ("ids", "right"),
    [
        ([3, 2, 1], [3, 2, 1]),
        ([3.0, 2.0, 1.0], [3, 2, 1]),
        (["a.jpg", "b/c.jpg"], ["a.jpg", "b/c.jpg"]),
    ],
)
def test_files_of_ids(write, ids, right, tmp_path):
    found = read_ids(write(ids, tmp_path))
    assert found.images == right
    assert {type(key) for key in found.images} == {type(right[0])}
    assert found.captions is None


@pytest.mark.parametrize("write", [_as_json, _as_npz, _as_npy, _as_text])
@pytest.mark.parametrize("odd", [1.5, float("nan")])
def test_floats_that_are_not_whole_are_named_in_every_file(write, odd, tmp_path):
    with pytest.raises(DataError, match=rf"the float '?{odd}'?"):
        read_ids(write([1.0, odd], tmp_path))


def test_pairs_of_floats(tmp_path):
    np.savez(
        tmp_path / "pairs.npz",
        image_ids=np.array([10.0, 11.0]),
        caption_ids=np.array([100.0, 101.0, 102.0]),
        image_to_captions=np.array([[10.0, 101.0], [11.0, 100.0], [11.0, 102.0]]),
    )
    pairs = read_relevant_pairs(tmp_path / "pairs.npz")
    assert pairs.ids.images == [10, 11]
    assert pairs.image_to_captions == {10: [101], 11: [100, 102]}
    assert pairs.caption_to_images == {100: [11], 101: [10], 102: [11]}


@pytest.mark.parametrize(
    ("ids", "fragment"),
    [
        ("text", "x: a str; expected a list of ids"),
        ({"a": 1}, "x: a dict; expected a list of ids"),
        ([[1, 2], [3]], "x[0] is [1, 2], a list; expected a list of ids"),
        ([1, None], "x[1] is None, a NoneType"),
        ([True], "x[0] is True, a bool"),
        (np.zeros((2, 3)), "x: an array of shape (2, 3)"),
        ([1.5], "x[0] is the float 1.5; expected a list of ids"),
        ([2.0**60], "x[0] is the float 1.152921504606847e+18, which stands for several ids"),
    ],
)
def test_what_is_no_list_of_ids(ids, fragment):
    with pytest.raises(DataError) as raised:
        id_list(ids, "x")
    assert fragment in str(raised.value)


@pytest.mark.parametrize(
    ("given", "wanted", "right"),
    [
        (["b", "a"], ["a", "b"], ["b", "a"]),
        (["7", "val2017/8.jpg", 9.0], [7, 8, 9], [7, 8, 9]),
        ([7, "/x/000008.png"], ["7.jpg", "val/8.jpg"], ["7.jpg", "val/8.jpg"]),
        (["dog", "x/cat.png"], ["dog.jpg", "cat.jpg"], ["dog.jpg", "cat.jpg"]),
        ([1], ["a/1.jpg", "b/1.jpg"], [1]),  # either could be meant
        (["1_mirrored_2.jpg"], [1, 2], ["1_mirrored_2.jpg"]),
    ],
)
def test_ids_as_the_set_spells_them(given, wanted, right):
    assert as_spelt(given, wanted) == right


def test_members_of_an_ensemble_may_spell_ids_differently():
    ours = Ids([1, 2], ["a", "b"])
    check_ids([ours, Ids(["000001.jpg", "2.0"], ["a", "b"])], ["one", "two"], 2, 2)
    with pytest.raises(ValueError, match="differ"):
        check_ids([ours, Ids(["000002.jpg", "1.0"], ["a", "b"])], ["one", "two"], 2, 2)


def test_an_image_twice_in_two_spellings(tmp_path):
    _text_lines(7, tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "id_mapping.json").write_text('{"7": "a.png", "007": "b.png"}')
    with pytest.raises(DataError, match="image 7 is there twice, in two spellings"):
        ImageDataset(tmp_path, "train", 8)
    (tmp_path / "a.json").write_text('{"7": [1], "007": [2]}')
    with pytest.raises(DataError, match="'007' is no number, or there in two spellings"):
        read_positives(tmp_path / "a.json")
