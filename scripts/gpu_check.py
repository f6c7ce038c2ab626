"""What gpu_check.sh runs: build, tests, compute-sanitizer and benchmarks on the CUDA device at hand, and their report.

The parts that need no device (running stages, reading results, the report) are functions of their own and are tested.
"""

import datetime
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
SMALL_TESTS = ("tests/ops/test_triplet.py", "tests/ops/test_max_similarity.py", "tests/ops/test_ranking.py")
FLUSH_BYTES = 256 << 20  # more than any second-level cache


def run(command: list[str], timeout: int = 3600) -> tuple[int, str, float]:
    """Exit code, both outputs, seconds; 124 where it took too long."""
    start = time.monotonic()
    environment = {**os.environ, "ITM_FAST_CUDA": "1", "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired as error:
        return 124, f"{error.stdout or ''}\nstopped after {timeout} s", time.monotonic() - start
    return done.returncode, done.stdout + done.stderr, time.monotonic() - start


def read_junit(path: Path) -> dict[str, int]:
    """How many tests passed, failed and were skipped, from pytest's JUnit file."""
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for suite in ElementTree.parse(path).getroot().iter("testsuite"):
        failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped = int(suite.get("skipped", 0))
        counts["failed"] += failed
        counts["skipped"] += skipped
        counts["passed"] += int(suite.get("tests", 0)) - failed - skipped
    return counts


def sanitizer_errors(output: str) -> int | None:
    """The number in compute-sanitizer's summary, None where there is none."""
    found = re.findall(r"(?:ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard)", output)
    return sum(int(errors or hazards) for errors, hazards in found) if found else None


def build() -> dict[str, Any]:
    """Builds for the visible architecture."""
    code, output, seconds = run([sys.executable, "setup.py", "build_ext", "--inplace"])
    return {"passed": code == 0, "seconds": seconds, "output": "" if code == 0 else output[-4000:]}


def tests(junit: Path) -> dict[str, Any]:
    """Every operator's tests on the device, and those that only a device can run."""
    command = [sys.executable, "-m", "pytest", "-q", "-k", "cuda and not emulated", f"--junitxml={junit}", "tests"]
    code, output, seconds = run(command)
    counts = read_junit(junit) if junit.is_file() else {"passed": 0, "failed": 0, "skipped": 0}
    passed = code == 0 and counts["passed"] > 0
    return {"passed": passed, "seconds": seconds, **counts_named(counts), "output": "" if passed else output[-4000:]}


def counts_named(counts: dict[str, int]) -> dict[str, int]:
    """Keys that don't collide with a stage's own."""
    return {f"tests_{name}": number for name, number in counts.items()}


def sanitizer(tool: str) -> dict[str, Any]:
    """One tool of compute-sanitizer over small tests; skipped where it isn't installed."""
    if shutil.which("compute-sanitizer") is None:
        return {"passed": None, "output": "compute-sanitizer is not installed"}
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1", sys.executable, "-m", "pytest", "-q"]
    code, output, seconds = run([*command, "-x", "-k", "cuda and not emulated", *SMALL_TESTS])
    errors = sanitizer_errors(output)
    passed = code == 0 and errors == 0
    return {"passed": passed, "seconds": seconds, "errors": errors, "output": "" if passed else output[-4000:]}


def median_ms(work: Callable[[], object], runs: int = 30) -> float:
    """Median milliseconds of a call by CUDA events, the second-level cache emptied before each run."""
    import torch

    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
    for _ in range(3):
        work()
    times = []
    for _ in range(runs):
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def benchmarks() -> list[dict[str, Any]]:
    """Fused, plain torch in closed form and the bare GEMM, side by side."""
    import torch

    import itm_fast
    from itm_fast import reference

    rows = []
    for n_images, n_captions, dtype in (
        (128, 128, torch.float32),
        (128, 128, torch.bfloat16),
        (1000, 1000, torch.bfloat16),
    ):
        generator = torch.Generator().manual_seed(0)
        regions = torch.nn.functional.normalize(torch.randn(n_images, 36, 1024, generator=generator), dim=-1)
        words = torch.nn.functional.normalize(torch.randn(n_captions, 24, 1024, generator=generator), dim=-1)
        counts = torch.randint(6, 25, (n_captions,), generator=generator).cuda()
        regions, words = regions.to("cuda", dtype), words.to("cuda", dtype)
        packed = torch.cat([words[c, :n] for c, n in enumerate(counts.tolist())])
        flop = 2 * 36 * n_images * len(packed) * 1024
        leaves = [x.clone().requires_grad_() for x in (regions, words)]
        work = {
            "fused": lambda r=regions, w=words, c=counts: itm_fast.cross_attention_similarity(r, w, c),
            "closed form, plain torch": lambda r=regions, w=words, c=counts: reference.cross_attention_closed_form(
                r, w, c
            ),
            "bare GEMM": lambda r=regions, p=packed: r.flatten(0, 1) @ p.T,
            "fused, forward and backward": lambda x=leaves, c=counts: (
                itm_fast.cross_attention_similarity(*x, c).sum().backward()
            ),
        }
        for name, call in work.items():
            torch.cuda.reset_peak_memory_stats()
            milliseconds = median_ms(call)
            rows.append(
                {
                    "operator": "cross_attention_similarity t2i",
                    "shape": f"{n_images} x 36 regions, {n_captions} captions of {len(packed)} words, dim 1024",
                    "dtype": str(dtype).removeprefix("torch."),
                    "implementation": name,
                    "ms": milliseconds,
                    "TFLOP/s": flop / milliseconds / 1e9,
                    "peak MB": torch.cuda.max_memory_allocated() / 2**20,
                }
            )
    return rows


def device_facts() -> dict[str, Any]:
    """The device, its driver, and what was built with what."""
    import torch

    properties = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,clocks.max.mem", "--format=csv,noheader"]
    smi = run(query, 30)[1].strip() if shutil.which("nvidia-smi") else "nvidia-smi is not installed"
    return {
        "device": properties.name,
        "compute capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory GB": round(properties.total_memory / 1e9, 1),
        "driver, clocks": smi.splitlines()[0] if smi else "",
        "torch": str(torch.__version__),
        "devices": torch.cuda.device_count(),
    }


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [f"# itm-fast on {report['facts']['device']}, {report['date']}", ""]
    lines += [f"- {name}: {value}" for name, value in report["facts"].items()]
    lines += ["", "| stage | result | seconds | |", "|---|---|---|---|"]
    for name, stage in report["stages"].items():
        result = {True: "passed", False: "**failed**", None: "not run"}[stage["passed"]]
        seconds = f"{stage['seconds']:.0f}" if "seconds" in stage else ""
        counts = {key: n for key, n in stage.items() if key == "errors" or key.startswith("tests_")}
        numbers = ", ".join(f"{key.replace('_', ' ')} {n}" for key, n in counts.items())
        lines.append(f"| {name} | {result} | {seconds} | {numbers} |")
    for name, stage in report["stages"].items():
        if stage.get("output"):
            lines += ["", f"## {name}", "", "```", stage["output"].strip(), "```"]
    if report["benchmarks"]:
        columns = list(report["benchmarks"][0])
        lines += ["", "Medians of 30 runs by CUDA events, second-level cache emptied before each.", ""]
        lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        for row in report["benchmarks"]:
            cells = (f"{row[c]:.3g}" if isinstance(row[c], float) else str(row[c]) for c in columns)
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write_report(report: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Writes both files aside and renames them; returns the Markdown one."""
    folder.mkdir(parents=True, exist_ok=True)
    device = re.sub(r"[^A-Za-z0-9]+", "-", report["facts"]["device"]).strip("-").lower()
    stem = folder / f"gpu_report_{device}_{report['date']}"
    for suffix, content in ((".json", json.dumps(report, indent=1) + "\n"), (".md", markdown(report))):
        aside = stem.with_suffix(f"{suffix}.part")
        aside.write_text(content, encoding="utf-8")
        aside.replace(stem.with_suffix(suffix))
    return stem.with_suffix(".md")


def main() -> int:
    """Runs all stages; the exit code says whether all passed."""
    try:
        import torch
    except ImportError as error:
        print(f"gpu_check: cannot import torch ({error}); install a torch with CUDA, or set PYTHON", file=sys.stderr)
        return 2
    if not torch.cuda.is_available():
        print(f"gpu_check: torch {torch.__version__} sees no CUDA device here", file=sys.stderr)
        return 2
    sys.path.insert(0, str(ROOT))
    report: dict[str, Any] = {"date": datetime.date.today().isoformat(), "facts": device_facts(), "stages": {}}
    stages: dict[str, Callable[[], dict[str, Any]]] = {
        "build": build,
        "tests": lambda: tests(ROOT / "build" / "gpu_check.xml"),
        **{f"compute-sanitizer {tool}": lambda tool=tool: sanitizer(tool) for tool in SANITIZERS},
    }
    for name, stage in stages.items():
        print(f"gpu_check: {name} ...", flush=True)
        report["stages"][name] = stage()
        print(f"gpu_check: {name}: {report['stages'][name]['passed']}", flush=True)
        if name == "build" and not report["stages"][name]["passed"]:
            break
    report["benchmarks"] = benchmarks() if report["stages"]["build"]["passed"] else []
    path = write_report(report)
    failed = [name for name, stage in report["stages"].items() if stage["passed"] is False]
    print(f"gpu_check: {'failed: ' + ', '.join(failed) if failed else 'passed'}; report in {path}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
