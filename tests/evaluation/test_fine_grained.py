"""Fine-grained sets: the golden Flickr30K-FG, the map by name, distractors, sizes, files."""

import json
import subprocess
import sys

import numpy as np
import pytest
from golden_files import data_path, golden_json

from itm_fast.data.readers.fine_grained import read_fine_grained
from itm_fast.errors import DataError
from itm_fast.evaluation import Ids, evaluate


@pytest.fixture(scope="module")
def folder():
    return data_path("fine_grained/Flickr30K_FG_ann.json").parent


@pytest.fixture(scope="module")
def gold(folder):
    expected = golden_json("small_421.json")["flickr30k_fg"]
    fine = read_fine_grained(folder, "flickr30k-fg")
    sims = np.random.default_rng(expected["seed"]).standard_normal(expected["shape"], dtype=np.float32)
    sims[fine.caption_to_image(fine.pool), np.arange(5000)] += np.float32(3.5)
    assert float(sims[0, 0]) == expected["S[0,0]"]
    return expected, fine, sims


def recalls(figures):
    return {f"r{k}": pytest.approx(figures[f"R@{k}"]) for k in (1, 5, 10)}


def test_golden(gold, folder):
    expected, _, sims = gold
    report = evaluate(sims, protocol="flickr30k-fg", annotations=folder)
    assert expected["t2i_full_gallery"] == recalls(report["t2i"])
    assert expected["i2t_1000_image_queries"] == recalls(report["i2t"])
    assert expected["t2i_original_1000_images_only"] == recalls(report["originals"]["t2i"])
    assert report["i2t"]["n_queries"] == 1000  # distractors are no queries
    assert "folds" not in report
    assert "originals only t2i" in str(report)


def test_originals_alone_are_a_protocol_of_their_own(gold, folder):
    expected, _, sims = gold
    report = evaluate(sims[:1000], protocol="flickr30k-fg-originals", annotations=folder)
    assert expected["t2i_original_1000_images_only"] == recalls(report["t2i"])
    assert "originals" not in report
    with pytest.raises(ValueError, match="another, easier test: protocol flickr30k-fg-originals"):
        evaluate(sims[:1000], protocol="flickr30k-fg", annotations=folder)
    with pytest.raises(ValueError, match=r"with the distractors it is protocol flickr30k-fg$"):
        evaluate(sims, protocol="flickr30k-fg-originals", annotations=folder)


def test_images_in_another_order(gold, folder):
    expected, fine, sims = gold
    order = np.random.default_rng(0).permutation(len(fine.pool))
    names = [fine.pool[place] for place in order]
    for ids in (Ids(names), Ids([name.removesuffix(".jpg") for name in names])):
        report = evaluate(sims[order], protocol="flickr30k-fg", annotations=folder, ids=ids)
        assert expected["t2i_full_gallery"] == recalls(report["t2i"])


def test_coco_maps_by_name_because_orders_differ(folder):
    fine = read_fine_grained(folder, "coco-fg")
    assert (len(fine.pool), len(fine.originals), len(fine.captions)) == (31_244, 5000, 25_000)
    owners = fine.caption_to_image(fine.pool)
    assert owners.max() < 5000
    assert not np.array_equal(owners, np.arange(25_000) // 5)
    key, place = fine.captions[7]
    assert (fine.pool[owners[7]], place) == (f"{key}.jpg", 2)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_whole_of_coco_fg_needs_little_memory(folder):
    # 31,244 x 25,000 similarities would be 3.1 GB.
    code = f"""
import numpy as np
from itm_fast.evaluation import evaluate
from itm_fast.data.readers.fine_grained import read_fine_grained
fine = read_fine_grained({str(folder)!r}, "coco-fg")
rng = np.random.default_rng(0)
images = rng.standard_normal((31244, 4), dtype=np.float32)
images /= np.linalg.norm(images, axis=1, keepdims=True)
captions = images[fine.caption_to_image(fine.pool)]
report = evaluate((images, captions), protocol="coco-fg", annotations={str(folder)!r}, chunk_bytes=16 << 20)
assert report["i2t"]["n_queries"] == 5000
assert report["t2i"]["n_queries"] == report["originals"]["t2i"]["n_queries"] == 25000
assert report["originals"]["t2i"]["R@1"] >= report["t2i"]["R@1"] > 1
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 1 << 30  # not ru_maxrss, which a child inherits from pytest


@pytest.fixture
def tiny(tmp_path):
    (tmp_path / "MSCOCO_FG_ann.json").write_text(json.dumps({"b": ["x", "y"], "a": ["z"]}))
    np.save(tmp_path / "MSCOCO_FG_img_filenames.npy", np.array(["a.jpg", "b.jpg", "000000000001.jpg"]))
    return tmp_path


def test_a_tiny_one(tiny):
    sims = np.array([[0.1, 0.2, 0.9], [0.8, 0.3, 0.4], [0.2, 0.9, 0.5]])
    report = evaluate(sims, protocol="coco-fg", annotations=tiny)
    assert report["t2i"]["R@1"] == pytest.approx(200 / 3)  # the distractor takes caption 1
    assert report["originals"]["t2i"]["R@1"] == 100
    assert report["i2t"]["R@1"] == 100


@pytest.mark.parametrize(
    ("name", "content", "fragment"),
    [
        ("ann.json", '{"a": ["x"', "cut short"),
        ("ann.json", "[]", "expected {image name"),
        ("ann.json", '{"a": "x"}', "image 'a' has 'x'"),
        ("ann.json", '{"a": ["x"], "c": ["y"]}', "has no c.jpg"),
        ("img_filenames.npy", np.array([1, 2]), "expected file names"),
        ("img_filenames.npy", np.array(["a.jpg", "a.jpg", "b.jpg"]), "is there twice"),
        ("img_filenames.npy", np.array([{}], dtype=object), "pickles are never read"),
    ],
)
def test_broken_files(tiny, name, content, fragment):
    path = tiny / f"MSCOCO_FG_{name}"
    if isinstance(content, str):
        path.write_text(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(DataError) as raised:
        read_fine_grained(tiny, "coco-fg")
    assert fragment in str(raised.value)


@pytest.mark.parametrize(
    ("call", "exception", "fragment"),
    [
        (lambda f: evaluate(np.zeros((3, 4)), protocol="coco-fg", annotations=f), ValueError, "expects 3 images x 3"),
        (lambda f: evaluate(np.zeros((2, 3)), protocol="coco-fg", annotations=f), ValueError, "coco-fg-originals"),
        (
            lambda f: evaluate(np.zeros((3, 2)), protocol="coco-fg-originals", annotations=f),
            ValueError,
            "it looks transposed",
        ),
        (
            lambda f: evaluate(np.zeros((3, 3)), protocol="coco-fg", annotations=f, folds=1),
            ValueError,
            "folds has no use",
        ),
        (
            lambda f: evaluate(np.zeros((3, 3)), protocol="coco-fg", annotations=f, ids=Ids(["a", "b", "c"])),
            ValueError,
            "such as '000000000001.jpg'",
        ),
        (lambda f: evaluate(np.zeros((3, 3)), protocol="flickr30k-fg", annotations=f), FileNotFoundError, "cwj1412"),
        (
            lambda f: evaluate(np.zeros((3, 3)), protocol="coco-fg"),
            FileNotFoundError,
            "no folder of annotations was given",
        ),
    ],
)
def test_errors(tiny, call, exception, fragment):
    with pytest.raises(exception) as raised:
        call(tiny)
    assert fragment in str(raised.value)
