"""The page at the widths of a phone, a tablet and a desk: what stays in view, what fits, what stands side by side."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from patience import HANG_SECONDS
from small_runs import make_run

from itm_fast.report import PageOptions, render_page
from itm_fast.runs.folder import Attention


@pytest.fixture(scope="module")
def three_runs(runs, page, tmp_path_factory):
    """The address of a page of three, with attention over as many regions as detectors give."""
    path = Path(tmp_path_factory.mktemp("page")) / "three.html"
    words = ("<start>", "a", "motorcyclist's", "dog", "<end>")
    weights = torch.softmax(torch.randn(len(words), 36, generator=torch.Generator().manual_seed(0)), 1)
    third = make_run("third", 0.75, protocol="flickr30k-1k", attention=(Attention(0, 3, words, weights),))
    shown = [*(replace(run, attention=()) for run in runs), replace(third, captions=runs[0].captions)]
    path.write_text(render_page(shown, PageOptions(examples=6)), encoding="utf-8")
    return path.as_uri()


def wait_until(tab, expression):
    """As wait_for_function, which the page's policy refuses: it evaluates text in the page again and again."""
    end = time.monotonic() + HANG_SECONDS
    while not tab.evaluate(expression):
        assert time.monotonic() < end, expression
        tab.wait_for_timeout(20)


WIDTHS = [360, 768, 1440]


def box(tab, selector):
    return tab.eval_on_selector(selector, "one => one.getBoundingClientRect().toJSON()")


@pytest.mark.parametrize("width", WIDTHS)
def test_the_navigation_stays_in_view(opened, width):
    tab = opened(viewport={"width": width, "height": 800}, reduced_motion="reduce")
    for section in ("curves", "misses", "examples"):
        tab.click(f"nav a[href='#{section}']")
        wait_until(tab, f"Math.abs(document.querySelector('#{section}').getBoundingClientRect().top) < 120")
        nav, heading = box(tab, "nav"), box(tab, f"#{section}-title")
        assert abs(nav["top"]) < 1
        assert nav["bottom"] <= heading["top"]  # and covers no heading
        assert tab.eval_on_selector(
            "nav", "one => one.contains(document.elementFromPoint(one.offsetWidth - 40, one.offsetHeight / 2))"
        )
    assert box(tab, "#theme")["right"] <= width


def test_tables_keep_their_first_column_and_hint_at_more(opened):
    tab = opened(viewport={"width": 360, "height": 800}, reduced_motion="reduce")
    wide, scroll, first = "#results .wide", "#results .scroll", "#results tbody tr > :first-child"
    hinted = f"getComputedStyle(document.querySelector('{wide}'), '::after').content"
    wait_until(tab, f"document.querySelector('{wide}').dataset.more === 'right'")
    assert "→" in tab.evaluate(hinted)
    tab.eval_on_selector(first, "one => one.scrollIntoView({ block: 'center' })")
    at_rest, last = box(tab, first), box(tab, "#results tbody tr > :last-child")
    assert last["left"] > 360
    tab.eval_on_selector(scroll, "one => one.scrollTo(120, 0)")
    wait_until(tab, f"document.querySelector('{wide}').dataset.more === 'left right'")
    assert abs(box(tab, first)["left"] - at_rest["left"]) < 1
    assert tab.evaluate(
        "(([x, y]) => document.elementFromPoint(x, y).closest('tr > :first-child') !== null)"
        f"([{at_rest['right'] - 4}, {box(tab, first)['top'] + 8}])"
    )  # nothing lies above it
    for cell in ("thead tr:last-child > :first-child", "tfoot tr > :first-child"):
        assert abs(box(tab, f"#results {cell}")["left"] - at_rest["left"]) < 1
    tab.eval_on_selector(scroll, "one => one.scrollTo(one.scrollWidth, 0)")
    wait_until(tab, f"document.querySelector('{wide}').dataset.more === 'left'")
    assert tab.evaluate(hinted) == "none"
    assert box(tab, "#results tbody tr > :last-child")["right"] <= 360


def test_a_table_that_fits_has_no_hint(opened):
    tab = opened(viewport={"width": 1440, "height": 900})
    wait_until(tab, "document.querySelector('#results .wide').dataset.more === ''")
    assert tab.evaluate("getComputedStyle(document.querySelector('#results .wide'), '::after').content") == "none"


@pytest.mark.parametrize("width", WIDTHS)
def test_attention_maps_are_seen_whole(opened, three_runs, width):
    tab = opened(three_runs, viewport={"width": width, "height": 800})
    tables = tab.eval_on_selector_all(
        ".heat",
        """all => all.filter((one) => one.checkVisibility()).map((one) => {
          const cells = [...one.querySelectorAll("td")].map((cell) => cell.getBoundingClientRect());
          return [cells.length, one.getBoundingClientRect().right, Math.min(...cells.map((cell) => cell.width)),
            Math.max(...cells.map((cell) => cell.right)), one.closest(".scroll") === null];
        })""",
    )
    assert tables
    for n_cells, right, narrowest, last, is_free in tables:
        assert n_cells == 5 * 36
        assert right <= width
        assert last <= width
        assert narrowest >= 4
        assert is_free


@pytest.mark.parametrize("n_runs", [2, 3])
@pytest.mark.parametrize("width", [768, 1440])
def test_runs_stand_side_by_side(opened, url, three_runs, width, n_runs):
    tab = opened(three_runs if n_runs == 3 else url, viewport={"width": width, "height": 900})
    answers = tab.eval_on_selector_all(
        "article.example:first-child .answer", "all => all.map((one) => one.getBoundingClientRect().toJSON())"
    )
    assert len(answers) == n_runs
    assert len({round(one["top"]) for one in answers}) == 1
    assert [one["left"] for one in answers] == sorted({one["left"] for one in answers})
    assert min(one["width"] for one in answers) >= 190
    assert answers[-1]["right"] <= width


def test_a_phone_scrolls_from_run_to_run(opened, three_runs):
    tab = opened(three_runs, viewport={"width": 360, "height": 800})
    answers = "article.example:first-child .answer"
    places = tab.eval_on_selector_all(answers, "all => all.map((one) => one.getBoundingClientRect().toJSON())")
    assert len({round(one["top"]) for one in places}) == 1
    assert places[0]["right"] < 360 < places[2]["left"]
    more = "document.querySelector('article.example:first-child .wide').dataset.more"
    wait_until(tab, f"{more} === 'right'")
    tab.eval_on_selector("article.example:first-child .answers", "one => one.scrollTo(one.scrollWidth, 0)")
    wait_until(tab, f"{more} === 'left'")
    assert tab.eval_on_selector_all(answers, "all => all[2].getBoundingClientRect().right") <= 360


def test_what_is_opened_later_hints_at_more_too(opened):
    tab = opened(viewport={"width": 360, "height": 800})
    tab.click("#more")
    wait_until(tab, "document.querySelector('article.example:last-child .wide').dataset.more === 'right'")


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_scrolls_sideways_but_tables_in_their_boxes(opened, width, tmp_path):
    tab = opened(viewport={"width": width, "height": 800})
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    wide = tab.eval_on_selector_all(
        "main *",
        "all => all.filter(one => !one.closest('.scroll') && one.getBoundingClientRect().right > innerWidth).length",
    )
    assert wide == 0
    if width == 360:
        assert tab.evaluate(
            "document.querySelector('.scroll').scrollWidth > document.querySelector('.scroll').clientWidth"
        )
    tab.screenshot(path=tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000
