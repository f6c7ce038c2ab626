"""Whatever a file holds: a DataError, a ValueError that says more than its cause did, or a result; nothing else.

`make test` damages every file of `cases` some ten times, the same on each run, in half a minute. A run of ten minutes:
    ITM_FAST_FUZZ_EXAMPLES=400 ITM_FAST_FUZZ_SEED=1 python -m pytest tests/fuzz
"""

import contextlib
import os
import re
import shutil
import tempfile
import tracemalloc
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, note, seed, settings
from hypothesis import strategies as st

pytest.importorskip("PIL.Image", reason="Pillow is not installed (pip install 'itm-fast[images]')")

from fuzz.cases import CASES
from fuzz.mutations import mutated

N_EXAMPLES = int(os.environ.get("ITM_FAST_FUZZ_EXAMPLES", "12"))
SEED = os.environ.get("ITM_FAST_FUZZ_SEED")  # None: the same on each run
MOST_BYTES = 64 * 2**20  # of a file of some kilobytes
MOST_MAPPED = 256 * 2**20  # also of torch and Pillow, whose memory Python does not count; threads take some, unused
PACKAGE = str(Path(__file__).parents[2] / "itm_fast")
STATUS = Path("/proc/self/status")
FUZZ = settings(
    max_examples=N_EXAMPLES,
    deadline=None,
    derandomize=SEED is None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


def mapped_bytes():
    """Address space of this process now and at its peak; 0 where the system does not say."""
    if not STATUS.is_file():
        return 0, 0
    found = dict(re.findall(r"(VmPeak|VmSize):\s+(\d+) kB", STATUS.read_text()))
    return int(found["VmSize"]) * 1024, int(found["VmPeak"]) * 1024


@contextlib.contextmanager
def little_memory():
    """Fails if far more is taken than the files hold."""
    before = mapped_bytes()
    tracemalloc.start()
    try:
        yield
    finally:  # also where the file is refused
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MOST_BYTES, f"took {peak} bytes"
        most = max(before[1], before[0] + MOST_MAPPED)
        assert mapped_bytes()[1] <= most, f"mapped {mapped_bytes()[1] - before[0]} bytes more"


def check_told(error, folder):
    """An error says in words of the package which file it speaks of."""
    told = str(error)
    assert "\x1b" not in told, "escape codes"
    if isinstance(error, OSError):
        assert str(folder) in f"{told} {error.filename}", f"does not name the file: {error!r}"
        return
    place = error.__traceback__
    while place.tb_next is not None:
        place = place.tb_next
    assert place.tb_frame.f_code.co_filename.startswith(PACKAGE), "somebody else's exception"
    assert str(folder) in told, f"does not name the file: {told}"


def read(case, files):
    """The result, or None where the files were refused as they should be."""
    folder = Path(tempfile.mkdtemp())
    try:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        try:
            with warnings.catch_warnings(record=True), little_memory():
                return case.read(folder)
        except (ValueError, OSError) as error:
            try:
                check_told(error, folder)
            except AssertionError as reason:
                raise reason from error
        return None
    finally:
        shutil.rmtree(folder)


def is_right(case, found):
    return case.right(found) if callable(case.right) else found == case.right


@pytest.mark.parametrize("name", CASES)
def test_whatever_a_file_holds(name):
    case = CASES[name]
    sound = case.files()
    assert is_right(case, read(case, sound))
    damaged = sorted(set(sound) - set(case.whole))

    @FUZZ
    @given(st.randoms(use_true_random=False))
    def check(random):
        files = dict(sound)
        for _ in range(random.choice((1, 1, 2))):
            file = random.choice(damaged)
            files[file] = mutated(files[file], file, random)
        note("\n".join(f"{file}: {files[file][:2000]!r}" for file in damaged if files[file] != sound[file]))
        read(case, files)

    (check if SEED is None else seed(int(SEED))(check))()
