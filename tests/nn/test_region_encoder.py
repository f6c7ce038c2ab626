"""Region features to embeddings: SCAN's parameters, initialisation and norm."""

import math

import pytest
import torch

from itm_fast.nn.encoders.regions import RegionEncoder, l2_normalise

IMAGES = torch.randn(2, 3, 10, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("precomp_enc_type", "shapes"),
    [
        ("basic", {"fc.weight": (6, 10), "fc.bias": (6,)}),
        ("weight_norm", {"fc.weight_g": (), "fc.weight_v": (6, 10), "fc.bias": (6,)}),
    ],
)
def test_state_dict_is_that_of_scan(precomp_enc_type, shapes):
    encoder = RegionEncoder(10, 6, precomp_enc_type=precomp_enc_type)
    assert {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()} == shapes


def test_initialisation():
    fc = RegionEncoder(100, 50).fc
    bound = math.sqrt(6 / 150)
    assert 0.95 * bound < fc.weight.abs().max() <= bound
    assert fc.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert (fc.bias == 0).all()


def test_embeddings_are_the_linear_map_at_unit_length():
    encoder = RegionEncoder(10, 6)
    linear = IMAGES @ encoder.fc.weight.T + encoder.fc.bias
    torch.testing.assert_close(encoder(IMAGES), linear / linear.norm(dim=-1, keepdim=True))
    encoder.no_imgnorm = True
    torch.testing.assert_close(encoder(IMAGES), linear)


def test_epsilon_is_added_after_the_root():
    x = torch.full((1, 4), 1e-8, dtype=torch.float64)
    torch.testing.assert_close(l2_normalise(x), torch.full((1, 4), 1 / 3, dtype=torch.float64))
    assert (l2_normalise(torch.zeros(1, 4)) == 0).all()


def test_weight_norm_is_torchs_with_one_gain():
    encoder = RegionEncoder(10, 6, precomp_enc_type="weight_norm", no_imgnorm=True)
    linear = torch.nn.Linear(10, 6)
    linear.load_state_dict({"weight": encoder.fc.weight_v, "bias": encoder.fc.bias})
    torch.testing.assert_close(encoder(IMAGES), linear(IMAGES))  # at initialisation the gain is the norm
    normed = torch.nn.utils.parametrizations.weight_norm(linear, dim=None)
    with torch.no_grad():
        for gain in (encoder.fc.weight_g, normed.parametrizations.weight.original0):
            gain.fill_(3)
    torch.testing.assert_close(encoder(IMAGES), normed(IMAGES))


def test_unknown_type():
    with pytest.raises(ValueError, match="precomp_enc_type must be one of 'basic', 'weight_norm', got 'grid'"):
        RegionEncoder(10, 6, precomp_enc_type="grid")
