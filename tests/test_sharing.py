"""The tests of a file run in one of several processes, where they share what they have made."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from patience import HANG_SECONDS

TESTS = Path(__file__).parent


@pytest.mark.slow
def test_a_file_is_one_processs():
    files = ["files/test_owners.py", "files/test_ids.py", "files/test_text.py"]
    command = [sys.executable, "-m", "pytest", "-n", "2", "-vv", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *(str(TESTS / file) for file in files)], capture_output=True, text=True, timeout=HANG_SECONDS
    )
    assert done.returncode == 0, done.stdout[-3000:]
    found = set(re.findall(r"^\[(gw\d)\].* PASSED tests/(files/\w+\.py)::", done.stdout, re.MULTILINE))
    assert sorted(file for _, file in found) == sorted(files)
