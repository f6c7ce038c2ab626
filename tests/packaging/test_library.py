"""Loading the compiled operators: what is said when they are missing or were built for another torch."""

import importlib
import importlib.machinery
from pathlib import Path

import pytest
import torch

from itm_fast.ops import _library

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
