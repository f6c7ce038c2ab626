"""Karpathy's JSON and {image: [captions]}: order, ids, splits, lists of images, and finding the files."""

import json

import numpy as np
import pytest

from itm_fast.data import find_images, read_captioned_images
from itm_fast.errors import DataError


def karpathy():
    rows = [("test", 42, "COCO_val2014_000000000042.jpg", 6), ("train", 7, "b.jpg", 1), ("test", 3, "c.jpg", 2)]
    return {
        "dataset": "coco",
        "images": [
            {
                "filepath": "val2014",
                "filename": name,
                "imgid": place,
                "split": split,
                "cocoid": key,
                "sentids": [10 * key + n for n in range(n_captions)],
                "sentences": [
                    {"raw": f"Caption {n} of {key}.", "sentid": 10 * key + n, "tokens": []} for n in range(n_captions)
                ],
            }
            for place, (split, key, name, n_captions) in enumerate(rows)
        ],
    }


def written(tmp_path, content, name="set.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_karpathy_in_order_with_ids(tmp_path):
    items = read_captioned_images(written(tmp_path, karpathy()))
    assert items.image_names == ["COCO_val2014_000000000042.jpg", "c.jpg"]
    assert items.image_ids == [42, 3]
    assert items.caption_ids == [420, 421, 422, 423, 424, 425, 30, 31]
    assert items.captions[5:7] == ["Caption 5 of 42.", "Caption 0 of 3."]
    assert items.caption_to_image.tolist() == [0] * 6 + [1] * 2
    assert items.subfolders == ["val2014", "val2014"]
    assert read_captioned_images(written(tmp_path, karpathy()), split="train").image_ids == [7]


def test_flickr_has_no_cocoid(tmp_path):
    content = karpathy()
    for image in content["images"]:
        del image["cocoid"], image["filepath"]
    items = read_captioned_images(written(tmp_path, content))
    assert items.image_ids == items.image_names
    assert items.caption_ids[:2] == [420, 421]
    assert items.subfolders == ["", ""]


@pytest.mark.parametrize("kind", ["npy", "txt"])
def test_a_list_has_its_own_order_and_images_without_captions(kind, tmp_path):
    """As MSCOCO-FG: keys without .jpg, in another order than the pool, which has distractors."""
    path = written(tmp_path, {"b": ["b0", "b1"], "a": ["a0"]})
    names = ["a.jpg", "000000000009.jpg", "b.jpg"]
    pool = tmp_path / f"pool.{kind}"
    np.save(pool, np.array(names)) if kind == "npy" else pool.write_text("\n".join(names) + "\n")
    items = read_captioned_images(path, image_list=pool)
    assert items.image_names == names
    assert items.captions == ["b0", "b1", "a0"]
    assert items.caption_to_image.tolist() == [2, 2, 0]
    assert items.image_ids == ["a", "000000000009.jpg", "b"]
    assert items.caption_ids == ["b#0", "b#1", "a#0"]


def test_files_are_found_in_subfolders_and_several_folders(tmp_path):
    items = read_captioned_images(written(tmp_path, karpathy()))
    for place in ("coco/val2014", "more"):
        (tmp_path / place).mkdir(parents=True)
    first, second = tmp_path / "coco/val2014/COCO_val2014_000000000042.jpg", tmp_path / "more/c.jpg"
    first.touch()
    second.touch()
    assert find_images(items, [tmp_path / "coco", tmp_path / "more"]) == [first, second]
    assert find_images(items, [tmp_path / "coco/val2014", tmp_path / "more"]) == [first, second]
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images are not in .*more: the first is COCO_val2014_0+42"):
        find_images(items, [tmp_path / "more"])
    with pytest.raises(FileNotFoundError, match="none: no such folder of images"):
        find_images(items, [tmp_path / "none"])


def test_names_without_suffix_find_their_file(tmp_path):
    items = read_captioned_images(written(tmp_path, {"a": ["x"], "b.c": ["y"]}))
    (tmp_path / "a.png").touch()
    (tmp_path / "b.c.jpg").touch()
    assert [path.name for path in find_images(items, [tmp_path])] == ["a.png", "b.c.jpg"]


COCO = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": 5, "image_id": 1, "caption": "a"}]}
NO_TEXT = {"images": [{"filename": "a.jpg", "split": "test", "sentences": [{"tokens": []}]}]}


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        ("[", "not JSON"),
        ("[]", "holds a list"),
        ("{}", "holds a dict"),
        ({"a": []}, "image 'a' has [], expected a list of captions"),
        ({"a": "text"}, "expected a list of captions"),
        ({"a": ["x"], "a.jpg": ["y"]}, "image a.jpg is there twice"),
        ({"../a.jpg": ["x"]}, "'../a.jpg'; expected a file below the folder of images"),
        ({"/a.jpg": ["x"]}, "expected a file below"),
        ({"": ["x"]}, "expected the name of a file"),
        ({**COCO, "images": []}, "annotations[0]: is of image 1, which is not among the images"),
        ({"images": [3]}, "images[0] has no filename, split or sentences"),
        (NO_TEXT, 'images[0]: expected sentences [{"raw"'),
        ({"images": [{**NO_TEXT["images"][0], "sentences": [], "split": "val"}]}, "of split 'test'; splits: val"),
        ({"images": [{**NO_TEXT["images"][0], "sentences": [], "filename": 3}]}, "3; expected the name of a file"),
    ],
)
def test_files_of_something_else(content, fragment, tmp_path):
    path = written(tmp_path, content)
    with pytest.raises(DataError) as caught:
        read_captioned_images(path)
    assert str(path) in str(caught.value)
    assert fragment in str(caught.value)


