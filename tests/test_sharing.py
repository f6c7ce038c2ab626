"""The tests of a file run in one of several processes, where they share what they have made."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from patience import HANG_SECONDS

TESTS = Path(__file__).parent
FILE = """
import pytest

@pytest.mark.parametrize("number", range(9))
def test_some(number):
    pass
"""


@pytest.mark.slow
def test_a_file_is_one_processs(tmp_path):
    files = [f"test_{name}.py" for name in ("one", "other", "third")]
    for file in files:
        (tmp_path / file).write_text(FILE)
    command = [sys.executable, "-m", "pytest", "-n", "2", "-vv", "-p", "no:cacheprovider", "-p", "conftest", *files]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(TESTS), str(TESTS / "emu")))}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=HANG_SECONDS)
    assert done.returncode == 0, done.stdout[-3000:]
    found = re.findall(r"^\[(gw\d)\].* PASSED (test_\w+\.py)::", done.stdout, re.MULTILINE)
    assert len(found) == 9 * len(files)
    assert sorted(file for _, file in set(found)) == sorted(files)
