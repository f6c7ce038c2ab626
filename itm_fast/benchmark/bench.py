"""A bench: checks the fused operator, times all calls in turn, and compares with an earlier bench."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from itm_fast.benchmark import cases
from itm_fast.benchmark.memory import available_mb, extra_device_mb, extra_mb
from itm_fast.benchmark.settings import BenchSettings
from itm_fast.benchmark.timing import Call, time_interleaved
from itm_fast.errors import DataError
from itm_fast.files.reading import read_json
from itm_fast.files.writing import written_aside

# Relative to the largest value: finds a wrong result, not a rounding; the operators' own tests are far stricter.
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 5e-3}
_SLOW_SECONDS = 1.0
_MOST_MEMORY = 0.8  # of what is available
_MAY_DIFFER = ("threads", "device", "repeats")  # what a comparison may be about


@dataclass(frozen=True, eq=False)
class BenchResult:
    """What was measured.

    Attributes:
        settings: what was asked for, defaults filled in.
        shape: in words.
        machine: "processor", "device", "threads", "torch", "cpu_isa", "gemm_float32".
        differences: largest difference of the fused operator from float64, relative to the largest value.
        calls: "name", "median_ms", "min_ms", "n_timed", "extra_mb" (peak above the batch; None: unknown), "to_fused"
            (median / fused median).
        skipped: "name", "reason", of calls that were left out.
    """

    settings: BenchSettings
    shape: str
    machine: dict[str, Any]
    differences: dict[str, float]
    calls: list[dict[str, Any]]
    skipped: list[dict[str, str]]

    @property
    def is_right(self) -> bool:
        """Whether the fused operator is as near to float64 as its dtype allows; nothing is timed if it is not."""
        return all(value <= TOLERANCE[self.settings.dtype] for value in self.differences.values())

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain dictionaries, lists, numbers and strings."""
        settings = _as_dict(self.settings)
        return {
            "operator": settings.pop("operator"),
            "settings": settings,
            "shape": self.shape,
            "machine": self.machine,
            "differences": self.differences,
            "tolerance": TOLERANCE[self.settings.dtype],
            "calls": self.calls,
            "skipped": self.skipped,
        }

    def faster_than(self, medians: Mapping[str, float]) -> dict[str, float]:
        """Earlier median / median of now by name of the call, of those that both have; from ``read_medians``."""
        return {
            call["name"]: medians[call["name"]] / call["median_ms"] for call in self.calls if call["name"] in medians
        }

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write everything as JSON; a file of that name is replaced only once the new one is complete."""
        with written_aside(path) as aside:
            aside.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")


def run_bench(
    settings: BenchSettings, *, with_reference: bool = True, progress: Callable[[int, int], None] | None = None
) -> BenchResult:
    """Check the fused operator, then time it, the bare GEMM, plain torch and the reference in turn.

    Calls that would not fit in memory are left out, those that take over a second are timed twice at most.

    Args:
        settings: operator, shape, options.
        with_reference: also time the reference, which is slow.
        progress: called with (calls done, calls in all).

    Returns:
        The figures; no calls where the fused operator is wrong.

    Raises:
        RuntimeError: torch cannot run it: no kernels on the device, no memory for the batch.

    Example:
        >>> settings = BenchSettings(operator="triplet", n_images=8, dim=16, repeats=2)
        >>> [call["name"] for call in run_bench(settings).calls]
        ['fused', 'bare GEMM', 'plain torch']
    """
    device = torch.device(settings.device)
    with _threads(settings.threads):
        case = cases.build_case(settings)
        result = BenchResult(settings, case.shape, _machine(device), case.differences(), [], [])
        if not result.is_right:
            return result
        calls = dict(case.calls)
        for name, needed in case.needed_mb.items():
            reason = "not asked for"
            if with_reference or name != cases.REFERENCE:
                there_is = available_mb(device)
                if needed <= _MOST_MEMORY * there_is:
                    continue
                reason = f"would take about {needed:,.0f} MB, {there_is:,.0f} MB are available"
            del calls[name]
            result.skipped.append({"name": name, "reason": reason})
        grad_mode = contextlib.nullcontext() if settings.backward else torch.inference_mode()
        with grad_mode:
            _measure(result, calls, device, progress)
    return result


def read_medians(path: str | os.PathLike[str], settings: BenchSettings) -> dict[str, float]:
    """Medians of an earlier bench of the same shape.

    Args:
        path: file of ``BenchResult.to_json``.
        settings: that it must have been run with, but for threads, device and repeats.

    Returns:
        Milliseconds by name of the call, for ``BenchResult.faster_than``.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it is no file of a bench, or of another operator or shape.
    """
    file, now = Path(path), _as_dict(settings)
    try:
        then = read_json(file)
        medians = {call["name"]: float(call["median_ms"]) for call in then["calls"]}
        earlier = {"operator": then["operator"], **then["settings"]}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(f"{file}: not a file of itm-fast bench --output: {type(error).__name__} {error}") from error
    names = [name for name in {**earlier, **now} if name not in _MAY_DIFFER and earlier.get(name) != now.get(name)]
    if names:
        differences = ", ".join(f"{name} {earlier.get(name)}, not {now.get(name)}" for name in names)
        raise DataError(f"{file}: its bench had {differences}; only equal shapes can be compared")
    return medians


def _measure(
    result: BenchResult,
    calls: dict[str, Call],
    device: torch.device,
    progress: Callable[[int, int], None] | None,
) -> None:
    def memory_of(call: Call) -> float | None:
        return extra_device_mb(call, device) if device.type == "cuda" else extra_mb(call)

    slow, memory = [], {}
    for name, call in calls.items():
        start = time.perf_counter()
        memory[name] = memory_of(call)
        if time.perf_counter() - start > _SLOW_SECONDS:
            slow.append(name)
        else:  # the first call counted what is loaded for it; beside what a slow one takes it is nothing
            memory[name] = memory_of(call)
    seconds = time_interleaved(calls, result.settings.repeats, twice=slow, warm_up=(), device=device, progress=progress)
    fused = statistics.median(seconds[cases.FUSED])
    for name, times in seconds.items():
        median = statistics.median(times)
        found = {"name": name, "median_ms": 1e3 * median, "min_ms": 1e3 * min(times), "n_timed": len(times)}
        result.calls.append({**found, "extra_mb": memory[name], "to_fused": median / fused})


@contextlib.contextmanager
def _threads(n: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if n is not None:
        torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _machine(device: torch.device) -> dict[str, Any]:
    from itm_fast.ops._devices import processor_name
    from itm_fast.ops._library import build_info

    info = build_info()
    return {
        "processor": processor_name(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cpu_isa": info["cpu_isa"],
        "gemm_float32": info["gemm_float32"],
    }


def _as_dict(settings: BenchSettings) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(settings).items() if value is not None}
