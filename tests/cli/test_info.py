import json
import sys
from types import SimpleNamespace

import emulated_operators
import pytest
import torch

from itm_fast.cli.info import Info, run
from itm_fast.ops import _devices, _library
from itm_fast.ops._devices import BATCHED_ON_CUDA, devices, fitting_architecture, processor_name

CPUINFO = """processor\t: 0
model name\t: AMD EPYC 9B45: Turin
physical id\t: 0
core id\t\t: 0

processor\t: 1
model name\t: AMD EPYC 9B45: Turin
physical id\t: 0
core id\t\t: 0

processor\t: 2
model name\t: AMD EPYC 9B45: Turin
physical id\t: 1
core id\t\t: 0

"""


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Two sockets of one core each, threads 0 and 2 for this process; two CUDA devices, kernels for 8.0 and 8.6."""
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    monkeypatch.setattr(_devices, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(_devices, "_usable", lambda: {0, 2})
    cards = [("NVIDIA A100", 8, 0, 85_174_321_152), ("NVIDIA H200", 9, 0, 150_123_708_416)]
    properties = [
        SimpleNamespace(**dict(zip(("name", "major", "minor", "total_memory"), card, strict=True))) for card in cards
    ]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties[index])
    built = {**_library.build_info(), "cuda_kernels": True, "cuda_reason": "nvcc 13.0, architectures 8.0;8.6"}
    monkeypatch.setattr(_library, "build_info", lambda: dict(built))
    monkeypatch.setattr(_library, "no_cuda", None)
    monkeypatch.setitem(sys.modules, "itm_fast._cuda", SimpleNamespace(architectures="8.0;8.6"))
    return built


def test_text_says_what_was_built_what_runs_and_why(capsys: pytest.CaptureFixture[str]):
    assert run(Info()) == 0
    text, info = capsys.readouterr().out, _library.build_info()
    assert text.startswith(f"itm-fast {info['version']}\n")
    assert f"with torch {info['built_with_torch']} by {info['compiler']}" in text
    assert f"{info['cpu_isa']} ({info['cpu_isa_reason']})" in text
    assert f"{info['gemm_float32']} ({info['gemm_float32_reason']})" in text
    assert "CUDA kernels" in text
    assert f"\ncpu: {processor_name()}\n" in text
    assert f"torch uses {torch.get_num_threads()}" in text
    if not torch.cuda.is_available():
        assert "\nno CUDA device: torch " in text


def test_json(capsys: pytest.CaptureFixture[str]):
    assert run(Info(json=True)) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {**_library.build_info(), "devices": devices()}
    assert [device["device"] for device in found["devices"][:1]] == ["cpu"]


def test_operators_that_cannot_be_loaded_give_one_line(capsys: pytest.CaptureFixture[str], monkeypatch):
    def fail():
        raise ImportError("cannot be loaded beside torch 1.0")

    monkeypatch.setattr(_library, "load", fail)
    assert run(Info()) == 1
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err == "itm-fast: error: cannot be loaded beside torch 1.0\n"


def test_devices_and_what_runs_on_each(machine, capsys):
    processor, fitting, other = devices()
    assert (processor["name"], processor["cores"], processor["threads"]) == ("AMD EPYC 9B45: Turin", 2, 2)
    assert (processor["kernels"], processor["gemm_float32"]) == (machine["cpu_isa"], machine["gemm_float32"])
    assert (fitting["name"], fitting["compute_capability"], fitting["memory_gb"]) == ("NVIDIA A100", "8.0", 85.2)
    assert (fitting["kernels"], fitting["batched_products"]) == ("8.0", list(BATCHED_ON_CUDA))
    assert (other["device"], other["kernels"]) == ("cuda:1", None)
    assert "none runs here; rebuild with TORCH_CUDA_ARCH_LIST=9.0" in other["kernels_reason"]
    assert run(Info()) == 0
    text = capsys.readouterr().out
    for line in (
        "cpu: AMD EPYC 9B45: Turin",
        "2 cores, 2 threads",
        "cuda:0: NVIDIA A100",
        "compute capability 8.0, 85.2 GB",
        "of architecture 8.0 (nvcc 13.0, architectures 8.0;8.6)",
        "cuda:1: NVIDIA H200",
        "none (nvcc 13.0, architectures 8.0;8.6: none runs here",
        "float32 (torch.backends.cuda.matmul.allow_tf32 is False)",
    ):
        assert line in text
    assert "no CUDA device" not in text


def test_a_device_without_the_tensor_cores(machine, monkeypatch):
    turing = SimpleNamespace(name="Tesla T4", major=7, minor=5, total_memory=15_800_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: turing)
    device = devices()[1]
    assert (device["gemm_float32"], device["gemm_bfloat16"]) == ("float32", "widened to float32")
    assert "before compute capability 8.0" in device["gemm_float32_reason"]


def test_devices_without_cuda_kernels(machine, monkeypatch):
    monkeypatch.setattr(_library, "no_cuda", "no nvcc found")
    machine["cuda_reason"] = "no nvcc found"
    assert [(one["kernels"], one["kernels_reason"]) for one in devices()[1:]] == [(None, "no nvcc found")] * 2


def test_what_has_no_cuda_kernels():
    """Of the operators that models call; the rest of those without are the CPU's own helpers."""
    _library.load()
    registered = emulated_operators.operators()
    assert not set(BATCHED_ON_CUDA) & set(registered)
    assert all(hasattr(torch.ops.itm_fast, name) for name in BATCHED_ON_CUDA)


def test_a_system_that_tells_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(_devices, "_CPUINFO", tmp_path / "nowhere")
    assert processor_name()
    assert devices()[0]["cores"] is None


@pytest.mark.parametrize(
    ("architectures", "capability", "fits"),
    [
        ("8.0;8.6", (8, 0), "8.0"),
        ("8.0;8.6", (8, 6), "8.6"),
        ("8.0 8.6", (8, 9), "8.6"),  # of the same major version
        ("8.6", (8, 0), None),  # not of an older device
        ("8.0;8.6", (9, 0), None),
        ("8.0;8.6+PTX", (9, 0), "8.6+PTX"),  # compiled by the driver
        ("8.0;9.0+PTX", (9, 0), "9.0"),
        ("9.0+PTX", (8, 6), None),
        ("9.0a", (9, 0), "9.0a"),
        ("9.0a+PTX", (10, 0), None),  # a: of no other device
        ("10.0f", (10, 3), "10.0f"),
        ("12.0", (12, 0), "12.0"),
        ("8.0;Hopper", (9, 0), "Hopper"),  # as torch names them
    ],
)
def test_architectures(architectures, capability, fits):
    assert fitting_architecture(architectures, capability) == fits
