"""The batches that are timed."""

from itm_fast.benchmark.inputs import packed, scan_batch

FLAGS = {
    "t2i": {"cross_attn": "t2i", "lambda_softmax": 9.0, "lambda_lse": 6.0},
    "i2t": {"cross_attn": "i2t", "lambda_softmax": 4.0, "lambda_lse": 5.0},
}

__all__ = ["FLAGS", "packed", "scan_batch"]
