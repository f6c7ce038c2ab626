"""Whether this torch and this processor have oneDNN's tile product."""

import pytest

from itm_fast import build_info


def ask_for_brgemm(monkeypatch):
    """Sets ITM_FAST_GEMM=brgemm, or skips where there is none; any other error is one of the test."""
    monkeypatch.setenv("ITM_FAST_GEMM", "brgemm")
    try:
        assert build_info()["gemm_float32"] == "brgemm"
    except RuntimeError as error:
        if "this torch or processor has no such kernel" not in str(error):
            raise
        pytest.skip("this torch exports no brgemm, or none for this processor")
