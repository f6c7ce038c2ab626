import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # golden_files.py

from backends import backend, pytest_generate_tests

__all__ = ["backend", "pytest_generate_tests"]
