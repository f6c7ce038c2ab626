"""Draw docs/speed.svg from the first table of README's section Speed: the same figures, nothing measured here.

A picture without a library: text on a ground of its own, readable on light and dark pages.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
COLOURS = ("#2f81f7", "#d1495b", "#d9a441", "#8b949e")
LEFT, WIDTH, STEP = 250, 900, 1000.0  # pixels; milliseconds from one line of the axis to the next
BAR, GAP, TOP = 15, 18, 64
TITLE = "Seconds of one call on 2 CPU cores: shorter is faster"
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 } .ground { fill: #ffffff; stroke: #d0d7de }
  .faint { fill: #57606a; font-size: 11px } .line { stroke: #d0d7de } .title { font-weight: 600 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .ground { fill: #0d1117; stroke: #30363d } .faint { fill: #9198a1 } .line { stroke: #30363d }
  }
"""


class Table(NamedTuple):
    """What is timed, by which ways, and the milliseconds of each; only rows that every way has."""

    ways: list[str]
    rows: list[tuple[str, list[float]]]


def read_table(readme: str) -> Table:
    """The first table below the heading Speed."""
    lines = readme.partition("\n## Speed\n")[2].partition("\n\n|")[2].partition("\n\n")[0].splitlines()
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in ("|" + lines[0], *lines[1:])]
    timed = [(name, [_milliseconds(cell) for cell in cells]) for name, *cells in rows]
    return Table(header[1:], [(name, times) for name, times in timed if None not in times])


def _milliseconds(cell: str) -> float | None:
    found = re.match(r"([\d,.]+) ms", cell)
    return float(found[1].replace(",", "")) if found else None


def draw(table: Table) -> str:
    """The picture as SVG: a group of bars a row, seconds on a linear axis."""
    longest = max(time for _, times in table.rows for time in times)
    scale = (WIDTH - LEFT - 70) / longest
    bottom = TOP + len(table.rows) * (BAR * len(table.ways) + GAP)
    axis = []
    for number in range(int(longest // STEP) + 1):
        x = LEFT + number * STEP * scale
        axis.append(f'<line class="line" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{bottom}"/>')
        place = f'x="{x:.1f}" y="{bottom + 16}" text-anchor="middle"'
        axis.append(f'<text class="faint" {place}>{number * STEP / 1000:g} s</text>')
    legend = []
    for place, (way, colour) in enumerate(zip(table.ways, COLOURS, strict=True)):
        x = 16 + (0, 90, 210, 400)[place]
        legend.append(f'<rect x="{x}" y="31" width="12" height="12" fill="{colour}"/>')
        legend.append(f'<text x="{x + 18}" y="42">{escape(_plain(way))}</text>')
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 30}" role="img">',
            f"<title>{TITLE}</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="ground" x="0.5" y="0.5" width="{WIDTH - 1}" height="{bottom + 29}" rx="8"/>',
            f'<text class="title" x="16" y="22">{TITLE}</text>',
            *legend,
            *axis,
            *_rows(table, scale),
            "</svg>\n",
        ]
    )


def _plain(way: str) -> str:
    return way.partition(" of the same")[0].strip("* ")


def _rows(table: Table, scale: float) -> Iterator[str]:
    y, scoring = TOP, ""
    for name, times in table.rows:
        what, _, sizes = name.partition(", ")
        scoring = sizes if not sizes.startswith("the same") else scoring
        yield f'<text x="16" y="{y + 11}">{escape(what)}</text>'
        shown = sizes.replace("the same", scoring.partition(", forward")[0])
        yield f'<text class="faint" x="16" y="{y + 27}">{escape(shown)}</text>'
        for time, colour in zip(times, COLOURS, strict=True):
            width = time * scale
            yield f'<rect x="{LEFT}" y="{y + 1}" width="{width:.1f}" height="{BAR - 3}" fill="{colour}" rx="1"/>'
            yield f'<text class="faint" x="{LEFT + width + 5:.1f}" y="{y + 11}">{time / 1000:.2f}</text>'
            y += BAR
        y += GAP


if __name__ == "__main__":
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (ROOT / "docs" / "speed.svg").write_text(draw(read_table(readme)), encoding="utf-8")
