import json
import subprocess
import sys
from pathlib import Path

import pytest
from patience import HANG_SECONDS

BENCH = Path(__file__).parents[2] / "bench"


@pytest.mark.parametrize(
    "script",
    [
        "cross_attention",
        "train_step",
        "max_similarity",
        "relevance",
        "retrieval",
        "losses",
        "esl",
        "laps",
        "sgraf",
        "train_model",
        "evaluation",
        "small_batches",
    ],
)
def test_runs_and_writes_its_figures(script, tmp_path):
    output = tmp_path / "run.json"
    n_threads = "2" if script == "small_batches" else "1"
    command = [sys.executable, str(BENCH / f"{script}.py"), "--scale", "0.02", "--rounds", "1", "--threads", n_threads]
    command += ["--json", str(output)]
    result = subprocess.run(
        [*command, "--label", "tiny"], capture_output=True, text=True, check=False, timeout=HANG_SECONDS
    )
    assert result.returncode == 0, result.stderr
    record = json.loads(output.read_text(encoding="utf-8"))
    assert record["label"] == "tiny"
    assert all(min(case["milliseconds"].values()) > 0 for case in record["cases"])
    if script == "retrieval":  # all of them end in the same comparison
        again = subprocess.run(
            [*command, "--compare", str(output)], capture_output=True, text=True, check=True, timeout=HANG_SECONDS
        )
        assert "faster than tiny" in again.stdout


def test_tile_products_of_every_kind(tmp_path):
    output = tmp_path / "run.json"
    command = [sys.executable, str(BENCH / "gemm.py"), "--only", "--threads", "1", "--scale", "0.02", "--rounds", "1"]
    command += ["--json", str(output)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANG_SECONDS)
    assert result.returncode == 0, result.stderr
    cases = json.loads(output.read_text(encoding="utf-8"))["cases"]
    assert [case["title"].partition(",")[0] for case in cases] == ["float32", "float64", "bfloat16"]
    assert all(min(found.values()) > 0 for case in cases for found in case["gflops"].values())
    assert cases[0]["peak"] > 0


def test_the_experiment_on_little_data(tmp_path):
    output = tmp_path / "run.json"
    small = {"n-train": 30, "n-test": 6, "dim": 8, "embed-size": 8, "num-epochs": 1, "batch-size": 5, "seeds": 2}
    command = [sys.executable, str(BENCH / "sam_small_data.py"), "--json", str(output)]
    command += [f"--{name}={value}" for name, value in small.items()]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANG_SECONDS)
    assert result.returncode == 0, result.stderr
    results = json.loads(output.read_text(encoding="utf-8"))["results"]
    assert {name: len(runs) for name, runs in results.items()} == {"fixed": 2, "SAM": 2}
    assert "SAM - fixed, by seed" in result.stdout
