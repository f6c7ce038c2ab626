"""Builds `itm_fast._C` and, where nvcc is found, `itm_fast._cuda`. What needs no compiler is in pyproject.toml.

Both are on torch's stable ABI: they run beside every torch from MIN_TORCH on, whichever they were compiled with. torch
is not a build requirement all the same: an isolated build would fetch gigabytes of CUDA. So a torch must be importable
here, and whatever is missing ends in one line that says what to do.
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

import setuptools
from setuptools import setup

ROOT = Path(__file__).resolve().parent
FACTS = ROOT / "build" / "facts" / "build_facts.h"  # a file, not flags: a change compiles two files, not all of them
MIN_SETUPTOOLS = 77  # which knows pyproject.toml's licence; also in its [build-system]
MIN_TORCH = (2, 11)
TORCH_LIBRARIES = ["c10", "torch_cpu"]  # libtorch_python isn't part of the stable ABI
MIN_COMPILER = {"g++": (10, 0), "clang++": (12, 0)}  # C++20, which torch's headers ask for
MIN_NVCC = (12, 0)  # C++20
# Code for a device <- what its front end compiles for: half of nvcc's time is the front end's, and kernels say nothing
# that differs between 8.0 and 8.6 (on 10.0 products' loops from the code for 9.0 are longer than from its own). Plain
# names: 8.6 code runs on 8.9, 10.0 on 10.3, 12.0 on 12.1; the PTX of 9.0 on 11.0, that of the last on what comes after.
CUDA_ARCHITECTURES = {"7.5": "7.5", "8.0": "8.0", "8.6": "8.0", "9.0": "9.0", "10.0": "10.0", "12.0": "12.0"}
# Beside the operators, what includes torch's headers.
ENGINE = [f"cpu/{name}.cpp" for name in ("batch", "candidate_lists", "engine", "gemm", "pairs", "parallel")]
BYTES_PER_JOB = 2**30  # one compiler takes 0.45 GiB at most (host/bindings.cpp); with room to spare

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
            f"cannot import torch while building ({error}). The operators are compiled with its headers: "
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
    if shutil.which("ccache") and not os.environ.get("CCACHE_DISABLE") and "ccache" not in command:
        os.environ["CXX"] = f"ccache {command}"
        os.environ["TORCH_DONT_CHECK_COMPILER_ABI"] = "1"  # torch would look for a program of that name
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


def check_python_headers() -> None:
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        stop(
            f"Python {sysconfig.get_python_version()} has no headers (no Python.h in {sysconfig.get_path('include')}). "
            "Install them: apt install python3-dev, dnf install python3-devel."
        )


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


def cuda_request() -> str:
    """Whether the CUDA kernels are wanted: "auto" (for a CUDA build of torch, where nvcc is found), "1" or "0"."""
    request = os.environ.get("ITM_FAST_CUDA") or ("1" if os.environ.get("FORCE_CUDA") == "1" else "auto")
    if request not in ("auto", "0", "1"):
        stop(f"ITM_FAST_CUDA is {request!r}. Use auto, 1 (fail without the CUDA kernels) or 0 (never build them).")
    return request


def find_cuda() -> tuple[Path | None, str]:
    """The toolkit's folder, or None and why. A visible device doesn't count: containers and CI have none."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            home = Path(os.environ[variable])
            found = (home / "bin" / "nvcc").is_file()
            return (home, "") if found else (None, f"{variable} is {home}, where there is no bin/nvcc")
    on_path = shutil.which("nvcc")  # maybe a script of a distribution's, so the usual folder comes first
    for home in (Path("/usr/local/cuda"), *([Path(os.path.realpath(on_path)).parents[1]] if on_path else [])):
        if (home / "bin" / "nvcc").is_file():
            return home, ""
    return None, "no nvcc found; install the CUDA toolkit and set CUDA_HOME to build them"


def usable_cuda(torch) -> tuple[Path | None, str, str]:
    """Folder and version of a toolkit that can build the kernels for this torch, or None and why not."""
    of_torch = getattr(getattr(torch, "version", None), "cuda", None)  # None: a CPU-only torch
    if cuda_request() == "0":
        return None, "", "ITM_FAST_CUDA is 0"
    if cuda_request() == "auto" and of_torch is None:
        return None, "", f"torch {torch.__version__} is a CPU-only build; ITM_FAST_CUDA=1 builds them all the same"
    home, reason = find_cuda()
    if home is None:
        return None, "", reason
    shown = subprocess.run([home / "bin" / "nvcc", "--version"], capture_output=True, text=True, check=False).stdout
    release = re.search(r"release (\d+)\.(\d+)", shown)
    if release is None:
        return None, "", f"{home / 'bin' / 'nvcc'} does not tell its version"
    number = f"{release[1]}.{release[2]}"
    if (int(release[1]), int(release[2])) < MIN_NVCC:
        return None, "", f"nvcc {number} in {home} is too old, C++20 needs {'.'.join(map(str, MIN_NVCC))}"
    if of_torch is not None and of_torch.split(".")[0] != release[1]:
        return None, "", f"nvcc {number} in {home} does not fit torch {torch.__version__} of CUDA {of_torch}"
    return home, number, ""


