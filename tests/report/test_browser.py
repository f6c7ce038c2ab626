"""The page in a real browser: nothing asked of a network, no error, filtered and stepped through by keys."""

import shutil
from pathlib import Path

import pytest
from patience import HANG_SECONDS

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


@pytest.fixture
def opened(browser, url):
    """Opens the page with options of a context; at the end nothing may have gone wrong in any."""
    wrong, contexts = [], []

    def open_page(**options):
        context = browser.new_context(**options)
        context.set_default_timeout(1000 * HANG_SECONDS)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: wrong.append(message.text))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        tab.on("request", lambda request: request.url.startswith(("file:", "data:")) or wrong.append(request.url))
        tab.goto(url)
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


def test_filters(opened):
    tab = opened()
    assert tab.text_content("#count") == "40 of 40 examples"
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
    assert ranks(tab) == sorted(ranks(tab), reverse=True)
    tab.select_option("#order", "best")
    assert ranks(tab) == sorted(ranks(tab))
    tab.select_option("#order", "file")
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
    tab.click("#theme")
    tab.click("#theme")
    assert tab.text_content("#theme") == "Dark"
    assert luminance(tab, "body", "backgroundColor") < 0.05
    tab.reload()
    assert tab.text_content("#theme") == "Dark"


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
