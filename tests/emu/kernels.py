"""What the tests of emulated kernels share: schedules, and tensors as arrays that NumPy knows."""

from pathlib import Path

import pytest
import torch
from emulation import Device, build

HERE = Path(__file__).parent
SCHEDULES = [
    ("forward", 0),
    ("reverse", 0),
    *[(order, seed) for order in ("random", "warp-random") for seed in range(10)],
]
NUMBERS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}  # csrc/cuda/number.h


def devices(*sources):
    """Two fixtures of a test module: its kernels without hooks, and watched."""
    return tuple(
        pytest.fixture(scope="module", name=name)(lambda hooks=hooks: Device(build(*sources, hooks=hooks)))
        for name, hooks in (("plain", False), ("watched", True))
    )


def raw(tensor):
    """The bytes of a tensor as an array that NumPy knows."""
    return tensor.view(torch.int16).numpy() if tensor.element_size() == 2 else tensor.numpy()


def check_traffic(rows, least, parts=lambda row: 1):
    """Asserts that the lines with more than a share `least` of all requests are most of them, and near their ideal.

    Args:
        rows: of Device.traffic.
        least: of all requests, what a line needs to be looked at.
        parts: of a row, in how many loads or stores the compiler makes what a device makes in one.
    """
    total = sum(row["requests"] for row in rows)
    hot = [row for row in rows if row["requests"] > total * least]
    assert sum(row["requests"] for row in hot) > 0.85 * total
    for row in hot:
        assert row["units"] <= (2 if row["shared"] else 1.1 * parts(row)) * row["ideal"], row
