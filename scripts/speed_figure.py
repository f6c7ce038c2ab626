"""Draw docs/speed.svg from the first table of README's section Speed: the same figures, nothing measured here.

A picture without a library: text on a ground of its own, readable on light and dark pages.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
COLOURS = ("#2f81f7", "#d1495b", "#d9a441", "#8b949e")
LEFT, WIDTH, SCALE = 320, 900, (10.0, 10_000.0)  # pixels; milliseconds at the ends of the axis
BAR, GAP, TOP = 13, 16, 62
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 } .ground { fill: #ffffff; stroke: #d0d7de }
  .faint { fill: #57606a; font-size: 11px } .line { stroke: #d0d7de } .title { font-weight: 600 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .ground { fill: #0d1117; stroke: #30363d } .faint { fill: #9198a1 } .line { stroke: #30363d }
  }
"""


class Table(NamedTuple):
    """What is timed, by which ways, and the milliseconds of each; None where it was not."""

    ways: list[str]
    rows: list[tuple[str, list[float | None]]]


def read_table(readme: str) -> Table:
    """The first table below the heading Speed."""
    lines = readme.partition("\n## Speed\n")[2].partition("\n\n|")[2].partition("\n\n")[0].splitlines()
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in ("|" + lines[0], *lines[1:])]
    return Table(header[1:], [(name, [_milliseconds(cell) for cell in cells]) for name, *cells in rows])


def _milliseconds(cell: str) -> float | None:
    found = re.match(r"([\d,.]+) ms", cell)
    return float(found[1].replace(",", "")) if found else None


def _x(milliseconds: float) -> float:
    low, high = (math.log10(end) for end in SCALE)
    return LEFT + (math.log10(milliseconds) - low) / (high - low) * (WIDTH - LEFT - 80)


def draw(table: Table) -> str:
    """The picture as SVG: a group of bars a row, milliseconds on a logarithmic axis."""
    body = list(_rows(table))
    height = TOP + sum(_height(times) for _, times in table.rows) + 34
    axis = []
    for exponent in range(int(math.log10(SCALE[0])), int(math.log10(SCALE[1])) + 1):
        x = _x(10.0**exponent)
        axis.append(f'<line class="line" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{height - 30}"/>')
        place = f'x="{x:.1f}" y="{height - 14}" text-anchor="middle"'
        axis.append(f'<text class="faint" {place}>{10**exponent:,} ms</text>')
    legend = []
    for place, (way, colour) in enumerate(zip(table.ways, COLOURS, strict=True)):
        x = 16 + (0, 80, 180, 380)[place]
        legend.append(f'<rect x="{x}" y="31" width="12" height="12" fill="{colour}"/>')
        legend.append(f'<text x="{x + 18}" y="42">{escape(_plain(way))}</text>')
    title = "Time of one call on 2 cores, logarithmic: shorter is faster"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            f"<title>{title}</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="ground" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
            f'<text class="title" x="16" y="22">{title}</text>',
            *legend,
            *axis,
            *body,
            "</svg>\n",
        ]
    )


def _plain(text: str) -> str:
    return text.replace("·", "").replace("Vᵀ", "").replace("Wᵀ", "").replace(" of the same V", "").strip()


def _height(times: list[float | None]) -> int:
    return BAR * sum(time is not None for time in times) + GAP


def _rows(table: Table) -> Iterator[str]:
    y, scoring = TOP, ""
    for name, times in table.rows:
        what, _, sizes = name.partition(", ")
        scoring = sizes if not sizes.startswith("the same") else scoring
        yield f'<text x="16" y="{y + 11}">{escape(what)}</text>'
        shown = sizes.replace("the same", scoring.partition(", forward")[0])
        yield f'<text class="faint" x="16" y="{y + 25}">{escape(shown)}</text>'
        for time, colour in zip(times, COLOURS, strict=True):
            if time is None:
                continue
            end = _x(time)
            yield f'<rect x="{LEFT}" y="{y + 1}" width="{end - LEFT:.1f}" height="{BAR - 2}" fill="{colour}" rx="1"/>'
            yield f'<text class="faint" x="{end + 5:.1f}" y="{y + 10}">{time:,.0f}</text>'
            y += BAR
        y += GAP


if __name__ == "__main__":
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (ROOT / "docs" / "speed.svg").write_text(draw(read_table(readme)), encoding="utf-8")
