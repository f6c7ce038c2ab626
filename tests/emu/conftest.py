import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # emulation.py

import emulation


def pytest_collection_modifyitems(items):
    if emulation.compiler() is None:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="the emulator needs a C++ compiler (CXX, c++)"))
