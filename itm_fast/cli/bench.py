"""``itm-fast bench``: an operator timed at a shape of the user's, beside plain torch and the bare GEMM."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from itm_fast.cli.console import print_error, print_json, print_table, progress_bar
from itm_fast.cli.export import ExportFlags
from itm_fast.cli.similarity_flags import SimilarityFlags

if TYPE_CHECKING:
    from itm_fast.benchmark import BenchResult
    from itm_fast.files.plain_tables import PlainTable

_WRONG_RESULT = 1
_OUTPUT = ("no_reference", "json", "output", "compare", "export")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Shape."""

    n_images: int = 128
    """Images."""

    n_captions: int | None = None
    """Captions; by default as many as images, for ranking five times as many."""

    dim: int = 1024
    """Of a vector."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the vectors; of the losses' similarities."""

    max_regions: int | None = None
    """Regions of every image; by default 36 (cross-attention, late-interaction)."""

    max_words: int | None = None
    """Words of the longest caption; by default 20 (cross-attention, late-interaction)."""

    mean_words: float | None = None
    """About how many words a caption has; by default 12 (cross-attention, late-interaction)."""


@dataclass(frozen=True, kw_only=True)
class Options(SimilarityFlags):
    """Options of the operator."""

    margin: float | None = None
    """Of triplet; by default 0.2."""

    temperature: float | None = None
    """Of semantic-margin; by default 10."""

    sampling: Literal["hardest", "easiest", "random", "all", "HN", "SN", "RS", "soft", "hard", "mixed"] | None = None
    """Negatives of semantic-margin; by default hardest."""

    variant: Literal["fixed", "literal", "released"] | None = None
    """Of semantic-margin; by default fixed."""

    k: int | None = None
    """Items that ranking lists for every query; by default 10."""


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """Measuring."""

    backward: bool = False
    """Forward and backward instead of forward alone."""

    device: str = "cpu"
    """cpu, cuda or cuda:1."""

    threads: int | None = None
    """Threads of torch on the CPU; by default as many as it takes itself."""

    repeats: int = 5
    """Timed calls of each; what takes over a second is timed twice at most."""

    seed: int = 0
    """Of the batch."""

    no_reference: bool = False
    """Leave out the reference, which is slow at large shapes."""


@dataclass(frozen=True, kw_only=True)
class Output(ExportFlags):
    """Output."""

    json: bool = False
    """Print one JSON object instead of a table."""

    output: Path | None = None
    """Also write that JSON to this file."""

    compare: Path | None = None
    """A file of --output of the same shape: also say how much faster each call is now."""


@dataclass(frozen=True, kw_only=True)
class Bench(Shape, Options, Measuring, Output):
    """Time an operator at a shape of your own on this machine: fused, the bare GEMM, plain torch and the reference.

    They take turns in one process, after the fused result was compared with float64. Options that are not the
    operator's are refused.
    """

    operator: Literal["cross-attention", "late-interaction", "triplet", "semantic-margin", "ranking"]
    """What to time. ranking: top-k and ranks in both directions, from embeddings."""


def run(args: Bench) -> int:
    """Measure and print.

    Args:
        args: The command line.

    Returns:
        0, or 1 where the fused operator's result is wrong.
    """
    from itm_fast.benchmark import BenchSettings, read_medians, run_bench

    # Files are looked at before minutes of measuring.
    args.check_export(json=args.json)
    if args.output is not None and not args.output.parent.is_dir():
        raise FileNotFoundError(f"{args.output.parent}: no such folder to write {args.output.name} into")
    settings = BenchSettings(**{name: value for name, value in asdict(args).items() if name not in _OUTPUT})
    earlier = None if args.compare is None else read_medians(args.compare, settings)
    with progress_bar(f"bench {args.operator}") as progress:
        result = run_bench(settings, with_reference=not args.no_reference, progress=progress)
    if not result.is_right:
        print_error(f"the fused result is wrong, nothing was timed: {_differences(result)}")
        return _WRONG_RESULT
    faster = None if earlier is None else result.faster_than(earlier)
    if args.output is not None:
        result.to_json(args.output)
    if args.exported(lambda: _table(result, faster)):
        return 0
    if args.json:
        print_json({**result.to_dict(), **({} if faster is None else {"faster": faster})})
        return 0
    _print(result, faster)
    return 0


def _table(result: BenchResult, faster: dict[str, float] | None) -> PlainTable:
    """The table that is printed, unrounded."""
    from itm_fast.files.plain_tables import PlainTable

    names = ["call", "median ms", "minimum ms", "to fused", "extra MB", *([] if faster is None else ["faster by"])]
    keys = ("name", "median_ms", "min_ms", "to_fused", "extra_mb")
    rows = [[call[key] for key in keys] for call in result.calls]
    if faster is not None:
        rows = [[*row, faster.get(row[0])] for row in rows]
    return PlainTable(tuple(("", name) for name in names), tuple(map(tuple, rows)), digits=3)


def _print(result: BenchResult, faster: dict[str, float] | None) -> None:
    columns = ["", "median ms", "minimum", "to fused", "extra MB"]
    rows = [
        [
            call["name"],
            _milliseconds(call["median_ms"]),
            _milliseconds(call["min_ms"]),
            f"{call['to_fused']:.2f}x",
            "?" if call["extra_mb"] is None else f"{call['extra_mb']:.1f}",
        ]
        for call in result.calls
    ]
    if faster is not None:
        columns.append("faster by")
        for row in rows:
            row.append(f"{faster[row[0]]:.2f}x" if row[0] in faster else "")
    settings = result.settings
    passes = "forward + backward" if settings.backward else "forward"
    print_table(columns, rows, f"{settings.operator}, {passes}, {settings.dtype}: {result.shape}")
    for call in result.skipped:
        print(f"{call['name']}: left out, {call['reason']}")
    print(f"largest difference from float64, to the largest value: {_differences(result)}")
    machine = result.machine
    where = f"{machine['processor']}, {machine['threads']} threads, {machine['cpu_isa']}, {machine['gemm_float32']}"
    if machine["device"] != "cpu":
        where = f"{machine['device']}; {where}"
    times = " to ".join(map(str, sorted({call["n_timed"] for call in result.calls})))
    print(f"{where}, torch {machine['torch']}; timed in turn, {times} times each; extra MB: peak above the batch")


def _differences(result: BenchResult) -> str:
    return ", ".join(f"{name} {value:.1e}" for name, value in result.differences.items())


def _milliseconds(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.3f}"
