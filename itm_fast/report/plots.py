"""Figures as inline SVG: colours are the page's own (currentColor, CSS variables), text stays text; knows no runs."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from itm_fast.report.requirements import missing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

N_COLOURS = 6  # --series-0 ... of the page's style sheet
_INK, _RULE = "#010203", "#010204"  # stand-ins that no other figure uses, replaced in the SVG
_SERIES = tuple(f"#0103{number:02x}" for number in range(N_COLOURS))
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.2, 1.5)), (0, (8, 2)), (0, (3, 1)))
_WIDTH, _HEIGHT = 3.9, 2.5  # inches; one panel, so that a phone shows it unscaled
_PLACE = (0.16, 0.27, 0.82, 0.62)  # of the axes; a layout engine would draw every panel twice
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "font.family": ["sans-serif"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.5,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "lines.linewidth": 1.5,
    "lines.markersize": 3,
}


@dataclass(frozen=True)
class Line:
    """A curve.

    Attributes:
        x: where.
        y: how much, one an x.
        series: number of the run, which sets colour and dashes.
        faint: a thin dashed line, of what the curve is to be read against.
    """

    x: Sequence[float]
    y: Sequence[float]
    series: int
    faint: bool = False


def curves(title: str, x_label: str, y_label: str, lines: Sequence[Line], *, log: bool = False) -> str:
    """One panel of curves in percent.

    Args:
        title: above it.
        x_label: below it.
        y_label: beside it.
        lines: what it shows, at least one.
        log: whether x is logarithmic.

    Returns:
        An ``<svg>`` element.

    Raises:
        ImportError: matplotlib is not installed.
    """

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        for line in lines:
            dashes = (0, (2, 2)) if line.faint else _DASHES[line.series % len(_DASHES)]
            width, marker = (0.9, None) if line.faint else (1.5, "o" if len(line.x) <= 12 else None)
            axes.plot(line.x, line.y, color=_colour(line.series), ls=dashes, lw=width, marker=marker, clip_on=False)
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:,.0f}")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(0, 100)
        axes.margins(x=0.02)

    return _svg(title, x_label, y_label, draw)


def bars(title: str, x_label: str, y_label: str, bins: Sequence[str], heights: Sequence[Sequence[float]]) -> str:
    """One panel of bars, side by side for each run.

    Args:
        title: above it.
        x_label: below it.
        y_label: beside it.
        bins: name of each place on the x axis.
        heights: of each run, one a bin.

    Returns:
        An ``<svg>`` element.

    Raises:
        ImportError: matplotlib is not installed.
    """

    def draw(axes: Axes) -> None:
        width = 0.8 / len(heights)
        for series, of_run in enumerate(heights):
            at = [place - 0.4 + width * (series + 0.5) for place in range(len(bins))]
            axes.bar(at, of_run, width * 0.92, color=_colour(series), lw=0)
        axes.set_xticks(range(len(bins)), bins, rotation=40, ha="right", rotation_mode="anchor")
        axes.tick_params(axis="x", length=0)
        axes.grid(visible=False, axis="x")
        axes.set_ylim(bottom=0)

    return _svg(title, x_label, y_label, draw)


def _colour(series: int) -> str:
    return _SERIES[series % N_COLOURS]


def _svg(title: str, x_label: str, y_label: str, draw: Callable[[Axes], None]) -> str:
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure  # not pyplot: no backend, no global state
    except ImportError as error:
        raise missing("matplotlib") from error
    with rc_context({**_SETTINGS, "svg.hashsalt": "itm-fast"}):
        figure = Figure(figsize=(_WIDTH, _HEIGHT))
        axes = figure.add_axes(_PLACE)
        draw(axes)
        axes.set_title(title)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_the_page(written.getvalue(), title)


def _for_the_page(svg: str, title: str) -> str:
    """The element alone, its ids its own among several figures, its colours those of the page, scaling with it."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)  # it would style the page
    prefix = "f" + re.sub(r"\W+", "-", title.lower())
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    svg = svg.replace(_INK, "currentColor").replace(_RULE, "var(--rule)")
    for number, colour in enumerate(_SERIES):
        svg = svg.replace(colour, f"var(--series-{number})")
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg)
    opening = '<svg class="figure" role="img" aria-label="' + _attribute(title) + '" '
    svg = re.sub(r'<svg (.*?)width="[^"]*"', r"<svg \1", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r'<svg (.*?)\bheight="[^"]*"', r"<svg \1", svg, count=1, flags=re.DOTALL)
    return opening + svg.removeprefix("<svg ")


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
