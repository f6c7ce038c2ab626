"""Protocol eccv: golden files, eccv_caption beside it, ids in any order, 25,010 captions, files, errors."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from eccv_golden import as_named_by_the_package, coco_test, installed, similarities
from golden_files import golden, golden_json

from itm_fast.errors import DataError
from itm_fast.evaluation import Ids, evaluate
from itm_fast.evaluation.protocols.eccv_caption import read_coco_test, read_positives, read_truth
from itm_fast.files.reading import find_file
from itm_fast.metrics import map_at_r, positives_by_id, query_positives, r_precision


@pytest.fixture(scope="module", params=[401, 402])
def gold(request):
    installed()
    expected = golden_json(f"eccv_{request.param}.json")
    sims = similarities(expected)
    return expected, golden(f"eccv_{request.param}.npz"), sims, evaluate(sims, protocol="eccv")


def test_every_golden_figure(gold):
    expected, _, _, report = gold
    found = as_named_by_the_package(report)
    assert set(found) == set(expected["full"])
    for name, directions in expected["full"].items():
        for direction, value in directions.items():
            assert found[name][direction] == pytest.approx(value, abs=1e-9), (name, direction)
    for fold, values in zip(report["folds"], expected["folds"], strict=True):
        for name, directions in values.items():
            for direction, value in directions.items():
                assert fold[direction][f"R@{name[1:]}"] / 100 == pytest.approx(value, abs=1e-9)
    for direction, values in expected["rank_summary_percent"].items():
        figures = report["full"][direction]
        assert [figures["medr"], figures["meanr"]] == pytest.approx([values["medr"], values["meanr"]])
        assert figures["n_tied"] == expected["ties_at_positive"][direction]


def test_numbers_of_queries_and_positives(gold):
    report = gold[3]
    assert report["cxc"]["t2i"]["n_queries"] == 24_972  # 28 captions have no positive and are no queries
    eccv = report["eccv"]
    assert [eccv[d]["n_queries"] for d in ("i2t", "t2i")] == [1261, 1332]
    assert [eccv[d]["n_positives"] for d in ("i2t", "t2i")] == [22_550, 11_279]
    assert [eccv[d]["n_unreachable"] for d in ("i2t", "t2i")] == [2, 0]


@pytest.fixture(scope="module")
def every_fiftieth():
    """Images at p and q are plausible matches if p = q mod 50: 500 captions an image, 100 images a caption."""
    of_group = [np.flatnonzero(np.arange(25_000) // 5 % 50 == group) for group in range(50)]
    images = query_positives([of_group[image % 50] for image in range(5000)], 5000, 25_000)
    captions = query_positives([range(caption // 5 % 50, 5000, 50) for caption in range(25_000)], 25_000, 5000)
    return images, captions


def test_golden_pmrp(gold, every_fiftieth):
    expected, _, sims, _ = gold
    for query, truth, direction in zip(("image", "caption"), every_fiftieth, ("i2t", "t2i"), strict=True):
        found = r_precision(sims, truth, query=query)
        assert found / 100 == pytest.approx(expected["pmrp_synthetic"][direction], abs=1e-9)
        cut = r_precision(sims, truth, query=query, max_r=50)
        assert cut / 100 == pytest.approx(expected["truncated_50"]["pmrp_synthetic"][direction], abs=1e-9)


def test_golden_quantised_scores(gold):
    # Coarse scores tie: both bounds, and our order, are the golden ones.
    expected, _, sims, _ = gold
    coarse = sims * 4
    report = evaluate(np.divide(np.rint(coarse, out=coarse), 4, out=coarse), protocol="coco-5k")
    for direction in ("i2t", "t2i"):
        for bound in ("optimistic", "pessimistic"):
            for k in (1, 5, 10):
                value = expected["quantised_quarter"][bound][direction][f"r{k}"]
                assert report["full"][direction][bound][f"R@{k}"] == pytest.approx(value)
        ours = expected["quantised_quarter"]["lower_index_first"][direction]
        assert report["full"][direction]["R@1"] == pytest.approx(ours["r1"])
    assert "WARNING: the order of equal scores decides" in str(report)


def test_folds_come_from_the_scores_not_from_cut_lists(gold):
    # Trap 9: the package on lists cut at 50 loses points at 1K R@10; there is no cut list here.
    expected, _, _, report = gold
    cut = expected["truncated_50"]["coco_1k_r10"]["t2i"]
    assert report["fold_mean"]["t2i"]["R@10"] / 100 >= cut
    assert report["fold_mean"]["t2i"]["R@10"] / 100 == pytest.approx(expected["full"]["coco_1k_r10"]["t2i"], abs=1e-9)


@pytest.fixture(scope="module")
def small():
    """Cheap similarities of the true sizes with a signal, and the report in Karpathy's order."""
    installed()
    rng = np.random.default_rng(7)
    images = rng.standard_normal((5000, 16), dtype=np.float32)
    captions = images.repeat(5, axis=0) + rng.standard_normal((25_000, 16), dtype=np.float32)
    return images, captions, evaluate((images, captions), protocol="eccv")


