"""scripts/gpu_check.sh without a GPU: every step is rehearsed, and whoever kills it keeps what was found."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from emulation import compiler
from patience import HANG_SECONDS

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
ENVIRONMENT = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
needs_compiler = pytest.mark.skipif(compiler() is None, reason="the emulator needs a C++ compiler (CXX, c++)")


def module(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded  # dataclasses look there
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def gpu_check():
    return module("gpu_check")


@needs_compiler
def test_every_step_is_rehearsed(tmp_path):
    command = [str(SCRIPTS / "gpu_check.sh"), "--rehearse", str(tmp_path / "report")]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=HANG_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["rehearsal"]
    assert {step["state"] for step in report["steps"].values()} == {"passed"}
    rows = {name: step["rows"] for name, step in report["steps"].items()}
    assert len(rows["kernels"]) > 150
    assert all(row["passed"] for row in rows["kernels"])
    names = " ".join(row["name"] for row in rows["kernels"])
    for part in ("float16", "bfloat16", "float64", "strided", "misaligned", "0 images", "beyond 128", "topk", "cider"):
        assert part in names
    assert "bare product" in " ".join(row["name"] for row in rows["timings"])
    assert rows["tests"][-1]["PASSED"] > 10
    text = (tmp_path / "report" / "report.md").read_text()
    assert "No kernel ran on a GPU." in text
    assert "| Build | passed |" in text


@needs_compiler
def test_a_killed_run_leaves_what_it_found(tmp_path):
    command = [
        sys.executable,
        str(SCRIPTS / "gpu_check.py"),
        "--rehearse",
        "--steps",
        "versions",
        "kernels",
        "--",
        str(tmp_path),
    ]
    process = subprocess.Popen(command, env=ENVIRONMENT, start_new_session=True)
    rows = tmp_path / "kernels.jsonl"
    end = time.monotonic() + HANG_SECONDS
    while not (rows.is_file() and rows.read_text().count("\n") > 40) and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(1.5)  # the report is a second behind the rows
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["steps"]["versions"]["state"] == "passed"
    assert report["steps"]["kernels"]["state"] in ("running", "passed")
    assert len(report["steps"]["kernels"]["rows"]) > 10
    assert "| What runs here | passed |" in (tmp_path / "report.md").read_text()


FAKE = """
import json, os, sys, time
from pathlib import Path
path = Path(sys.argv[2]) / f"{sys.argv[1]}.jsonl"
begun = path.read_text() if path.is_file() else ""
with path.open("a") as file:
    for name in ("one", "two", "three"):
        if name in begun:
            continue
        print(json.dumps({"name": name, "state": "begun"}), file=file, flush=True)
        if name == "two":
            WHAT
        print(json.dumps({"name": name, "passed": True, "ms": 1.5}), file=file, flush=True)
"""


def checked(gpu_check, tmp_path, monkeypatch, what, limit=HANG_SECONDS):
    script = tmp_path / "fake.py"
    script.write_text(FAKE.replace("WHAT", what))
    monkeypatch.setattr(gpu_check, "STEPS", script)
    monkeypatch.setattr(gpu_check, "WAIT_SECONDS", 0.1)
    check = gpu_check.Check(tmp_path, False, 60)
    check.steps = [gpu_check.Step("kernels", "Kernels", limit)]
    check.run(check.steps[0])
    return check.steps[0], (tmp_path / "report.md").read_text()


def test_a_step_goes_on_after_what_has_killed_its_process(gpu_check, tmp_path, monkeypatch):
    step, text = checked(gpu_check, tmp_path, monkeypatch, "os._exit(9)")
    assert step.state == "failed"
    assert [(row["name"], row["passed"]) for row in step.rows] == [("one", True), ("two", False), ("three", True)]
    assert "## Failed: kernels, two" in text
    assert "the process ended while this ran" in text
    assert "| three | ms 1.5 |" in text


def test_a_step_that_hangs_is_stopped(gpu_check, tmp_path, monkeypatch):
    step, text = checked(gpu_check, tmp_path, monkeypatch, "time.sleep(10**6)", limit=3)
    assert step.state == "stopped after 3 s"
    assert [row["passed"] for row in step.rows] == [True, False]
    assert "| Kernels | stopped after 3 s | 3 | 1 | 1 | 0 |" in text


def test_a_line_that_was_cut_short_is_not_read(gpu_check, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"name": "a", "state": "begun"}\n{"name": "a", "passed": true}\n{"name": "b", "sta')
    assert gpu_check.rows_of(path) == [{"name": "a", "passed": True}]


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ("========= ERROR SUMMARY: 0 errors", {"passed": True, "errors": 0}),
        ("========= ERROR SUMMARY: 3 errors", {"passed": False, "errors": 3}),
        ("========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)", {"passed": False, "errors": 2}),
        ("no device", {"passed": False}),
    ],
)
def test_summaries_of_the_sanitizer(output, found):
    said = module("gpu_steps").sanitizer_errors(output)
    assert found.items() <= said.items()
    assert said["passed"] or output in said["error"]


def test_a_wrong_result_is_seen():
    cases = module("gpu_cases")
    right, wrong = torch.ones(3), torch.tensor([1.0, 1.0, 1.1])
    assert cases.Case("x", lambda: [(right, right, 1e-6)]).worst() == (0.0, True)
    assert not cases.Case("x", lambda: [(right, right, 1e-6), (wrong, right, 1e-6)]).worst()[1]
    assert not cases.Case("x", lambda: [(torch.full((3,), torch.nan), right, 1e-6)]).worst()[1]
    assert not cases.Case("x", lambda: [(right[:2], right, 1e-6)]).worst()[1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device: the script would run for minutes")
def test_without_a_device_it_says_so_and_does_nothing():
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable}
    done = subprocess.run([SCRIPTS / "gpu_check.sh"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "sees no CUDA device here (--rehearse runs every step on the CPU)" in done.stderr


@pytest.mark.parametrize("options", [[], ["--rehearse"]])
def test_without_torch_it_says_so_and_does_nothing(tmp_path, options):
    no_packages = [sys.executable, "-I", "-S"]
    command = [*no_packages, SCRIPTS / "gpu_check.py", *options, tmp_path / "report"]
    done = subprocess.run(command, cwd=SCRIPTS, capture_output=True, text=True, check=False)
    assert (done.returncode, (tmp_path / "report").exists()) == (2, False)
    assert "cannot import torch (No module named 'torch'); install a torch with CUDA, or set PYTHON" in done.stderr
