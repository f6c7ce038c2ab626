"""Loads the compiled operators, `itm_fast._C` and `itm_fast._cuda`, once; says how they were built and what runs here.

Both are on torch's stable ABI: they load beside every torch from 2.11 on, whichever they were compiled with.
"""

import functools
import importlib
import importlib.machinery
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

_DRIVERS = {"12": 525, "13": 580}  # the oldest that runs what an nvcc of this line has compiled

# Why CUDA tensors are refused; None: the kernels are loaded. Set by `load`.
no_cuda: str | None = "the operators are not loaded"

REBUILD = "pip install --no-build-isolation --force-reinstall --no-deps ."

_PACKAGE = Path(__file__).resolve().parents[1]


@functools.cache
def load() -> ModuleType:
    """Loads `itm_fast._C`, and with it the operators under `torch.ops.itm_fast`; `itm_fast._cuda` where it was built.

    Returns:
        The module.

    Raises:
        ImportError: It isn't built for this Python, or this torch is too old; the message holds the remedy.
    """
    if not any((_PACKAGE / f"_C{suffix}").exists() for suffix in importlib.machinery.EXTENSION_SUFFIXES):
        others = ", ".join(sorted(p.name for p in _PACKAGE.glob("_C.*.so"))) or "none"
        name = f"_C{importlib.machinery.EXTENSION_SUFFIXES[0]}"
        raise ImportError(
            f"the compiled operators of itm_fast are missing: no {name} in {_PACKAGE} (others there: {others}). "
            f"Build them in a copy of the repository: {REBUILD}"
        )
    try:
        module = importlib.import_module("itm_fast._C")
    except ImportError as error:
        raise ImportError(
            f"the compiled operators of itm_fast cannot be loaded beside torch {torch.__version__}; they need torch "
            f"2.11 or newer. The loader says: {error}"
        ) from error
    global no_cuda
    no_cuda = _load_cuda(module)
    return module


def _load_cuda(module: ModuleType) -> str | None:
    """Loads the CUDA kernels, which any torch can that has the stable ABI they were built on; or says why not."""
    reason: str = module.build_info()["no_cuda"]
    if reason:
        return reason
    try:
        importlib.import_module("itm_fast._cuda")
    except ImportError as error:
        return str(error)
    return None


def build_info() -> dict[str, Any]:
    """How the operators were built and what runs here: the content of `itm-fast info`.

    Returns:
        What `itm_fast._C` reports (`version`, `built_with_torch`, `compiler`; `cpu_isas`: the sets compiled,
        `cpu_isa` and `cpu_isa_reason`: the one chosen, `gemm_float32` and `gemm_bfloat16`, each with its `_reason`);
        `torch`: the version at hand; `cpu_features`: names of the processor's features that torch detects;
        `cuda_kernels`: whether `itm_fast._cuda` is loaded, `cuda_reason`: how it was built, or why there is none.

    Raises:
        ImportError: As in `load`.
    """
    info = load().build_info()
    del info["no_cuda"]  # when it was built; below is what holds now
    reason = no_cuda
    if reason is None:
        cuda = importlib.import_module("itm_fast._cuda")
        driver = _DRIVERS.get(cuda.nvcc.partition(".")[0])
        needs = f"driver {driver} or newer, " if driver else ""
        reason = f"nvcc {cuda.nvcc}, {needs}architectures {cuda.architectures}"
    return {
        **info,
        "torch": str(torch.__version__),
        "cpu_features": _cpu_features(),
        "cuda_kernels": no_cuda is None,
        "cuda_reason": reason,
    }


def _cpu_features() -> list[str]:
    """Those features that a kernel here or in torch's GEMM can use; nothing where this torch does not tell."""
    detected: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    names = ("avx2", "fma3", "avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "avx512_bf16", "amx_bf16")
    return [name for name in names if detected.get(name) is True]