def static_cudart(home: Path) -> Path:
    places = [home / folder / "libcudart_static.a" for folder in ("lib64", "lib", "targets/x86_64-linux/lib")]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        stop(f"no libcudart_static.a in {home / 'lib64'}: install the toolkit's cudart, or set ITM_FAST_CUDA=0.")
    return found


def cuda_architectures(torch, home: Path) -> tuple[str, list[str]]:
    """What TORCH_CUDA_ARCH_LIST says, else the visible device's, else all that this nvcc knows with nvcc's flags for
    them; for the others torch makes the flags.
    """
    given = os.environ.get("TORCH_CUDA_ARCH_LIST")
    if given:
        return given, []
    if torch.cuda.is_available():
        visible = {"{}.{}".format(*torch.cuda.get_device_capability(i)) for i in range(torch.cuda.device_count())}
        return ";".join(sorted(visible)), []
    known = subprocess.run([home / "bin" / "nvcc", "--list-gpu-arch"], capture_output=True, text=True, check=False)
    ours = [name for name in CUDA_ARCHITECTURES if f"compute_{name.replace('.', '')}" in known.stdout.split()]
    with_ptx = ("9.0", ours[-1])
    codes: dict[str, list[str]] = {}
    for name in ours:
        number = name.replace(".", "")
        of_front_end = codes.setdefault(CUDA_ARCHITECTURES[name].replace(".", ""), [])
        of_front_end += [f"sm_{number}", f"compute_{number}"] if name in with_ptx else [f"sm_{number}"]
    flags = [f"-gencode=arch=compute_{front_end},code=[{','.join(code)}]" for front_end, code in codes.items()]
    return ";".join(f"{name}+PTX" if name in with_ptx else name for name in ours), flags


def cuda_extension(torch, home: Path, number: str, flags: list[str]):
    """`itm_fast._cuda`: kernels and their host side, with a CUDA runtime of its own."""
    from torch.utils import cpp_extension

    architectures, code_flags = cuda_architectures(torch, home)
    os.environ["TORCH_CUDA_ARCH_LIST"] = architectures  # unset, torch would fail where no device is visible
    cpp_extension.CUDA_HOME = str(home)  # torch looks for none where it is CPU-only itself
    nvcc = ["-std=c++20", "-O3", "-Xfatbin", "-compress-all", "-Xcompiler", "-fvisibility=hidden"]
    # Two devices of a file at a time, so that no core is idle while the longest file is the last.
    nvcc += [*code_flags, "--threads", str(min(2, int(os.environ["MAX_JOBS"])))]
    if os.environ.get("ITM_FAST_CUBINS"):  # the tests read the machine code there, and need not compile it once more
        kept = Path(os.environ["ITM_FAST_CUBINS"]).resolve()
        kept.mkdir(parents=True, exist_ok=True)
        nvcc += ["--keep", "--keep-dir", str(kept)]
    extension = cpp_extension.CppExtension(
        "itm_fast._cuda",
        [
            *sorted(glob("csrc/cuda/*.cu")),
            *sorted(glob("csrc/cuda/*.cpp")),
            *as_one("cuda_operators", sources_in("cuda/ops")),
        ],
        # Nothing is computed on the host.
        extra_compile_args={"cxx": [*flags, "-O1"], "nvcc": nvcc},
        extra_objects=[str(static_cudart(home))],
        extra_link_args=["-s", "-ldl", "-lrt", "-lpthread"],
        libraries=[],
    )
    extension.include_dirs = [str(ROOT / "csrc"), str(FACTS.parent), str(home / "include")]
    extension.libraries = TORCH_LIBRARIES
    return extension


def write_changed(path: Path, text: str) -> None:
    """The file stays as it is where nothing has changed, so that nothing is compiled again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def write_facts(**facts: str) -> None:
    """What the libraries say of themselves, as string macros."""
    write_changed(FACTS, "".join(f'#define ITM_FAST_{name} "{value}"\n' for name, value in facts.items()))


def sources_in(folder: str) -> list[str]:
    return sorted(os.path.normpath(path) for path in glob(f"{folder}/*.cpp", root_dir=ROOT / "csrc"))


def as_one(name: str, sources: list[str], n_files: int = 1) -> list[str]:
    """Files of csrc as few that include them: torch's headers are much of what each of them takes."""
    paths = [FACTS.parent / f"{name}_{i}.cpp" for i in range(n_files)]
    for i, path in enumerate(paths):
        write_changed(path, "".join(f'#include "{source}"\n' for source in sources[i::n_files]))
    return [str(path.relative_to(ROOT)) for path in paths]


