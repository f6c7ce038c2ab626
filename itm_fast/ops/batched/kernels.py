"""Registration of an operator for every device that has no kernels of ours for it."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from itm_fast.ops._checks import HALF_DTYPES

_LIBRARY = torch.library.Library("itm_fast", "IMPL")  # type: ignore[no-untyped-call]

COMPILED_ON = ("cpu", "meta")
"""Devices whose kernels are compiled, of float32 and float64."""

KERNELS: dict[str, Callable[..., Any]] = {}
"""By operator: what runs on CUDA and other devices, and on any tensors that it is called with."""


def register(operator: str, forward: Callable[..., Any], backward: Callable[..., Any]) -> None:
    """Makes `forward` and `backward`, of the operator's schemas, its kernels wherever it has no compiled ones."""
    for name, kernel in ((operator, forward), (f"{operator}_backward", backward)):
        register_one(name, kernel)


def register_one(name: str, kernel: Callable[..., Any]) -> None:
    """Likewise, of one operator or of gradients alone."""
    KERNELS[name] = _in_the_types_given(kernel)
    _LIBRARY.impl(name, KERNELS[name], "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]


def _in_the_types_given(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel with autocast off: it would change the types of products inside."""

    @functools.wraps(kernel)
    def run(*arguments: Any) -> Any:
        device = next(x for x in arguments if isinstance(x, Tensor)).device.type
        with torch.no_grad(), torch.autocast(device, enabled=False):
            return kernel(*arguments)

    return run


def as_multiplied(*tensors: Tensor) -> tuple[torch.dtype, tuple[Tensor, ...]]:
    """The type of an operator's result, and its inputs in the type that they are multiplied in.

    That is the one of autocast, where it is on and kernels are not compiled. Compiled ones get float32 for 16-bit
    tensors, whose products they would widen, and autocast is nothing to them.
    """
    device, dtype = tensors[0].device.type, tensors[0].dtype
    if device in COMPILED_ON:
        return dtype, tuple(x.float() if x.dtype in HALF_DTYPES else x for x in tensors)
    if torch.is_autocast_enabled(device) and not any(x.dtype == torch.float64 for x in tensors):
        dtype = torch.get_autocast_dtype(device)
        tensors = tuple(x.to(dtype) for x in tensors)
    return dtype, tensors
