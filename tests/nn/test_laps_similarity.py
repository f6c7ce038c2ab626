"""LAPS's similarity: the original's scores, masks and gradients; padding, counts, what is refused."""

import pytest
import torch
from golden_files import golden

from itm_fast.nn.similarity.laps import LAPSSimilarity

CASES = pytest.mark.parametrize("case", ["grid", "cls"])


def loaded(arrays, case, dtype=torch.float64):
    """The module with the golden file's weights."""
    ratios = float(arrays["sparse_ratio"]), float(arrays["aggr_ratio"])
    module = LAPSSimilarity(48, 16, *ratios).to(dtype)
    prefix = f"{case}.sd."
    names = [name for name in arrays.files if name.startswith(prefix)]
    module.load_state_dict({name.removeprefix(prefix): torch.from_numpy(arrays[name]) for name in names}, strict=True)
    return module


@CASES
@pytest.mark.parametrize(
    ("dtype", "bound", "of_gradients"), [(torch.float64, 1e-12, 1e-6), (torch.float32, 2e-6, 1e-4)]
)
def test_golden_vectors_of_the_original(case, dtype, bound, of_gradients):
    arrays = golden("laps.npz")
    module, lens = loaded(arrays, case, dtype), torch.from_numpy(arrays["lens"])
    regions, words = (
        torch.from_numpy(arrays[name]).to(dtype).requires_grad_() for name in (f"{case}.images", "captions")
    )
    sims = module(regions, words, lens)
    assert (sims - torch.from_numpy(arrays[f"{case}.scores"])).abs().max() <= bound
    (sims * torch.from_numpy(arrays["cot"]).to(dtype)).sum().backward()
    parameters = {f"{case}.dparam.{name}": parameter.grad for name, parameter in module.named_parameters()}
    for name, found in {f"{case}.dimages": regions.grad, f"{case}.dcaptions": words.grad, **parameters}.items():
        want = torch.from_numpy(arrays[name]).double()
        # What the softmax takes no notice of, its logits' bias, has rounding alone: the file says 1e-16.
        rounding = 1e-14 if dtype == torch.float64 else 1e-6
        assert (found - want).abs().max() <= of_gradients * want.abs().max() + rounding, name


@CASES
def test_the_same_patches_are_kept_as_by_the_original(case):
    arrays = golden("laps.npz")
    images, words = (torch.from_numpy(arrays[name]).double() for name in (f"{case}.images", "captions"))
    kept = loaded(arrays, case).kept(images, words, torch.from_numpy(arrays["lens"]))
    assert torch.equal(kept, torch.from_numpy(arrays[f"{case}.mask"]).bool())
