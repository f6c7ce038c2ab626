"""Protocol positives: any ids and relevant pairs, from objects, JSON and npz; ids files; errors."""

import json
import re

import numpy as np
import pytest
import torch

from itm_fast.errors import DataError
from itm_fast.evaluation import Ids, RelevantPairs, evaluate, read_ids
from itm_fast.evaluation.protocols.relevant_pairs import read_relevant_pairs
from itm_fast.metrics import hit_rate_at_k, map_at_r, positives_by_id, r_precision

IMAGES, CAPTIONS = [f"i{n}" for n in range(12)], list(range(100, 140))


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    by_image = {key: rng.choice(CAPTIONS, rng.integers(1, 6), replace=False).tolist() for key in IMAGES[:9]}
    by_image["i0"] = [*by_image["i0"], 999]  # not in the gallery
    by_caption = {key: rng.choice(IMAGES, 2, replace=False).tolist() for key in CAPTIONS[3:]}
    return rng.standard_normal((12, 40)), RelevantPairs(Ids(IMAGES, CAPTIONS), by_image, by_caption)


def content(pairs, *keys):
    full = {
        "image_ids": pairs.ids.images,
        "caption_ids": pairs.ids.captions,
        "image_to_captions": pairs.image_to_captions,
        "caption_to_images": {str(key): images for key, images in pairs.caption_to_images.items()},
    }
    return {key: full[key] for key in ("image_ids", "caption_ids", *keys)}


def test_as_the_metrics(case):
    sims, pairs = case
    report = evaluate(sims, protocol="positives", annotations=pairs, ks=(1, 5))
    sides = (
        ("i2t", "image", pairs.image_to_captions, IMAGES, CAPTIONS),
        ("t2i", "caption", pairs.caption_to_images, CAPTIONS, IMAGES),
    )
    for direction, query, lists, queries, items in sides:
        truth = positives_by_id(lists, queries, items)
        found = report[direction]
        assert found["mAP@R"] == pytest.approx(map_at_r(sims, truth, query=query), rel=1e-12)
        assert found["R-Precision"] == pytest.approx(r_precision(sims, truth, query=query), rel=1e-12)
        expected = hit_rate_at_k(sims, truth, (1, 5), query=query).tolist()
        assert [found["R@1"], found["R@5"]] == pytest.approx(expected)
        assert found["n_queries"] == len(lists)
    assert "mAP@R" in str(report)
    json.dumps(report.to_dict())


def test_files(case, tmp_path):
    sims, pairs = case
    expected = evaluate(sims, protocol="positives", annotations=pairs)
    path = tmp_path / "set.json"
    path.write_text(json.dumps(content(pairs, "image_to_captions", "caption_to_images")))
    assert evaluate(sims, protocol="positives", annotations=path)["t2i"] == expected["t2i"]
    numbers = {key: place for place, key in enumerate(IMAGES)}
    np.savez(
        tmp_path / "set.npz",
        image_ids=np.arange(12),
        caption_ids=np.array(CAPTIONS),
        image_to_captions=np.array([(numbers[q], c) for q, cs in pairs.image_to_captions.items() for c in cs]),
        caption_to_images=np.array([(q, numbers[i]) for q, images in pairs.caption_to_images.items() for i in images]),
    )
    found = evaluate(sims, protocol="positives", annotations=tmp_path / "set.npz")
    assert (found["i2t"], found["t2i"]) == (expected["i2t"], expected["t2i"])


def test_a_missing_direction_is_the_transpose(case, tmp_path):
    _, pairs = case
    path = tmp_path / "set.json"
    path.write_text(json.dumps(content(pairs, "image_to_captions")))
    read = read_relevant_pairs(path)
    turned = {c: [i for i in IMAGES[:9] if c in pairs.image_to_captions[i]] for c in CAPTIONS}
    assert read.caption_to_images == {c: images for c, images in turned.items() if images}
    path.write_text(json.dumps(content(pairs, "caption_to_images")))
    assert 104 in read_relevant_pairs(path).image_to_captions[pairs.caption_to_images[104][0]]


