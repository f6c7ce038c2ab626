"""`itm-fast info`: what was built, which devices there are, what runs on each, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Info:
    """Show how the operators were built, the devices of this machine, what runs on each of them, and why."""

    json: bool = False
    """Print one JSON object instead of text."""


def run(args: Info) -> int:
    """Print it.

    Args:
        args: The command line.

    Returns:
        0, or 1 after a message where the compiled operators cannot be loaded.
    """
    from itm_fast.cli.console import print_error, print_json

    try:
        from itm_fast.ops._devices import devices, no_cuda_device
        from itm_fast.ops._library import build_info

        info = {**build_info(), "devices": devices()}
    except ImportError as error:
        print_error(str(error))
        return 1
    if args.json:
        print_json(info)
    else:
        print(_as_text(info, no_cuda_device()))
    return 0


def _as_text(info: dict[str, Any], no_device: str) -> str:
    import platform

    isas = ", ".join(info["cpu_isas"])
    cuda = f"{'built' if info['cuda_kernels'] else 'none'} ({info['cuda_reason']})"
    blocks = {
        f"itm-fast {info['version']}": {
            "built": f"with torch {info['built_with_torch']} by {info['compiler']}, kernels for {isas}",
            "CUDA kernels": cuda,
            "running": f"torch {info['torch']}, Python {platform.python_version()}",
        }
    }
    for device in info["devices"]:
        of_cpu = device["device"] == "cpu"
        rows = _of_processor(device, info["cpu_features"]) if of_cpu else _of_cuda(device)
        rows |= {f"GEMM {dtype}": _with_reason(device, f"gemm_{dtype}") for dtype in ("float32", "bfloat16")}
        blocks[f"{device['device']}: {device['name']}"] = rows
    if len(info["devices"]) == 1:
        blocks[f"no CUDA device: {no_device}"] = {}
    width = max(len(name) for rows in blocks.values() for name in rows)
    return "\n".join(
        line
        for heading, rows in blocks.items()
        for line in (heading, *(f"  {name:<{width}}  {text}" for name, text in rows.items()))
    )


def _of_processor(device: dict[str, Any], features: list[str]) -> dict[str, str]:
    cores = "" if device["cores"] is None else f"{_number(device['cores'], 'core')}, "
    has = f"{cores}{_number(device['threads'], 'thread')}, of which torch uses {device['torch_threads']}"
    return {"has": has, "features": " ".join(features) or "-", "kernels": _with_reason(device, "kernels")}


def _of_cuda(device: dict[str, Any]) -> dict[str, str]:
    kernels = "none" if device["kernels"] is None else f"of architecture {device['kernels']}"
    batched = ", ".join(device["batched_products"])
    return {
        "has": f"compute capability {device['compute_capability']}, {device['memory_gb']:.1f} GB",
        "kernels": f"{kernels} ({device['kernels_reason']})",
        "torch's products": batched
        if device["kernels"] is not None
        else f"{batched}; the others refuse tensors of this device",
    }


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _with_reason(device: dict[str, Any], key: str) -> str:
    reason = device[f"{key}_reason"]
    return f"{device[key]} ({reason})" if reason else str(device[key])
