"""Graded qrels in ``evaluate`` and on the command line: both directions, trec_eval's ties, files by content."""

import json

import numpy as np
import pytest
import trec_cases

from itm_fast.cli.main import main
from itm_fast.evaluation import Ids, evaluate
from itm_fast.metrics import judged_ranks, judgements_by_id


@pytest.fixture
def case(tmp_path):
    """Images q0 ..., captions d..., in the order of the ids; qrels of images."""
    run, qrels = trec_cases.made(0)
    items = sorted({item for of in run.values() for item in of})
    sims = np.array([[run[q].get(item, -1.0) for item in items] for q in run])
    trec_cases.write(tmp_path, run, qrels)
    return sims, list(run), items, qrels


@pytest.mark.parametrize("ties", ["index", "trec"])
def test_qrels_of_a_matrix(case, tmp_path, ties):
    sims, images, captions, qrels = case
    ids = Ids(images, captions)
    report = evaluate(sims, protocol="positives", annotations=tmp_path / "qrels.txt", ids=ids, ks=(1, 5), ties=ties)
    found = judged_ranks(sims, judgements_by_id(qrels, images, captions), (1, 5), ties=ties, item_ids=captions)
    of_captions = {
        caption: {q: of[caption] for q, of in qrels.items() if of.get(caption, 0) > 0} for caption in captions
    }
    turned = judged_ranks(
        sims,
        judgements_by_id({c: of for c, of in of_captions.items() if of}, captions, images),
        (1, 5),
        query="caption",
        ties=ties,
        item_ids=images,
    )
    for way, wanted in (("i2t", found.figures()), ("t2i", turned.figures())):
        for name, value in wanted.items():
            assert report[way][name] == pytest.approx(value, rel=1e-12), (way, name)
    assert "nDCG@5" in str(report)
    assert "nDCG@5" in report.to_latex()


def test_grades_in_json_are_those_of_qrels(case, tmp_path):
    sims, images, captions, qrels = case
    path = tmp_path / "set.json"
    path.write_text(json.dumps({"image_ids": images, "caption_ids": captions, "image_to_captions": qrels}))
    graded = evaluate(sims, protocol="positives", annotations=path)
    of_qrels = evaluate(sims, protocol="positives", annotations=tmp_path / "qrels.txt", ids=Ids(images, captions))
    assert graded["i2t"] == of_qrels["i2t"]
    assert graded["t2i"] == of_qrels["t2i"]


def test_run_on_the_command_line(case, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--trec-run", "run.txt", "--qrels", "qrels.txt", "--ties", "trec", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)["trec"]
    golden = np.load(trec_cases.GOLDEN)
    assert figures["MAP"] == pytest.approx(100 * golden["0_average_precision"].mean())
    assert figures["nDCG@5"] == pytest.approx(100 * golden["0_ndcg"][:, trec_cases.KS.index(5)].mean())
    assert main(["evaluate", "--trec-run", "run.txt", "--qrels", "qrels.txt", "--export", "csv"]) == 0
    assert "nDCG@10" in capsys.readouterr().out
    assert main(["evaluate", "--trec-run", "qrels.txt", "--qrels", "run.txt"]) == 2
    assert "qrels.txt:1: 4 columns, expected 6" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"ties": "trec"}, "protocols positives and vidore"),
        ({"ties": "none"}, '"index" or "trec"'),
        ({"protocol": "positives", "annotations": "qrels.txt"}, "give their ids"),
        ({"protocol": "positives", "annotations": "qrels.txt", "ids": Ids(["a"], ["b"])}, "no query, such as 'q0'"),
    ],
)
def test_faults(case, tmp_path, monkeypatch, options, fragment):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=fragment):
        evaluate(case[0], **options)
