"""The steps of gpu_check, each run by `gpu_check.py` in a process of its own: python gpu_steps.py STEP FOLDER.

A step appends a line of JSON to FOLDER/STEP.jsonl before and after each thing it does: nothing is lost with the
process. Rehearsed (--rehearse), kernels run on the CPU by the tests' emulator; what only a device can do is skipped.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FLUSH_BYTES = 256 << 20  # more than any second-level cache
KERNELS_OF_INTEREST = "regex:tiles_kernel|chunk_kernel"
METRICS = (
    "gpu__time_duration.sum",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active",
    "l1tex__data_pipe_lsu_wavefronts_mem_shared.avg.pct_of_peak_sustained_elapsed",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "launch__registers_per_thread",
    "launch__occupancy_limit_shared_mem",
    "sm__warps_active.avg.pct_of_peak_sustained_active",
)


class Rows:
    """The lines of a step; what an earlier process of the same step has begun is not begun again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        self._begun = {json.loads(line)["name"] for line in lines if line.endswith("}")}

    def write(self, name: str, **facts: Any) -> None:
        """Appends a line and sees to it that it is in the file."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"name": name, **facts}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def run(self, name: str, work: Callable[[], dict[str, Any]]) -> None:
        """One thing: what it found, or what it raised. A device that has failed answers no more: the process ends."""
        if name in self._begun:
            return
        self.write(name, state="begun")
        start = time.monotonic()
        try:
            facts = work()
        except Exception as error:  # whatever a kernel or torch raises is a result
            text = str(error)[-1500:]
            self.write(name, passed=False, error=f"{type(error).__name__}: {text}", seconds=time.monotonic() - start)
            if "CUDA error" in text or "CUDA says" in text:
                sys.exit(3)
            return
        self.write(name, **{"passed": True, "seconds": round(time.monotonic() - start, 3), **facts})


def not_run(why: str) -> dict[str, Any]:
    """A row of what was not tried."""
    return {"passed": None, "error": why}


@contextlib.contextmanager
def device(rehearsal: bool) -> Iterator[str]:
    """Where tensors go; in a rehearsal the CPU, whose kernels are the emulated ones meanwhile."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "emu")]
    if not rehearsal:
        yield "cuda"
        return
    import emulated_operators

    with emulated_operators.emulated():
        yield "cpu"


def versions(rows: Rows, rehearsal: bool) -> None:
    """What runs here."""
    import torch

    rows.write("python", passed=True, value=platform.python_version())
    rows.write("torch", passed=True, value=f"{torch.__version__}, CUDA {torch.version.cuda}")
    tools = {
        "nvcc": ["nvcc", "--version"],
        "ncu": ["ncu", "--version"],
        "compute-sanitizer": ["compute-sanitizer", "--version"],
    }
    smi = "--query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem,memory.total"
    for name, command in {**tools, "nvidia-smi": ["nvidia-smi", smi, "--format=csv,noheader"]}.items():
        if shutil.which(name) is None:
            rows.write(name, **not_run("not installed"))
            continue
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        rows.write(name, passed=True, value=done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "")
    if rehearsal:
        rows.write("device", **not_run("a rehearsal: kernels run on the CPU"))
        return
    properties = torch.cuda.get_device_properties(0)
    rows.write(
        "device",
        passed=True,
        value=f"{properties.name}, compute capability {properties.major}.{properties.minor}, "
        f"{properties.multi_processor_count} multiprocessors, {properties.total_memory / 1e9:.0f} GB",
    )


