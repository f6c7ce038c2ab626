"""Small work stays on the thread that asks for it: the others are not even started."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Numbers come from NumPy: torch's own functions would start threads to fill large tensors.
PROGRAM = """
import json, os, sys
import numpy as np, torch
import itm_fast
from itm_fast.ops.attended_similarity import attended_similarity
from itm_fast.ops.generalised_pooling import generalised_pooling
from itm_fast.ops.graph_reasoning import graph_reasoning
from itm_fast.ops.level_attention import level_attention
from itm_fast.ops.ranking import dot_products, has_nan

def ones(*shape):
    return torch.from_numpy(np.full(shape, 0.01, np.float32))

def counts(n, count):
    return torch.from_numpy(np.full(n, count))

OPERATORS = {
    "cross_attention": lambda n: itm_fast.cross_attention_similarity(ones(n, 36, 64), ones(n, 12, 64), counts(n, 12)),
    "max_similarity": lambda n: itm_fast.max_similarity(ones(n, 36, 64), ones(n, 12, 64), counts(n, 12)),
    "triplet": lambda n: itm_fast.triplet_loss(ones(16 * n, 16 * n)),
    "dot_products": lambda n: dot_products(ones(64 * n, 16), ones(64 * n, 16)),
    "has_nan": lambda n: has_nan(ones(16 * n, 128 * n)),
    "generalised_pooling": lambda n: generalised_pooling(ones(n, 36, 64), ones(n, 36), counts(n, 36)),
}
torch.set_num_threads(4)
call, n_threads = OPERATORS[sys.argv[1]], lambda: len(os.listdir("/proc/self/task"))
itm_fast.build_info(), call(1)  # whatever is loaded at the first call
before = n_threads()
call(8)
small = n_threads() - before
call(int(sys.argv[2]))
print(json.dumps([small, n_threads() - before]))
"""


def started(operator, large, **environment):
    """Threads that a small and a large call of an operator have started."""
    command = [sys.executable, "-c", PROGRAM, operator, str(large)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in Linux's /proc")
@pytest.mark.parametrize(
    ("operator", "large"),
    [
        ("cross_attention", 64),
        ("max_similarity", 64),
        ("triplet", 200),
        ("dot_products", 80),
        ("has_nan", 80),
        ("generalised_pooling", 600),
    ],
)
def test_small_work_starts_no_thread(operator, large):
    assert started(operator, large) == [0, 3]
    small, _ = started(operator, 8, ITM_FAST_GRAIN="1")
    assert small > 0