SHOWN = ("full", "fold_mean", "folds", "cxc", "eccv")


def alike(found, expected, tolerance=0.03):
    """Recall within a query or two: products of other tiles round otherwise."""
    for section in ("full", "fold_mean", "cxc"):
        for direction in ("i2t", "t2i"):
            for k in (1, 5, 10):
                assert found[section][direction][f"R@{k}"] == pytest.approx(
                    expected[section][direction][f"R@{k}"], abs=tolerance
                )
    for direction in ("i2t", "t2i"):
        for name in ("mAP@R", "R-Precision"):
            assert found["eccv"][direction][name] == pytest.approx(expected["eccv"][direction][name], abs=tolerance)


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_ids_in_another_order_change_nothing(small, order):
    # Trap 13: ids sorted as numbers, taken by position, would make other folds; by id they are the same.
    images, captions, expected = small
    test = coco_test()
    rng = np.random.default_rng(0)
    rows = np.argsort(test.image_ids) if order == "sorted" else rng.permutation(5000)
    columns = np.argsort(test.caption_ids) if order == "sorted" else rng.permutation(25_000)
    ids = Ids([test.image_ids[i] for i in rows], [test.caption_ids[c] for c in columns])
    alike(evaluate((images[rows], captions[columns]), protocol="eccv", ids=ids), expected)
    names = Ids(
        [f"COCO_val2014_{key:012d}.jpg" for key in ids.images], [f"COCO_val2014:sentid:{key}" for key in ids.captions]
    )
    alike(evaluate((images[rows], captions[columns]), protocol="eccv", ids=names), expected)
    by_position = evaluate(
        (images[rows], captions[np.repeat(5 * rows, 5) + np.tile(range(5), 5000)]), protocol="coco-1k"
    )
    assert by_position["fold_mean"]["t2i"]["R@1"] != expected["fold_mean"]["t2i"]["R@1"]
    assert by_position["full"]["t2i"]["R@1"] == pytest.approx(expected["full"]["t2i"]["R@1"], abs=0.03)


def test_matrix_by_id(small):
    images, captions, _ = small
    sims = images @ captions.T
    test = coco_test()
    rows, columns = np.argsort(test.image_ids), np.argsort(test.caption_ids)
    ids = Ids(np.array(test.image_ids)[rows], np.array(test.caption_ids)[columns])
    expected = evaluate(sims, protocol="eccv")
    found = evaluate(sims[rows].take(columns, axis=1), protocol="eccv", ids=ids)
    assert all(found[section] == expected[section] for section in SHOWN)


def test_all_25010_captions(small):
    # Section 7: c // 5 would shift every label; ids or a map bring it back to the first five of each image.
    images, captions, expected = small
    extra = np.array([3, 3, 100, 700, 701, 702, 2000, 4000, 4998, 4999])
    places = np.sort(np.concatenate([np.arange(25_000), 5 * extra + 4]), kind="stable")
    owners = places // 5
    later = np.flatnonzero(np.append(False, np.diff(places) == 0))
    all_captions = captions[places].copy()
    all_captions[later] = 0
    found = evaluate((images, all_captions), protocol="eccv", caption_to_image=owners)
    assert all(found[section] == expected[section] for section in SHOWN)
    assert "10 captions beyond the first five of an image were left out" in str(found)
    test = coco_test()
    ids = [test.caption_ids[place] for place in places]
    for number, place in enumerate(later):
        ids[place] = 10_000_000 + number
    found = evaluate((images, all_captions), protocol="eccv", ids=Ids(test.image_ids, ids))
    assert all(found[section] == expected[section] for section in SHOWN)
    for protocol in ("eccv", "coco-5k"):
        with pytest.raises(ValueError, match="25,010 are all captions of the split"):
            evaluate((images, all_captions), protocol=protocol)


