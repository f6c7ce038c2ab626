"""ESL's similarity: the original's scores, levels and gradients; padding, what is refused."""

import pytest
import torch
from golden_files import golden

from itm_fast.nn.similarity.esl import ESLSimilarity


def loaded(arrays, kind):
    """ESL-H or ESL-A with the golden file's weights, float64."""
    module = ESLSimilarity(int(arrays["embed_size"]), heuristic=kind == "H").double()
    weights = {}
    for prefix in ("sd.", f"{kind}.sd."):
        names = (name for name in arrays.files if name.startswith(prefix))
        weights |= {name.removeprefix(prefix): torch.from_numpy(arrays[name]).double() for name in names}
    module.load_state_dict(weights, strict=True)
    return module


@pytest.mark.parametrize("kind", ["H", "A"])
def test_golden_vectors_of_the_original(kind):
    arrays = golden("esl_sim.npz")
    module, lens = loaded(arrays, kind), torch.from_numpy(arrays["lens"])
    regions, words = (torch.from_numpy(arrays[name]).double().requires_grad_() for name in ("images", "captions"))
    levels = module.image_levels(regions)
    torch.testing.assert_close(
        levels[:2].detach(), torch.from_numpy(arrays[f"{kind}.region_levels"]).double(), rtol=0, atol=1e-7
    )
    word_levels = module.plus_encoder.encoders_1.text_levels(words, chain_normalised=False)
    torch.testing.assert_close(
        word_levels[:2].detach(), torch.from_numpy(arrays[f"{kind}.word_levels"]).double(), rtol=0, atol=1e-7
    )
    sims = module(regions, words, lens)
    torch.testing.assert_close(sims, torch.from_numpy(arrays[f"{kind}.scores"]), rtol=1e-12, atol=1e-13)
    (sims * torch.from_numpy(arrays["cot"]).double()).sum().backward()
    gradients = {f"{kind}.dimages": regions.grad, f"{kind}.dcaptions": words.grad}
    parameters = dict(module.named_parameters())
    small = [name for name in arrays.files if name.startswith(f"{kind}.dparam.")]
    assert small
    for name in small:
        parameter = parameters[name.removeprefix(f"{kind}.dparam.")]
        gradients[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    if kind == "A":  # where these two are no part of the formula
        for number in (1, 2):
            assert parameters[f"sims.calculator_1.temp_scale_{number}.weight"].grad is None
    for name, found in gradients.items():
        want = torch.from_numpy(arrays[name]).double()
        bound = 5e-9 if arrays[name].dtype.itemsize == 8 else 6e-8  # the file's own accuracy, of the largest entry
        # masks_8 has one number, which its LayerNorm removes: rounding is all there is.
        assert (found - want).abs().max() <= bound * want.abs().max() + 1e-12, name


def made(n_images=3, n_captions=4, heuristic=False, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    module = ESLSimilarity(256, heuristic=heuristic).to(dtype)
    regions = torch.randn(n_images, 5, 256, generator=generator, dtype=dtype)
    words = torch.randn(n_captions, 6, 256, generator=generator, dtype=dtype)
    counts = torch.tensor([6, 1, 3, 2])[:n_captions]
    return module, torch.nn.functional.normalize(regions, dim=2), torch.nn.functional.normalize(words, dim=2), counts


@pytest.mark.parametrize("heuristic", [False, True])
def test_padding_is_not_read(heuristic):
    module, regions, words, counts = made(heuristic=heuristic)
    want = module(regions, words, counts)
    spoiled = words.clone()
    for caption, count in enumerate(counts):
        spoiled[caption, count:] = torch.nan
        alone = module(regions, words[caption : caption + 1, :count])
        torch.testing.assert_close(want[:, caption : caption + 1], alone, rtol=1e-12, atol=1e-12)
    spoiled.requires_grad_()
    sims = module(regions, spoiled, counts)
    torch.testing.assert_close(sims, want, rtol=0, atol=0)
    sims.sum().backward()
    for caption, count in enumerate(counts):
        assert spoiled.grad[caption, :count].any()
        assert not spoiled.grad[caption, count:].any()
    for name, parameter in module.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_no_images_and_no_captions():
    module, regions, words, counts = made()
    assert module(regions[:0], words, counts).shape == (0, 4)
    with torch.no_grad():
        assert module(regions, words[:0], counts[:0]).shape == (3, 0)


def test_zero_rows_have_finite_gradients():
    module, regions, words, counts = made()
    regions, words = regions.clone(), words.clone()
    regions[0, 0], words[1, 0] = 0, 0
    regions.requires_grad_(), words.requires_grad_()
    module(regions, words, counts).sum().backward()
    assert regions.grad.isfinite().all()
    assert words.grad.isfinite().all()


@pytest.mark.parametrize("embed_size", [0, 128, 300, -256])
def test_a_size_that_cannot_be_halved_is_named(embed_size):
    with pytest.raises(ValueError, match=f"positive multiple of 256, got {embed_size}"):
        ESLSimilarity(embed_size)


@pytest.mark.parametrize(
    ("changed", "error", "fragment"),
    [
        (
            {"word_counts": torch.tensor([6, 0, 3, 2])},
            ValueError,
            r"word_counts\[1\] is 0; every count must be at least 1",
        ),
        (
            {"word_counts": torch.tensor([6, 1, 7, 2])},
            ValueError,
            r"word_counts\[2\] is 7, but words has max_words = 6",
        ),
        ({"word_counts": torch.tensor([6, 1])}, ValueError, r"word_counts must have shape \(4,\)"),
        ({"regions": torch.zeros(3, 0, 256).double()}, ValueError, "must have rows"),
        ({"words": torch.zeros(4, 6, 128).double()}, ValueError, "must have the same dim, got 256 and 128"),
        (
            {"regions": torch.zeros(3, 5, 512), "words": torch.zeros(4, 6, 512)},
            ValueError,
            "must have dim 256, got 512",
        ),
        ({"words": torch.zeros(4, 6, 256)}, TypeError, "must have the same dtype"),
    ],
)
def test_bad_input_is_named(changed, error, fragment):
    module, regions, words, counts = made()
    with pytest.raises(error, match=fragment):
        module(**{"regions": regions, "words": words, "word_counts": counts, **changed})
