"""evaluate with φ: NCS, NCS(N), Semantic Recall, folds, sources of φ; human judgement."""

import copy
import gzip
import json

import numpy as np
import pytest
import torch
from golden_files import data_path, golden

from itm_fast import Cider, evaluate
from itm_fast.errors import DataError
from itm_fast.evaluation.human_judgement import cider_of_pairs, correlation, read_judgements
from itm_fast.metrics import ncs_at_k, semantic_recall_at_k


@pytest.fixture(scope="module")
def arrays():
    return golden("ncs_N50_seed201.npz")


@pytest.fixture(scope="module")
def matrices(arrays):
    return torch.from_numpy(arrays["sims"]).double(), torch.from_numpy(arrays["phi_cap_img"]).double().T


def test_golden_sums_and_figures(arrays, matrices):
    report = evaluate(*matrices)
    assert report["nsum"] == pytest.approx(float(arrays["Nsum_GT"]), abs=1e-9)
    assert report["nsum(N)"] == pytest.approx(float(arrays["Nsum_noGT"]), abs=1e-9)
    assert report["rsum"] == pytest.approx(float(arrays["Rsum"]), abs=1e-9)
    for direction in ("i2t", "t2i"):
        for mark, gt in (("", "GT"), ("(N)", "noGT")):
            found = [report[direction][f"NCS{mark}@{k}"] for k in (1, 5, 10)]
            np.testing.assert_allclose(found, arrays[f"NCS_{direction}_{gt}"][:3], atol=1e-9)


def test_other_cut_offs_and_semantic_recall(matrices):
    report = evaluate(*matrices, ks=(2, 30), m=4)
    for direction, query in (("i2t", "image"), ("t2i", "caption")):
        for mark, remove_gt in (("", False), ("(N)", True)):
            options = {"query": query, "remove_gt": remove_gt}
            for name, scores in (
                ("NCS", ncs_at_k(*matrices, (2, 30), **options)),
                ("SR", semantic_recall_at_k(*matrices, (2, 30), m=4, **options)),
            ):
                found = [report[direction][f"{name}{mark}@{k}"] for k in (2, 30)]
                np.testing.assert_allclose(found, scores.numpy(), rtol=1e-12, err_msg=f"{direction} {name}{mark}")
    assert report["nsum"] == pytest.approx(evaluate(*matrices)["nsum"])


def test_folds_cut_both_axes(matrices):
    sims, phi = matrices
    report = evaluate(sims, phi, folds=5, m=3, chunk_bytes=8 * 700)
    for number in range(5):
        rows, columns = slice(10 * number, 10 * number + 10), slice(50 * number, 50 * number + 50)
        alone = evaluate(sims[rows, columns], phi[rows, columns], m=3)
        for key in ("nsum", "nsum(N)", "rsum"):
            assert report["folds"][number][key] == pytest.approx(alone[key], rel=1e-12)
        for direction in ("i2t", "t2i"):
            for key, value in alone[direction].items():
                assert report["folds"][number][direction][key] == pytest.approx(value, rel=1e-12), key
    assert report["nsum"] == pytest.approx(np.mean([fold["nsum"] for fold in report["folds"]]))
    assert report["full"]["nsum"] == pytest.approx(evaluate(sims, phi)["nsum"])


def test_recalls_do_not_depend_on_phi(matrices):
    sims, phi = matrices
    plain, both = evaluate(sims, folds=2), evaluate(sims, phi, folds=2)
    assert {key: value for key, value in both["i2t"].items() if "NCS" not in key} == plain["i2t"]
    assert "nsum" not in plain


def test_embeddings_and_a_corpus(tmp_path):
    words = ["dog", "cat", "bus", "red", "runs", "on", "grass", "a"]
    rng = np.random.default_rng(0)
    references = [[" ".join(rng.choice(words, 6)) for _ in range(5)] for _ in range(12)]
    corpus = Cider().fit(references).encode(references)
    images, captions = torch.randn(12, 16).double(), torch.randn(60, 16).double()
    report = evaluate((images, captions), corpus)
    phi = corpus.relevance(dtype=torch.float64)
    assert report["nsum"] == pytest.approx(evaluate(images @ captions.T, phi)["nsum"], rel=1e-9)
    np.save(tmp_path / "phi.npy", phi.numpy())
    mapped = np.load(tmp_path / "phi.npy", mmap_mode="r")
    assert evaluate((images, captions), mapped)["nsum"] == pytest.approx(report["nsum"], rel=1e-12)


def test_the_table_shows_it(matrices):
    text = str(evaluate(*matrices, m=2))
    assert "NCS(N)@10" in text
    assert "SR@1" in text
    assert "nsum(N)" in text
    assert "NCS" not in str(evaluate(matrices[0]))


def test_progress_covers_both_passes(matrices):
    calls = []
    evaluate(*matrices, progress=lambda *at: calls.append(at), chunk_bytes=8 * 3000)
    assert calls[0] == (0, 25_000)
    assert calls[-1] == (25_000, 25_000)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


@pytest.mark.parametrize(
    ("call", "exception", "fragment"),
    [
        (lambda s, p: evaluate(s, p.T), ValueError, "looks transposed"),
        (lambda s, p: evaluate(s, p[:, :200]), ValueError, "relevance is 50 x 200, but sims is 50 x 250"),
        (lambda s, p: evaluate(s, p, m=0), ValueError, "m is 0"),
        (lambda s, p: evaluate(s, m=3), ValueError, "there is no relevance"),
        (lambda s, p: evaluate(s, "phi.npy"), TypeError, "relevance is a str"),
        (lambda s, p: evaluate(s, p * torch.nan), ValueError, "relevance is NaN at row (image) 0"),
    ],
)
def test_errors(matrices, call, exception, fragment):
    with pytest.raises(exception) as raised:
        call(*matrices)
    assert fragment in str(raised.value)