def graded(items):
    return dict.fromkeys(items, 1.0)


@pytest.mark.parametrize("side", ["image_to_captions", "caption_to_images"])
@pytest.mark.parametrize("kind", [list, set, tuple, np.array, torch.tensor, graded])
def test_objects(side, kind):
    """One direction alone, in whatever holds ids, is what both are."""
    sims = np.random.default_rng(1).standard_normal((4, 8))
    captions = {image: [2 * image, 2 * image + 1] for image in range(4)}
    images = {caption: [caption // 2] for caption in range(8)}
    ids = Ids(range(4), range(8))
    expected = evaluate(sims, protocol="positives", annotations=RelevantPairs(ids, captions, images), ks=(1,))
    lists = {"image_to_captions": captions, "caption_to_images": images}[side]
    sides = {"image_to_captions": None, "caption_to_images": None, side: {key: kind(of) for key, of in lists.items()}}
    found = evaluate(sims, protocol="positives", annotations=RelevantPairs(ids, **sides), ks=(1,))
    assert [found[way]["mAP@R"] for way in ("i2t", "t2i")] == [expected[way]["mAP@R"] for way in ("i2t", "t2i")]


@pytest.mark.parametrize(
    ("annotations", "exception", "fragment"),
    [
        (RelevantPairs(Ids([0], [0]), None, None), ValueError, "neither image_to_captions nor caption_to_images has"),
        (RelevantPairs(Ids([0], [0]), {}, {}), ValueError, "there is nothing to rank"),
        (RelevantPairs(Ids([0], [0]), {0: []}, None), ValueError, "no query has a positive"),
        (RelevantPairs(Ids([0], [0]), {0: {0: 0}}, None), ValueError, "no query has a positive"),
        (RelevantPairs(Ids([0], [0]), [[0]], None), TypeError, "image_to_captions is a list, expected {id: [ids]}"),
        (RelevantPairs(Ids([0], [0]), None, {0: 0}), TypeError, "caption_to_images[0] is 0, expected a list of ids"),
        (RelevantPairs(Ids([0], [0]), {0: "0"}, None), TypeError, "image_to_captions[0] is '0', expected a list"),
        (RelevantPairs(Ids([0], [0]), {0: {0: None}}, None), ValueError, "image_to_captions[0] has the grade None of"),
        (RelevantPairs([0], {0: [0]}, None), TypeError, "the ids of RelevantPairs are a list, expected Ids("),
        ({0: [0]}, TypeError, "annotations is a dict, expected RelevantPairs("),
    ],
)
def test_bad_objects(annotations, exception, fragment):
    with pytest.raises(exception, match=re.escape(fragment)):
        evaluate(np.ones((1, 1)), protocol="positives", annotations=annotations, ks=(1,))


def test_positives_outside_of_the_gallery_are_said(case):
    sims, pairs = case
    notes = evaluate(sims, protocol="positives", annotations=pairs)["conditions"]["notes"]
    n_positives = sum(map(len, pairs.image_to_captions.values()))
    assert [note for note in notes if "are not in the gallery" in note] == [
        f"1 of {n_positives} positives of image queries are not in the gallery: each is a miss of mAP@R, R-Precision, "
        "nDCG and MAP; are these the annotations of this set?"
    ]


def test_a_hopeless_query_is_a_miss():
    pairs = RelevantPairs(Ids([1, 2], [3, 4]), {1: [3], 2: [99]}, {3: [1]})
    report = evaluate(np.eye(2), protocol="positives", annotations=pairs)
    assert report["i2t"]["n_queries"] == 2
    assert (report["i2t"]["R@1"], report["i2t"]["R@10"], report["i2t"]["mAP@R"]) == (50, 50, 50)
    assert report["i2t"]["meanr"] == 2  # the first, and the one after the last


def test_sims_in_another_order(case, tmp_path):
    sims, pairs = case
    expected = evaluate(sims, protocol="positives", annotations=pairs)
    rows, columns = np.random.default_rng(1).permutation(12), np.random.default_rng(2).permutation(40)
    ids = {"image_ids": [IMAGES[i] for i in rows], "caption_ids": [CAPTIONS[c] for c in columns]}
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    np.savez(tmp_path / "ids.npz", **{key: np.array(value) for key, value in ids.items()})
    for file in ("ids.json", "ids.npz"):
        found = evaluate(sims[rows][:, columns], protocol="positives", annotations=pairs, ids=tmp_path / file)
        assert (found["i2t"], found["t2i"]) == (expected["i2t"], expected["t2i"])


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (lambda c: c.pop("image_ids"), 'expected {"image_ids"'),
        (lambda c: c.pop("image_to_captions"), "one of the last two may be missing"),
        (lambda c: c.update(image_ids=[1.5]), "expected a list of ids"),
        (lambda c: c.update(image_to_captions=[1]), "image_to_captions is a list"),
        (lambda c: c.update(image_to_captions={"i0": 3}), "'i0'"),
        (lambda c: c.update(image_to_captions={"i99": [100]}), "lack, such as 'i99'"),
        (lambda c: c["image_ids"].append("i0"), "image_ids has 13 ids, but sims has 12 images"),
        (lambda c: c["image_ids"].__setitem__(1, "i0"), "'i0' is there twice, at 0 and 1"),
        (
            lambda c: c.update(image_ids=CAPTIONS, caption_ids=IMAGES, image_to_captions={"100": ["i0"]}),
            "sims looks transposed",
        ),
    ],
)
def test_bad_files(case, tmp_path, change, fragment):
    sims, pairs = case
    changed = json.loads(json.dumps(content(pairs, "image_to_captions")))
    change(changed)
    path = tmp_path / "set.json"
    path.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=re.escape(fragment)):
        evaluate(sims, protocol="positives", annotations=path)


