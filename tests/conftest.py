from backends import backend, pytest_generate_tests

__all__ = ["backend", "pytest_generate_tests"]
