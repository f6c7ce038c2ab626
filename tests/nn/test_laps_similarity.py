"""LAPS's similarity: the original's scores, masks and gradients; padding, counts, what is refused."""

import pytest
import torch
from golden_files import golden
from pairs_truth import forms, picked
from torch.nn.functional import leaky_relu, normalize

from itm_fast import Packed
from itm_fast.nn.similarity import laps
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


def made(n_images=3, n_tokens=10, n_captions=4, max_words=6, **options):
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    module = LAPSSimilarity(16, 20, **options).double()
    regions = torch.randn(n_images, n_tokens, 16, generator=generator, dtype=torch.float64)
    words = torch.randn(n_captions, max_words, 16, generator=generator, dtype=torch.float64)
    return module, regions, words, torch.tensor([6, 1, 3, 2])[:n_captions]


def test_the_class_token_is_found_by_the_number_of_tokens_or_named():
    module, regions, words, counts = made()
    assert [module.has_class_token(n) for n in (9, 10, 49, 50, 196, 197)] == [False, True] * 3
    named, _, _, _ = made(class_token=True)
    assert torch.equal(named(regions, words, counts), module(regions, words, counts))
    without, _, _, _ = made(class_token=False)
    assert not torch.allclose(without(regions, words, counts), module(regions, words, counts), atol=1e-3)
    assert without.kept(regions, words, counts).sum(2).unique().tolist() == [without.n_kept(10)]
    assert module.kept(regions, words, counts).shape == (4, 3, 9)


def test_images_with_fewer_patches_are_scored_as_if_alone():
    module, regions, words, counts = made(n_images=5, class_token=True)
    sizes = torch.tensor([10, 4, 7, 4, 2])
    missing = torch.arange(10) >= sizes[:, None]
    spoiled = regions.masked_fill(missing[..., None], torch.nan).requires_grad_()
    sims = module(spoiled, words, counts, sizes)
    for image, size in enumerate(sizes.tolist()):
        alone = module(regions[image : image + 1, :size], words, counts)
        torch.testing.assert_close(sims[image : image + 1], alone, rtol=1e-12, atol=1e-12)
    assert torch.equal(module(spoiled, words, counts, ~missing), sims)
    sims.sum().backward()
    assert not spoiled.grad[missing].any()
    assert spoiled.grad[~missing].any(1).all()
    with pytest.raises(ValueError, match="must have patches beside the class token, got 1"):
        module(regions, words, counts, torch.tensor([10, 4, 1, 4, 2]))
    assert module(regions[:0], words, counts, sizes[:0]).shape == (0, 4)


def test_padding_of_words_is_not_read_and_lengths_count():
    module, regions, words, counts = made()
    spoiled = words.masked_fill((torch.arange(6) >= counts[:, None])[..., None], torch.nan)
    sims = module(regions, spoiled, counts)
    for caption, count in enumerate(counts.tolist()):
        alone = module(regions, words[caption : caption + 1, :count])
        torch.testing.assert_close(sims[:, caption : caption + 1], alone, rtol=1e-12, atol=1e-12)
    assert torch.equal(module(regions, spoiled, counts.tolist()), sims)


@pytest.mark.parametrize("options", [{}, {"class_token": False}, {"sparse_ratio": 1.0}])
def test_attention_is_of_the_token_that_suits_each_word(options):
    module, regions, words, _ = made(1, 10, 1, 6, **options)
    weights = module.attention(regions[0], words[0])
    patches, units = regions[0, int(module.has_class_token(10)) :], normalize(words[0], dim=1)
    kept = module.kept(regions, words)[0, 0]
    means = normalize(patches.mean(0), dim=0) + normalize(words[0].mean(0), dim=0)
    of_rest = (normalize(patches[~kept], dim=1) @ means).softmax(0)
    aggregated = module.aggr_net(patches[kept][None])[0].softmax(0).T @ patches[kept]
    tokens = torch.cat([regions[0, : 10 - len(patches)], aggregated, (of_rest @ patches[~kept])[None]])
    cosines = normalize(tokens, dim=1) @ units.T
    torch.testing.assert_close(weights @ regions[0], tokens[cosines.argmax(0)], rtol=1e-12, atol=1e-12)
    both_ways = leaky_relu(cosines, 0.1)
    want = both_ways.max(0).values.mean() + both_ways.max(1).values.mean()
    assert module(regions, words).item() == pytest.approx(want.item(), rel=1e-12)


