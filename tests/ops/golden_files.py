"""Where golden vectors are: the copies in tests/golden, or the whole set beside the checkout."""

import os
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).parents[1]
HERE = TESTS / "golden"
SHARED = Path(os.environ.get("ITM_FAST_SHARED", TESTS.parents[1] / "shared")) / "golden"


def golden(name):
    """The arrays of a golden file; the test is skipped where only the copies are and this is none of them."""
    for folder in (HERE, *sorted(SHARED.glob("*/"))):
        if (folder / name).is_file():
            return np.load(folder / name, allow_pickle=False)
    pytest.skip(f"{name} is not among the copies in tests/golden, and not in a folder of {SHARED}")
