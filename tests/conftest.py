from pathlib import Path

import pytest
from backends import backend, pytest_generate_tests

__all__ = ["backend", "pytest_generate_tests"]

TESTS = Path(__file__).parent
OF_FOLDERS = {"emulated": ("emu", "cuda/test_roofline.py"), "bench": ("bench",), "browser": ("report/test_browser.py",)}


def pytest_collection_modifyitems(items):
    """Marks what `make test-fast` leaves out; tests that train until something is learnt say so themselves."""
    for item in items:
        backend_name = getattr(item, "callspec", None) and item.callspec.params.get("backend", "")
        for mark, places in OF_FOLDERS.items():
            here = any(item.path.is_relative_to(TESTS / place) for place in places)
            if here or (mark == "emulated" and backend_name and backend_name.startswith(mark)):
                item.add_marker(getattr(pytest.mark, mark))
