"""Operators timed at a shape of the user's, beside plain torch and the bare GEMM, on the machine at hand."""

from itm_fast.benchmark.bench import BenchResult, read_medians, run_bench
from itm_fast.benchmark.settings import OPERATORS, BenchSettings

__all__ = ["OPERATORS", "BenchResult", "BenchSettings", "read_medians", "run_bench"]
