"""The same calls through pytest-benchmark, for its saving and comparing: pytest bench --benchmark-only."""

import pytest
import torch
from _cases import FLAGS, packed, scan_batch

from itm_fast import cross_attention_similarity, max_similarity, reference

BATCH = scan_batch(100, 500)
IMAGES, VALID = BATCH[0].reshape(-1, 1024), packed(BATCH[1], BATCH[2])

CALLS = {
    **{f"fused {way}": lambda way=way: cross_attention_similarity(*BATCH, **FLAGS[way]) for way in FLAGS},
    **{
        f"closed form {way}": lambda way=way: reference.cross_attention_closed_form(*BATCH, **FLAGS[way])
        for way in FLAGS
    },
    "reference t2i": lambda: reference.cross_attention_similarity(*BATCH, **FLAGS["t2i"]),
    "max_similarity": lambda: max_similarity(*BATCH),
    "bare GEMM": lambda: IMAGES @ VALID.T,
}


@pytest.mark.parametrize("name", CALLS)
def test_scoring(benchmark, name):
    benchmark.group = f"100 x 500, {len(VALID)} words, {torch.get_num_threads()} threads"
    with torch.inference_mode():
        benchmark.pedantic(CALLS[name], rounds=1 if name.startswith("reference") else 5, warmup_rounds=1)
