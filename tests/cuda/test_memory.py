"""What max_similarity takes from the allocator on a device, by the emulated host: never S."""

import emulated_operators
import emulation
import pytest
import torch
from operators import AGG_FUNCS, random_batch
from torch.profiler import ProfilerActivity, profile

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(emulation.compiler() is None, reason="the emulator needs a C++ compiler (CXX, c++)"),
]


def allocated(work):
    """Bytes of each tensor that was made meanwhile."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    return [event.cpu_memory_usage for event in recorded.events() if event.name == "aten::empty"]


def test_nothing_of_the_size_of_all_similarities_is_written():
    n_documents, rows, n_queries, columns = 6, 300, 4, 40
    regions, words, *counts = random_batch(
        n_documents, rows, n_queries, columns, 16, dtype=torch.bfloat16, ragged_regions=True
    )
    query_vectors, grad = n_queries * columns, torch.ones(n_documents, n_queries)
    plans = 4 * (3 * n_documents + 3 + 3 * n_queries + 3)
    operators = torch.ops.itm_fast
    with emulated_operators.emulated():
        forward = allocated(lambda: operators.max_similarity(regions, words, *counts, "t2i", "Sum", 1.0))
        arguments = (grad, regions, words, *counts, "t2i", "Sum", 1.0, True, True)
        backward = allocated(lambda: operators.max_similarity_backward(*arguments))
    assert sum(forward) == 4 * query_vectors * n_documents + plans + 4 * n_documents * n_queries
    gradients = 2 * (regions.numel() + words.numel())
    assert sum(backward) == 8 * query_vectors * n_documents + 4 * query_vectors + plans + gradients
    assert sum(backward) - gradients < 4 * n_documents * rows * query_vectors / 50


@pytest.mark.parametrize("agg_func", AGG_FUNCS)
def test_training_keeps_four_bytes_a_query_vector_and_context(agg_func):
    n_documents, n_queries, columns = 6, 4, 40
    regions, words, *counts = random_batch(n_documents, 300, n_queries, columns, 16, dtype=torch.bfloat16)
    query_vectors, grad, flags = n_queries * columns, torch.ones(n_documents, n_queries), ("t2i", agg_func, 1.0)
    plan = 4 * (3 * n_queries + 3)
    with emulated_operators.emulated():
        kept = torch.ops.itm_fast.max_similarity_kept(regions, words, *counts, *flags)
        arguments = (grad, regions, words, *counts, *kept[1:], *flags, True, True)
        backward = allocated(lambda: torch.ops.itm_fast.max_similarity_kept_backward(*arguments))
    assert sum(x.numel() * x.element_size() for x in kept[1:]) == 4 * query_vectors * n_documents
    numbers = 4 * query_vectors * n_documents * (agg_func == "LogSumExp")  # at most 128 MB of them at a time
    assert sum(backward) == numbers + 4 * query_vectors + plan + 2 * (regions.numel() + words.numel())
