"""Drop-ins of pycocoevalcap's Cider and of ncs_metric's Metric."""

import numpy as np
import pytest
from golden_files import golden, golden_json

from itm_fast.compat.ncs_metric import Metric
from itm_fast.compat.pycocoevalcap import Cider


@pytest.mark.parametrize("name", ["coco60", "f30k20"])
@pytest.mark.parametrize("tokens", ["split", "ptb"])
def test_cider_equals_pycocoevalcap(name, tokens):
    references = golden_json(f"cider_{name}.json")[f"tokens_{tokens}"]
    expected = golden(f"cider_{name}.npz")[f"cider_pycocoevalcap_{tokens}"]
    ids = [f"image{i}" for i in range(len(references))]
    for shift in (0, 3):  # each call scores one caption of another image against every image
        res = {ids[i]: [references[(i + shift) % len(ids)][2]] for i in range(len(ids))}
        mean, scores = Cider().compute_score(dict(zip(ids, references, strict=True)), res)
        rows = [5 * ((i + shift) % len(ids)) + 2 for i in range(len(ids))]
        np.testing.assert_allclose(scores, expected[rows, range(len(ids))], rtol=0, atol=1e-12)
        assert mean == pytest.approx(scores.mean())
    assert Cider().method() == "CIDEr"


@pytest.mark.parametrize(
    ("gts", "res", "fragment"),
    [
        ({1: ["a"]}, {2: ["a"]}, "the same image ids"),
        ({1: ["a"]}, {1: ["a", "b"]}, "expected a list of one caption"),
        ({1: ["a"]}, {1: "a"}, "expected a list of one caption"),
        ({1: []}, {1: ["a"]}, "at least one caption"),
    ],
)
def test_cider_refuses_what_does_not_fit(gts, res, fragment):
    with pytest.raises(ValueError, match=fragment):
        Cider().compute_score(gts, res)


@pytest.mark.parametrize("m", [1, 2, 3, 5, 10])
@pytest.mark.parametrize("include_anns", [True, False])
@pytest.mark.parametrize("recall_type", ["recall", "vse_recall"])
def test_metric_equals_ncs_metric(m, include_anns, recall_type):
    arrays = golden("ncs_N50_seed201.npz")
    ks, gt = arrays["K"].tolist(), "GT" if include_anns else "noGT"
    metric = Metric(
        arrays["phi_cap_img"],
        arrays["sims"].tolist(),  # as read from JSON
        recall_type=recall_type,
        score=["hard", "soft", "NCS"],
        metric_name="spice",
        recall_thresholds=ks,
        threshold=m,
        include_anns=include_anns,
    )
    scores = metric.compute_metrics()
    for direction in ("i2t", "t2i"):
        for name, key in (
            ("hard", f"hard_{direction}_{gt}_{recall_type}_m{m}"),
            ("soft", f"soft_{direction}_{gt}_m{m}"),
            ("NCS", f"NCS_{direction}_{gt}"),
        ):
            assert list(scores[direction][name]) == ks
            np.testing.assert_allclose(list(scores[direction][name].values()), arrays[key], rtol=0, atol=1e-9)


def test_metric_prints_and_takes_other_similarities(capsys):
    arrays = golden("ncs_N50_seed201.npz")
    metric = Metric(arrays["phi_cap_img"], arrays["sims"], "recall", ["NCS"], "cider", [1, 5, 10], dataset="f30k")
    first = metric.compute_metrics()
    assert "Dataset: f30k" in capsys.readouterr().out
    metric.set_sims(arrays["phi_cap_img"].T)
    best = metric.compute_metrics()
    assert best["i2t"]["NCS"][1] == pytest.approx(100)
    assert first["i2t"]["NCS"][1] < 100


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"score": "hard"}, "score is 'hard'"),
        ({"score": ["softer"]}, "expected a list of hard, NCS, soft"),
        ({"recall_type": "r"}, "recall_type is 'r'"),
        ({"recall_thresholds": [5, 1]}, "expected ascending"),
        ({"sims": np.ones((10, 50))}, r"sims has shape \(10, 50\) and metric \(250, 50\)"),
    ],
)
def test_metric_errors(change, fragment):
    arguments = {
        "metric": np.ones((250, 50)),
        "sims": np.ones((50, 250)),
        "recall_type": "recall",
        "score": ["NCS"],
        "metric_name": "cider",
    }
    with pytest.raises(ValueError, match=fragment):
        Metric(**{**arguments, **change})