def build(rows: Rows, rehearsal: bool) -> None:
    """Compiles the operators and their kernels for the visible device; rehearsed: the emulated ones."""

    def compiled() -> dict[str, Any]:
        if rehearsal:
            with device(True):
                return {}
        # With source lines, which ncu and compute-sanitizer name; they are more than half of a library, and no wheel's.
        environment = {**os.environ, "ITM_FAST_CUDA": "1", "NVCC_APPEND_FLAGS": "-lineinfo"}
        command = [sys.executable, "setup.py", "build_ext", "--inplace"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            return {"passed": False, "error": (done.stdout + done.stderr)[-4000:]}
        return {"value": next((line for line in done.stdout.splitlines() if "CUDA kernels" in line), "").strip()}

    rows.run("operators and kernels", compiled)


def kernels(rows: Rows, rehearsal: bool) -> None:
    """Every case against float64."""
    with device(rehearsal) as where:
        import gpu_cases

        for case in gpu_cases.all_cases(where):

            def compared(case: Any = case) -> dict[str, Any]:
                worst, passed = case.worst()
                return {"error of what is allowed": worst, "passed": passed}

            rows.run(case.name, compared)


def streams(rows: Rows, rehearsal: bool) -> None:
    """Other streams, graph capture, no wait for the device, the same bits again."""
    import torch

    with device(rehearsal) as where:
        import gpu_cases

        import itm_fast

        regions, words, word_counts, region_counts = gpu_cases.batch(8, 36, 16, 12, 64, torch.float32)
        regions, words = (x.nan_to_num().to(where) for x in (regions, words))
        word_counts, region_counts = word_counts.to(where), region_counts.to(where)
        candidates = torch.randint(16, (8, 20), generator=torch.Generator().manual_seed(5)).to(where)

        def step() -> list[torch.Tensor]:
            leaves = [x.clone().requires_grad_() for x in (regions, words)]
            scores = itm_fast.cross_attention_similarity(*leaves, word_counts, region_counts)
            listed = itm_fast.cross_attention_similarity(*leaves, word_counts, region_counts, candidates=candidates)
            loss = itm_fast.triplet_loss(scores[:, : len(scores)]) + listed.mean()
            loss.backward()
            return [loss.detach(), scores.detach(), listed.detach(), *(leaf.grad for leaf in leaves)]

        first = step()
        rows.run(
            "the same bits five times",
            lambda: {"passed": all(all(map(torch.equal, first, step())) for _ in range(5))},
        )
        if rehearsal:
            for name in ("another stream", "no wait for the device", "captured in a graph"):
                rows.write(name, **not_run("needs a device"))
            return

        def on_another_stream() -> dict[str, Any]:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                found = step()
            stream.synchronize()
            return {"passed": all(map(torch.equal, first, found))}

        def without_waiting() -> dict[str, Any]:
            torch.cuda.set_sync_debug_mode("error")
            try:
                found = step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
            return {"passed": all(map(torch.equal, first, found))}

        def captured() -> dict[str, Any]:
            scores, listed = None, None
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                batch = regions, words, word_counts, region_counts
                scores = itm_fast.cross_attention_similarity(*batch)
                listed = itm_fast.cross_attention_similarity(*batch, candidates=candidates)
            graph.replay()
            torch.cuda.synchronize()
            return {"passed": torch.equal(scores, first[1]) and torch.equal(listed, first[2])}

        rows.run("another stream", on_another_stream)
        rows.run("no wait for the device", without_waiting)
        rows.run("captured in a graph", captured)


def median_ms(work: Callable[[], object], rehearsal: bool) -> float:
    """Median milliseconds of a call by CUDA events, the second-level cache emptied before each of 20 runs."""
    if rehearsal:
        start = time.perf_counter()
        work()
        return 1000 * (time.perf_counter() - start)
    import torch

    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
    for _ in range(3):
        work()
    times = []
    for _ in range(20):
        flush.zero_()
        start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start_event.record()
        work()
        end_event.record()
        end_event.synchronize()
        times.append(start_event.elapsed_time(end_event))
    return statistics.median(times)


def timings(rows: Rows, rehearsal: bool) -> None:
    """Fused, plain torch in closed form and the bare product, side by side, and what a training step adds."""
    import torch

    with device(rehearsal) as where:
        import gpu_cases

        import itm_fast
        from itm_fast import reference

        shapes = [(128, 128, 36, 24, 1024), (1000, 1000, 36, 24, 1024), (1, 1000, 32, 300, 128), (64, 64, 197, 40, 512)]
        if rehearsal:
            shapes = [(2, 3, 9, 5, 16), (1, 4, 3, 140, 16)]
        for n_images, n_captions, most_regions, most_words, dim in shapes:
            for dtype in (torch.float32, torch.bfloat16):
                regions, words, counts, _ = gpu_cases.batch(n_images, most_regions, n_captions, most_words, dim, dtype)
                regions, words, counts = regions.nan_to_num().to(where), words.nan_to_num().to(where), counts.to(where)
                packed = torch.cat([words[c, :n] for c, n in enumerate(counts.tolist())])
                flop = 2 * most_regions * n_images * len(packed) * dim
                leaves = [x.clone().requires_grad_() for x in (regions, words)]
                shape = f"{n_images} x {most_regions} regions, {n_captions} captions of {len(packed)} words, dim {dim}"

                def similarity(*sides: torch.Tensor, counts: torch.Tensor = counts) -> torch.Tensor:
                    return itm_fast.cross_attention_similarity(*sides, counts)

                def late(*sides: torch.Tensor, counts: torch.Tensor = counts) -> torch.Tensor:
                    return itm_fast.max_similarity(*sides, counts, cross_attn="i2t")

                work: dict[str, Callable[[], object]] = {
                    "bare product": lambda r=regions, p=packed: r.flatten(0, 1) @ p.T,
                    "cross attention": lambda x=(regions, words), f=similarity: f(*x),
                    "cross attention, closed form in plain torch": lambda r=regions, w=words, c=counts: (
                        reference.cross_attention_closed_form(r, w, c)
                    ),
                    "cross attention, forward and backward": lambda x=leaves, f=similarity: f(*x).sum().backward(),
                    "max similarity": lambda x=(regions, words), f=late: f(*x),
                    "max similarity, forward and backward": lambda x=leaves, f=late: f(*x).sum().backward(),
                }
                for name, call in work.items():

                    def timed(call: Callable[[], object] = call, flop: int = flop) -> dict[str, Any]:
                        if not rehearsal:
                            torch.cuda.reset_peak_memory_stats()
                        milliseconds = median_ms(call, rehearsal)
                        peak = 0.0 if rehearsal else torch.cuda.max_memory_allocated() / 2**20
                        return {"ms": milliseconds, "TFLOP/s": flop / milliseconds / 1e9, "peak MB": peak}

                    rows.run(f"{name}, {str(dtype)[6:]}, {shape}", timed)


def small_work(rehearsal: bool) -> None:
    """One call of nearly everything, for tools that watch it."""
    with device(rehearsal) as where:
        import gpu_cases

        for case in itertools.islice(gpu_cases.all_cases(where), 0, None, 7):  # 7: of every operator, dtype and path
            case.worst()


def watched(rows: Rows, rehearsal: bool, tool: str, command: list[str], read: Callable[[str], dict[str, Any]]) -> None:
    """The small work under a tool; where there is none, or in a rehearsal, by itself."""
    worker = [sys.executable, __file__, "small_work", "-", *(["--rehearse"] if rehearsal else [])]

    def run() -> dict[str, Any]:
        installed = shutil.which(tool) is not None and not rehearsal
        done = subprocess.run([*(command if installed else []), *worker], capture_output=True, text=True, check=False)
        output = done.stdout + done.stderr
        if not installed:
            ran = done.returncode == 0
            return (
                not_run(f"without {tool}; the work itself ran") if ran else {"passed": False, "error": output[-3000:]}
            )
        return read(output) if done.returncode == 0 else {"passed": False, "error": output[-3000:]}

    rows.run(" ".join(command[:3]), run)


def counters(output: str) -> dict[str, Any]:
    """What ncu printed in CSV: the metrics of each kernel it looked at."""
    lines = [line for line in output.splitlines() if line.startswith('"')]
    return {"passed": bool(lines), "value": "\n".join(lines[:200])}


def profile(rows: Rows, rehearsal: bool) -> None:
    """Hardware counters of the similarities' two kernels."""
    options = ["--clock-control", "none", "--csv", "--kernel-name", KERNELS_OF_INTEREST, "--launch-count", "12"]
    watched(rows, rehearsal, "ncu", ["ncu", *options, "--metrics", ",".join(METRICS)], counters)


def sanitizer_errors(output: str) -> dict[str, Any]:
    """The number in compute-sanitizer's summary."""
    found = re.findall(r"(?:ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard)", output)
    if not found:
        return {"passed": False, "error": output[-3000:]}
    errors = sum(int(errors or hazards) for errors, hazards in found)
    return {"passed": errors == 0, "errors": errors, **({"error": output[-3000:]} if errors else {})}


def sanitizers(rows: Rows, rehearsal: bool) -> None:
    """Bad accesses and races, by the vendor's tool."""
    for tool in ("memcheck",) if rehearsal else ("memcheck", "racecheck"):
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "0"]
        watched(rows, rehearsal, "compute-sanitizer", command, sanitizer_errors)


