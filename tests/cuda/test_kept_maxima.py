"""What max_similarity keeps on a device for its gradients, by the emulated host: a row of each largest similarity."""

import emulated_operators
import emulation
import pytest
import torch
from operators import AGG_FUNCS, random_batch, relative_error, scores_and_gradients, truth

from itm_fast import Packed, max_similarity

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(emulation.compiler() is None, reason="the emulator needs a C++ compiler (CXX, c++)"),
]
SIZES = [(3, 36, 5, 12, 24), (2, 140, 3, 9, 16), (70, 2, 3, 200, 8)]  # tiles; a stream; several rounds
both_directions = pytest.mark.parametrize("cross_attn", ["t2i", "i2t"])


def counted(name):
    _, loaded, _ = emulated_operators.library(False)
    return emulation.statistics(loaded)[name]


@both_directions
@pytest.mark.parametrize("agg_func", AGG_FUNCS)
@pytest.mark.parametrize("sizes", SIZES)
def test_gradients_come_from_rows_alone_with_the_bits_of_rows_found_again(sizes, agg_func, cross_attn):
    inputs = random_batch(*sizes, dtype=torch.float32, ragged_regions=True)
    flags, grad = (cross_attn, agg_func, 6.0), torch.randn(sizes[0], sizes[2])
    operators = torch.ops.itm_fast
    with emulated_operators.emulated():
        scores, rows, values = operators.max_similarity_kept(*inputs, *flags)
        assert torch.equal(scores, operators.max_similarity(*inputs, *flags))
        before = counted("matrix_products")
        found = operators.max_similarity_kept_backward(grad, *inputs, rows, values, *flags, True, True)
        assert counted("matrix_products") == before
        again = operators.max_similarity_backward(grad, *inputs, *flags, True, True)
        assert counted("matrix_products") > before
    n_contexts, query = (sizes[0], inputs[1]) if cross_attn == "t2i" else (sizes[2], inputs[0])
    assert rows.dtype == torch.int32
    assert rows.shape == (n_contexts, query.shape[0] * query.shape[1])  # 4 bytes a query vector and context
    assert values.shape == (0,)
    assert all(torch.equal(*pair) for pair in zip(found, again, strict=True))


@both_directions
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_call_with_gradients_has_the_scores_of_one_without(dtype, cross_attn):
    for sizes in SIZES:
        batch = random_batch(*sizes, dtype=dtype, ragged_regions=True)
        for agg_func in AGG_FUNCS:
            flags = {"cross_attn": cross_attn, "agg_func": agg_func}
            saved = []
            with emulated_operators.emulated():
                with torch.autograd.graph.saved_tensors_hooks(lambda x, saved=saved: saved.append(x) or x, lambda x: x):
                    scores, *gradients = scores_and_gradients(max_similarity, *batch, **flags)
                assert torch.equal(scores, max_similarity(*batch, **flags))
            assert sum(x.dtype == torch.int32 for x in saved) == 1
            for got, want in zip(gradients, truth("max_similarity", *batch, **flags)[1:], strict=True):
                assert relative_error(got, want) <= torch.finfo(dtype).eps + 1e-5


@pytest.mark.parametrize("agg_func", AGG_FUNCS)
def test_rows_out_of_range_count_for_nothing(agg_func):
    inputs, flags = random_batch(3, 40, 4, 9, 20, dtype=torch.float32), ("t2i", agg_func, 6.0)
    with emulated_operators.emulated(watched=True):
        _, rows, values = torch.ops.itm_fast.max_similarity_kept(*inputs, *flags)
        for wrong in (40, 2**31 - 1, -2, -(2**31)):
            other = rows.clone()
            other[0], other[2] = wrong, wrong
            gradients = torch.ops.itm_fast.max_similarity_kept_backward(
                torch.ones(3, 4), *inputs, other, values, *flags, True, True
            )
            assert (gradients[0][[0, 2]] == 0).all()
            assert (gradients[0][1] != 0).any()
            assert not gradients[1].isnan().any()


def test_rows_of_another_form_are_refused():
    inputs, flags = random_batch(3, 40, 4, 9, 20, dtype=torch.float32), ("t2i", "Sum", 6.0)
    with emulated_operators.emulated():
        _, rows, values = torch.ops.itm_fast.max_similarity_kept(*inputs, *flags)
        for wrong in (rows[:1], rows.long(), rows[:, 1:]):
            with pytest.raises(RuntimeError, match=r"rows must be int32 of shape \[3, 36\]"):
                torch.ops.itm_fast.max_similarity_kept_backward(
                    torch.ones(3, 4), *inputs, wrong, values, *flags, True, True
                )


@pytest.mark.parametrize(("dtype", "ampere"), [(torch.float64, True), (torch.float32, False)])
def test_nothing_is_kept_where_there_are_no_tensor_cores_for_it(dtype, ampere):
    inputs = random_batch(3, 40, 4, 9, 20, dtype=dtype)
    saved = []
    with emulated_operators.emulated(ampere=ampere):
        with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
            scores_and_gradients(max_similarity, *inputs)
        assert not any(x.dtype == torch.int32 for x in saved)
        with pytest.raises(RuntimeError, match=r"on compute capability 8\.0 and newer"):
            torch.ops.itm_fast.max_similarity_kept(*inputs, "t2i", "Sum", 6.0)


@both_directions
@pytest.mark.parametrize("agg_func", ["Max", "LogSumExp"])
def test_opcheck_compiled_checkpointed_and_packed(cross_attn, agg_func):
    torch.compiler.reset()  # what other tests of this process have compiled counts towards dynamo's limit
    regions, words, word_counts, region_counts = random_batch(2, 4, 3, 5, 8, dtype=torch.float32, ragged_regions=True)
    leaves = regions.nan_to_num().requires_grad_(), words.nan_to_num().requires_grad_()
    flags = {"cross_attn": cross_attn, "agg_func": agg_func}

    def gradients(scores):
        return torch.autograd.grad(scores.square().sum(), leaves)

    def similarity(regions, words):
        return max_similarity(regions, words, word_counts, region_counts, **flags)

    with emulated_operators.emulated():
        inputs = (*leaves, word_counts, region_counts, cross_attn, agg_func, 10.0)
        torch.library.opcheck(torch.ops.itm_fast.max_similarity_kept.default, inputs)
        detached = [x.detach() if isinstance(x, torch.Tensor) else x for x in inputs]
        _, rows, values = torch.ops.itm_fast.max_similarity_kept(*detached)
        inputs = (torch.randn(2, 3), *detached[:4], rows, values, *detached[4:], False, True)
        torch.library.opcheck(torch.ops.itm_fast.max_similarity_kept_backward.default, inputs)
        want = gradients(similarity(*leaves))
        compiled = torch.compile(similarity, fullgraph=True, backend="aot_eager")
        checkpointed = torch.utils.checkpoint.checkpoint(similarity, *leaves, use_reentrant=False)
        offsets = torch.nn.functional.pad(word_counts.cumsum(0), (1, 0))
        packed = Packed(torch.cat([x[:n] for x, n in zip(leaves[1], word_counts, strict=True)]), offsets)
        of_packed = max_similarity(leaves[0], packed, None, region_counts, **flags)
        for scores in (compiled(*leaves), checkpointed, of_packed):
            assert all(torch.equal(*pair) for pair in zip(gradients(scores), want, strict=True))
        gradient, _ = torch.autograd.grad(similarity(*leaves).sum(), leaves, create_graph=True)
        with pytest.raises(RuntimeError, match="differentiated once only"):
            torch.autograd.grad(gradient.sum(), leaves)