@pytest.mark.parametrize(
    ("name", "array", "fragment"),
    [
        ("pool.npy", np.array(["b.jpg"]), "has no image a, which"),
        ("pool.npy", np.array(["a.jpg", "a.png"]), "image a.png is there twice"),
        ("pool.npy", np.arange(3), "expected a .npy array of file names"),
        ("pool.npy", None, "not a plain .npy array"),
        ("pool.txt", None, "has no image a"),
    ],
)
def test_lists_of_something_else(name, array, fragment, tmp_path):
    path = written(tmp_path, {"a": ["x"]})
    (tmp_path / name).write_text("no array") if array is None else np.save(tmp_path / name, array)
    with pytest.raises(DataError) as caught:
        read_captioned_images(path, image_list=tmp_path / name)
    assert fragment in str(caught.value)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.json: no such file or folder"):
        read_captioned_images(tmp_path / "no.json")
    with pytest.raises(FileNotFoundError, match=r"no\.npy: no such file"):
        read_captioned_images(written(tmp_path, {"a": ["x"]}), image_list=tmp_path / "no.npy")


def test_ids_as_whole_floats_and_ids_that_come_again(tmp_path):
    content = karpathy()
    whole = read_captioned_images(written(tmp_path, content))
    for image in content["images"]:
        image["cocoid"] = float(image["cocoid"])
        for sentence in image["sentences"]:
            sentence["sentid"] = float(sentence["sentid"])
    floats = read_captioned_images(written(tmp_path, content))
    assert (floats.image_ids, floats.caption_ids, floats.notes) == (whole.image_ids, whole.caption_ids, ())
    for image in content["images"]:
        image["cocoid"] = 7
        for number, sentence in enumerate(image["sentences"]):
            sentence["sentid"] = number  # counted anew for every image
    again = read_captioned_images(written(tmp_path, content))
    sizes = dict(zip(again.image_names, np.bincount(again.caption_to_image).tolist(), strict=True))
    assert again.image_ids == again.image_names
    assert again.caption_ids == [f"{name}#{n}" for name, size in sizes.items() for n in range(size)]
    assert [note.partition(": ")[2][:18] for note in again.notes] == ["captions: the id 0", "images: the id 7 i"]
    content["images"][0]["split"] = None
    with pytest.raises(DataError, match=r"images\[0\]: split is None; expected Karpathy's"):
        read_captioned_images(written(tmp_path, content))
