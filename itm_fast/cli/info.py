"""`itm-fast info`: what was built, what this processor runs, and why."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Info:
    """Show how the operators were built, which kernels run on this machine, and why."""

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
        from itm_fast.ops._library import build_info

        info = build_info()
    except ImportError as error:
        print_error(str(error))
        return 1
    if args.json:
        print_json(info)
    else:
        print(_as_text(info))
    return 0


def _as_text(info: dict[str, Any]) -> str:
    import platform

    import torch

    python = platform.python_version()
    isas = ", ".join(info["cpu_isas"])
    rows = {
        "built": f"for torch {info['built_for_torch']} by {info['compiler']}, kernels for {isas}",
        "running": f"torch {info['torch']}, Python {python}, {torch.get_num_threads()} threads",
        "processor": " ".join(info["cpu_features"]) or platform.machine(),
        "CPU kernels": _with_reason(info, "cpu_isa"),
        "GEMM float32": _with_reason(info, "gemm_float32"),
        "GEMM bfloat16": _with_reason(info, "gemm_bfloat16"),
        "CUDA kernels": f"{'built' if info['cuda_kernels'] else 'none'} ({info['cuda_reason']})",
    }
    width = max(map(len, rows))
    return "\n".join([f"itm-fast {info['version']}", *(f"  {name:<{width}}  {text}" for name, text in rows.items())])


def _with_reason(info: dict[str, Any], key: str) -> str:
    reason = info.get(f"{key}_reason")
    return f"{info[key]} ({reason})" if reason else str(info[key])
