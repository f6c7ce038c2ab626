from pathlib import Path

import emulation
import pytest


def pytest_collection_modifyitems(items):
    if emulation.compiler() is None:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="the emulator needs a C++ compiler (CXX, c++)"))
