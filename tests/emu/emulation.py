"""Builds kernel files as C++ with the emulator, and runs them on NumPy arrays."""

import concurrent.futures
import contextlib
import ctypes
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
from filelock import FileLock

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CUDA = ROOT / "csrc" / "cuda"
PARTS = ("fibre", "machine", "warp", "memory", "control")
ORDERS = {"forward": 0, "reverse": 1, "random": 2, "warp-random": 3}
STATISTICS = ("switches", "barriers", "collectives", "matrix_products", "accesses", "blocks", "races", "launches")


class EmulationError(Exception):
    """What a launch did that no device would allow, or that would differ from run to run."""


def compiler():
    """The C++ compiler's command, or None."""
    command = shlex.split(os.environ.get("CXX") or "c++")
    return command if shutil.which(command[0]) else None


def build(*sources, hooks):
    """Compiles kernel files with the emulator into a shared library, once for each content.

    Args:
        sources: .cu files.
        hooks: whether their loads and stores are watched (races, bounds, traffic).

    Returns:
        The library's path.
    """
    sources = [Path(source) for source in sources]
    folder = build_folder()
    compiled = objects(sources, hooks=hooks, folder=folder)
    key = hashlib.sha256(" ".join(map(str, compiled)).encode()).hexdigest()[:16]
    library = folder / f"{sources[0].stem}-{key}.so"
    with made_once(library) as aside:
        if aside is not None:  # without the sanitizer's runtime
            run([*compiler(), "-shared", *map(str, compiled), "-o", str(aside), "-ldl"])
    return library


def build_folder():
    """Where whatever is compiled for the tests is kept: build/emu in the checkout."""
    folder = ROOT / "build" / "emu"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def objects(sources, *, hooks, folder):
    """The emulator's object files and those of kernel files, as `build` takes them."""
    # As nvcc: products and sums are contracted. Never -ffast-math: NaN marks what nobody wrote.
    flags = ["-std=c++20", "-O2", "-g1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast", f"-I{HERE}", f"-I{CUDA}"]
    if platform.machine() == "x86_64" and "fma" in _cpu_flags():
        flags.append("-mfma")
    headers = [*HERE.glob("*.h"), *kernel_headers()]
    compiled = compile_all(folder, flags, [HERE / f"{part}.cpp" for part in PARTS], headers)
    return compiled + compile_all(folder, [*flags, *["-fsanitize=thread"] * hooks], sources, headers)


def kernel_headers():
    """What kernel files may include."""
    return [*CUDA.glob("*.h"), *CUDA.glob("*.cuh"), *CUDA.parent.glob("*.h")]


def compile_all(folder, flags, sources, headers):
    """Object files, each kept by the content of its source, the headers and the flags; two compilers at a time."""
    shared = hashlib.sha256(" ".join([*compiler(), *flags]).encode())
    for header in sorted(headers):
        shared.update(header.read_bytes())

    def output_of(source):
        key = shared.copy()
        key.update(source.read_bytes())
        return folder / f"{source.stem}-{key.hexdigest()[:16]}.o"

    def compile_one(source):
        output = output_of(source)
        with made_once(output) as aside:
            if aside is not None:
                language = ["-x", "c++", "-Wall", "-Wextra", "-Wno-unknown-pragmas"]
                run([*compiler(), *flags, *language, "-c", str(source), "-o", str(aside)])
        return output

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return list(pool.map(compile_one, sources))


@contextlib.contextmanager
def made_once(output):
    """The name to write a file to, which then gets its own; None if it is there. Other processes wait meanwhile."""
    if output.is_file():
        yield None
        return
    with FileLock(output.with_name(f"{output.name}.lock")):
        if output.is_file():
            yield None
            return
        aside = output.with_suffix(f".{os.getpid()}")
        yield aside
        aside.replace(output)


def run(command):
    """Runs a compiler; raises RuntimeError with what it says."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}\n{done.stderr}")


def _cpu_flags():
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


def statistics(library):
    """What an emulator's library has counted since it was loaded."""
    values = (ctypes.c_uint64 * len(STATISTICS))()
    library.emu_statistics(values)
    return dict(zip(STATISTICS, values, strict=True))