def tests(rows: Rows, rehearsal: bool) -> None:
    """The operators' tests on the device, a row each that did not pass; as many as time allows."""
    try:
        import pytest  # noqa: F401 asked for, not used
    except ImportError:
        rows.write("tests/ops", **not_run("pytest is not installed"))
        return
    chosen = (
        ["-k", "emulated and not races and not large", "tests/ops/test_triplet.py"]
        if rehearsal
        else ["-k", "cuda", "tests/ops"]
    )
    command = [sys.executable, "-m", "pytest", "-v", "-o", "addopts=--import-mode=importlib", "-p", "no:cacheprovider"]
    command += ["--continue-on-collection-errors", *chosen]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    counts = {"PASSED": 0, "FAILED": 0, "ERROR": 0, "SKIPPED": 0}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            outcome = next((word for word in counts if f" {word}" in line and "::" in line and "%]" in line), None)
            if outcome is None:
                continue
            counts[outcome] += 1
            if outcome in ("FAILED", "ERROR"):
                rows.write(line.split(" ")[0], passed=False)
            elif sum(counts.values()) % 25 == 1:
                rows.write("tests/ops, so far", passed=True, **counts)
    passed = process.returncode == 0 and counts["PASSED"] > 0
    rows.write("tests/ops, all", passed=passed, **counts)


STEPS = {step.__name__: step for step in (versions, build, kernels, streams, timings, profile, sanitizers, tests)}


def main(arguments: list[str]) -> int:
    """Runs one step."""
    name, folder, *flags = arguments
    rehearsal = "--rehearse" in flags
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
    if name == "small_work":
        small_work(rehearsal)
        return 0
    STEPS[name](Rows(Path(folder) / f"{name}.jsonl"), rehearsal)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
