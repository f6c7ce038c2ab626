"""The figures of one or several reports as one table: everything for a data frame, a paper's columns for LaTeX."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from itm_fast.files.plain_tables import PlainTable, Value

PARTS = {
    "coarse": "coarse stage",
    "cxc": "CxC",
    "eccv": "ECCV Caption",
    "pmrp": "plausible matches",
    "originals": "originals only",
    "altered": "altered captions",
}
"""Sections of a report with both directions, beside the galleries' own."""

_WAYS = ("i2t", "t2i", "t2t", "i2i")
_SAMPLED = ("sts", "sis", "sits")
_SUMS = ("rsum", "nsum", "nsum(N)")
_SHARES = ("text", "image", "group", "text alone", "n_examples")  # of protocols that compare pairs
_AT_K = ("R", "R_all", "nDCG", "NCS", "NCS(N)", "SR", "SR(N)")
_OF_PAPERS = re.compile(
    r"R@\d+|NCS@\d+|nDCG@\d+|mAP@R|R-Precision|MAP|MRR|PMRP|false rate|rsum|nsum"
    r"|text|image|group|text alone"
)
_Row = tuple[str, str, dict[tuple[str, str], Value]]


def figure_table(reports: Mapping[str, Mapping[str, Any]]) -> PlainTable:
    """Every figure of reports, a row a gallery, fold or set of positives.

    Args:
        reports: by name, ``Report`` or what its JSON holds. The name is a column where there are several.

    Returns:
        Columns "run" (of several), "part", then "i2t R@1", ..., "t2i R@1", ..., "rsum", "nsum".

    Example:
        >>> report = {"i2t": {"R@1": 50.0}, "t2i": {"R@1": 25.0}, "rsum": 75.0, "conditions": {"ks": [1]}}
        >>> figure_table({"": report}).rows
        (('whole gallery', 50.0, 25.0, 75.0),)
    """
    rows = list(_rows(reports))
    columns = _columns(reports, rows, lambda name: True)
    named = len(reports) > 1
    return PlainTable(
        (*((("", "run"),) if named else ()), ("", "part"), *columns),
        tuple((*((name,) if named else ()), part, *(found.get(c) for c in columns)) for name, part, found in rows),
    )


def member_table(report: Mapping[str, Any]) -> PlainTable:
    """What an ensemble is made of, a row a member.

    Args:
        report: of an ensemble, with ``report["members"]``.

    Returns:
        Columns "member", "weight", "min", "max", "mean", "std", "seconds".
    """
    names = ("weight", "min", "max", "mean", "std", "seconds")
    return PlainTable(
        (("", "member"), *(("", name) for name in names)),
        tuple((one["name"], *(one[name] for name in names)) for one in report["members"]),
        digits=3,
    )


def latex_table(reports: Mapping[str, Mapping[str, Any]]) -> str:
    r"""Reports as one LaTeX table with directions as groups of columns: I2T R@1 R@5 R@10, T2I R@1 R@5 R@10, rsum.

    NCS and nsum, mAP@R and R-Precision are there where the reports have them; of folds only their mean is. Where there
    are several reports the best of each column is bold.

    Args:
        reports: by the name that stands in the first column, ``Report`` or what its JSON holds.

    Returns:
        A tabular; needs the package booktabs.

    Example:
        >>> report = {"i2t": {"R@1": 50.0}, "t2i": {"R@1": 25.0}, "rsum": 75.0, "conditions": {"ks": [1]}}
        >>> print(latex_table({"SCAN": report}).splitlines()[7])
        SCAN & 50.0 & 25.0 & 75.0 \\
    """
    rows = [(name, part, found) for name, part, found in _rows(reports) if not part.startswith("fold ")]
    columns = _columns(reports, rows, lambda name: _OF_PAPERS.fullmatch(name) is not None)
    parts = list(dict.fromkeys(part for _, part, _ in rows))
    rows.sort(key=lambda row: parts.index(row[1]))  # what compares stands together

    def heading(name: str, part: str) -> str:
        return part if not name else name if len(parts) == 1 else f"{name}, {part}"

    table = PlainTable(
        (("", ""), *((group.upper(), name) for group, name in columns)),
        tuple((heading(name, part), *(found.get(column) for column in columns)) for name, part, found in rows),
    )
    return table.as_latex([part for _, part, _ in rows])


def _rows(reports: Mapping[str, Mapping[str, Any]]) -> Iterator[_Row]:
    for name, report in reports.items():
        for part, sections in _parts(report):
            yield name, part, _figures(sections)


def _parts(report: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What a report has a row for: galleries, folds and their mean, then other positives."""
    if "choices" in report:
        yield from report["choices"].items()
        yield "chance", report["chance"]
        return
    beside = {key: report[key] for key in ("t2t", "i2i", *_SAMPLED) if key in report}
    yield from report.get("languages", {}).items()
    if "language_mean" in report:
        yield "mean of languages", report["language_mean"]
        yield "all languages together", report["full"]
    elif "full" in report or "folds" not in report:
        yield "whole gallery", {**report.get("full", report), **beside}
    for number, fold in enumerate(report.get("folds", ()), start=1):
        yield f"fold {number}", fold
    if "fold_mean" in report:
        yield "mean of folds", report["fold_mean"]
    for key, title in PARTS.items():
        if key in report:
            yield title, report[key]


def _figures(sections: Mapping[str, Any]) -> dict[tuple[str, str], Value]:
    """(direction, figure) -> value; sums have no direction."""
    found: dict[tuple[str, str], Value] = {
        ("", total): sections[total] for total in (*_SUMS, *_SHARES) if total in sections
    }
    for way in (*_WAYS, *_SAMPLED):
        for name, value in sections.get(way, {}).items():
            if value is None or isinstance(value, (int, float)):
                found[way, name] = value
    return found


def _columns(
    reports: Mapping[str, Mapping[str, Any]], rows: list[_Row], is_wanted: Callable[[str], bool]
) -> list[tuple[str, str]]:
    """The columns that any row has a figure in, in the order of a printed report."""
    conditions = [report["conditions"] for report in reports.values()]
    ks = sorted({int(k) for one in conditions for k in (*one["ks"], one.get("k", one["ks"][0]))})
    at_k = {kind: [f"{kind}@{k}" for k in ks] for kind in _AT_K}
    names = [*at_k["R"], "medr", "meanr", *at_k["R_all"], "mAP@R", "R-Precision"]
    names += [*at_k["nDCG"], "MAP", "MRR", "PMRP", "PMRP@50", "false rate"]
    names += [*at_k["NCS"], *at_k["NCS(N)"], *at_k["SR"], *at_k["SR(N)"], "n_queries"]
    known = [(way, name) for way in _WAYS for name in names if is_wanted(name)]
    known += [(task, name) for task in _SAMPLED for name in ("spearman", "std") if is_wanted(name)]
    known += [("", total) for total in (*_SUMS, *_SHARES) if is_wanted(total)]
    filled = {column for *_, found in rows for column, value in found.items() if value is not None}
    return [column for column in known if column in filled]
