"""Memory that a call takes, and memory that there is."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import torch

from itm_fast.benchmark.timing import Call

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CONTROL_GROUP = Path("/sys/fs/cgroup")  # a container's bound, which the system's free memory knows nothing of


def extra_mb(call: Call) -> float | None:
    """Peak resident memory during a call, above what was resident before, in MB; None where it cannot be read.

    The call is made in either case. The first call of a function also counts what torch loads for it.
    """
    if not _forget_the_peak():
        call()
        return None
    before = _status_mb("VmRSS")
    call()
    return _status_mb("VmHWM") - before


def extra_device_mb(call: Call, device: torch.device) -> float:
    """Peak of torch's allocations on a CUDA device during a call, above those before, in MB."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def available_mb(device: torch.device) -> float:
    """Memory that can still be had, in MB: of the device, or of system and container; infinity where unknown."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0] / 2**20)
    bounds = []
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        found = re.search(r"MemAvailable:\s+(\d+)", meminfo.read_text(encoding="utf-8"))
        bounds += [int(found[1]) / 1024] if found else []
    try:
        most, used = ((_CONTROL_GROUP / f"memory.{name}").read_text(encoding="utf-8") for name in ("max", "current"))
        bounds.append((int(most) - int(used)) / 2**20)
    except (OSError, ValueError):  # no such file, or "max": no bound
        pass
    return min(bounds, default=float("inf"))


def _forget_the_peak() -> bool:
    if not _CLEAR.exists():
        return False
    trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)
    trim(0)  # what earlier calls freed is resident still, and would take this call's tensors unseen
    try:
        _CLEAR.write_text("5", encoding="utf-8")
    except OSError:  # a container may forbid it
        return False
    return True


def _status_mb(name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+)", _STATUS.read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1]) / 1024