class Device:
    """A library of emulated kernels: its memory, its launches, what it checks."""

    def __init__(self, library):
        self._path = library
        self._library = ctypes.CDLL(str(library))
        self._library.emu_allocate.restype = ctypes.c_void_p
        self._library.emu_allocate.argtypes = [ctypes.c_size_t]
        self._library.emu_free.argtypes = [ctypes.c_void_p]
        self._library.emu_copy_in.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
        self._library.emu_copy_out.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
        self._library.emu_leave_out.argtypes = [ctypes.c_int]
        self._library.emu_take_error.restype = ctypes.c_char_p
        self._library.emu_take_traffic.restype = ctypes.c_char_p
        self._library.emu_configure.argtypes = [
            ctypes.c_uint64,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_double,
            ctypes.c_int,
            ctypes.c_int,
        ]
        self.configure()

    def configure(
        self, order="forward", seed=0, *, resident_blocks=1, preemption=0.0, check_races=False, traffic=False
    ):
        """How the next launches run: order of threads, blocks at a time, switches at loads and stores, checks.

        Args:
            order: "forward", "reverse", "random" (any thread), "warp-random" (warps in any order).
            seed: of the random orders.
            resident_blocks: blocks whose threads take turns.
            preemption: probability of a switch at every load and store; needs a library with hooks.
            check_races: find races and reads of what nobody wrote; needs hooks.
            traffic: count sectors and bank conflicts; needs hooks.
        """
        self._library.emu_configure(seed, ORDERS[order], resident_blocks, preemption, check_races, traffic)

    @contextlib.contextmanager
    def without(self, number):
        """While it lasts, the kernels leave out the barriers SYNC(number), or what else they say of BUG == number."""
        self._library.emu_leave_out(number)
        try:
            yield
        finally:
            self._library.emu_leave_out(0)

    def array(self, content):
        """A copy of an array in device memory."""
        content = np.ascontiguousarray(content)
        array = self.empty(content.shape, content.dtype)
        self._library.emu_copy_in(array.pointer, content.ctypes.data, content.nbytes)
        return array

    def empty(self, shape, dtype=np.float32):
        """Device memory that nobody has written."""
        return DeviceArray(self._library, tuple(np.atleast_1d(shape)), np.dtype(dtype))

    def run(self, name, *arguments):
        """Calls an exported function; raises EmulationError for what its launches did."""
        converted = [ctypes.c_void_p(a.pointer) if isinstance(a, DeviceArray) else a for a in arguments]
        getattr(self._library, name)(*converted)
        error = self._library.emu_take_error().decode()
        if error:
            raise EmulationError(self._with_lines(error))

    def statistics(self):
        """Counts since the library was loaded."""
        return statistics(self._library)

    def traffic(self):
        """Loads and stores since the last call: dicts with line, shared, write, bytes, requests, units, ideal.

        Units are wavefronts of the 32 banks (shared) or sectors of 32 bytes (global).
        """
        rows = []
        for line in self._library.emu_take_traffic().decode().splitlines():
            place, *numbers = line.split()
            names = ("shared", "write", "bytes", "requests", "units", "ideal")
            rows.append({"line": self._line(place), **dict(zip(names, map(int, numbers), strict=True))})
        return rows

    def function(self, name, result, *argument_types):
        """A plain function of the library."""
        function = getattr(self._library, name)
        function.restype, function.argtypes = result, argument_types
        return function

    def _with_lines(self, error):
        return re.sub(r"pc \+0x([0-9a-f]+)", lambda match: self._line(match[1]), error)

    def _line(self, offset):
        """File and line of an offset in the library, where addr2line is installed."""
        if shutil.which("addr2line") is None:
            return f"pc +0x{offset}"
        command = ["addr2line", "-i", "-e", str(self._path), f"0x{offset}"]
        frames = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
        names = [Path(frame.split(" ")[0]).name for frame in frames if "?" not in frame]
        own = [name for name in names if not name.startswith("emulator.h")]  # the kernel's line, not __ldg's
        return own[0] if own else f"pc +0x{offset}"


class DeviceArray:
    """Device memory with red zones around it."""

    def __init__(self, library, shape, dtype):
        self.shape, self.dtype = shape, dtype
        self._library = library
        self._bytes = int(np.prod(shape)) * dtype.itemsize
        self.pointer = library.emu_allocate(max(self._bytes, 1))

    def numpy(self):
        """A copy in host memory."""
        out = np.empty(self.shape, self.dtype)
        self._library.emu_copy_out(out.ctypes.data, self.pointer, self._bytes)
        return out

    def __del__(self):
        self._library.emu_free(self.pointer)
