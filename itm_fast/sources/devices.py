"""Where a model runs and in which precision: `--device` and `--precision` of training and evaluation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from itm_fast.choices import Precision
from itm_fast.ops import _library


def resolve_device(name: str, notice: Callable[[str], None] = lambda message: None) -> torch.device:
    """The device of a name, if models can run there.

    Args:
        name: "auto": CUDA where this torch finds a device and there are kernels for it, else the CPU; "cpu", "cuda",
            "cuda:N".
        notice: Called with why "auto" is not CUDA, where there is a device.

    Raises:
        ValueError: Another name, a device that is not there, or CUDA without kernels.
        ImportError: The compiled operators cannot be loaded.

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    _library.load()
    n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    no_kernels = _library.no_cuda
    if name == "auto":
        if n_devices and no_kernels is not None:
            notice(f"there is a CUDA device, but this build has no CUDA kernels ({no_kernels}): the CPU is used")
        return torch.device("cuda" if n_devices and no_kernels is None else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(_unknown(name)) from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise ValueError(_unknown(name))
    if not n_devices:
        raise ValueError(f"device is {name!r}, but torch {torch.__version__} finds no CUDA device; --device cpu works")
    if (device.index or 0) >= n_devices:
        last = f"cuda:{n_devices - 1}"
        raise ValueError(f"device is {name!r}, but the CUDA devices of this machine end at {last!r}")
    if no_kernels is not None:
        raise ValueError(
            f"device is {name!r}, but this build has no CUDA kernels ({no_kernels}); --device cpu works, and itm-fast "
            "info says how this was built"
        )
    return device


def in_precision(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """A context in which matrix products are computed in a precision; parameters and similarities stay float32.

    Args:
        device: Where.
        precision: "float32" changes nothing.
    """
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, getattr(torch, precision))


def _unknown(name: str) -> str:
    return f'device is {name!r}; expected "auto", "cpu", "cuda" or "cuda:N"'
