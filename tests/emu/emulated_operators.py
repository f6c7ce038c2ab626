"""The CUDA operators' host side over emulated kernels, in place of the CPU's: the public functions run them unchanged.
Operators that have no CUDA kernels run their batched products.

`csrc/cuda/ops` is compiled against this torch with `host.cpp` here instead of the one that talks to a device. CPU
tensors are device memory for as long as an operator runs.
"""

import contextlib
import ctypes
import functools
import hashlib
import warnings
from pathlib import Path

import emulation
import torch
from emulation import CUDA, HERE, ORDERS, compiler

import itm_fast
from itm_fast.ops import _candidates, _counts, _devices, _library, _ragged
from itm_fast.ops.batched import kernels as batched
from itm_fast.ops.batched import products

HOST = CUDA / "ops"
LIBRARIES = ("-ltorch_cpu", "-lc10", "-ldl")
SCRATCH_BYTES = 1 << 18  # so that tests need several rounds
MIN_TORCH = "0x020b000000000000"  # of the stable ABI: setup.py, MIN_TORCH


def operators():
    """Names of the operators that `csrc/cuda/ops` registers."""
    return sorted(
        line.split('"')[1]
        for source in HOST.glob("*.cpp")
        for line in source.read_text(encoding="utf-8").splitlines()
        if "m.impl(" in line
    )


def batched_kernels():
    """By operator, the batched products of those that have no CUDA kernels, and the gradients that have none."""
    for name in (*_devices.BATCHED_ON_CUDA, "cross_attention_similarity", "max_similarity"):
        getattr(itm_fast, name)  # it registers itself when it is asked for
    return batched.KERNELS


@functools.cache
def library(watched):
    """The compiled and loaded operators: the namespace of torch.ops they are in, and the emulator's functions."""
    from torch.utils.cpp_extension import library_paths

    _library.load()
    name = "itm_fast_watched" if watched else "itm_fast_emulated"
    folder = emulation.build_folder()
    objects = emulation.objects(sorted(CUDA.glob("*.cu")), hooks=watched, folder=folder)
    objects += host_objects(folder)
    named = ["-fPIC", f'-DITM_EMULATED="{name}"']
    objects += emulation.compile_all(folder, named, [HERE / "namespace.cpp"], [])
    key = hashlib.sha256(" ".join(map(str, objects)).encode()).hexdigest()[:16]
    path = folder / f"{name}-{key}.so"
    with emulation.made_once(path) as aside:
        if aside is not None:
            libraries = [f"-L{folder_}" for folder_ in library_paths()]
            emulation.run([*compiler(), "-shared", *map(str, objects), "-o", str(aside), *libraries, *LIBRARIES])
    definitions = torch.library.Library(name, "DEF")
    for operator in operators():
        schema = str(getattr(torch.ops.itm_fast, operator).default._schema)
        definitions.define(schema.removeprefix("itm_fast::"))
    torch.ops.load_library(str(path))
    loaded = ctypes.CDLL(str(path))
    types = [ctypes.c_uint64, ctypes.c_int, ctypes.c_int, ctypes.c_double, ctypes.c_int, ctypes.c_int]
    loaded.emu_configure.argtypes = types
    return getattr(torch.ops, name), loaded, definitions


def host_objects(folder):
    """`csrc/cuda/ops` and `host.cpp` here, compiled as one: torch's headers are most of what each of them takes."""
    from torch.utils.cpp_extension import include_paths

    hosts = [*sorted(set(HOST.glob("*.cpp")) - {HOST / "host.cpp"}), HERE / "host.cpp"]
    text = "".join(f'#include "{path}"\n' for path in (HERE / "registered.h", *hosts))
    together = folder / f"hosts-{hashlib.sha256(text.encode()).hexdigest()[:16]}.cpp"
    with emulation.made_once(together) as aside:
        if aside is not None:
            aside.write_text(text, encoding="utf-8")
    flags = ["-std=c++20", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-Wno-attributes", "-Wno-psabi"]
    flags += [f"-DTORCH_TARGET_VERSION={MIN_TORCH}", f"-DITM_SCRATCH_BYTES={SCRATCH_BYTES}"]
    flags += [word for path in include_paths() for word in ("-isystem", path)]
    tensors = [CUDA.parent / "ops/tensor.h", Path(torch.__file__).parent / "version.py"]
    headers = [*hosts, HERE / "registered.h", *HOST.glob("*.h"), *tensors, *emulation.kernel_headers()]
    return emulation.compile_all(folder, flags, [together], headers)


@contextlib.contextmanager
def emulated(*, watched=False, order="random", seed=1, resident_blocks=2, ampere=True, pessimistic=False):
    """While it lasts, the operators run their CUDA host code and emulated kernels on CPU tensors.

    Args:
        watched: with races, bounds and reads of what nobody wrote found; slower.
        order: of the threads, see emulation.ORDERS.
        seed: of the random orders.
        resident_blocks: blocks whose threads take turns.
        ampere: a device of compute capability 8.0 or more; False: 7.5.
        pessimistic: tensor cores truncate where others round, and __expf is off by 2^-22.
    """
    namespace, loaded, _ = library(watched)
    loaded.emu_configure(seed, ORDERS[order], resident_blocks, 0.0, int(watched), 0)
    loaded.emu_be_ampere(int(ampere))
    loaded.emu_be_pessimistic(int(pessimistic))
    compiled = {operator: getattr(namespace, operator) for operator in operators()}
    fused_on, products.FUSED_ON = products.FUSED_ON, ("cpu",) if ampere else ()
    try:
        with in_place_of_the_cpus({**compiled, **batched_kernels()}, takes_lists=ampere):
            yield
    finally:
        products.FUSED_ON = fused_on


@contextlib.contextmanager
def in_place_of_the_cpus(functions, *, counts_are_read=True, takes_lists=False):
    """While it lasts, the operators run these functions on CPU tensors, which the package treats as a device's.

    Args:
        functions: by operator.
        counts_are_read: counts are those of the CPU; False: they are on the device too, where nobody looks at them.
        takes_lists: kernels of similarities are among them that take lists of candidates.
    """
    kernels = torch.library.Library("itm_fast", "IMPL")
    packed_on, compiled_on, read_on = _ragged.PACKED_ON, batched.COMPILED_ON, _counts.READ_ON
    _ragged.PACKED_ON = batched.COMPILED_ON = ()
    _counts.READ_ON = ("cpu",) if counts_are_read else ()
    listed_on, _candidates.LISTED_ON = _candidates.LISTED_ON, ("cpu",) if takes_lists else ()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Warning only once for all operators")  # it is meant
            for operator, function in functions.items():
                kernels.impl(operator, function, "CPU", allow_override=True)
        yield
    finally:
        _ragged.PACKED_ON, batched.COMPILED_ON, _counts.READ_ON = packed_on, compiled_on, read_on
        _candidates.LISTED_ON = listed_on
        kernels._destroy()