def test_autocast_scores_in_the_autocast_dtype():
    module, regions, words, counts = made()
    module, regions, words = module.float(), regions.float(), words.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sims = module(regions, words, counts)
    assert sims.dtype == torch.float32
    assert torch.allclose(sims, module(regions, words, counts), rtol=0, atol=0.1)
    sims.sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize(
    ("arguments", "exception", "message"),
    [
        ((16, 20, 0.0), ValueError, "sparse_ratio must be a finite number above 0, got 0"),
        ((16, 20, 1.5), ValueError, "sparse_ratio must be at most 1, got 1.5"),
        ((16, 20, 0.5, "half"), TypeError, "aggr_ratio must be a number, got str"),
        ((16, 4, 0.5, 0.4), ValueError, r"num_patches \* aggr_ratio \* sparse_ratio must be at least 1, got 4 \* 0.4"),
        ((4,), ValueError, "embed_size must be at least 5, got 4"),
    ],
)
def test_sizes_that_make_no_module_are_refused(arguments, exception, message):
    with pytest.raises(exception, match=message):
        LAPSSimilarity(*arguments)


def test_vectors_of_another_size_are_named():
    module, regions, words, counts = made()
    with pytest.raises(ValueError, match="regions and words must have dim 16, got 8"):
        module(regions[..., :8], words[..., :8], counts)
    with pytest.raises(ValueError, match=r"region_counts\[1\] is 11; expected 1 to 10"):
        module(regions, words, counts, [10, 11, 10])
    text = "embed_size=16, num_patches=20, sparse_ratio=0.5, aggr_ratio=0.4, class_token=None"
    assert module.extra_repr() == text


CANDIDATES = torch.tensor([[0, 3, -1], [2, 2, 1], [-1, -1, -1], [3, 1, 0], [1, 0, 3]])


def sims_and_gradients(module, regions, found_in, *inputs):
    regions = regions.clone().requires_grad_()
    sims = found_in(module(regions, *inputs))
    sims.masked_fill(sims.isinf(), 0).sin().sum().backward()
    gradients = [parameter.grad.clone() for parameter in module.parameters()]
    module.zero_grad()
    return sims.detach(), regions.grad, *gradients


@pytest.mark.parametrize("sizes", [None, torch.tensor([10, 4, 7, 4, 2])])
def test_given_pairs_are_those_of_all_picked(sizes, monkeypatch):
    module, regions, words, counts = made(n_images=5, class_token=True)
    want = sims_and_gradients(module, regions, lambda sims: picked(sims, CANDIDATES, "images"), words, counts, sizes)
    for n_scores in (laps._PATCH_SCORES, 1):
        monkeypatch.setattr(laps, "_PATCH_SCORES", n_scores)
        for form in (words, counts), forms(words, counts)["packed"]:
            found = sims_and_gradients(module, regions, lambda sims: sims, *form, sizes, CANDIDATES)
            for got, wanted in zip(found, want, strict=True):
                torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)


def test_captions_of_every_form_have_the_same_gradients():
    module, regions, words, counts = made()
    results = []
    for key in ("counts", "packed", "list"):
        leaf = words.clone().requires_grad_()
        sims = module(regions, *forms(leaf, counts)[key])
        sims.sin().sum().backward()
        results.append((sims.detach(), leaf.grad))
    for found in results[1:]:
        for got, wanted in zip(found, results[0], strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)


def test_candidates_that_do_not_fit_and_none_at_all():
    module, regions, words, counts = made()
    assert module(regions, words, counts, candidates=torch.zeros(3, 0, dtype=torch.int64)).shape == (3, 0)
    nobody = torch.full((3, 2), -1)
    assert torch.equal(module(regions, words[:0], candidates=nobody), torch.full((3, 2), -torch.inf).double())
    for wrong, message in (
        (torch.tensor([[0], [1], [4]]), r"candidates\[2, 0\] is 4; expected -1 for none, or 0 to 3"),
        (nobody[:2], r"candidates must have shape \(n_images, k\) with n_images = 3, got \(2, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            module(regions, words, counts, [10, 4, 7], wrong)
    with pytest.raises(ValueError, match=r"words are Packed with counts \[4, 0, 2\]; every caption needs a word"):
        module(regions, Packed(words[0], torch.tensor([0, 4, 4, 6])))
