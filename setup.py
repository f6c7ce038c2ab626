"""Builds `itm_fast._C`. Everything that needs no compiler is in pyproject.toml.

torch is not a build requirement: an isolated build would fetch some other torch (gigabytes of CUDA) and compile against
that. So the user's torch must be importable here, and whatever is missing ends in one line that says what to do.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from glob import glob
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
MIN_TORCH = (2, 11)
MIN_COMPILER = {"g++": (10, 0), "clang++": (12, 0)}  # C++20, which torch's headers ask for
BYTES_PER_JOB = 1.5 * 2**30  # peak of one compiler on a file that includes ATen, with room to spare

# `sdist`, `egg_info` and `clean` compile nothing and work without torch. `dist_info` compiles nothing either, but is an
# early step of pip's, and the earlier the user hears that torch is missing, the better.
COMPILES = {"build", "build_ext", "bdist_wheel", "editable_wheel", "dist_info", "develop", "install", "bdist"}


def stop(message: str):
    raise SystemExit(f"\nitm-fast: {message}")


def version() -> str:
    return re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]


def import_torch():
    try:
        import torch
    except (ImportError, OSError) as error:
        stop(
            f"cannot import torch while building ({error}). The operators are compiled against the torch that you use: "
            "install torch first, then run: pip install --no-build-isolation ."
        )
    if tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) < MIN_TORCH:
        stop(f"torch {torch.__version__} is too old. Install torch >= {MIN_TORCH[0]}.{MIN_TORCH[1]} and build again.")
    return torch


def find_compiler() -> str:
    """Sets $CXX, which both torch (compiling) and setuptools (linking) read, and returns name and version."""
    candidates = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    command = next((c for c in candidates if shutil.which(shlex.split(c)[0])), None)
    if command is None:
        stop(f"no C++ compiler found (tried {', '.join(candidates)}). Install g++ >= 10 or clang++ >= 12, or set CXX.")
    os.environ["CXX"] = command
    shown = subprocess.run([*shlex.split(command), "--version"], capture_output=True, text=True, check=False).stdout
    name = "clang++" if "clang" in shown else "g++"
    numbers = re.findall(r"\d+\.\d+(?:\.\d+)?", shown.partition("\n")[0])
    if not numbers:
        return command  # neither g++ nor clang++: let it try
    number = numbers[0] if name == "clang++" else numbers[-1]  # "g++ (Debian 12.2.0-14) 12.2.0"
    needed = MIN_COMPILER[name]
    if tuple(int(part) for part in number.split(".")[:2]) < needed:
        stop(f"{name} {number} ({command}) is too old. C++20 needs {name} >= {needed[0]}: install it, or set CXX.")
    return f"{name} {number}"


def find_ninja() -> None:
    # `.venv/bin/pip install` without activation leaves .venv/bin off the PATH, where torch looks for ninja.
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    if shutil.which("ninja") is None:
        stop("no ninja found. Run: pip install ninja")


def default_jobs() -> int:
    """As many compilers as cores, fewer where the memory (of the machine or the container) would not suffice."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free = []
    try:
        free.append(1024 * int(re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())[1]))
        group = Path("/sys/fs/cgroup")
        free.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, TypeError, ValueError):
        pass  # not Linux, no cgroup, or no limit ("max")
    return max(1, min([cores, *(int(bytes_ / BYTES_PER_JOB) for bytes_ in free)]))


def cuda_extensions() -> list:
    """`itm_fast._cuda` joins here, decided by nvcc, not by a visible device. This version only refuses to build it."""
    request = os.environ.get("ITM_FAST_CUDA") or ("1" if os.environ.get("FORCE_CUDA") == "1" else "auto")
    if request not in ("auto", "0", "1"):
        stop(f"ITM_FAST_CUDA is {request!r}. Use auto, 1 (fail without the CUDA kernels) or 0 (never build them).")
    if request == "1":
        stop("this version has no CUDA kernels. Unset ITM_FAST_CUDA and FORCE_CUDA to build the CPU operators.")
    return []


def extensions() -> dict:
    cuda = cuda_extensions()
    torch = import_torch()
    compiler = find_compiler()
    find_ninja()
    os.environ.setdefault("MAX_JOBS", str(default_jobs()))
    from torch.utils.cpp_extension import BuildExtension, CppExtension, include_paths

    # No -march: kernels choose their instruction set at run time. No -fopenmp: threads come from torch's own pool.
    # -g0 because Python's own flags often hold -g; the prefix map keeps the build folder out of error messages.
    flags = ["-O3", "-g0", "-fno-math-errno", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi"]
    flags += [f"-ffile-prefix-map={ROOT}/="]
    flags += [word for path in include_paths() for word in ("-isystem", path)]
    link_flags = []
    if os.environ.get("ITM_FAST_SANITIZE") == "1":  # see scripts/sanitize.sh
        sanitize = ["-fsanitize=address,undefined", "-fno-sanitize=vptr", "-fno-sanitize-recover=undefined"]
        # Python's own -fwrapv would make signed overflow legal, and so unreported.
        flags += [*sanitize, "-fno-wrapv", "-fno-omit-frame-pointer", "-O1", "-g"]
        link_flags += sanitize

    folders = ("csrc", "csrc/ops", "csrc/cpu", "csrc/host")
    sources = [path for folder in folders for path in sorted(glob(f"{folder}/*.cpp", root_dir=ROOT))]
    cpu = CppExtension(
        "itm_fast._C",
        sources,
        define_macros=[("ITM_FAST_VERSION", f'"{version()}"'), ("ITM_FAST_BUILD_TORCH", f'"{torch.__version__}"')],
        extra_compile_args=flags,
        extra_link_args=link_flags,
    )
    cpu.include_dirs = [str(ROOT / "csrc")]  # torch's come by -isystem above: warnings are for our own files

    class Build(BuildExtension):
        def finalize_options(self) -> None:
            super().finalize_options()
            if self.editable_mode:  # setuptools would compile in a temporary folder, all of it, each time
                self.build_temp = f"build/temp.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"

        def build_extensions(self) -> None:
            print(
                f"itm-fast {version()}: CPU operators for torch {torch.__version__}, {compiler}; one binary for "
                f"AVX-512, AVX2 and any other processor ({os.environ['MAX_JOBS']} compilers at once, see MAX_JOBS)",
                flush=True,
            )
            try:
                super().build_extensions()
            except RuntimeError as error:  # what torch raises after ninja has shown the compiler's messages
                stop(f"the compiler failed, its messages are above ({error}). Killed for memory? Try MAX_JOBS=1.")

    return {"ext_modules": [cpu, *cuda], "cmdclass": {"build_ext": Build}}


setup(**(extensions() if COMPILES.intersection(sys.argv) else {}))
