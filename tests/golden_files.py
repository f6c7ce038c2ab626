"""Where golden vectors and real data are: the copies in tests/golden, or the whole set beside the checkout."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).parent
HERE = TESTS / "golden"
SHARED = Path(os.environ.get("ITM_FAST_SHARED", TESTS.parents[1] / "shared"))


def golden_path(name):
    """The golden file; the test is skipped where only the copies are and this is none of them."""
    for folder in (HERE, *sorted((SHARED / "golden").glob("*/"))):
        if (folder / name).is_file():
            return folder / name
    return pytest.skip(f"{name} is not among the copies in tests/golden, and not in a folder of {SHARED / 'golden'}")


def golden(name):
    """The arrays of a golden file."""
    return np.load(golden_path(name), allow_pickle=False)


def golden_json(name):
    """The content of a golden JSON file."""
    return json.loads(golden_path(name).read_text(encoding="utf-8"))


def data_path(name):
    """A file of real captions or annotations; the test is skipped where they are not."""
    path = SHARED / "data" / name
    if not path.is_file():
        pytest.skip(f"real data, which the project does not carry, is not there: {path}")
    return path
