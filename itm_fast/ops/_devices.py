"""The devices of this machine, and what runs on each: which kernels, which matrix products, and why."""

from __future__ import annotations

import importlib
import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

from itm_fast.ops import _library

BATCHED_ON_CUDA = (
    "attended_similarity",
    "generalised_pooling",
    "graph_reasoning",
    "level_attention",
    "patch_word_similarity",
)
"""Operators without CUDA kernels, which run there as batched products of torch's own."""

_NO_TENSOR_CORES = "before compute capability 8.0 tensor cores know neither TF32 nor bfloat16"
_CPUINFO = Path("/proc/cpuinfo")
_ARCHITECTURE = re.compile(r"(\d+)\.(\d)([af]?)(\+PTX)?")


def devices() -> list[dict[str, Any]]:
    """The CPU, then every CUDA device that torch sees; asking makes torch start CUDA.

    Returns:
        One dictionary a device: `device` ("cpu", "cuda:0", as torch calls it), `name`; `cores` and `threads` of the CPU
        that this process may use, and `torch_threads`; `compute_capability` ("9.0") and `memory_gb` of a CUDA device;
        `kernels`: the instruction set or architecture whose kernels run there, None where there are none,
        `kernels_reason`; `gemm_float32`, `gemm_bfloat16`: what multiplies, each with its `_reason`; `batched_products`:
        operators that run there as batched products of torch's.

    Raises:
        ImportError: As in `_library.load`.
    """
    built = _library.build_info()
    gemm = {key: value for key, value in built.items() if key.startswith("gemm_")}
    processor = {
        "device": "cpu",
        "name": processor_name(),
        "cores": _cores(),
        "threads": len(_usable()),
        "torch_threads": torch.get_num_threads(),
        "kernels": built["cpu_isa"],
        "kernels_reason": built["cpu_isa_reason"],
        **gemm,
        "batched_products": [],
    }
    return [processor, *(_cuda_device(index, built["cuda_reason"]) for index in range(torch.cuda.device_count()))]


def no_cuda_device() -> str:
    """Why torch sees no CUDA device."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    return f"torch {torch.__version__} sees none; nvidia-smi says whether there is one, with a driver"


def processor_name() -> str:
    """Name of the processor as the system has it."""
    names = [block["model name"] for block in _processors() if "model name" in block]
    return names[0] if names else platform.processor() or platform.machine()


def fitting_architecture(architectures: str, capability: tuple[int, int]) -> str | None:
    """Which of the architectures that kernels were built for runs on a device.

    Args:
        architectures: As TORCH_CUDA_ARCH_LIST has them.
        capability: Compute capability of the device.

    Returns:
        The entry: machine code of the same major version, else PTX, which the driver compiles, else one that is a name
        ("Hopper") and may fit; None: nothing fits.

    Example:
        >>> [fitting_architecture("8.0;8.6;9.0+PTX", one) for one in ((7, 5), (8, 9), (9, 0), (12, 0))]
        [None, '8.6', '9.0', '9.0+PTX']
    """
    code, ptx, names = [], [], []
    for entry in re.split(r"[;\s]+", architectures.strip()):
        found = _ARCHITECTURE.fullmatch(entry)
        if found is None:
            names.append(entry)
            continue
        built = int(found[1]), int(found[2])
        within = built[0] == capability[0] and built[1] <= capability[1]
        if built == capability or (within and found[3] != "a"):  # a: of that very capability
            code.append((built, entry.removesuffix("+PTX")))
        if found[4] and not found[3] and built <= capability:
            ptx.append((built, entry))
    return next((entry for _, entry in (*sorted(code)[-1:], *sorted(ptx)[-1:])), names[0] if names else None)


def _cuda_device(index: int, cuda_reason: str) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    capability = properties.major, properties.minor
    kernels, reason = None, cuda_reason
    if _library.no_cuda is None:
        kernels = fitting_architecture(importlib.import_module("itm_fast._cuda").architectures, capability)
        if kernels is None:
            wanted = ".".join(map(str, capability))
            reason += f": none runs here; rebuild with TORCH_CUDA_ARCH_LIST={wanted}: {_library.REBUILD}"
    tf32, ampere = torch.backends.cuda.matmul.allow_tf32, capability >= (8, 0)
    return {
        "device": f"cuda:{index}",
        "name": properties.name,
        "compute_capability": ".".join(map(str, capability)),
        "memory_gb": round(properties.total_memory / 1e9, 1),
        "kernels": kernels,
        "kernels_reason": reason,
        "gemm_float32": "TF32" if tf32 and ampere else "float32",
        "gemm_float32_reason": f"torch.backends.cuda.matmul.allow_tf32 is {tf32}" if ampere else _NO_TENSOR_CORES,
        "gemm_bfloat16": "bfloat16, sums in float32" if ampere else "widened to float32",
        "gemm_bfloat16_reason": "" if ampere else _NO_TENSOR_CORES,
        "batched_products": list(BATCHED_ON_CUDA),
    }


def _usable() -> set[int]:
    """Numbers of the processor's threads that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _cores() -> int | None:
    """Cores that these threads belong to; None where the system does not tell."""
    usable = _usable()
    blocks = [block for block in _processors() if int(block.get("processor", -1)) in usable]
    cores = {(block.get("physical id"), block["core id"]) for block in blocks if "core id" in block}
    return len(cores) or None


def _processors() -> list[dict[str, str]]:
    """What Linux says of every thread of the processor; [] elsewhere."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    blocks = (re.findall(r"^([^:\n]+?)\s*:[ \t]*(.*)$", block, re.MULTILINE) for block in text.split("\n\n"))
    return [dict(block) for block in blocks if block]
