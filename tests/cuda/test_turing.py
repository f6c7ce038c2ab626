"""Devices of compute capability 7.5: similarities by torch's products and the plain kernels, no tensor cores."""

import emulated_operators
import emulation
import pytest
import torch
from operators import random_batch, relative_error, scores_and_gradients, truth

from itm_fast import cross_attention_similarity, max_similarity

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(emulation.compiler() is None, reason="the emulator needs a C++ compiler (CXX, c++)"),
]
ROUNDED = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-6, torch.float16: 2e-6}


@pytest.mark.parametrize("cross_attn", ["t2i", "i2t"])
@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("operator", [cross_attention_similarity, max_similarity])
def test_no_kernel_asks_for_what_it_lacks(operator, dtype, cross_attn):
    batch = random_batch(4, 17, 5, 9, 40, dtype=dtype, ragged_regions=True)
    _, loaded, _ = emulated_operators.library(False)
    before = emulation.statistics(loaded)
    with emulated_operators.emulated(ampere=False):
        scores, *gradients = scores_and_gradients(operator, *batch, cross_attn=cross_attn)
    after = emulation.statistics(loaded)
    assert after["launches"] > before["launches"]
    assert after["matrix_products"] == before["matrix_products"]  # nor an asynchronous copy: tile_product has both
    exact, *exact_gradients = truth(operator.__name__, *batch, cross_attn=cross_attn)
    assert relative_error(scores, exact) < ROUNDED[dtype]
    for got, want in zip(gradients, exact_gradients, strict=True):
        assert got.dtype == dtype
        assert relative_error(got, want) <= torch.finfo(dtype).eps + 50 * ROUNDED[dtype]


def test_an_ampere_device_multiplies_in_tensor_cores():
    batch = random_batch(2, 17, 3, 9, 40, dtype=torch.bfloat16)
    _, loaded, _ = emulated_operators.library(False)
    before = emulation.statistics(loaded)["matrix_products"]
    with emulated_operators.emulated():
        max_similarity(*batch)
    assert emulation.statistics(loaded)["matrix_products"] > before
