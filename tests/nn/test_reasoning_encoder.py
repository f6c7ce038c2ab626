"""VSRN's image encoder: the original's outputs, gradients and state dict."""

import pytest
import torch
from golden_files import golden

from itm_fast.nn.encoders.reasoning import ReasoningRegionEncoder, RsGCN


def load(module, arrays, prefix):
    names = {name.removeprefix(prefix) for name in arrays.files if name.startswith(prefix)}
    assert names == set(module.state_dict())
    state = {name: torch.from_numpy(arrays[prefix + name]) for name in names}
    module.double().load_state_dict({k: v.double() if v.is_floating_point() else v for k, v in state.items()})
    return module


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_golden_graph_convolution(mode):
    arrays = golden("vsrn_reasoning.npz")
    module = load(RsGCN(32), arrays, "gcn.sd.").train(mode == "train")
    x = torch.from_numpy(arrays["gcn.x"]).double().requires_grad_()
    y = module(x)
    want = torch.from_numpy(arrays[f"gcn.{mode}.y"])
    torch.testing.assert_close(y, want, rtol=0, atol=1e-12 * max(1.0, float(want.abs().max())))
    (y * torch.from_numpy(arrays["gcn.cot"]).double()).sum().backward()
    torch.testing.assert_close(x.grad, torch.from_numpy(arrays[f"gcn.{mode}.dx"]), rtol=0, atol=1e-10)
    for name, parameter in module.named_parameters():
        key = f"gcn.{mode}.dparam.{name}"
        if key in arrays.files:  # stored in float32
            want = torch.from_numpy(arrays[key]).double()
            assert (parameter.grad - want).abs().max() <= 1e-6 * want.abs().max().clamp(min=1e-3), name


@pytest.mark.parametrize("data_name", ["coco_precomp", "f30k_precomp"])
def test_golden_encoder(data_name):
    arrays = golden("vsrn_reasoning.npz")
    prefix = f"enc.{data_name}."
    encoder = load(ReasoningRegionEncoder(24, 32, data_name=data_name), arrays, f"{prefix}sd.").eval()
    features, regions = encoder(torch.from_numpy(arrays[f"{prefix}images"]).double())
    torch.testing.assert_close(features, torch.from_numpy(arrays[f"{prefix}features"]), rtol=0, atol=1e-12)
    torch.testing.assert_close(regions, torch.from_numpy(arrays[f"{prefix}gcn"]), rtol=0, atol=1e-12)


def test_starts_as_the_identity_and_any_number_of_regions():
    v = torch.randn(2, 6, 9)
    torch.testing.assert_close(RsGCN(6)(v), v)
    features, regions = ReasoningRegionEncoder(5, 6)(torch.randn(3, 9, 5))
    assert features.shape == (3, 6)
    assert regions.shape == (3, 9, 6)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    with pytest.raises(
        ValueError,
        match="data_name must be one of 'coco_precomp', 'f30k_precomp', got 'coco'; perhaps you meant coco_precomp",
    ):
        ReasoningRegionEncoder(5, 6, data_name="coco")
