"""The page in a real browser: nothing asked of a network, no error, filtered and stepped through by keys."""

import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from patience import HANG_SECONDS
from small_runs import make_run

from itm_fast.report import PageOptions, render_page
from itm_fast.runs.folder import Attention

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]
EXAMPLES = "#list > article:not([hidden])"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium or chrome on the PATH")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=1000 * HANG_SECONDS)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def url(page, tmp_path_factory):
    path = Path(tmp_path_factory.mktemp("page")) / "report.html"
    path.write_text(page, encoding="utf-8")
    return path.as_uri()


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


@pytest.fixture
def opened(browser, url):
    """Opens the page with options of a context; at the end nothing may have gone wrong in any."""
    wrong, contexts = [], []

    def open_page(address=url, **options):
        context = browser.new_context(**options)
        context.set_default_timeout(1000 * HANG_SECONDS)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: wrong.append(message.text))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        tab.on("request", lambda request: request.url.startswith(("file:", "data:")) or wrong.append(request.url))
        tab.goto(address)
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def numbers(tab):
    return tab.eval_on_selector_all(EXAMPLES, "all => all.map(one => one.dataset.direction + one.dataset.number)")


def ranks(tab):
    return tab.eval_on_selector_all(EXAMPLES, "all => all.map(one => Number(one.dataset.rank))")


def focused(tab):
    return tab.evaluate("document.activeElement.dataset.direction + document.activeElement.dataset.number")


def open_all(tab):
    while tab.is_visible("#more"):
        tab.click("#more")


def test_examples_open_twenty_at_a_time(opened):
    tab = opened()
    assert tab.text_content("#count") == "40 of 40 examples"
    first = numbers(tab)
    assert len(first) == 20
    assert tab.locator("article.example").count() == 20  # the others are text, not elements that are hidden
    assert tab.text_content("#more") == "Show 20 more: 20 of 40 are open"
    tab.click("#more")
    assert numbers(tab)[:20] == first
    assert len(set(numbers(tab))) == 40
    assert focused(tab) == numbers(tab)[20]
    assert not tab.is_visible("#more")
    tab.select_option("#order", "best")
    assert len(numbers(tab)) == 20
    assert tab.is_visible("#more")


def test_filters_find_what_is_not_open_yet(opened):
    tab = opened()
    open_ones = set(numbers(tab))
    open_all(tab)
    all_of_t2i = {name for name in numbers(tab) if name.startswith("t2i")}
    assert all_of_t2i - open_ones
    tab.reload()
    tab.select_option("#direction", "t2i")
    assert tab.text_content("#count") == "20 of 40 examples"
    assert set(numbers(tab)) == all_of_t2i
    assert not tab.is_visible("#more")


def test_the_page_is_not_tall_until_it_is_asked_for(opened):
    tab = opened(viewport={"width": 360, "height": 800})
    height = "document.querySelector('#examples').getBoundingClientRect().height"
    before = tab.evaluate(height)
    tab.click("#more")
    assert before < 0.6 * tab.evaluate(height)


def test_filters(opened):
    tab = opened()
    assert tab.text_content("#count") == "40 of 40 examples"
    open_all(tab)
    everything = numbers(tab)
    tab.select_option("#direction", "i2t")
    assert numbers(tab) == [name for name in everything if name.startswith("i2t")]
    tab.select_option("#direction", "")
    tab.fill("#words", "ALERT(1)")
    assert 1 <= len(numbers(tab)) < 40
    assert all(
        "alert(1)" in text for text in tab.eval_on_selector_all(EXAMPLES, "all => all.map(one => one.textContent)")
    )
    tab.fill("#words", "no caption has this")
    assert tab.text_content("#count") == "0 of 40 examples"
    tab.fill("#words", "")
    tab.fill("#least", "2")
    tab.fill("#most", "9")
    assert set(ranks(tab)) <= set(range(2, 10))
    assert len(ranks(tab)) > 1
    tab.click("#filter button[type=reset]")
    sync_api.expect(tab.locator("#count")).to_have_text("40 of 40 examples")
    tab.select_option("#outcome", "gained")
    tags = tab.eval_on_selector_all(EXAMPLES, "all => all.map(one => one.dataset.tags)")
    assert tags
    assert all("gained" in of.split() for of in tags)


def test_order(opened):
    tab = opened()
    open_all(tab)
    assert ranks(tab) == sorted(ranks(tab), reverse=True)
    tab.select_option("#order", "best")
    open_all(tab)
    assert len(ranks(tab)) == 40
    assert ranks(tab) == sorted(ranks(tab))
    tab.select_option("#order", "file")
    open_all(tab)
    found = [(name[:3], int(name[3:])) for name in numbers(tab)]
    assert found == sorted(found)


