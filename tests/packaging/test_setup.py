"""What stops a build ends in one line that says what to do. No compiler runs here, nor the real torch: stand-ins do."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import setuptools
from patience import HANG_SECONDS

ROOT = Path(__file__).resolve().parents[2]
BUILD = ("setup.py", "build_ext", "--inplace")
PIPS_FIRST_STEP = ("-c", "import setuptools.build_meta as backend; backend.prepare_metadata_for_build_wheel('nowhere')")


class Machine:
    """A place to build on: a torch that is only a version, and programs that only print."""

    def __init__(self, folder: Path):
        self.folder = folder
        ours = ("CXX", "CUDA_HOME", "CUDA_PATH", "FORCE_CUDA", "ITM_FAST_CUDA", "ITM_FAST_SANITIZE")
        self.environment = {name: value for name, value in os.environ.items() if name not in ours}
        self.environment |= {"PYTHONPATH": str(folder), "PATH": str(folder / "bin")}
        (folder / "bin").mkdir()
        self.torch('__version__ = "2.13.0"')

    def torch(self, code: str) -> None:
        (self.folder / "torch.py").write_text(code)

    def program(self, name: str, output: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\necho '{output}'\n")
        path.chmod(0o755)

    def without_ninja(self) -> None:
        """setup.py also looks beside the interpreter, where a development environment has it."""
        self.program("c++", "g++ (GCC) 12.2.0")
        code = (
            "import shutil; which = shutil.which; shutil.which = lambda name: None if name == 'ninja' else which(name)"
        )
        (self.folder / "sitecustomize.py").write_text(code)

    def build(self, command: tuple[str, ...] = BUILD) -> str:
        """What the failing build says on stderr."""
        done = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
        )
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def last_line(stderr: str) -> str:
    line = stderr.rstrip().splitlines()[-1]
    assert line.startswith("itm-fast: ")
    return line


@pytest.mark.parametrize("command", [BUILD, PIPS_FIRST_STEP], ids=["setup.py", "pip"])
def test_no_torch(machine: Machine, command: tuple[str, ...]):
    machine.torch('raise ModuleNotFoundError("No module named torch")')
    line = last_line(machine.build(command))
    assert "cannot import torch" in line
    assert "pip install --no-build-isolation ." in line


def test_old_torch(machine: Machine):
    machine.torch('__version__ = "2.9.1+cpu"')
    line = last_line(machine.build())
    assert "torch 2.9.1+cpu is too old" in line
    assert ">= 2.11" in line


@pytest.mark.parametrize("command", [BUILD, PIPS_FIRST_STEP], ids=["setup.py", "pip"])
def test_old_setuptools(machine: Machine, command: tuple[str, ...]):
    (machine.folder / "sitecustomize.py").write_text("import setuptools; setuptools.__version__ = '68.2.2'")
    line = last_line(machine.build(command))
    assert line == "itm-fast: setuptools 68.2.2 is too old. Run: pip install 'setuptools>=77'"


def test_no_compiler(machine: Machine):
    line = last_line(machine.build())
    assert "no C++ compiler found (tried c++, g++, clang++)" in line
    assert "or set CXX" in line


def test_cxx_names_no_program(machine: Machine):
    machine.program("g++", "g++ (GCC) 12.2.0")  # what the user asked for isn't replaced silently
    machine.environment["CXX"] = "g++-99"
    assert "no C++ compiler found (tried g++-99)" in last_line(machine.build())


@pytest.mark.parametrize(
    ("shown", "fragment"),
    [
        ("g++ (Ubuntu 7.5.0-3ubuntu1~18.04) 7.5.0", "g++ 7.5.0 (g++) is too old. C++20 needs g++ >= 10"),
        ("g++ (GCC) 9.4.1 20200101 (Red Hat 9.4.1-2)", "g++ 9.4.1 (g++) is too old"),
        ("Debian clang version 11.0.1-2", "clang++ 11.0.1 (g++) is too old. C++20 needs clang++ >= 12"),
    ],
)
def test_old_compiler(machine: Machine, shown: str, fragment: str):
    machine.program("g++", shown)
    assert fragment in last_line(machine.build())


def test_no_ninja(machine: Machine):
    machine.without_ninja()
    assert last_line(machine.build()).endswith("no ninja found. Run: pip install ninja")


def test_no_python_headers(machine: Machine):
    machine.program("c++", "g++ (GCC) 12.2.0")
    machine.program("ninja", "1.13.0")
    code = "import sysconfig; known = sysconfig.get_path\n"
    code += "sysconfig.get_path = lambda name, *more: '/nowhere' if name == 'include' else known(name, *more)"
    (machine.folder / "sitecustomize.py").write_text(code)
    line = last_line(machine.build())
    assert "no Python.h in /nowhere" in line
    assert "apt install python3-dev" in line


def toolkit(machine: Machine, release: str) -> None:
    """A folder that is taken for the CUDA toolkit."""
    (machine.folder / "cuda" / "bin").mkdir(parents=True)
    nvcc = machine.folder / "cuda" / "bin" / "nvcc"
    nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.48'\n")
    nvcc.chmod(0o755)
    machine.environment["CUDA_HOME"] = str(machine.folder / "cuda")


@pytest.mark.parametrize("variable", ["ITM_FAST_CUDA", "FORCE_CUDA"])
def test_cuda_kernels_that_cannot_be_built_are_not_left_out(machine: Machine, variable: str):
    machine.environment |= {variable: "1", "CUDA_HOME": "/nowhere"}
    line = last_line(machine.build())
    assert "cannot be built: CUDA_HOME is /nowhere, where there is no bin/nvcc" in line


def test_an_old_nvcc(machine: Machine):
    toolkit(machine, "11.8")
    machine.environment["ITM_FAST_CUDA"] = "1"
    assert re.search(r"nvcc 11\.8 in .*/cuda is too old, C\+\+20 needs 12\.0", last_line(machine.build()))


def test_an_nvcc_of_another_major_version_than_torchs(machine: Machine):
    toolkit(machine, "13.0")
    machine.torch('__version__ = "2.13.0+cu128"\nclass version:\n    cuda = "12.8"\n')
    machine.environment["ITM_FAST_CUDA"] = "1"
    assert "does not fit torch 2.13.0+cu128 of CUDA 12.8" in last_line(machine.build())


def test_without_a_request_the_cpu_operators_are_built_alone(machine: Machine):
    machine.environment["CUDA_HOME"] = "/nowhere"
    assert "no C++ compiler found" in last_line(machine.build())  # so far it went


def test_a_cpu_only_torch_gets_no_cuda_kernels_unasked(
    setup_py: dict, machine: Machine, monkeypatch: pytest.MonkeyPatch
):
    toolkit(machine, "13.0")
    monkeypatch.setenv("CUDA_HOME", machine.environment["CUDA_HOME"])
    for name in ("ITM_FAST_CUDA", "FORCE_CUDA"):
        monkeypatch.delenv(name, raising=False)
    usable = setup_py["usable_cuda"]
    cpu_only = SimpleNamespace(__version__="2.13.0+cpu", version=SimpleNamespace(cuda=None))
    assert usable(cpu_only) == (
        None,
        "",
        "torch 2.13.0+cpu is a CPU-only build; ITM_FAST_CUDA=1 builds them all the same",
    )
    with_cuda = SimpleNamespace(__version__="2.13.0+cu130", version=SimpleNamespace(cuda="13.0"))
    assert usable(with_cuda) == (machine.folder / "cuda", "13.0", "")
    monkeypatch.setenv("ITM_FAST_CUDA", "1")
    assert usable(cpu_only) == (machine.folder / "cuda", "13.0", "")


def test_ccache_is_used_where_it_is(setup_py: dict, machine: Machine, monkeypatch: pytest.MonkeyPatch):
    machine.program("c++", "g++ (GCC) 12.2.0")
    machine.program("ccache", "g++ (GCC) 12.2.0")  # runs what follows it
    monkeypatch.setenv("PATH", machine.environment["PATH"])
    monkeypatch.setenv("CCACHE_DISABLE", "")
    monkeypatch.setenv("TORCH_DONT_CHECK_COMPILER_ABI", "")
    for given in ("", "ccache c++"):
        monkeypatch.setenv("CXX", given)
        setup_py["find_compiler"]()
        assert os.environ["CXX"] == "ccache c++"
    monkeypatch.setenv("CXX", "")
    monkeypatch.setenv("CCACHE_DISABLE", "1")
    setup_py["find_compiler"]()
    assert os.environ["CXX"] == "c++"


def test_facts_are_written_where_they_have_changed(setup_py: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write = setup_py["write_facts"]
    path = tmp_path / "facts" / "build_facts.h"
    monkeypatch.setitem(write.__globals__, "FACTS", path)
    write(VERSION="1", NO_CUDA="")
    assert path.read_text() == '#define ITM_FAST_VERSION "1"\n#define ITM_FAST_NO_CUDA ""\n'
    os.utime(path, (0, 0))
    write(VERSION="1", NO_CUDA="")
    assert path.stat().st_mtime == 0
    write(VERSION="2", NO_CUDA="")
    assert path.stat().st_mtime > 0


@pytest.mark.compiled
def test_every_operator_is_in_one_of_the_files_that_are_compiled(
    setup_py: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(setup_py["as_one"].__globals__, "ROOT", tmp_path)
    monkeypatch.setitem(setup_py["as_one"].__globals__, "FACTS", tmp_path / "build/facts/build_facts.h")
    folder = tmp_path / "csrc" / "ops"
    folder.mkdir(parents=True)
    for name in ("triplet.cpp", "cider.cpp", "ranking.cpp", "hinge.h"):
        (folder / name).touch()
    sources = setup_py["sources_in"]("ops")
    paths = setup_py["as_one"]("operators", sources, 2)
    assert paths == ["build/facts/operators_0.cpp", "build/facts/operators_1.cpp"]
    texts = [(tmp_path / path).read_text() for path in paths]
    assert texts == ['#include "ops/cider.cpp"\n#include "ops/triplet.cpp"\n', '#include "ops/ranking.cpp"\n']
    os.utime(tmp_path / paths[0], (0, 0))
    assert setup_py["as_one"]("operators", sources, 2) == paths
    assert (tmp_path / paths[0]).stat().st_mtime == 0


def test_unknown_value_of_the_cuda_switch(machine: Machine):
    machine.environment["ITM_FAST_CUDA"] = "yes"
    assert "ITM_FAST_CUDA is 'yes'. Use auto, 1" in last_line(machine.build())


def test_our_cuda_switch_wins_over_the_alias(machine: Machine):
    machine.environment |= {"ITM_FAST_CUDA": "0", "FORCE_CUDA": "1"}
    assert "no C++ compiler found" in last_line(machine.build())


@pytest.fixture
def setup_py(monkeypatch: pytest.MonkeyPatch) -> dict:
    """The functions of setup.py, run without building anything."""
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    monkeypatch.setattr(sys, "argv", ["setup.py"])
    monkeypatch.chdir(ROOT)
    return runpy.run_path("setup.py")


class Torch:
    """As much of torch as the choice of architectures asks for."""

    class cuda:
        capabilities: tuple[tuple[int, int], ...] = ()

        @classmethod
        def is_available(cls) -> bool:
            return bool(cls.capabilities)

        @classmethod
        def device_count(cls) -> int:
            return len(cls.capabilities)

        @classmethod
        def get_device_capability(cls, index: int) -> tuple[int, int]:
            return cls.capabilities[index]


def test_architectures(setup_py: dict, machine: Machine, monkeypatch: pytest.MonkeyPatch):
    toolkit(machine, "12.4")
    nvcc = machine.folder / "cuda" / "bin" / "nvcc"
    nvcc.write_text("#!/bin/sh\nprintf 'compute_75\\ncompute_80\\ncompute_86\\ncompute_90\\n'\n")
    choose = setup_py["cuda_architectures"]
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    architectures, flags = choose(Torch, machine.folder / "cuda")
    assert architectures == "7.5;8.0;8.6;9.0+PTX"  # what this nvcc knows
    assert flags == [
        "-gencode=arch=compute_75,code=[sm_75]",
        "-gencode=arch=compute_80,code=[sm_80,sm_86]",
        "-gencode=arch=compute_90,code=[sm_90,compute_90]",
    ]
    nvcc.write_text("#!/bin/sh\nprintf 'compute_%s\\n' 75 80 86 88 90 100 103 110 120 121\n")
    architectures, flags = choose(Torch, machine.folder / "cuda")
    assert architectures == "7.5;8.0;8.6;9.0+PTX;10.0;12.0+PTX"
    assert flags[2:] == [
        "-gencode=arch=compute_90,code=[sm_90,compute_90]",
        "-gencode=arch=compute_100,code=[sm_100]",
        "-gencode=arch=compute_120,code=[sm_120,compute_120]",
    ]
    monkeypatch.setattr(Torch.cuda, "capabilities", ((9, 0), (8, 6), (9, 0)))
    assert choose(Torch, machine.folder / "cuda") == ("8.6;9.0", [])  # the visible devices', flags are torch's
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.9+PTX")
    assert choose(Torch, machine.folder / "cuda") == ("8.9+PTX", [])


def test_objects_older_than_a_header_are_forgotten(setup_py: dict, tmp_path: Path):
    folder = tmp_path / "temp" / "csrc" / "cuda"
    folder.mkdir(parents=True)
    for name, age in (("old.o", 10**9), ("new.o", -100)):
        (folder / name).touch()
        now = (folder / name).stat().st_mtime
        os.utime(folder / name, (now - age, now - age))
    setup_py["forget_stale_kernels"](str(tmp_path / "temp"))
    assert [path.name for path in folder.iterdir()] == ["new.o"]
