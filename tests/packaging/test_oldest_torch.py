"""The CPU operators compile, link and run against the oldest torch that is supported, from its wheel as it is.

The wheel on PyPI is a CUDA build, which cannot be imported without gigabytes of libraries; the operators need
none of them.
"""

import concurrent.futures
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from emulated_operators import MIN_TORCH
from emulation import compiler
from symbol_table import of_torch, symbols

ROOT = Path(__file__).parents[2]
WHEEL = os.environ.get("ITM_FAST_OLDEST_TORCH", "")

# Beside the operators' own: torch's headers are most of what each of them takes, so they are compiled as one file.
WITH_TORCH = ("batch", "candidate_lists", "engine", "gemm", "pairs", "parallel")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not WHEEL, reason="no wheel of the oldest torch: set ITM_FAST_OLDEST_TORCH to its path"),
    pytest.mark.skipif(compiler() is None, reason="needs a C++ compiler (CXX, c++)"),
]

# Loads libtorch without Python's torch, then the operators, and counts what they register.
LOADED = """
import ctypes, importlib.util, sys
for library in sys.argv[2:]:
    ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
spec = importlib.util.spec_from_file_location("_C", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.build_info()["cpu_isa"])
"""


@pytest.fixture(scope="module")
def torch_folder(tmp_path_factory):
    """Headers and libraries of the wheel."""
    folder = tmp_path_factory.mktemp("oldest")
    with zipfile.ZipFile(WHEEL) as wheel:
        wanted = ("torch/include/", "torch/lib/libc10.so", "torch/lib/libtorch_cpu.so", "torch/lib/libgomp")
        wheel.extractall(folder, [name for name in wheel.namelist() if name.startswith(wanted)])
    return folder / "torch"


def test_the_wheel_is_the_oldest_torch_of_the_build():
    (oldest,) = re.findall(r"^MIN_TORCH = \((\d+), (\d+)\)$", (ROOT / "setup.py").read_text(), re.MULTILINE)
    assert re.match(rf"torch-{'.'.join(oldest)}\.", Path(WHEEL).name)


@pytest.fixture(scope="module")
def built(torch_folder, tmp_path_factory):
    """_C, compiled with the flags of setup.py but for the optimiser's."""
    folder = tmp_path_factory.mktemp("built")
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    standard = re.search(r'flags = \["(-std=[^"]+)"', setup)[1]
    flags = [standard, "-O0", "-fPIC", "-fvisibility=hidden", "-Wno-psabi", f"-I{ROOT / 'csrc'}"]
    flags += [f"-DTORCH_TARGET_VERSION={MIN_TORCH}"]
    flags += ["-DTORCH_EXTENSION_NAME=_C", "-DTORCH_API_INCLUDE_EXTENSION_H"]
    includes = [torch_folder / "include", torch_folder / "include/torch/csrc/api/include"]
    flags += [word for path in [*includes, sysconfig.get_path("include")] for word in ("-isystem", str(path))]
    sources = {path for part in ("ops", "cpu", "host", ".") for path in (ROOT / "csrc" / part).glob("*.cpp")}
    with_torch = {path for path in sources if path.parent.name in ("ops", "csrc") or path.stem in WITH_TORCH}
    together = folder / "operators.cpp"
    together.write_text("".join(f'#include "{path}"\n' for path in sorted(with_torch)))

    def compiled(source):
        output = folder / f"{source.parent.name}-{source.stem}.o"
        run([*compiler(), *flags, "-c", str(source), "-o", str(output)])
        return str(output)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, [together, *sorted(sources - with_torch)]))
    module = folder / "_C.so"
    libraries = [f"-L{torch_folder / 'lib'}", "-lc10", "-ltorch_cpu", "-ldl"]
    run(
        [
            *compiler(),
            "-shared",
            *objects,
            "-o",
            str(module),
            *libraries,
        ]
    )
    return module


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr[-3000:]}"
    return done.stdout


def test_torch_has_what_the_operators_ask_of_it(built, torch_folder):
    libraries = (torch_folder / "lib" / name for name in ("libc10.so", "libtorch_cpu.so"))
    c, cpp = of_torch(symbols(built, "--undefined-only"))
    assert not c.difference(*(symbols(path, "--defined-only") for path in libraries))
    assert not cpp


def test_loads(built, torch_folder):
    needed = ("libcudart.so.13", "libcupti.so.13")
    places = [Path(home) for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if home]
    cuda = [next((path for place in places for path in place.rglob(name)), None) for name in needed]
    if None in cuda:
        pytest.skip(f"libtorch_cpu of that wheel needs {' and '.join(needed)} of a CUDA toolkit")
    ours = sorted((torch_folder / "lib").glob("libgomp*")), [torch_folder / "lib/libc10.so"]
    libraries = [*cuda, *ours[0], *ours[1], torch_folder / "lib/libtorch_cpu.so"]
    assert run([sys.executable, "-c", LOADED, str(built), *map(str, libraries)]).strip() in ("base", "avx2", "avx512")
