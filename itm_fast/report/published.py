"""Published results of the field, as printed: what a run is compared with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from itm_fast.evaluation.protocols import check_protocol

# These report recall over the gallery of coco-5k too, beside what their annotations add.
_SAME_TEST = {"eccv": "coco-5k", "coco-all": "coco-5k", "cxc": "coco-5k", "cxc-image-text": "coco-5k"}
_SUMS = {"rsum": "R@", "nsum": "NCS@"}
_N_TERMS = 6
_ROUNDING = 0.05 * (_N_TERMS + 1) + 1e-6  # six terms and their sum, each printed to 0.1


@dataclass(frozen=True)
class PublishedRow:
    """A row of a published table; figures as printed, percentages 0 to 100.

    Attributes:
        method: as the table names it.
        data: data set that it was trained on, or, of zero-shot models, what the source calls it.
        test: protocol that it was tested by: "flickr30k-1k", "coco-1k", "coco-5k".
        training_percent: share of the training images that it was trained on.
        i2t: figures of image queries: "R@1", "R@5", "R@10", "NCS@1" ..., those that are printed; empty where only sums
            are.
        t2i: figures of caption queries.
        rsum: printed sum of the recalls; None: none is printed.
        nsum: printed sum of the NCS, ground truth kept; None: none is printed.
        nsum_n: the same, ground truth left out: nsum(N).
        source: text and table, or repository.
        notes: what has to be known to compare: who trained it, folds, relevance, misprints; may be empty.
    """

    method: str
    data: str
    test: str
    training_percent: int
    i2t: dict[str, float]
    t2i: dict[str, float]
    rsum: float | None
    nsum: float | None
    nsum_n: float | None
    source: str
    notes: str

    @property
    def added_up(self) -> dict[str, float]:
        """Sums of the printed figures, "rsum" and "nsum", where all six are printed."""
        sums = {}
        for name, prefix in _SUMS.items():
            terms = [value for side in (self.i2t, self.t2i) for key, value in side.items() if key.startswith(prefix)]
            if len(terms) == _N_TERMS:
                sums[name] = round(sum(terms), 1)
        return sums

    @property
    def misprinted(self) -> tuple[str, ...]:
        """Sums whose printed value is further from ``added_up`` than rounding takes it."""
        printed = {"rsum": self.rsum, "nsum": self.nsum}
        found = ((name, printed[name], value) for name, value in self.added_up.items())
        return tuple(name for name, one, value in found if one is not None and abs(one - value) > _ROUNDING)


def published_results(protocol: str | None = None) -> tuple[PublishedRow, ...]:
    """Published results, in the order of their sources.

    Args:
        protocol: of ``evaluate``; only results of its test set. None: all.

    Returns:
        The rows; none for a protocol whose test set no source has results on.

    Raises:
        ValueError: no protocol of that name.

    Source: Biten et al., WACV 2022, Tables 2 to 5; the repositories of the methods' owners, of open_clip and of LAVIS;
        each row names its own.

    Example:
        >>> best = max(published_results("flickr30k-1k"), key=lambda row: row.rsum or 0)
        >>> best.method, best.rsum, best.i2t["R@1"]
        ('ESL-H', 523.7, 83.5)
        >>> max(published_results("flickr30k-1k"), key=lambda row: row.added_up.get("rsum", 0)).method
        'BLIP'
    """
    if protocol is None:
        return _all_rows()
    check_protocol(protocol)
    test = _SAME_TEST.get(protocol, protocol)
    return tuple(row for row in _all_rows() if row.test == test)


@cache
def _all_rows() -> tuple[PublishedRow, ...]:
    tables = json.loads(resources.files("itm_fast.report").joinpath("published.json").read_text(encoding="utf-8"))
    return tuple(
        _row(table["source"], dict(zip(table["columns"], row, strict=True)))
        for table in tables
        for row in table["rows"]
    )


def _row(source: str, cells: dict[str, Any]) -> PublishedRow:
    by_direction: dict[str, dict[str, float]] = {"i2t": {}, "t2i": {}}
    for column, value in cells.items():
        direction, _, figure = column.partition(" ")
        if figure:
            by_direction[direction][figure] = value
    return PublishedRow(
        method=cells["method"],
        data=cells["data"],
        test=cells["test"],
        training_percent=cells["training_percent"],
        **by_direction,
        rsum=cells["rsum"],
        nsum=cells.get("nsum"),
        nsum_n=cells.get("nsum(N)"),
        source=source,
        notes="; ".join(cells["notes"]),
    )
