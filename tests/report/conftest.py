"""Two runs of one small test set and a page of both."""

from dataclasses import replace

import pytest
from small_runs import make_run


@pytest.fixture(scope="session")
def runs():
    """Better and worse, with φ, under a protocol that has published results."""
    worse = make_run("worse", 0.9, protocol="flickr30k-1k")
    better = make_run("better", 0.6, protocol="flickr30k-1k")
    return [worse, replace(better, captions=worse.captions)]


@pytest.fixture(scope="session")
def page(runs):
    pytest.importorskip("jinja2", reason="jinja2 is not installed: pip install 'itm-fast[report]'")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'itm-fast[report]'")
    pytest.importorskip("scipy", reason="scipy is not installed: pip install 'itm-fast[report]'")
    from itm_fast.report import PageOptions, render_page

    return render_page(runs, PageOptions(examples=20))
