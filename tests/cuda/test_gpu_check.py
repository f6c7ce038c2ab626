"""The parts of scripts/gpu_check.py that need no device."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "gpu_check.py"


@pytest.fixture(scope="module")
def gpu_check():
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REPORT = {
    "date": "2027-01-02",
    "facts": {"device": "NVIDIA H100 80GB HBM3", "torch": "2.13.0"},
    "stages": {
        "build": {"passed": True, "seconds": 61.0, "output": ""},
        "tests": {"passed": False, "seconds": 99.0, "tests_passed": 4, "tests_failed": 1, "output": "E assert 1 == 2"},
        "compute-sanitizer memcheck": {"passed": None, "output": "compute-sanitizer is not installed"},
    },
    "benchmarks": [{"operator": "x", "ms": 1.23456, "TFLOP/s": 300.0}],
}


def test_report_is_written_whole_for_people_and_machines(gpu_check, tmp_path):
    path = gpu_check.write_report(REPORT, tmp_path / "results")
    assert path.name == "gpu_report_nvidia-h100-80gb-hbm3_2027-01-02.md"
    assert json.loads(path.with_suffix(".json").read_text()) == REPORT
    assert sorted(p.suffix for p in path.parent.iterdir()) == [".json", ".md"]
    text = path.read_text()
    assert "| tests | **failed** | 99 | tests passed 4, tests failed 1 |" in text
    assert "| build | passed | 61 |  |" in text
    assert "| compute-sanitizer memcheck | not run |" in text
    assert "E assert 1 == 2" in text
    assert "| x | 1.23 | 300 |" in text


def test_results_of_pytest_are_counted(gpu_check, tmp_path):
    test = tmp_path / "test_three.py"
    test.write_text(
        "import pytest\ndef test_a(): pass\ndef test_b(): assert 0\ndef test_c(): pytest.skip('no')\n", encoding="utf-8"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", f"--junitxml={tmp_path / 'x.xml'}", str(test)]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert gpu_check.read_junit(tmp_path / "x.xml") == {"passed": 1, "failed": 1, "skipped": 1}


@pytest.mark.parametrize(
    ("output", "errors"),
    [
        ("========= ERROR SUMMARY: 0 errors", 0),
        ("========= ERROR SUMMARY: 3 errors", 3),
        ("========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)", 2),
        ("no device", None),
    ],
)
def test_summaries_of_the_sanitizer(gpu_check, output, errors):
    assert gpu_check.sanitizer_errors(output) == errors


def test_commands_end_in_time_and_keep_their_output(gpu_check):
    code, output, seconds = gpu_check.run([sys.executable, "-c", "print('out'); raise SystemExit(3)"])
    assert (code, output.strip()) == (3, "out")
    assert seconds > 0
    code, output, _ = gpu_check.run([sys.executable, "-c", "import time; time.sleep(60)"], timeout=1)
    assert code == 124
    assert "stopped after 1 s" in output


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device: the script would run for minutes")
def test_without_a_device_it_says_so_and_does_nothing():
    script = SCRIPT.with_suffix(".sh")
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable}
    done = subprocess.run([str(script)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "sees no CUDA device here" in done.stderr
