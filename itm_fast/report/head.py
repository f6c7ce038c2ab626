"""What stands at the head of a page: which models, on which data, when, and what chance would score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from itm_fast.evaluation.figures import RSUM_KS
from itm_fast.report.chance import chance_recall
from itm_fast.report.queries import DIRECTION_NAMES, DIRECTIONS
from itm_fast.runs.folder import Run

_GENERATED = {
    True: "generated: its figures say nothing of photographs",
    False: "not marked as generated",
    None: "not known whether it is generated",
}


@dataclass(frozen=True)
class Value:
    """A value with small print, and the number of its run; None: of all runs."""

    text: str
    detail: str = ""
    series: int | None = None


@dataclass(frozen=True)
class Fact:
    """A term and its values: one for all runs that agree, or one a run."""

    term: str
    values: tuple[Value, ...]


def is_generated(run: Run) -> bool | None:
    """Whether a run is of data that `itm-fast make-data` wrote; None: not known."""
    found = run.source.get("generated")
    return found if isinstance(found, bool) else None


def facts(runs: Sequence[Run]) -> list[Fact]:
    """Model, data, date and chance level of runs.

    Args:
        runs: the runs.

    Returns:
        The facts in their order.
    """
    return [
        _fact("Model", [_model(run) for run in runs]),
        _fact("Data", [_data(run) for run in runs]),
        _fact("Evaluated", [Value(_date(run.date)) for run in runs]),
        _fact("Chance level", [_chance(runs[0])]),
    ]


def _fact(term: str, values: Sequence[Value]) -> Fact:
    if len(set(values)) == 1:
        return Fact(term, (values[0],))
    return Fact(term, tuple(Value(one.text, one.detail, series) for series, one in enumerate(values)))


def _model(run: Run) -> Value:
    source = run.source
    name = source.get("model") or run.report["conditions"].get("model")
    where = " and ".join(str(source[key]) for key in ("path", "captions", "t2i_sims") if source.get(key))
    if name:
        return Value(str(name), where)
    kinds = {"sims": "not named: similarities from a file", "embeddings": "not named: embeddings from files"}
    return Value(kinds.get(str(source.get("kind")), "not named"), where)


def _data(run: Run) -> Value:
    data, split = run.source.get("data"), run.source.get("split")
    if data is None:
        return Value("not named", _GENERATED[is_generated(run)])
    return Value(f"{data}, split {split}" if split else str(data), _GENERATED[is_generated(run)])


def _date(date: str) -> str:
    """A date as people write it; what is no date was not kept."""
    try:
        when = datetime.fromisoformat(date)
    except ValueError:
        return "date not kept"
    zone = "" if when.tzinfo is None else " UTC" if when.utcoffset() == timedelta() else f" UTC{when:%z}"
    return f"{when.day} {when:%B %Y, %H:%M}{zone}"


def _chance(run: Run) -> Value:
    """R@1 of both directions and rsum, by the positives of a run: they are the same in all of a page."""
    found = [chance_recall(run, direction, RSUM_KS) for direction in DIRECTIONS]
    i2t, t2i = found
    if i2t is None or t2i is None:
        return Value("not known for positives of this kind")
    first = ", ".join(f"{of[0]:.2g} % {DIRECTION_NAMES[d]}" for of, d in zip((i2t, t2i), DIRECTIONS, strict=True))
    return Value(f"R@1 {first}; rsum {sum(i2t) + sum(t2i):.1f}")
