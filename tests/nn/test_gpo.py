"""GPO: the original's weights, pooled vectors and gradients; sets of any size; padding."""

import pytest
import torch
from golden_files import golden

from itm_fast.nn.pooling.gpo import GPO, positional_encoding


def loaded(arrays, prefix="sd."):
    """GPO with the golden file's weights, float64."""
    module = GPO().double()
    names = {name.removeprefix(prefix) for name in arrays.files if name.startswith(prefix)}
    assert names == set(module.state_dict())
    module.load_state_dict({name: torch.from_numpy(arrays[prefix + name]).double() for name in names})
    return module


def test_golden_vectors_of_the_original():
    arrays = golden("gpo.npz")
    module, lens = loaded(arrays), torch.from_numpy(arrays["lens"])
    features = torch.from_numpy(arrays["features"]).double().requires_grad_()
    assert torch.allclose(positional_encoding(20, 32), torch.from_numpy(arrays["pe"]), rtol=0, atol=1e-6)
    pooled = module(features, lens)
    # The original encodes positions in float32 as here; nothing else is rounded.
    torch.testing.assert_close(pooled, torch.from_numpy(arrays["pooled"]), rtol=0, atol=1e-6)
    weights = torch.zeros(len(lens), 20, dtype=torch.float64)
    for row, n in enumerate(lens):
        weights[row] = module.weights(n[None], 20)[0].detach()
    torch.testing.assert_close(weights, torch.from_numpy(arrays["weights"])[..., 0], rtol=0, atol=1e-6)
    (pooled * torch.from_numpy(arrays["cot"]).double()).sum().backward()
    torch.testing.assert_close(features.grad, torch.from_numpy(arrays["dfeatures"]), rtol=0, atol=1e-6)
    for name, parameter in module.named_parameters():
        want = torch.from_numpy(arrays[f"dparam.{name}"])
        assert (parameter.grad - want).abs().max() <= 1e-5 * want.abs().max(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_padding_is_not_read_and_equal_sets_pool_alike(dtype):
    module = GPO(8, 6).to(dtype)
    vectors = torch.randn(3, 7, 5, dtype=dtype)
    counts = torch.tensor([7, 3, 1])
    padded = vectors.clone()
    padded[torch.arange(7)[None, :] >= counts[:, None]] = torch.nan
    pooled = module(padded, counts)
    for row, n in enumerate(counts):
        alone = module(vectors[row : row + 1, : int(n)])[0]
        torch.testing.assert_close(pooled[row], alone)
    torch.testing.assert_close(pooled[2], vectors[2, 0])  # one vector is its own pool
    shuffled = vectors[:1, torch.randperm(7)]
    torch.testing.assert_close(module(shuffled)[0], pooled[0])
    pooled.sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_bad_sizes_are_named():
    for sizes in ((3, 4), (0, 4), (4, 0)):
        with pytest.raises(ValueError, match="d_pe must be even and at least 2, d_hid at least 1, got"):
            GPO(*sizes)
