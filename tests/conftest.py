import functools
import gc
import os
import shutil
from pathlib import Path

import pytest
from backends import backend, pytest_generate_tests

__all__ = ["backend", "pytest_generate_tests"]

TESTS = Path(__file__).parent
# What tests write lies in memory where there is room: on a disk they wait for it, up to a fifth of test-fast's time.
MEMORY, ROOM = Path("/dev/shm"), 4 * 2**30
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
OF_FOLDERS = {
    "emulated": ("emu", "cuda/test_roofline.py", "cuda/test_roofline_models.py"),
    "bench": ("bench",),
    "browser": ("report/test_browser.py", "report/test_browser_widths.py"),
    "slow": (
        *("ops/test_paths.py", "training/test_distributed.py", "cli/test_stopped.py", "fuzz"),
        *("evaluation/test_eccv_caption.py", "evaluation/test_cxc.py", "evaluation/test_traps.py"),
        *("models/test_vse_infty_grid.py", "test_examples.py", "cuda/test_gpu_check.py"),
    ),
}
# Tests that share nothing with those beside them: other processes may take them.
ALONE = ("bench", "ops/test_paths.py", "training/test_distributed.py", "emu/test_device_code.py")
# What takes longest begins first, so that no process is left alone with it at the end.
LONG = (
    *(*ALONE, "ops/test_cross_attention.py", "test_docs.py"),
    *("models", "training", "evaluation", "emu", "cli", "relevance", "metrics"),
)


def pytest_collection_modifyitems(items):
    """Marks what `make test-fast` leaves out; tests that train until something is learnt say so themselves."""
    for item in items:
        backend_name = getattr(item, "callspec", None) and item.callspec.params.get("backend", "")
        for mark, places in OF_FOLDERS.items():
            if _is_in(item.path, places) or (mark == "emulated" and backend_name and backend_name.startswith(mark)):
                item.add_marker(getattr(pytest.mark, mark))
    items.sort(key=lambda item: _turn(item.path))


def pytest_collection_finish():
    """Ten thousand tests are no garbage: looking through them each time cost a tenth of the suite."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """One process of several takes the tests of a file, which share what they have trained or compiled."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            return nodeid if _is_in(config.rootpath / file, ALONE) else file

    return ByFile(config, log)


@functools.cache
def _is_in(path, places):
    return any(path.is_relative_to(TESTS / place) for place in places)


@functools.cache
def _turn(path):
    return next((number for number, place in enumerate(LONG) if _is_in(path, (place,))), len(LONG))
