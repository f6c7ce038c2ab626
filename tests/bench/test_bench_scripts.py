import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from patience import HANG_SECONDS

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def threads_as_they_were():
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


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
        "vit_step",
        "evaluation",
        "small_batches",
        "late_interaction",
        "rerank",
        "search",
        "read_images",
    ],
)
def test_runs_and_writes_its_figures(script, tmp_path, capsys, threads_as_they_were):
    """Here, not as a process of its own, which would import torch once more; `make bench` runs them as scripts."""
    main = importlib.import_module(script).main
    output = tmp_path / "run.json"
    n_threads = "2" if script == "small_batches" else "1"
    command = ["--scale", "0.02", "--rounds", "1", "--threads", n_threads, "--json", str(output)]
    command += ["--quick"] if script in ("laps", "vit_step") else []
    assert main([*command, "--label", "tiny"]) == 0
    record = json.loads(output.read_text(encoding="utf-8"))
    assert record["label"] == "tiny"
    assert all(min(case["milliseconds"].values()) > 0 for case in record["cases"])
    if script == "retrieval":  # all of them end in the same comparison
        assert main([*command, "--compare", str(output)]) == 0
        assert "faster than tiny" in capsys.readouterr().out


def test_a_bench_is_a_script():
    command = [sys.executable, str(BENCH / "losses.py"), "--scale", "0.02", "--rounds", "1", "--threads", "1"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANG_SECONDS)
    assert result.returncode == 0, result.stderr
    assert "1 threads" in result.stdout


def test_tile_products_of_every_kind(tmp_path, threads_as_they_were):
    output = tmp_path / "run.json"
    command = ["--only", "--threads", "1", "--scale", "0.02", "--rounds", "1", "--json", str(output)]
    assert importlib.import_module("gemm").main(command) == 0
    cases = json.loads(output.read_text(encoding="utf-8"))["cases"]
    assert [case["title"].partition(",")[0] for case in cases] == ["float32", "float64", "bfloat16"]
    assert all(min(found.values()) > 0 for case in cases for found in case["gflops"].values())
    assert cases[0]["peak"] > 0


def test_the_experiment_on_little_data(tmp_path, capsys):
    output = tmp_path / "run.json"
    small = {"n-train": 30, "n-test": 6, "dim": 8, "embed-size": 8, "num-epochs": 1, "batch-size": 5, "seeds": 2}
    command = ["--json", str(output), *(f"--{name}={value}" for name, value in small.items())]
    assert importlib.import_module("sam_small_data").main(command) == 0
    results = json.loads(output.read_text(encoding="utf-8"))["results"]
    assert {name: len(runs) for name, runs in results.items()} == {"fixed": 2, "SAM": 2}
    assert "SAM - fixed, by seed" in capsys.readouterr().out
