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