def test_binary_relevance_correlates_as_published():
    judged = read_judgements(data_path("cxc/sits_test.csv.gz"))
    assert len(judged.scores) == 44_833
    assert int(judged.original.sum()) == 25_000
    found = correlation(judged.original, judged)
    assert round(found["all"], 4) == 0.7115
    assert np.isnan(found["non-gt"])


SITS = "caption,image,agg_score,sampling_method\n" + "".join(
    f"COCO_val2014:sentid:{sentid},{image}.jpg,{score},{'c2i_original' if own else 'c2i_intrasim'}\n"
    for sentid, image, score, own in (
        (1, "x", 5, 1),
        (2, "y", 4.5, 1),
        (1, "y", 1, 0),
        (2, "x", 0.5, 0),
        (3, "y", 2, 0),
    )
)
KARPATHY = {
    "images": [
        {"filename": f"{name}.jpg", "sentences": [{"sentid": i, "raw": raw} for i, raw in sentences]}
        for name, sentences in (
            ("x", [(1, "a dog runs fast"), (3, "the dog")]),
            ("y", [(2, "a red bus stops"), (4, "bus")]),
            ("z", [(9, "nobody judged this")]),
        )
    ]
}


def test_cider_of_judged_pairs(tmp_path):
    (tmp_path / "sits.csv").write_text(SITS)
    (tmp_path / "sits.csv.gz").write_bytes(gzip.compress(SITS.encode()))
    (tmp_path / "coco.json").write_text(json.dumps(KARPATHY))
    judged = read_judgements(tmp_path / "sits.csv")
    assert read_judgements(tmp_path / "sits.csv.gz").captions == judged.captions
    references = [["a dog runs fast", "the dog"], ["a red bus stops", "bus"]]
    phi = (
        Cider().fit(references).relevance(references, ["a dog runs fast", "a red bus stops", "the dog"], torch.float64)
    )
    expected = [phi[0, 0], phi[1, 1], phi[1, 0], phi[0, 1], phi[1, 2]]
    found = cider_of_pairs(judged, tmp_path / "coco.json")
    np.testing.assert_allclose(found, expected, atol=1e-6)
    for image in (spelt := copy.deepcopy(KARPATHY))["images"]:  # as forks write it
        image["filename"] = f"val2014/{image['filename']}"
        image["sentences"] = [{**sentence, "sentid": str(sentence["sentid"])} for sentence in image["sentences"]]
    (tmp_path / "coco.json").write_text(json.dumps(spelt))
    np.testing.assert_array_equal(cider_of_pairs(judged, tmp_path / "coco.json"), found)
    r = correlation(found, judged)
    assert r["all"] == pytest.approx(np.corrcoef(found, judged.scores)[0, 1])


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        ("a,b\n", "begins with 'a,b'"),
        ("", "begins with ''"),
        (SITS + "COCO:1,x.jpg,high,c2i_original\n", "bad.csv:7"),
        (SITS + "COCO:1,x.jpg\n", "bad.csv:7"),
        (SITS + "COCO:1,x.jpg,nan,c2i_original\n", "bad.csv:7"),
        (SITS + "COCO:1,x.jpg,5.5,c2i_original\n", "bad.csv:7"),
        (SITS + "COCO:1,x.jpg,-1,c2i_original\n", "a number 0 ... 5"),
        (SITS + "COCO_val2014:sentid:2,y.jpg,0,x\n", "bad.csv:7: COCO_val2014:sentid:2, y.jpg is line 3 again"),
        (SITS.partition("\n")[0] + "\n", "a header and no rated pairs"),
        (SITS.replace("image", "caption", 1), "begins with 'caption,caption"),
    ],
)
def test_bad_judgements(tmp_path, content, fragment):
    (tmp_path / "bad.csv").write_text(content)
    with pytest.raises(DataError) as raised:
        read_judgements(tmp_path / "bad.csv")
    assert fragment in str(raised.value)


def test_judgements_are_read_by_their_header(tmp_path):
    (tmp_path / "sits.csv").write_text(SITS)
    rows = [line.split(",") for line in SITS.splitlines()]
    turned = [[row[2], *row[:2][::-1], place, row[3]] for place, row in enumerate(rows)]  # also an index, as of pandas
    (tmp_path / "turned.csv").write_text("".join(f"{','.join(map(str, row))}\n" for row in turned))
    right, found = (read_judgements(tmp_path / name) for name in ("sits.csv", "turned.csv"))
    for field in ("captions", "images"):
        assert getattr(found, field) == getattr(right, field)
    assert found.scores.tolist() == right.scores.tolist()
    assert found.original.tolist() == right.original.tolist()


def test_bad_files_of_captions_and_numbers(tmp_path):
    (tmp_path / "sits.csv").write_text(SITS)
    (tmp_path / "sits.csv.gz").write_bytes(b"no gzip")
    judged = read_judgements(tmp_path / "sits.csv")
    with pytest.raises(DataError, match="gz that is damaged, or cut short"):
        read_judgements(tmp_path / "sits.csv.gz")
    for content, fragment in (
        ("[]", "not Karpathy's"),
        ("{", r"coco\.json: not JSON"),
        (json.dumps({"images": KARPATHY["images"][:1]}), "has no image 'y.jpg'"),
        (json.dumps({"images": [{"filename": f"{x}.jpg", "sentences": []} for x in "xy"]}), "has no sentence 1"),
    ):
        (tmp_path / "coco.json").write_text(content)
        with pytest.raises(DataError, match=fragment):
            cider_of_pairs(judged, tmp_path / "coco.json")
    with pytest.raises(ValueError, match="expected one number a judged pair"):
        correlation([1.0], judged)
