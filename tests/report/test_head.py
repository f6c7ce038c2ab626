"""The head of a page: model, data, date, whether the data is generated, and the level of chance."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from page_dom import parse
from small_runs import make_run

from itm_fast.report import PageOptions, render_page
from itm_fast.report.chance import chance_recall
from itm_fast.runs.query_results import QueryResults

KS = (1, 5, 10)


@pytest.fixture(autouse=True)
def no_plots(monkeypatch, page):
    """Every test here writes a page, and none looks at its plots; `page`, which has them, comes first."""
    monkeypatch.setattr("itm_fast.report.plots._svg", lambda *texts_and_draw: "<svg></svg>")


@pytest.fixture(scope="module")
def dom(page):
    return parse(page)


def facts_of(dom):
    """Term -> its values at the head of the page."""
    return {
        fact.one("dt").text: [value.text for value in fact.all("dd")]
        for fact in dom.one(class_="facts").children
        if not isinstance(fact, str)
    }


SOURCE = {"kind": "model", "path": "runs/scan", "model": "scan", "data": "f30k", "split": "test", "generated": False}


@pytest.mark.slow
def test_the_head_says_what_was_evaluated(runs):
    run = replace(runs[0], source=SOURCE, date="2026-11-29T13:40:59+01:00")
    dom = parse(render_page([run], PageOptions(examples=0)))
    assert facts_of(dom) == {
        "Model": ["scan runs/scan"],
        "Data": ["f30k, split test not marked as generated"],
        "Evaluated": ["29 November 2026, 13:40 UTC+0100"],
        "Chance level": [
            f"R@1 {100 * 5 / 150:.2g} % image → caption, {100 / 30:.2g} % caption → image; rsum {RSUM:.1f}"
        ],
    }
    assert not list(dom.all(class_="badge"))


# Of 150 captions five are an image's: 1 - C(145, k) / C(150, k). Of 30 images one is a caption's: k / 30.
RSUM = 100 * sum(1 - math.comb(145, k) / math.comb(150, k) + k / 30 for k in KS)


def test_the_head_names_each_run_where_they_differ(runs):
    first = replace(runs[0], source=SOURCE, date="2026-11-29T13:40:59+00:00")
    second = replace(runs[1], source=SOURCE | {"model": "sgraf", "path": "runs/sgr"}, date=first.date)
    dom = parse(render_page([first, second], PageOptions(examples=0)))
    facts = facts_of(dom)
    assert facts["Model"] == ["worse: scan runs/scan", "better: sgraf runs/sgr"]
    assert facts["Evaluated"] == ["29 November 2026, 13:40 UTC"]
    keys = [key.attributes["class"] for key in dom.one(class_="facts").all(class_="key")]
    assert keys == ["key series-0", "key series-1"]


@pytest.mark.parametrize(
    ("source", "data"),
    [
        (SOURCE | {"generated": True}, "f30k, split test generated: its figures say nothing of photographs"),
        ({"kind": "sims", "path": "a.npy"}, "not named not known whether it is generated"),
        ({"kind": "sims", "generated": "yes"}, "not named not known whether it is generated"),
    ],
)
def test_the_head_says_whether_the_data_is_generated(runs, source, data):
    dom = parse(render_page([replace(runs[0], source=source)], PageOptions(examples=0)))
    assert facts_of(dom)["Data"] == [data]
    badges = [badge.text for badge in dom.first("header").all(class_="badge")]
    assert badges == (["generated data"] if source.get("generated") is True else [])


@pytest.mark.parametrize("date", ["", "yesterday", "2026-99-99", "<b>"])
def test_a_date_that_is_none(runs, date):
    dom = parse(render_page([replace(runs[0], date=date)], PageOptions(examples=0)))
    assert facts_of(dom)["Evaluated"] == ["date not kept"]


def test_chance_is_a_row_below_recall(runs, dom):
    (row,) = dom.one(id="results").first("table").one("tfoot").all("tr")
    cells = [cell.text for cell in row.all() if cell.tag in ("th", "td")]
    i2t = [100 * (1 - math.comb(145, k) / math.comb(150, k)) for k in KS]
    t2i = [100 * k / 30 for k in KS]
    assert cells == ["by chance", *(f"{v:.1f}" for v in i2t), "", *(f"{v:.1f}" for v in t2i), "", f"{RSUM:.1f}"]


def test_chance_by_drawing():
    """Images with other numbers of captions, captions without an image, folds."""
    generator = np.random.default_rng(0)
    owners = np.array([0, 0, 0, 1, 2, 2, 3, 3, 3, 3, -1, -1])
    run = make_run("few", 0.5, relevance=False)
    ranks = {"i2t": torch.zeros(4, dtype=torch.int64), "t2i": torch.from_numpy(np.where(owners < 0, -1, 0))}
    for folds in (1, 2):
        owned = owners if folds == 1 else owners[:10]
        orders = {"i2t": [], "t2i": []}
        for _ in range(4000):
            for direction, n_queries, n_items in (("i2t", 4, len(owned)), ("t2i", len(owned), 4)):
                scores = generator.random((n_queries, n_items))
                truth = owned[None] == np.arange(4)[:, None]
                images, captions = np.arange(4) // (4 // folds), np.where(owned < 0, 0, owned) // (4 // folds)
                together = images[:, None] == captions[None]
                if direction == "t2i":
                    truth, together = truth.T, together.T
                scores = np.where(together, scores, -1)
                best = np.where(truth, scores, -2).max(1, keepdims=True)
                rank = (scores > best).sum(1)[truth.any(1)]
                orders[direction].append([100 * (rank < k).mean() for k in (1, 2)])
        report = run.report | {"headline": "fold_mean" if folds > 1 else "full"}
        report["conditions"] = report["conditions"] | {"folds": folds}
        few = few_queries(run, report, owned, {d: found[: len(owned)] for d, found in ranks.items()})
        for direction, drawn in orders.items():
            assert chance_recall(few, direction, (1, 2)) == pytest.approx(np.mean(drawn, 0), abs=1.5)


def few_queries(run, report, owners, ranks):
    """A run of four images whose captions are theirs."""
    lists = {
        d: QueryResults(
            of, of, torch.zeros(len(of), 1, dtype=torch.int64), torch.zeros(len(of), 1), of, torch.zeros(len(of)),
            None, None, None,
        )
        for d, of in ranks.items()
    }  # fmt: skip
    return replace(
        run,
        report=report,
        caption_to_image=torch.from_numpy(owners),
        captions=None,
        image_names=None,
        attention=(),
        **lists,
    )


def test_positives_of_another_kind_have_no_chance_level(runs):
    report = runs[0].report | {d: runs[0].report[d] | {"n_pairs": 400} for d in ("i2t", "t2i")}
    dom = parse(render_page([replace(runs[0], report=report)], PageOptions(examples=0)))
    assert facts_of(dom)["Chance level"] == ["not known for positives of this kind"]
    assert not list(dom.one(id="results").all("tfoot"))
