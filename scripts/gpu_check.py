"""Everything that a GPU has to say about the kernels, in about ten minutes: python gpu_check.py [FOLDER] [--rehearse].

The steps are in gpu_steps.py, each a process of its own with a limit of its own. The report (report.json, report.md in
the folder) is written before and after each of them and every second meanwhile, aside and renamed: whoever kills this
program keeps what was found. A step whose process dies goes on after what killed it. Needs torch with CUDA, numpy,
safetensors, ninja and a compiler; pytest, ncu and compute-sanitizer are used where they are installed.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STEPS = Path(__file__).with_name("gpu_steps.py")
MOST_DEATHS = 20  # of a step's process, after which it is given up
WAIT_SECONDS = 1.0


@dataclass
class Step:
    """One of gpu_steps.py: its name, what it asks, its seconds at most, and what became of it."""

    name: str
    title: str
    limit: float
    state: str = "waiting"  # running, passed, failed, stopped after its time, not run
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)


def steps() -> list[Step]:
    """In the order of what matters most, should time run out."""
    return [
        Step("versions", "What runs here", 60),
        Step("build", "Build", 300),
        Step("kernels", "Every kernel by dtype and path, against float64", 150),
        Step("streams", "Streams, graphs, waits, repeated bits", 60),
        Step("timings", "Timings: medians of 20 runs by CUDA events, second-level cache emptied before each", 120),
        Step("profile", "Hardware counters", 90),
        Step("sanitizers", "Bad accesses and races, by compute-sanitizer", 150),
        Step("tests", "The operators' tests", 600),
    ]


def rows_of(path: Path) -> list[dict[str, Any]]:
    """What a step has written: of each thing its result, or that it was begun and the process died."""
    found: dict[str, dict[str, Any]] = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for line in lines:
        if line.endswith("}"):  # not of a line that was cut short
            row = json.loads(line)
            found[row["name"]] = row
    return [
        {"name": row["name"], "passed": False, "error": "the process ended while this ran"}
        if row.get("state") == "begun"
        else row
        for row in found.values()
    ]


class Check:
    """A run: its folder, its steps, when it must end."""

    def __init__(self, folder: Path, rehearsal: bool, minutes: float) -> None:
        self.folder, self.rehearsal = folder, rehearsal
        self.end = time.monotonic() + 60 * minutes
        self.steps = steps()
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, step: Step) -> None:
        """One step, again from where it was as often as its process dies; stopped at its limit."""
        start = time.monotonic()
        limit = min(start + step.limit, self.end)
        path = self.folder / f"{step.name}.jsonl"
        path.unlink(missing_ok=True)
        step.state = "running"
        code, stopped = 0, False
        for _ in range(MOST_DEATHS):
            code = self._process(step, path, start, limit)
            stopped = time.monotonic() >= limit
            if code == 0 or stopped:
                break
        step.rows, step.seconds = rows_of(path), time.monotonic() - start
        if stopped:
            step.state = f"stopped after {step.seconds:.0f} s"
        elif code != 0 or any(row["passed"] is False for row in step.rows):
            step.state = "failed"
        else:
            step.state = "passed"
        self.write()

    def _process(self, step: Step, path: Path, start: float, limit: float) -> int:
        command = [sys.executable, str(STEPS), step.name, str(self.folder)]
        with (self.folder / f"{step.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *(["--rehearse"] if self.rehearsal else [])],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=ROOT,
            )
        while self.process.poll() is None and time.monotonic() < limit:
            try:
                self.process.wait(min(WAIT_SECONDS, max(0.01, limit - time.monotonic())))
            except subprocess.TimeoutExpired:
                step.rows, step.seconds = rows_of(path), time.monotonic() - start
                self.write()
        return self.stop()

    def stop(self) -> int:
        """Ends the running process with all that it has started; its exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()

    def report(self) -> dict[str, Any]:
        """What is known so far."""
        return {
            "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "rehearsal": self.rehearsal,
            "steps": {
                step.name: {"state": step.state, "seconds": round(step.seconds, 1), "rows": step.rows}
                for step in self.steps
            },
        }

    def write(self) -> None:
        """Both reports, aside and renamed."""
        report = self.report()
        for name, text in (("report.json", json.dumps(report, indent=1) + "\n"), ("report.md", self.markdown(report))):
            aside = self.folder / f"{name}.part"
            aside.write_text(text, encoding="utf-8")
            aside.replace(self.folder / name)

    def markdown(self, report: dict[str, Any]) -> str:
        """The report for people: the steps, what failed, then every figure."""
        lines = [f"# itm-fast on a GPU, {report['date']}", ""]
        if self.rehearsal:
            lines = [f"# Rehearsal of the GPU check on a CPU, {report['date']}", "", "No kernel ran on a GPU.", ""]
        lines += ["| step | state | seconds | passed | failed | not run |", "|---|---|---|---|---|---|"]
        for step in self.steps:
            n = {passed: sum(row["passed"] is passed for row in step.rows) for passed in (True, False, None)}
            lines.append(f"| {step.title} | {step.state} | {step.seconds:.0f} | {n[True]} | {n[False]} | {n[None]} |")
        for step in self.steps:
            failed = [row for row in step.rows if row["passed"] is False]
            for row in failed[:40]:
                said = str(row.get("error", "")).strip()
                lines += ["", f"## Failed: {step.name}, {row['name']}", "", _facts(row)]
                lines += ["", "```", said[-3000:], "```"] if said else []
        for step in self.steps:
            shown = [row for row in step.rows if row["passed"] is not False and _facts(row)]
            if shown:
                lines += ["", f"## {step.title}", "", "| | |", "|---|---|"]
                lines += [f"| {row['name']} | {_facts(row)} |" for row in shown]
        return "\n".join(lines) + "\n"