def test_broken_files(case, tmp_path):
    sims, _ = case
    for name, data in (("a.json", b'{"image_ids": ['), ("a.npz", b"PK\x03\x04 cut"), ("b.npz", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match="cut short"):
            evaluate(sims, protocol="positives", annotations=tmp_path / name)
    np.savez(tmp_path / "c.npz", image_ids=np.arange(3), caption_ids=np.arange(3), image_to_captions=np.arange(3))
    with pytest.raises(DataError, match="pairs of a query and a positive"):
        read_relevant_pairs(tmp_path / "c.npz")
    with pytest.raises(FileNotFoundError):
        read_relevant_pairs(tmp_path / "none.json")
    with pytest.raises(DataError, match="a folder"):
        read_relevant_pairs(tmp_path)
    (tmp_path / "ids.json").write_text("[1, 2]")
    with pytest.raises(DataError, match="in the order of sims"):
        read_ids(tmp_path / "ids.json")


@pytest.mark.parametrize(
    ("options", "exception", "fragment"),
    [
        ({"protocol": "positives"}, ValueError, "needs annotations, a .json or .npz file"),
        ({"protocol": "positives", "caption_to_image": [0]}, ValueError, "caption_to_image has no use"),
        ({"annotations": "x"}, ValueError, "annotations has no use without a protocol"),
        ({"protocol": "coco-5k", "ids": Ids([1])}, ValueError, "ids has no use with protocol coco-5k"),
        ({"protocol": "eccv", "annotations": RelevantPairs(Ids([1]), {}, {})}, TypeError, "reads a folder of files"),
        ({"protocol": "cxd"}, ValueError, "perhaps you meant cxc; expected one of coco-1k"),
    ],
)
def test_options(case, options, exception, fragment):
    with pytest.raises(exception) as raised:
        evaluate(case[0], **options)
    assert fragment in str(raised.value)


def test_nan_and_relevance(case):
    sims, pairs = case
    bad = sims.copy()
    bad[11, 39] = np.nan
    with pytest.raises(ValueError, match=r"NaN at row \(image\) 11, column \(caption\) 39"):
        evaluate(bad, protocol="positives", annotations=pairs)
    with pytest.raises(ValueError, match="relevance has no use with protocol positives"):
        evaluate(sims, sims, protocol="positives", annotations=pairs)
