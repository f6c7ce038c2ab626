"""Tensor cores that truncate and an `__expf` that is off: within the same tolerances as exact ones."""

import emulated_operators
import emulation
import numpy as np
import pytest
import torch
from golden_files import golden
from operators import random_batch, relative_error, scores_and_gradients, truth

from itm_fast import cross_attention_similarity, max_similarity

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(emulation.compiler() is None, reason="the emulator needs a C++ compiler (CXX, c++)"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("operator", [cross_attention_similarity, max_similarity])
def test_scores_and_gradients_stay_within_their_tolerance(operator, dtype):
    batch = random_batch(3, 36, 4, 12, 512, dtype=dtype, ragged_regions=True)
    with emulated_operators.emulated(pessimistic=True):
        scores, *gradients = scores_and_gradients(operator, *batch)
    with emulated_operators.emulated():
        rounded, *_ = scores_and_gradients(operator, *batch)
    assert not torch.equal(scores, rounded)  # it does change something
    exact, *exact_gradients = truth(operator.__name__, *batch)
    assert relative_error(scores, exact) < 2e-6
    for got, want in zip(gradients, exact_gradients, strict=True):
        assert relative_error(got, want) <= torch.finfo(dtype).eps + 1e-4


def test_golden_vectors_stay_within_their_tolerance():
    arrays = golden("scan_xattn_d1024.npz")
    lens = torch.from_numpy(arrays["lens"])
    keys = [k for k in arrays.files if k.endswith(".scores") and k.startswith("t2i.clipped_l2norm")]
    assert keys
    for key in keys:
        cross_attn, raw_feature_norm, agg_func, _ = key.split(".")
        with emulated_operators.emulated(pessimistic=True):
            scores = cross_attention_similarity(
                *(torch.from_numpy(arrays[name]).float() for name in ("images", "captions")),
                lens,
                cross_attn=cross_attn,
                raw_feature_norm=raw_feature_norm,
                agg_func=agg_func,
            )
        assert np.abs(scores.numpy() - arrays[key]).max() <= 2e-6 * max(1, np.abs(arrays[key]).max()), key