def test_keys(opened):
    tab = opened()
    order = numbers(tab)
    tab.keyboard.press("j")
    assert focused(tab) == order[0]
    tab.keyboard.press("j")
    tab.keyboard.press("ArrowDown")
    assert focused(tab) == order[2]
    tab.keyboard.press("k")
    tab.keyboard.press("ArrowUp")
    tab.keyboard.press("k")
    assert focused(tab) == order[0]
    tab.keyboard.press("/")
    tab.keyboard.type("cat j/")
    assert tab.input_value("#words") == "cat j/"  # keys are letters again in a field
    tab.keyboard.press("Escape")
    sync_api.expect(tab.locator("#count")).to_have_text("40 of 40 examples")
    assert tab.input_value("#words") == ""
    tab.keyboard.press("j")
    assert tab.evaluate("document.activeElement.matches('article.example')")


def test_keys_step_on_to_what_is_not_open_yet(opened):
    tab = opened()
    for _ in range(21):
        tab.keyboard.press("j")
    assert len(numbers(tab)) == 40
    assert focused(tab) == numbers(tab)[20]
    below_the_navigation = "document.activeElement.getBoundingClientRect().top >= 0"
    tab.keyboard.press("k")
    assert tab.evaluate(below_the_navigation)


def test_every_control_is_reached_by_tab(opened):
    tab = opened()
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    assert tab.evaluate("document.activeElement.getBoundingClientRect().left") >= 0  # seen once it is reached
    reached = set()
    for _ in range(60):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.id"))
        assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        if "order" in reached:
            break
    assert {"theme", "words", "direction", "outcome", "least", "most", "order"} <= reached
    names = tab.eval_on_selector_all(
        "input, select, button",
        "all => all.map(one => one.getAttribute('aria-label') || one.textContent || one.labels[0].textContent)",
    )
    assert all(name.strip() for name in names)


def luminance(tab, selector, what):
    """Relative luminance (WCAG 2) of a computed colour."""
    colour = tab.eval_on_selector(selector, f"one => getComputedStyle(one).{what}")
    parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(opened, scheme):
    tab = opened(color_scheme=scheme)
    paper = luminance(tab, "body", "backgroundColor")
    assert (paper < 0.05) == (scheme == "dark")
    for selector, what in [("body", "color"), (".note", "color"), ("nav a", "color"), ("svg.figure text", "fill")]:
        darker, lighter = sorted((paper, luminance(tab, selector, what)))
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, selector
    other = "light" if scheme == "dark" else "dark"
    assert tab.text_content("#theme") == f"Use {other} colours"
    tab.click("#theme")
    assert tab.text_content("#theme") == f"Use {scheme} colours"
    assert (luminance(tab, "body", "backgroundColor") < 0.05) == (other == "dark")
    tab.reload()
    assert tab.text_content("#theme") == f"Use {scheme} colours"
    assert (luminance(tab, "body", "backgroundColor") < 0.05) == (other == "dark")
    tab.click("#theme")  # back to the system's, which is followed from here on
    tab.emulate_media(color_scheme=other)
    sync_api.expect(tab.locator("#theme")).to_have_text(f"Use {scheme} colours")
    assert (luminance(tab, "body", "backgroundColor") < 0.05) == (other == "dark")


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


@pytest.mark.parametrize("width", [768, 1440])
def test_three_runs_stand_side_by_side(opened, three_runs, width):
    tab = opened(three_runs, viewport={"width": width, "height": 900})
    answers = tab.eval_on_selector_all(
        "article.example:first-child .answer", "all => all.map((one) => one.getBoundingClientRect().toJSON())"
    )
    assert len(answers) == 3
    assert len({round(one["top"]) for one in answers}) == 1
    assert [one["left"] for one in answers] == sorted({one["left"] for one in answers})
    assert min(one["width"] for one in answers) >= 190


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


def test_print_keeps_the_figures_and_drops_the_controls(opened):
    tab = opened(color_scheme="dark")
    tab.emulate_media(media="print")
    assert luminance(tab, "body", "backgroundColor") == 1
    assert not tab.is_visible("#filter")
    assert tab.is_visible("#results table")


def test_without_scripts_everything_is_shown(opened):
    tab = opened(java_script_enabled=False)
    assert tab.locator("article.example").count() == 40
    assert not tab.is_visible("#filter")
