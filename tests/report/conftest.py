"""Two runs of one small test set, a page of both, and a browser to open it."""

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from patience import HANG_SECONDS
from small_runs import make_run

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]


@pytest.fixture(scope="session")
def runs():
    """Better and worse, with φ, under a protocol that has published results."""
    worse = make_run("worse", 0.9, protocol="flickr30k-1k")
    better = make_run("better", 0.6, protocol="flickr30k-1k")
    return [worse, replace(better, captions=worse.captions)]


@pytest.fixture(scope="session", autouse=True)
def figures_are_drawn_once():
    """Most tests change what is beside the figures of a page, and drawing its ten takes longer than the rest of it."""
    from itm_fast.report import charts, plots

    drawn = {}

    def once(draw):
        def drawn_before(*args, **options):
            key = (plots._svg, draw, pickle.dumps((args, options)))
            if key not in drawn:
                drawn[key] = draw(*args, **options)
            return drawn[key]

        return drawn_before

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, "curves", once(charts.curves))
        patch.setattr(charts, "bars", once(charts.bars))
        yield


@pytest.fixture(scope="session")
def page(runs):
    pytest.importorskip("jinja2", reason="jinja2 is not installed: pip install 'itm-fast[report]'")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'itm-fast[report]'")
    pytest.importorskip("scipy", reason="scipy is not installed: pip install 'itm-fast[report]'")
    from itm_fast.report import PageOptions, render_page

    return render_page(runs, PageOptions(examples=20))


@pytest.fixture(scope="module")
def browser():
    """A browser; tests that use it are skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if chromium is None:
        pytest.skip("no chromium or chrome on the PATH")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=FLAGS, timeout=1000 * HANG_SECONDS)
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