def forget_stale_kernels(folder: str) -> None:
    """Removes objects older than a kernels' header: torch tells ninja of no headers where it is CPU-only."""
    headers = [path for pattern in ("csrc/*.h", "csrc/cuda/*.h", "csrc/cuda/*.cuh") for path in glob(pattern)]
    newest = max(Path(path).stat().st_mtime for path in headers)
    for path in Path(folder).rglob("csrc/cuda/*.o"):
        if path.stat().st_mtime < newest:
            path.unlink()


def extensions() -> dict:
    request = cuda_request()
    torch = import_torch()
    cuda_home, nvcc_number, no_cuda = usable_cuda(torch)
    if cuda_home is None and request == "1":
        stop(f"the CUDA kernels were asked for and cannot be built: {no_cuda}.")
    compiler = find_compiler()
    find_ninja()
    check_python_headers()
    os.environ.setdefault("MAX_JOBS", str(default_jobs()))
    from torch.utils.cpp_extension import BuildExtension, CppExtension, include_paths

    # No -march: kernels choose their instruction set at run time. No -fopenmp: threads come from torch's own pool.
    # -g0 because Python's own flags often hold -g; the prefix map keeps the build folder out of error messages.
    # The C++ standard is ours: torch's own choice, where none is given, is too old before 2.12.
    flags = ["-std=c++20", "-O3", "-g0", "-fno-math-errno", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi"]
    flags += [f"-ffile-prefix-map={ROOT}/="]
    flags += [f"-DTORCH_TARGET_VERSION=0x{MIN_TORCH[0]:02x}{MIN_TORCH[1]:02x}000000000000"]  # of the stable ABI
    flags += [word for path in include_paths() for word in ("-isystem", path)]
    link_flags = ["-s"]  # nobody needs the symbols of what is hidden
    if os.environ.get("ITM_FAST_SANITIZE") == "1":  # see scripts/sanitize.sh
        sanitize = ["-fsanitize=address,undefined", "-fno-sanitize=vptr", "-fno-sanitize-recover=undefined"]
        # Python's own -fwrapv would make signed overflow legal, and so unreported.
        flags += [*sanitize, "-fno-wrapv", "-fno-omit-frame-pointer", "-O1", "-g"]
        link_flags = sanitize

    cuda = [] if cuda_home is None else [cuda_extension(torch, cuda_home, nvcc_number, flags)]
    architectures = os.environ.get("TORCH_CUDA_ARCH_LIST")
    cuda_line = f"no ({no_cuda})" if cuda_home is None else f"nvcc {nvcc_number}, architectures {architectures}"
    sources = [f"csrc/{path}" for folder in (".", "cpu", "host") for path in sources_in(folder) if path not in ENGINE]
    sources = as_one("operators", sources_in("ops"), 2) + as_one("engine", ENGINE) + sources
    cpu = CppExtension(
        "itm_fast._C",
        sources,
        extra_compile_args=flags,
        extra_link_args=[*link_flags, "-ldl"],
    )
    cpu.include_dirs = [
        str(ROOT / "csrc"),
        str(FACTS.parent),
    ]  # torch's come by -isystem above: warnings are for our own files
    cpu.libraries = TORCH_LIBRARIES

    write_facts(
        VERSION=version(),
        BUILD_TORCH=torch.__version__,
        NO_CUDA=no_cuda,
        NVCC=nvcc_number,
        CUDA_ARCHITECTURES=architectures or "",
    )

    class Build(BuildExtension):
        def finalize_options(self) -> None:
            super().finalize_options()
            if self.editable_mode:  # setuptools would compile in a temporary folder, all of it, each time
                self.build_temp = f"build/temp.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"

        def build_extensions(self) -> None:
            print(
                f"itm-fast {version()}: CPU operators, torch {torch.__version__}, {compiler}; one binary for "
                f"AVX-512, AVX2 and any other processor ({os.environ['MAX_JOBS']} compilers at once, see MAX_JOBS)",
                flush=True,
            )
            print(f"itm-fast {version()}: CUDA kernels: {cuda_line}", flush=True)
            forget_stale_kernels(self.build_temp)
            try:
                super().build_extensions()
            except RuntimeError as error:  # what torch raises after ninja has shown the compiler's messages
                stop(f"the compiler failed, its messages are above ({error}). Killed for memory? Try MAX_JOBS=1.")

    return {"ext_modules": [cpu, *cuda], "cmdclass": {"build_ext": Build}}


if int(setuptools.__version__.partition(".")[0]) < MIN_SETUPTOOLS:
    stop(f"setuptools {setuptools.__version__} is too old. Run: pip install 'setuptools>={MIN_SETUPTOOLS}'")
setup(**(extensions() if COMPILES.intersection(sys.argv) else {}))
