"""The page as elements: figures are those of the runs, nothing comes from outside, nothing in it is live but ours."""

import base64
import hashlib
import html
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from page_dom import parse
from small_runs import HOSTILE, N_IMAGES, STEP, make_run, relevance_matrix

from itm_fast.errors import DataError
from itm_fast.evaluation import RunKeeper, evaluate
from itm_fast.report import PageOptions, render_page, write_page
from itm_fast.report.comparable import check_runs, order_notes
from itm_fast.runs.folder import Attention
from itm_fast.runs.statistics import bootstrap_interval, both_directions, paired_test

KS = (1, 5, 10)


@pytest.fixture(scope="module")
def dom(page):
    return parse(page)


def recall_values(run, direction, k):
    return 100.0 * (getattr(run, direction).ranks.numpy() < k)


def groups(direction):
    return np.arange(N_IMAGES) if direction == "i2t" else np.arange(N_IMAGES * STEP) // STEP


def test_nothing_comes_from_outside_and_every_reference_is_there(page, dom):
    ids = [element.attributes["id"] for element in dom.all() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    for element in dom.all():
        for name, value in element.attributes.items():
            if name in ("src", "href", "xlink:href", "action", "data", "poster"):
                assert value.startswith(("#", "data:")), (element.tag, name, value)
            if name in ("href", "xlink:href") and value.startswith("#"):
                assert value[1:] in ids
            if name in ("aria-labelledby", "for"):
                assert value in ids
            for reference in re.findall(r"url\(#(.*?)\)", value or ""):
                assert reference in ids
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_runs_of_another_order_are_said():
    rng = np.random.default_rng(0)
    images = rng.standard_normal((40, 16))
    captions = images.repeat(5, 0) + 1.5 * rng.standard_normal((200, 16))
    order = rng.permutation(40)
    columns = (5 * order[:, None] + np.arange(5)).ravel()

    def run(sims, name):
        keep = RunKeeper(20)
        report = evaluate(sims, keep=keep)
        return keep.run(report, name=name, captions=None, image_names=None, scorer=None, source={})

    first = run(images @ captions.T, "first")
    second = (images + 0.3 * rng.standard_normal(images.shape)) @ captions.T
    moved = run(second[order][:, columns], "moved")  # the same recall
    (note,) = order_notes([first, run(second, "second"), moved])
    assert "no more images in common in runs 'first' and 'moved' than by chance" in note
    assert note in html.unescape(render_page([first, moved]))
    assert order_notes([first]) == order_notes([first, first]) == []


def test_only_our_script_may_run(dom):
    (script,) = dom.all("script")
    policy = next(dom.all("meta", http_equiv="Content-Security-Policy")).attributes["content"]
    digest = base64.b64encode(hashlib.sha256("".join(script.children).encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none'")
    assert not [name for element in dom.all() for name in element.attributes if name.startswith("on")]


def test_captions_stay_text(page, dom):
    assert HOSTILE in dom.one(id="examples").text
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert HOSTILE not in page


def test_headline_figures_and_intervals(runs, dom):
    rows = dom.one(id="results").first("table").rows()
    for run, row in zip(runs, rows, strict=True):
        expected = [run.name]
        for direction in ("i2t", "t2i"):
            for k in KS:
                values = recall_values(run, direction, k)
                interval = bootstrap_interval(values, groups=groups(direction))
                assert run.report[direction][f"R@{k}"] == pytest.approx(values.mean())
                expected.append(f"{values.mean():.1f}{interval.low:.1f}–{interval.high:.1f}")
            expected.append(f"{run.report[direction]['medr']:.1f}")
        assert row[:-1] == expected
        figure, low, high = re.fullmatch(r"(\d+\.\d)(\d+\.\d)–(\d+\.\d)", row[-1]).groups()
        assert float(figure) == round(run.report["rsum"], 1)
        assert float(low) < float(figure) < float(high)


def test_best_figures_are_strong(dom):
    rows = list(dom.one(id="results").first("table").first("tbody").all("tr"))
    assert len(list(rows[1].all("strong"))) == 9  # the better run: six recalls, two medians, rsum
    assert len(list(rows[0].all("strong"))) < 9


def with_interval(figure, values, of):
    interval = bootstrap_interval(values, groups=of)
    assert interval.estimate == pytest.approx(figure, rel=1e-5)
    return f"{figure:.1f}{interval.low:.1f}–{interval.high:.1f}"


def test_relevance_table_has_intervals(runs, dom):
    table = list(dom.one(id="results").all("table"))[1]
    assert "95 % bootstrap intervals" in table.one("caption").text
    rows = {row[0]: row[1:] for row in table.rows()}
    for run in runs:
        for name, kept, total in (("NCS", "ncs", "nsum"), ("NCS(N)", "ncs_own_left_out", "nsum(N)")):
            expected = [
                with_interval(run.report[d][f"{name}@{k}"], getattr(getattr(run, d), kept)[:, place], groups(d))
                for d in ("i2t", "t2i")
                for place, k in enumerate(KS)
            ]
            both = both_directions(*(getattr(getattr(run, d), kept).sum(1) for d in ("i2t", "t2i")), groups("t2i"))
            expected.append(with_interval(run.report[total], *both))
            assert rows[name + run.name] == expected


def test_a_run_without_ncs_of_queries_has_no_intervals(runs):
    old = as_of_the_first_format(runs[0])
    dom = parse(render_page([old], PageOptions(examples=4)))
    table = list(dom.one(id="results").all("table"))[1]
    assert table.rows()[0][1:3] == [f"{old.report['i2t'][f'NCS@{k}']:.1f}" for k in KS[:2]]
    assert table.rows()[0][-1] == f"{old.report['nsum']:.1f}"
    assert "bootstrap" not in table.one("caption").text
    assert "date not kept" in dom.one(class_="facts").text
    assert "most φ" not in dom.one(id="misses").one("table").text


def as_of_the_first_format(run):
    """A run as folders of the first format hold it."""
    lacking = dict.fromkeys(("ncs", "ncs_own_left_out", "others_relevance"))
    return replace(run, i2t=replace(run.i2t, **lacking), t2i=replace(run.t2i, **lacking), date="")


def test_comparison(runs, dom):
    rows = dom.one(id="comparison").first("table").rows()
    assert len(rows) == 14
    place = 0
    for direction in ("i2t", "t2i"):
        for k in KS:
            worse, better = (recall_values(run, direction, k) for run in runs)
            result = paired_test(better, worse, groups=groups(direction))
            row, place = rows[place], place + 1
            assert row[0].startswith(f"betterR@{k}, ")
            assert row[1] == f"{result.difference:+.1f}".replace("-", "−")
            assert row[3] == ("< 0.001" if result.p_value < 0.001 else f"{result.p_value:.3f}")
            assert [int(cell) for cell in row[4:]] == [(better > worse).sum(), (better < worse).sum()]
    difference = runs[1].report["rsum"] - runs[0].report["rsum"]
    assert rows[6][0:2] == ["betterrsum", f"{difference:+.1f}"]
    place = 7
    for direction in ("i2t", "t2i"):
        for column, k in enumerate(KS):
            worse, better = (getattr(run, direction).ncs[:, column].double().numpy() for run in runs)
            result = paired_test(better, worse, groups=groups(direction))
            row, place = rows[place], place + 1
            assert row[0].startswith(f"betterNCS@{k}, ")
            assert row[1] == f"{result.difference:+.1f}".replace("-", "−")
            assert row[4:] == ["–", "–"]
    difference = runs[1].report["nsum"] - runs[0].report["nsum"]
    assert rows[13][0:2] == ["betternsum", f"{difference:+.1f}"]


def test_comparison_without_the_ncs_of_queries(runs):
    rows = parse(render_page([as_of_the_first_format(run) for run in runs])).one(id="comparison").first("table").rows()
    assert len(rows) == 7


def test_gained_and_lost_are_listed(runs, dom):
    before, after = (run.t2i.ranks for run in runs)
    gained = torch.nonzero((after == 0) & (before > 0))[:, 0].tolist()
    summary = next(
        s for s in dom.one(id="comparison").all("summary") if s.text.startswith("Gained") and "caption →" in s.text
    )
    assert summary.text.endswith(f": {len(gained)}")
    worst = max(gained, key=lambda query: int(before[query]))
    details = next(d for d in dom.one(id="comparison").all("details") if summary in d.children)
    assert details.first("li").text == f"{runs[0].captions[worst]} rank {int(before[worst]) + 1} → 1"


def test_published_rows_come_with_their_source(runs, dom):
    section = dom.one(id="published")
    rows = section.first("table").rows()
    sgr = next(row for row in rows if row[0] == "SGR+SAM")
    assert sgr[1:9] == ["75.9", "92.4", "96.6", "57.6", "83.1", "89.7", "495.3", "381.4"]
    notes = [note.text for note in section.first("ol").all("li")]
    assert any("WACV 2022" in notes[int(number) - 1] for number in sgr[-1].split(", "))
    assert [row[0] for row in rows if row[-1] == "this page"] == ["better", "worse"]
    sums = [float(row[7]) for row in rows if row[7] != "–"]
    assert sums == sorted(sums, reverse=True)


def test_misses_that_may_be_none(runs, dom):
    table = dom.one(id="misses").first("table")
    rows = table.rows()
    assert [cell.text for cell in list(table.one("thead").all("tr"))[1].all("th")][3:] == [
        "positive’s φ",
        "half positive’s φ",
        "most φ of others",
        "10 of most φ",
    ]
    assert len(rows) == 4
    for row, (direction, run) in zip(rows, [(d, r) for d in ("i2t", "t2i") for r in runs], strict=True):
        results = getattr(run, direction)
        misses = [query for query, rank in enumerate(results.ranks.tolist()) if rank > 0]
        found, own = results.relevance[:, 0], results.positive_relevance
        counts = [len(results.ranks), len(misses)]
        counts += [sum(bool(found[q] >= share * own[q]) for q in misses) for share in (1, 0.5)]
        others = [sorted(of_query, reverse=True) for of_query in others_of(run, direction)]
        counts += [sum(bool(found[q] >= others[q][n - 1] - 1e-6) for q in misses) for n in (1, 10)]
        assert row[1] == str(counts[0])
        for cell, count in zip(row[2:], counts[1:], strict=True):
            total = counts[0] if cell == row[2] else counts[1]
            assert cell == f"{count}{100 * count / total:.1f} %"
    assert any(not row[3].startswith("0") or not row[4].startswith("0") for row in rows)


def others_of(run, direction):
    """φ of all items of other images, of every query."""
    phi, owned = relevance_matrix()
    return [
        of_query[~own]
        for of_query, own in zip(*((phi, owned) if direction == "i2t" else (phi.T, owned.T)), strict=True)
    ]


def test_a_column_without_any_is_left_out(runs):
    """As with CIDEr: an annotated positive's own text is among its references, so that no other comes near."""
    run = runs[0]
    high = {
        d: replace(getattr(run, d), positive_relevance=torch.full_like(getattr(run, d).positive_relevance, 9.0))
        for d in ("i2t", "t2i")
    }
    dom = parse(render_page([replace(run, **high)], PageOptions(examples=0)))
    headings = [cell.text for cell in list(dom.one(id="misses").first("thead").all("tr"))[1].all("th")]
    assert headings[3:] == ["most φ of others", "10 of most φ"]
    assert all(
        any(not row[place].startswith("0") for row in dom.one(id="misses").first("table").rows()) for place in (3, 4)
    )


def test_further_annotations_count_where_there_are_some(runs):
    worse = runs[0]
    annotated = torch.zeros_like(worse.t2i.retrieved, dtype=torch.bool)
    misses = torch.nonzero(worse.t2i.ranks > 0)[:, 0]
    annotated[misses[:3], 0] = True
    annotated[torch.nonzero(worse.t2i.ranks == 0)[:2, 0], 0] = True  # hits are no misses
    dom = parse(render_page([replace(worse, t2i=replace(worse.t2i, annotated=annotated))], PageOptions(examples=40)))
    assert dom.one(id="misses").first("table").rows()[1][-1] == f"3{300 / len(misses):.1f} %"
    assert len([mark for mark in dom.all(class_="mark") if mark.text == "positive in further annotations"])


def test_examples_show_what_was_retrieved(runs, dom):
    shown = list(dom.one(id="list").all("article"))
    assert len(shown) == 40
    for article in shown:
        direction, query = article.attributes["data-direction"], int(article.attributes["data-number"])
        ranks = []
        for run, answer in zip(runs, article.all(class_="answer"), strict=True):
            results = getattr(run, direction)
            texts = run.captions if direction == "i2t" else run.image_names
            items = list(answer.all("li"))
            retrieved = results.retrieved[query, :5].tolist()
            for item, number in zip(items, retrieved, strict=False):
                assert texts[number] in item.text
                owner = number == query // STEP if direction == "t2i" else number // STEP == query
                assert item.has("class_", "positive") == owner
            rank = int(results.ranks[query]) + 1
            ranks.append(rank)
            assert len(items) == 5 + (rank > 5)
            assert items[-1 if rank > 5 else rank - 1].attributes["value"] == str(rank)
        assert int(article.attributes["data-rank"]) == max(ranks)
        assert article.attributes["data-tags"].split()[0] == ("hit" if ranks[0] == 1 else "miss")


def test_the_worst_failures_are_there_and_first(runs, dom):
    worst = torch.stack([run.t2i.ranks for run in runs]).max(0).values
    shown = [int(a.attributes["data-number"]) for a in dom.one(id="list").all("article", data_direction="t2i")]
    assert shown[:5] == torch.argsort(worst, descending=True, stable=True)[:5].tolist()
    assert [int(worst[query]) for query in shown] == sorted((int(worst[query]) for query in shown), reverse=True)


def test_attention_is_a_table_of_words_and_regions(runs, dom):
    tables = list(dom.one(id="attention").all("table"))
    assert len(tables) == 4
    weights = runs[0].attention[0].weights
    rows = list(tables[0].first("tbody").all("tr"))
    assert [row.first("th").text for row in rows] == ["<start>", "a", "dog", "<end>"]
    for row, expected in zip(rows, weights / weights.max(), strict=True):
        shades = [float(cell.attributes["style"].removeprefix("--w:")) for cell in row.all("td")]
        assert shades == pytest.approx(expected.tolist(), abs=0.0051)
    assert "weights of a word over the regions sum to 1" in dom.one(id="attention").text


def test_attention_over_words(runs):
    weights = torch.softmax(torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), 0)
    run = replace(runs[0], attention=(Attention(0, 3, ("a", "b", "c", "d"), weights),))
    assert (
        "a region over the words sum to 1"
        in parse(render_page([run], PageOptions(examples=0))).one(id="attention").text
    )


def test_the_least_a_run_can_have():
    run = make_run("plain", 0.5, relevance=False, attention=(), captions=None, image_names=None, source={})
    dom = parse(render_page([run]))
    sections = {section.attributes["id"] for section in dom.all("section")}
    assert sections == {"results", "curves", "ranks", "misses", "examples", "conditions"}
    assert len(list(dom.one(id="curves").all("svg", class_="figure"))) == 2
    assert "image 3" in dom.one(id="examples").text


def test_folds_use_their_own_ranks():
    run = make_run("folds", 0.9, relevance=False)
    fold_ranks = torch.zeros_like(run.t2i.ranks)
    report = run.report | {"headline": "fold_mean"}
    report["conditions"] = report["conditions"] | {"folds": 2}
    dom = parse(render_page([replace(run, report=report, t2i=replace(run.t2i, fold_ranks=fold_ranks))]))
    assert dom.one(id="results").first("table").rows()[0][5].endswith("100.0–100.0")
    assert "mean of 2 folds" in dom.first("header").text


def test_every_figure_has_a_legend(runs, dom):
    names = [run.name for run in runs]
    lists = [[item.text for item in one.all("li")] for one in dom.one(id="curves").all(class_="lines")]
    assert lists == [names, names, [f"{name}, {figure}" for name in names for figure in ("SR@k", "R@k")]]
    assert len(list(dom.one(id="curves").all("svg", class_="line"))) == 2 + 2 + 4
    assert [item.text for item in dom.one(id="ranks").one(class_="lines").all("li")] == names


def test_the_navigation_is_no_part_of_what_scrolls_away(dom):
    body = dom.one("body")
    assert [child.tag for child in body.children if not isinstance(child, str)][:4] == ["a", "header", "nav", "main"]
    targets = {link.attributes["href"][1:] for link in dom.one("nav").all("a")}
    assert targets == {section.attributes["id"] for section in dom.all("section")}


def test_twenty_examples_are_open_and_the_rest_is_text(dom):
    open_ones = [child for child in dom.one(id="list").children if getattr(child, "tag", "") == "article"]
    assert len(open_ones) == 20
    rest = list(dom.one("noscript", id="rest").all("article"))
    assert len(rest) == 20
    ranks = [int(article.attributes["data-rank"]) for article in [*open_ones, *rest]]
    assert ranks == sorted(ranks, reverse=True)
    assert dom.one(id="list").attributes["data-total"] == "40"


def test_few_examples_are_all_open(runs):
    dom = parse(render_page(runs, PageOptions(examples=10)))
    assert len(list(dom.one(id="list").all("article"))) == 20
    assert not list(dom.all("noscript"))


def test_names_that_are_equal_are_numbered(runs):
    dom = parse(render_page([runs[0], replace(runs[1], name="worse")], PageOptions(examples=0)))
    assert [item.text for item in dom.one(class_="legend").all("li")] == ["worse (1)", "worse (2)"]


def turned(run):
    return replace(run, caption_to_image=run.caption_to_image.flip(0))


def with_report(run, **changes):
    return replace(run, report=run.report | changes)


ERRORS = [
    (lambda a, b: [], ValueError, "no run given"),
    (lambda a, b: [a, turned(b)], ValueError, "runs 'worse' and 'better' can not share a page: caption 0 belongs to"),
    (lambda a, b: [a, replace(b, captions=("other", *b.captions[1:]))], ValueError, "caption 0 is .*'other'"),
    (
        lambda a, b: [a, replace(b, image_names=("x", *b.image_names[1:]))],
        ValueError,
        "image name 0 is '000.jpg' and 'x'",
    ),
    (
        lambda a, b: [a, with_report(as_of_the_first_format(b), conditions=b.report["conditions"] | {"ks": [1, 5]})],
        ValueError,
        "their cut-offs are 1, 5, 10 and 1, 5;",
    ),
    (
        lambda a, b: [replace(a, i2t=replace(a.i2t, ncs=a.i2t.ncs[:, :2]))],
        DataError,
        r"run 'worse': queries\.safetensors: i2t\.ncs has 2 columns, expected 3",
    ),
    (
        lambda a, b: [a, with_report(b, conditions=b.report["conditions"] | {"protocol": None})],
        ValueError,
        r"their protocols are flickr30k-1k \(full\) and none \(full\)",
    ),
    (lambda a, b: [with_report(a, i2t={})], DataError, "run 'worse': report.json lacks the figure R@1 of i2t"),
    (lambda a, b: [with_report(a, rsum=None)], DataError, "lacks the figure rsum"),
    (lambda a, b: [with_report(a, conditions=3)], DataError, "lacks conditions"),
    (
        lambda a, b: [with_report(a, conditions={"ks": ["1"]})],
        DataError,
        "conditions.ks is .*expected a list of cut-offs",
    ),
]


@pytest.mark.parametrize(("make", "exception", "fragment"), ERRORS)
def test_runs_that_have_no_page(runs, make, exception, fragment):
    with pytest.raises(exception, match=fragment):
        check_runs(make(*runs))


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"ks": [1, 2]}, "curves are not of the form"),
        ({"ks": [float("inf")], "ncs": {"i2t": [1.0], "t2i": [1.0]}}, "curves are not of the form"),
        ({"ks": ["1"], "ncs": {"i2t": [1.0], "t2i": [1.0]}}, "curves are not of the form"),
        ({"ncs": {"i2t": ["high"], "t2i": [1.0]}, "ks": [1]}, "curves are not of the form"),
        ({"semantic_recall": {"m": [1], "k": [1], "i2t": [[1.0, 2.0]], "t2i": [[1.0]]}}, "curves are not of the form"),
    ],
)
def test_damaged_curves(runs, changes, fragment):
    with pytest.raises(DataError, match=fragment):
        render_page([replace(runs[0], curves=runs[0].curves | changes)], PageOptions(examples=0))


def test_where_a_page_can_not_be_written(runs, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder to write page\.html into"):
        write_page(runs, tmp_path / "missing" / "page.html")
    with pytest.raises(IsADirectoryError, match="is a folder, expected the file"):
        write_page(runs, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"examples": -1}, "examples is -1"),
        ({"image_bytes": -1}, "image_bytes is -1"),
        ({"boxes": "boxes.npy"}, "images_folder is not given"),
        ({"link_images": True}, "images_folder is not given"),
    ],
)
def test_options_that_do_not_fit(options, fragment):
    with pytest.raises(ValueError, match=fragment):
        PageOptions(**options)