def _facts(row: dict[str, Any]) -> str:
    hidden = ("name", "passed", "state", "seconds") if row["passed"] is not None else ("name", "passed", "state")
    facts = {
        key: value
        for key, value in row.items()
        if key not in hidden and not (key == "error" and row["passed"] is False)
    }
    shown = {key: f"{value:.3g}" if isinstance(value, float) else str(value) for key, value in facts.items()}
    return ", ".join(text if key in ("value", "error") else f"{key} {text}" for key, text in shown.items()).replace(
        "\n", " "
    )


def main(arguments: list[str]) -> int:
    """0: all passed; 1: something did not; 2: there is no device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "build" / "gpu_check", help="of the report")
    parser.add_argument("--rehearse", action="store_true", help="every step on the CPU, by the tests' emulator")
    parser.add_argument("--minutes", type=float, default=10.0, help="after which it ends, whatever is left")
    parser.add_argument("--steps", nargs="+", choices=[step.name for step in steps()], help="only these")
    args = parser.parse_args(arguments)
    missing = "" if importlib.util.find_spec("torch") else "No module named 'torch'"
    if not missing and not args.rehearse:  # whose steps need no device, and import torch themselves
        try:
            import torch
        except ImportError as error:
            missing = str(error)
        else:
            if not torch.cuda.is_available():
                said = f"torch {torch.__version__} sees no CUDA device here (--rehearse runs every step on the CPU)"
                print(f"gpu_check: {said}", file=sys.stderr)
                return 2
    if missing:
        print(f"gpu_check: cannot import torch ({missing}); install a torch with CUDA, or set PYTHON", file=sys.stderr)
        return 2
    args.folder.mkdir(parents=True, exist_ok=True)
    check = Check(args.folder.resolve(), args.rehearse, args.minutes)

    def ended(number: int, frame: FrameType | None) -> None:
        check.stop()
        check.write()
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, ended)
    broken = False
    for step in check.steps:
        if (args.steps and step.name not in args.steps) or (broken and step.name != "versions"):
            step.state = "not run" if not broken else "not run: the build failed"
            check.write()
            continue
        print(f"gpu_check: {step.title} ...", flush=True)
        check.run(step)
        print(f"gpu_check: {step.title}: {step.state}, {step.seconds:.0f} s", flush=True)
        broken = broken or (step.name == "build" and step.state != "passed")
    states = {step.name: step.state for step in check.steps if not step.state.startswith("not run") or broken}
    wrong = [f"{name} {state}" for name, state in states.items() if state != "passed"]
    print(f"gpu_check: {'; '.join(wrong) or 'passed'}; report in {check.folder / 'report.md'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