def test_a_callable_is_scored_once(small):
    images, captions, expected = small
    n_pairs = 0

    def tile(rows, columns):
        nonlocal n_pairs
        n_pairs += (rows.stop - rows.start) * (columns.stop - columns.start)
        return images[rows] @ captions[columns].T

    found = evaluate(tile, protocol="eccv", n_images=5000, n_captions=25_000)
    alike(found, expected)
    assert n_pairs < 1.2 * 5000 * 25_000


def test_unreachable_positives_are_in_r():
    installed()
    test = coco_test()
    truth = read_truth(None, "eccv").image_to_captions
    image, caption = 421999, 467259
    assert caption in truth[image]
    assert caption not in test.caption_ids
    mine = {image: truth[image]}
    found = positives_by_id(mine, test.image_ids, test.caption_ids)
    sims = np.zeros((5000, 25_000), np.float32)
    row = test.image_ids.index(image)
    sims[row, found.items] = 1  # the best there can be
    assert found.n_relevant[row] == len(truth[image])
    assert r_precision(sims, found) == pytest.approx(100 * (1 - 1 / len(truth[image])))
    assert map_at_r(sims, found) < 100


def test_pmrp_from_files(small, tmp_path):
    images, captions, expected = small
    data = find_file(None, ["coco_test_ids.npy"], "", "eccv_caption").parent
    shutil.copytree(data, tmp_path, dirs_exist_ok=True)
    test = coco_test()
    by_image = {
        key: test.caption_ids[5 * (place // 9) : 5 * (place // 9) + 60] for place, key in enumerate(test.image_ids[:90])
    }
    by_caption = {key: test.image_ids[place : place + 3] for place, key in enumerate(test.caption_ids[:70])}
    (tmp_path / "pm_image_to_caption.json").write_text(json.dumps(by_image))
    (tmp_path / "pm_caption_to_image.json").write_text(json.dumps(by_caption))
    calls = []
    report = evaluate((images, captions), protocol="eccv", annotations=tmp_path, progress=lambda *at: calls.append(at))
    alike(report, expected, 1e-9)
    sims = images @ captions.T
    truth = positives_by_id(by_image, test.image_ids, test.caption_ids)
    assert report["pmrp"]["i2t"]["PMRP"] == pytest.approx(r_precision(sims, truth), abs=0.1)
    assert report["pmrp"]["i2t"]["PMRP@50"] == pytest.approx(r_precision(sims, truth, max_r=50), abs=0.1)
    assert report["pmrp"]["t2i"]["n_queries"] == 70
    assert calls[-1][0] == calls[-1][1]
    assert "PMRP@50" in str(report)


def test_with_relevance(small):
    images, captions, expected = small
    phi = np.zeros((5000, 25_000), np.float32)
    phi[np.arange(25_000) // 5, np.arange(25_000)] = 1
    report = evaluate((images, captions), phi, protocol="eccv")
    assert report["cxc"] == expected["cxc"]
    assert report["i2t"]["NCS@1"] == pytest.approx(report["i2t"]["R@1"])
    test = coco_test()
    ids = Ids(test.image_ids[::-1], test.caption_ids)
    with pytest.raises(ValueError, match="relevance is read by position"):
        evaluate((images[::-1], captions), phi, protocol="eccv", ids=ids)


def test_the_report_as_table_and_file(small, tmp_path):
    report = small[2]
    text = str(report)
    for fragment in ("eccv: whole gallery", "fold 5 t2i", "mean of folds i2t", "CxC t2i", "ECCV Caption i2t", "24972"):
        assert fragment in text
    row = next(line for line in text.splitlines() if line.startswith("ECCV Caption t2i")).split()
    assert float(row[-3]) == pytest.approx(report["eccv"]["t2i"]["mAP@R"], abs=0.05)
    report.to_json(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["eccv"] == report["eccv"]


def zeros(n_images, n_captions):
    return lambda rows, columns: np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.float32)


def at(n_images, n_captions, **options):
    installed()
    return evaluate(zeros(n_images, n_captions), n_images=n_images, n_captions=n_captions, protocol="eccv", **options)


@pytest.mark.parametrize(
    ("call", "fragment"),
    [
        (lambda t: at(25_000, 5000), "it looks transposed"),
        (lambda t: at(25_000, 25_000), "pass every fifth row"),  # trap 3
        (lambda t: at(1000, 5000), "use the split `testall`"),  # trap 2
        (lambda t: at(5000, 25_000, folds=4), "protocol eccv has 5 folds"),
        (lambda t: at(5000, 25_000, captions_per_image=5), "captions_per_image has no use"),
        (lambda t: at(5000, 25_000, ids=Ids(t.image_ids)), "needs caption_ids"),
        (lambda t: at(5000, 25_000, ids=Ids(t.caption_ids, t.image_ids)), "sims looks transposed"),
        (lambda t: at(5000, 25_000, ids=Ids(t.image_ids[:-1], t.caption_ids)), "image_ids has 4999 ids"),
        (
            lambda t: at(5000, 25_000, ids=Ids([*t.image_ids[:-1], t.image_ids[0]], t.caption_ids)),
            "image_ids: 391895 is there twice, at 0 and 4999",
        ),
        (lambda t: at(5000, 25_000, ids=Ids([*t.image_ids[:-1], 1], t.caption_ids)), "1 of its 5000 images are not"),
        # Trap 12: captions of the fine-grained sets have no ids of COCO.
        (lambda t: at(5000, 25_000, ids=Ids(t.image_ids, range(25_000))), "captions are not among the ids given"),
        (lambda t: at(5000, 25_000, ids=Ids(["a.jpg"] * 5000, t.caption_ids)), "image_ids[0] is 'a.jpg'"),
        (lambda t: at(5000, 25_000, ids=Ids(t.image_ids[::-1], t.caption_ids)), "in its own order"),
        (lambda t: at(5000, 25_005, caption_to_image=[*range(5000)] * 5 + [0] * 5), "a callable can only be taken"),
    ],
)
def test_errors(call, fragment):
    installed()
    with pytest.raises(ValueError, match=re.escape(fragment)):
        call(coco_test())


def test_missing_files_say_where_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr("itm_fast.files.reading.importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"coco_test_ids.npy is missing.*is not installed.*github.com/naver-ai"):
        evaluate(zeros(0, 0), n_images=5000, n_captions=25_000, protocol="eccv")
    with pytest.raises(FileNotFoundError, match=r"coco_test_ids.npy is not in .*naver-ai/eccv-caption"):
        read_coco_test(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder of annotations"):
        read_coco_test(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="a download of its own"):
        read_truth(tmp_path, "pm")


def test_broken_files(tmp_path):
    path = tmp_path / "cxc_image_to_caption.json"
    for content, fragment in (
        ('{"1": [1, 2', "cut short"),
        ("[1]", "expected"),
        ('{"a": [1]}', "expected"),
        ('{"1": ["x"]}', "1 has"),
        ('{"1": []}', "1 has"),
        ("{}", "holds no query"),
        ('{"1": [2], "1": [3]}', "'1' is there twice"),
    ):
        path.write_text(content)
        with pytest.raises(DataError) as raised:
            read_positives(path)
        assert fragment in str(raised.value)
        assert str(path) in str(raised.value)
    ids = tmp_path / "coco_test_ids.npy"
    owners = tmp_path / "original_caption_to_image.json"
    owners.write_text('{"1": [9], "2": [9], "3": [9], "4": [9], "5": [8]}')
    np.save(ids, np.arange(1, 6))
    with pytest.raises(DataError, match="expected the same one for all five"):
        read_coco_test(tmp_path)
    ids.write_bytes(ids.read_bytes()[:-9])
    with pytest.raises(DataError, match="cut short"):
        read_coco_test(tmp_path)
    np.save(ids, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="pickles are never read"):
        read_coco_test(tmp_path)
    np.save(ids, np.zeros((2, 5)))
    with pytest.raises(DataError, match="float64 of shape"):
        read_coco_test(tmp_path)


def test_the_package_is_not_imported(small):
    source = Path(__file__).parents[2] / "itm_fast"
    assert not [path for path in source.rglob("*.py") if "import eccv_caption" in path.read_text(encoding="utf-8")]
