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
_DASHES = (None, (5, 1.5), (1.5, 1.2), (5, 1.5, 1.2, 1.5), (8, 2), (3, 1))  # in line widths
_LINE_WIDTH, _FAINT_WIDTH, _FAINT_DASHES = 1.5, 0.9, (2, 2)
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
    "lines.linewidth": _LINE_WIDTH,
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


def round_numbers(last: float) -> list[int]:
    """Where every curve has a marker: 1, 2, 3, 5, 7, 10, 15, 20, 30, ... up to a last number."""
    steps = (10**power * step for power in range(len(str(int(last)))) for step in (1, 1.5, 2, 3, 5, 7))
    return [int(step) for step in steps if step == int(step) and step <= last]


def legend_line(series: int, *, faint: bool = False) -> str:
    """A piece of a run's line as in `curves`, for a legend.

    Args:
        series: number of the run.
        faint: of what the curve is to be read against.

    Returns:
        An ``<svg>`` element.
    """
    dashes, width = _stroke(series, faint)
    dashed = "" if dashes is None else f' stroke-dasharray="{" ".join(f"{width * part:g}" for part in dashes)}"'
    colour = f"var(--series-{series % N_COLOURS})"
    mark = "" if faint else f'<circle cx="16" cy="5" r="2.2" fill="{colour}"/>'
    return (
        '<svg class="line" viewBox="0 0 32 10" width="32" height="10" aria-hidden="true">'
        f'<path d="M1 5h30" fill="none" stroke="{colour}" stroke-width="{width}"{dashed}/>{mark}</svg>'
    )


def _stroke(series: int, faint: bool) -> tuple[tuple[float, ...] | None, float]:
    """Dashes in line widths (None: solid) and line width of a run's curves."""
    return (_FAINT_DASHES, _FAINT_WIDTH) if faint else (_DASHES[series % len(_DASHES)], _LINE_WIDTH)


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
            dashes, width = _stroke(line.series, line.faint)
            style: Any = "-" if dashes is None else (0, dashes)
            marked = round_numbers(max(line.x, default=1))
            marks = [place for place, x in enumerate(line.x) if x in marked]
            marker = None if line.faint else "o"
            colour = _colour(line.series)
            axes.plot(line.x, line.y, color=colour, ls=style, lw=width, marker=marker, markevery=marks, clip_on=False)
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
