"""Loading the compiled operators: what is said when they are missing or were built for another torch."""

import importlib
import importlib.machinery
from pathlib import Path

import emulated_operators
import pytest
import torch

from itm_fast.ops import _checks, _library

HERE = _library._minor(torch.__version__)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The folder where the binary is looked for, empty."""
    monkeypatch.setattr(_library, "_PACKAGE", tmp_path)
    _library.load.cache_clear()
    yield tmp_path
    _library.load.cache_clear()


def write_binary(package: Path, built_for: str | None) -> None:
    marker = b"" if built_for is None else b"itm_fast_built_for_torch=" + built_for.encode() + b"\0"
    (package / f"_C{importlib.machinery.EXTENSION_SUFFIXES[0]}").write_bytes(b"\x7fELF\0" + marker + b"\xff")


def test_missing(package: Path):
    (package / "_C.cpython-399-x.so").touch()
    with pytest.raises(ImportError, match=r"are missing: .*others there: _C\.cpython-399-x\.so.*--no-build-isolation"):
        _library.load()


def test_other_torch_is_told_before_anything_is_loaded(package: Path, monkeypatch: pytest.MonkeyPatch):
    write_binary(package, "1.99.0+cpu")
    monkeypatch.setattr(importlib, "import_module", lambda name: pytest.fail("loaded a binary of another torch"))
    with pytest.raises(ImportError, match=r"built for torch 1\.99\.0\+cpu, found torch .*--force-reinstall"):
        _library.load()


@pytest.mark.parametrize(("built_for", "told"), [(None, r"\(unknown\)"), (".".join([*HERE, "99"]), r"\d+\.\d+\.99")])
def test_the_loaders_error_is_chained(package: Path, monkeypatch: pytest.MonkeyPatch, built_for: str | None, told: str):
    def fail(name: str):
        raise ImportError("undefined symbol: _ZN3c105Error")

    write_binary(package, built_for)
    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ImportError, match=rf"built for torch {told}, found .*_ZN3c105Error") as raised:
        _library.load()
    assert isinstance(raised.value.__cause__, ImportError)


def test_the_real_binary_carries_its_torch():
    path = _library._binary()
    assert path is not None
    assert _library._built_for(path) == _library.load().build_info()["built_for_torch"]


def test_build_info():
    info = _library.build_info()
    assert info["torch"] == torch.__version__
    assert info["cpu_isa"] in info["cpu_isas"]
    assert info["cpu_isa_reason"]
    assert isinstance(info["cpu_features"], list)
    assert isinstance(info["cuda_kernels"], bool)
    assert info["cuda_reason"]


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
