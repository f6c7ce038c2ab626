"""Loading the compiled operators: what they ask of torch, what is said when they are missing or cannot be loaded."""

import ctypes
import importlib
import importlib.machinery
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import emulated_operators
import pytest
import torch
from symbol_table import of_torch, symbols

from itm_fast.ops import _checks, _library


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The folder where the binary is looked for, empty."""
    monkeypatch.setattr(_library, "_PACKAGE", tmp_path)
    _library.load.cache_clear()
    yield tmp_path
    _library.load.cache_clear()


def test_missing(package: Path):
    (package / "_C.cpython-399-x.so").touch()
    with pytest.raises(ImportError, match=r"are missing: .*others there: _C\.cpython-399-x\.so.*--no-build-isolation"):
        _library.load()


def test_the_loaders_error_is_chained(package: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(name: str):
        raise ImportError("undefined symbol: torch_library_impl")

    (package / f"_C{importlib.machinery.EXTENSION_SUFFIXES[0]}").touch()
    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ImportError, match=r"beside torch .*; they need torch 2\.11 .*: torch_library_impl") as raised:
        _library.load()
    assert isinstance(raised.value.__cause__, ImportError)


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm, of binutils")
@pytest.mark.parametrize("name", ["_C", "_cuda"])
def test_nothing_of_torchs_cpp_is_asked_for(name: str):
    _library.load()
    if name == "_cuda" and _library.no_cuda is not None:
        pytest.skip(f"not built: {_library.no_cuda}")
    library = importlib.import_module(f"itm_fast.{name}").__file__
    c, cpp = of_torch(symbols(library, "--undefined-only"))
    assert "torch_library_impl" in c
    assert not cpp


def test_this_torch_has_what_is_looked_up_by_name():
    """Without it the operators go another way: a torch that has changed a name would only be slower."""
    source = (Path(__file__).parents[2] / "csrc/cpu/libtorch.cpp").read_text(encoding="utf-8")
    names = re.findall(r'"(_ZN\w+)"', source)
    torch_cpu = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    assert len(names) == 6
    assert [name for name in names if not hasattr(torch_cpu, name)] == []


def test_build_info():
    info = _library.build_info()
    assert info["torch"] == torch.__version__
    assert info["cpu_isa"] in info["cpu_isas"]
    assert info["cpu_isa_reason"]
    assert isinstance(info["cpu_features"], list)
    assert isinstance(info["cuda_kernels"], bool)
    assert info["cuda_reason"]


@pytest.mark.parametrize(
    ("nvcc", "said"),
    [("12.8", "nvcc 12.8, driver 525 or newer, arch"), ("13.0", "driver 580 or newer"), ("14.1", "nvcc 14.1, arch")],
)
def test_the_driver_that_kernels_need_is_said(nvcc: str, said: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "itm_fast._cuda", SimpleNamespace(nvcc=nvcc, architectures="8.0"))
    _library.load()
    monkeypatch.setattr(_library, "no_cuda", None)
    assert said in _library.build_info()["cuda_reason"]


def test_cuda_kernels_load_without_a_device():
    if not _library.build_info()["cuda_kernels"]:
        pytest.skip(f"not built: {_library.no_cuda}")
    from torch._C import _dispatch_has_kernel_for_dispatch_key as has_kernel

    operators = emulated_operators.operators()
    assert "cross_attention" in operators
    assert all(has_kernel(f"itm_fast::{name}", "CUDA") for name in operators)


def test_cuda_tensors_without_cuda_kernels_are_told_how_to_rebuild(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_library, "no_cuda", "no nvcc found")
    with pytest.raises(ValueError, match=r"triplet_loss got tensors on cuda:1, .*\(no nvcc found\).*no-build-iso"):
        _checks.check_device("triplet_loss", torch.device("cuda", 1))
    with pytest.raises(ValueError, match="triplet_loss has no mps kernels"):
        _checks.check_device("triplet_loss", torch.device("mps"))
    monkeypatch.setattr(_library, "no_cuda", None)
    _checks.check_device("triplet_loss", torch.device("cuda", 1))


def test_why_there_are_no_cuda_kernels(monkeypatch: pytest.MonkeyPatch):
    class Module:
        reason = ""

        def build_info(self):
            return {"no_cuda": self.reason}

    module = Module()
    module.reason = "ITM_FAST_CUDA is 0"
    assert _library._load_cuda(module) == "ITM_FAST_CUDA is 0"
    module.reason = ""
    monkeypatch.setattr(importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError("undefined symbol")))
    assert _library._load_cuda(module) == "undefined symbol"
