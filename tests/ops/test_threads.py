"""Small work stays on the thread that asks for it: the others are not even started."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Each operator in a fork of its own, which begins with one thread. Numbers come from NumPy: torch's own functions would
# start threads to fill large tensors.
PROGRAM = """
import json, os, sys
import numpy as np, torch
import itm_fast
from itm_fast.ops.generalised_pooling import generalised_pooling
from itm_fast.ops.ranking import dot_products, has_nan

def ones(*shape):
    return torch.from_numpy(np.full(shape, 0.01, np.float32))

def counts(n, count):
    return torch.from_numpy(np.full(n, count))

OPERATORS = {
    "cross_attention": lambda n: itm_fast.cross_attention_similarity(ones(n, 36, 64), ones(n, 12, 64), counts(n, 12)),
    "max_similarity": lambda n: itm_fast.max_similarity(ones(n, 36, 64), ones(n, 12, 64), counts(n, 12)),
    "triplet": lambda n: itm_fast.triplet_loss(ones(16 * n, 16 * n)),
    "dot_products": lambda n: dot_products(ones(256 * n, 16), ones(64 * n, 16)),  # below 256 rows it is torch's mm
    "has_nan": lambda n: has_nan(ones(16 * n, 128 * n)),
    "generalised_pooling": lambda n: generalised_pooling(ones(n, 36, 64), ones(n, 36), counts(n, 36)),
}
LARGE = {"triplet": 80, "has_nan": 80, "dot_products": 30, "generalised_pooling": 600}

def started(call, large):
    n_threads = lambda: len(os.listdir("/proc/self/task"))
    call(1)  # whatever is loaded at the first call
    before = n_threads()
    call(8)
    small = n_threads() - before
    call(large)
    return small, n_threads() - before

itm_fast.build_info()
torch.set_num_threads(4)
for name, call in OPERATORS.items():
    if os.fork() == 0:
        print(json.dumps([name, *started(call, LARGE.get(name, 64))]), flush=True)
        os._exit(0)
    os.wait()
"""


def started(**environment):
    """Threads that a small and a large call of every operator have started."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 6, done.stderr
    return {name: counts for name, *counts in found}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in Linux's /proc")
def test_small_work_starts_no_thread():
    assert set(map(tuple, started().values())) == {(0, 3)}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in Linux's /proc")
def test_a_grain_of_one_shares_out_everything():
    assert all(small > 0 for small, _ in started(ITM_FAST_GRAIN="1").values())
