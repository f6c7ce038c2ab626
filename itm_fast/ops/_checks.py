"""Every argument check of the operators, and its message: which argument, what was given, what was expected.

Only metadata is read here, so that the checks neither break a compiled graph nor wait for a device. Counts are in
`_counts.py`; their values are checked by the operator itself, which has to read them anyway.
"""

import math
from typing import get_args

import torch
from torch import Tensor

from itm_fast.choices import in_order, perhaps
from itm_fast.ops import _library

HALF_DTYPES = (torch.bfloat16, torch.float16)
FLOAT_DTYPES = (torch.float32, torch.float64, *HALF_DTYPES)


def check_choice(name: str, value: object, alias: object) -> None:
    """Raises ValueError unless `value` is one of the strings of the Literal `alias`."""
    options = get_args(alias)
    if value not in options:
        listed = ", ".join(map(repr, in_order(options)))
        raise ValueError(f"{name} must be one of {listed}, got {value!r}{perhaps(value, options)}")


def check_switch(name: str, value: object) -> bool:
    """Returns whether it is on; raises TypeError for what is neither on nor off: a text such as "False" would be on."""
    if value not in (False, True, None):
        raise TypeError(f"{name} must be True or False, got {value!r:.60}")
    return bool(value)


def check_finite(name: str, value: float, *, positive: bool) -> float:
    """Returns `value` as a float; raises TypeError for what is no number, ValueError for one out of range."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    # Not math.isfinite: torch.compile may have made a symbol of the number, which has comparisons only.
    if not -math.inf < value < math.inf or (positive and value <= 0):
        raise ValueError(f"{name} must be a finite number{' above 0' if positive else ''}, got {value}")
    return float(value)


def check_number(name: str, value: int) -> int:
    """Returns `value`; raises TypeError for what is no integer, ValueError for one below 1."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value


def check_vectors(
    regions: Tensor,
    words: Tensor,
    names: tuple[str, str] = ("regions", "words"),
    shapes: tuple[str, str] = ("(n_images, max_regions, dim)", "(n_captions, max_words, dim)"),
) -> None:
    """Raises unless both are floating tensors of these shapes that agree in dim, dtype and device."""
    for name, shape, given in zip(names, shapes, (regions, words), strict=True):
        if not isinstance(given, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(given).__name__}")
        if given.layout != torch.strided:
            raise TypeError(f"{name} must be a dense tensor, got layout {given.layout}")
        if given.ndim != shape.count(",") + 1:
            hint = f"; packed vectors come with offsets: Packed({name}, offsets)" if given.ndim == 2 else ""
            raise ValueError(f"{name} must have shape {shape}, got {tuple(given.shape)}{hint}")
        if given.dtype not in FLOAT_DTYPES:
            raise TypeError(f"{name} must be float32, float64, bfloat16 or float16, got {given.dtype}")
    both = f"{names[0]} and {names[1]}"
    if regions.shape[-1] != words.shape[-1]:
        raise ValueError(f"{both} must have the same dim, got {regions.shape[-1]} and {words.shape[-1]}")
    if regions.shape[-1] == 0:
        raise ValueError(f"{both} have dim 0; vectors need at least one number")
    if regions.dtype != words.dtype:
        raise TypeError(f"{both} must have the same dtype, got {regions.dtype} and {words.dtype}")
    if regions.device != words.device:
        raise ValueError(f"{both} must be on the same device, got {regions.device} and {words.device}")


def check_sims(sims: Tensor) -> None:
    """Raises unless `sims` is a dense floating (n, n)."""
    if not isinstance(sims, Tensor):
        raise TypeError(f"sims must be a torch.Tensor, got {type(sims).__name__}")
    if sims.layout != torch.strided:
        raise TypeError(f"sims must be a dense tensor, got layout {sims.layout}")
    if sims.ndim != 2 or sims.shape[0] != sims.shape[1]:
        raise ValueError(f"sims must be a square matrix (n, n) with the pairs on its diagonal, got {tuple(sims.shape)}")
    if sims.dtype not in FLOAT_DTYPES:
        raise TypeError(f"sims must be float32, float64, bfloat16 or float16, got {sims.dtype}")


def check_pair_indices(name: str, indices: object, sims: Tensor) -> None:
    """Raises unless `indices` is int64 (n,), one per pair of `sims` and on its device."""
    if not isinstance(indices, Tensor):
        raise TypeError(f"{name} must be an int64 tensor, got {type(indices).__name__}; use torch.as_tensor")
    if indices.dtype != torch.int64:
        raise TypeError(f"{name} must be int64, got {indices.dtype}")
    if indices.ndim != 1 or indices.shape[0] != sims.shape[0]:
        raise ValueError(f"{name} must have shape ({sims.shape[0]},), one per pair, got {tuple(indices.shape)}")
    if indices.device != sims.device:
        raise ValueError(f"{name} must be on the device of sims, {sims.device}, got {indices.device}")


def check_relevance(relevance: Tensor, shape: tuple[int, ...], of: str, sims: Tensor) -> None:
    """Raises unless `relevance` is float32 or float64 of this shape on the device of `sims`."""
    if not isinstance(relevance, Tensor):
        raise TypeError(f"{of} must be a torch.Tensor, got {type(relevance).__name__}")
    if relevance.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{of} must be float32 or float64, got {relevance.dtype}")
    if tuple(relevance.shape) != shape:
        raise ValueError(f"{of} must have shape {shape}, got {tuple(relevance.shape)}")
    if relevance.device != sims.device:
        raise ValueError(f"{of} must be on the device of sims, {sims.device}, got {relevance.device}")


def check_device(operator: str, device: torch.device) -> None:
    """Raises unless this build has kernels for the device."""
    if device.type in ("cpu", "meta") or (device.type == "cuda" and _library.no_cuda is None):
        return
    if device.type == "cuda":
        raise ValueError(
            f"{operator} got tensors on {device}, but this build has no CUDA kernels ({_library.no_cuda}). Install the "
            f"CUDA toolkit (nvcc) and rebuild in a copy of the repository: {_library.REBUILD}; or use .cpu()"
        )
    raise ValueError(f"{operator} has no {device.type} kernels, got tensors on {device}; move them with .cpu()")


def autocast(regions: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """Both tensors in the autocast dtype where autocast is on, as torch does for matmul; float64 is left alone."""
    device = regions.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return regions, words
    dtype = torch.get_autocast_dtype(device)
    if torch.float64 in (regions.dtype, words.dtype):
        return regions, words
    return regions.to(dtype), words.to(dtype)
