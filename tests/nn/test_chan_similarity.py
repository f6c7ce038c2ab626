"""CHAN's similarity: the original's scores and gradients; every pair by itself; padding, blocks, what is refused."""

from typing import get_args

import pytest
import torch
from golden_files import golden
from pairs_truth import forms, picked

from itm_fast.nn.similarity.chan import CHANSimilarity, CodingType, PoolingType
from itm_fast.ops import _blocks

CODINGS, POOLINGS = get_args(CodingType), get_args(PoolingType)
UNFUSED = [("VSACoding", pooling) for pooling in POOLINGS] + [(c, "SoftmaxPooling") for c in ("VHACoding", "THACoding")]

# (scores, gradients) relative to the largest. float64: gradients are stored in float32; float32: a few roundings of
# similarities, times the ten of 1 / belta.
TOLERANCE = {torch.float64: (1e-13, 6e-8), torch.float32: (1e-6, 5e-6)}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])
@pytest.mark.parametrize("pooling_type", POOLINGS)
@pytest.mark.parametrize("coding_type", CODINGS)
def test_golden_vectors_of_the_original(coding_type, pooling_type, dtype):
    arrays, case = golden("chan.npz"), f"{coding_type}.{pooling_type}"
    regions, words = (torch.from_numpy(arrays[name]).to(dtype).requires_grad_() for name in ("images", "captions"))
    counts = (torch.from_numpy(arrays[name]) for name in ("lens", "img_lens"))
    sims = CHANSimilarity(coding_type, pooling_type)(regions, words, *counts)
    (sims * torch.from_numpy(arrays["cot"]).to(dtype)).sum().backward()
    found = {"scores": sims.detach(), "dimages": regions.grad, "dcaptions": words.grad}
    stored = [name for name in found if f"{case}.{name}" in arrays.files]
    assert len(stored) == (3 if coding_type != "VSACoding" or pooling_type == "LSEPooling" else 1)
    for name in stored:
        want = torch.from_numpy(arrays[f"{case}.{name}"]).double()
        known = want.isfinite()  # the original's SoftmaxPooling is NaN where there is padding
        assert known.any()
        assert pooling_type == "SoftmaxPooling" or known.all()
        bound = TOLERANCE[dtype][name != "scores"] * want[known].abs().max()
        assert (found[name].double() - want)[known].abs().max() <= bound, name
        assert found[name].isfinite().all()


def of_pair(regions, words, coding_type, pooling_type, alpha, belta):
    """The similarity of an image without padding with a caption without padding, as the paper has it."""
    dots = regions @ words.T
    if coding_type == "VHACoding":
        values = dots.amax(0)
    elif coding_type == "THACoding":
        values = dots.amax(1)
    else:
        contexts = (dots / alpha).softmax(1) @ words
        values = (regions * contexts).sum(1) / (contexts.norm(dim=1) + 1e-8)
    return {
        "LSEPooling": lambda: (values / belta).exp().sum().log(),
        "MaxPooling": values.amax,
        "MeanPooling": values.mean,
        "SumPooling": values.sum,
        "SoftmaxPooling": lambda: ((values / belta).softmax(0) * values).sum(),
    }[pooling_type]()


def made(dtype=torch.float64):
    """Three images, four captions; NaN beyond every count."""
    generator = torch.Generator().manual_seed(0)
    regions, words = (torch.randn(n, longest, 8, generator=generator) for n, longest in ((3, 5), (4, 6)))
    word_counts, region_counts = torch.tensor([6, 1, 3, 2]), torch.tensor([2, 5, 1])
    batch = []
    for vectors, counts in ((regions, region_counts), (words, word_counts)):
        vectors = torch.nn.functional.normalize(vectors.double(), dim=2)
        vectors[_blocks.padding(counts, vectors.shape[1])] = torch.nan
        batch.append(vectors.to(dtype))
    return *batch, word_counts, region_counts


def sims_and_gradients(similarity, regions, words, *counts):
    leaves = regions.clone().requires_grad_(), words.clone().requires_grad_()
    sims = similarity(*leaves, *counts)
    return sims.detach(), *torch.autograd.grad(sims.sin().sum(), leaves)


@pytest.mark.parametrize("coding_type", CODINGS)
@pytest.mark.parametrize("pooling_type", ["LSEPooling", "MeanPooling", "SoftmaxPooling"])
def test_given_pairs_are_those_of_all_picked_whatever_the_form(coding_type, pooling_type):
    regions, words, word_counts, region_counts = made()
    module, candidates = CHANSimilarity(coding_type, pooling_type), torch.tensor([[0, 3], [1, 1], [-1, 2]])

    def given(regions, words, *counts):
        return module(regions, words, *counts, candidates).masked_fill(candidates < 0, 0)

    def of_all(*batch):
        return picked(module(*batch), candidates, "images").masked_fill(candidates < 0, 0)

    batch = regions, words, word_counts, region_counts
    for got, wanted in zip(sims_and_gradients(given, *batch), sims_and_gradients(of_all, *batch), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-13)
    (packed, _), (listed, _) = forms(regions, region_counts)["packed"], forms(words, word_counts)["list"]
    torch.testing.assert_close(module(packed, listed), module(*batch), rtol=1e-12, atol=1e-13)
    found, want = module(packed, listed, candidates=candidates), picked(module(*batch), candidates, "images")
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("pooling_type", POOLINGS)
@pytest.mark.parametrize("coding_type", CODINGS)
def test_every_pair_by_itself(coding_type, pooling_type):
    flags = {"coding_type": coding_type, "pooling_type": pooling_type, "alpha": 0.3, "belta": 0.2}

    def pair_by_pair(regions, words, word_counts, region_counts):
        images = [image[:n] for image, n in zip(regions, region_counts, strict=True)]
        captions = [caption[:n] for caption, n in zip(words, word_counts, strict=True)]
        return torch.stack([torch.stack([of_pair(i, c, **flags) for c in captions]) for i in images])

    want = sims_and_gradients(pair_by_pair, *made())
    for found, expected in zip(sims_and_gradients(CHANSimilarity(**flags), *made()), want, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("flags", UNFUSED)
def test_blocks_change_nothing(monkeypatch, flags):
    want = sims_and_gradients(CHANSimilarity(*flags), *made())
    # An image and two captions at a time; less room than one needs; kept, and made again.
    for elements, captions, kept in ((5 * 2 * 6, 2, 1 << 22), (1, 3, 1), (1 << 22, 1, 1)):
        monkeypatch.setattr(_blocks, "_BLOCK_ELEMENTS", elements)
        monkeypatch.setattr(_blocks, "_CAPTIONS_AT_A_TIME", captions)
        monkeypatch.setattr(_blocks, "_KEPT_ELEMENTS", kept)
        for found, expected in zip(sims_and_gradients(CHANSimilarity(*flags), *made()), want, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("flags", UNFUSED)
def test_nothing_of_the_size_of_all_pairs_is_kept(monkeypatch, flags):
    monkeypatch.setattr(_blocks, "_BLOCK_ELEMENTS", 1)
    monkeypatch.setattr(_blocks, "_CAPTIONS_AT_A_TIME", 2)
    monkeypatch.setattr(_blocks, "_KEPT_ELEMENTS", 1)
    regions, words = torch.rand(10, 8, 2, requires_grad=True), torch.rand(12, 9, 2, requires_grad=True)
    storages = {}

    def pack(x):
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        sims = CHANSimilarity(*flags)(regions, words)
    # Bytes of vectors, counts and what sorts them; one number for every region and word would be four times that.
    assert sum(storages.values()) < 10 * 12 * 8 * 9
    sims.sum().backward()


@pytest.mark.parametrize(
    "flags", [("VHACoding", "LSEPooling"), ("VHACoding", "SoftmaxPooling"), ("VSACoding", "MeanPooling")]
)
def test_sixteen_bits_and_autocast_give_float32(flags):
    similarity, batch = CHANSimilarity(*flags), made(torch.bfloat16)
    sims = similarity(*batch)
    assert sims.dtype == torch.float32
    exact = similarity(*(x.double() if x.is_floating_point() else x for x in batch))
    torch.testing.assert_close(sims.double(), exact, rtol=0.02, atol=0.02)  # products rounded to 2^-9, times 1 / belta
    regions, words, *counts = made(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(similarity(regions, words, *counts), sims, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("flags", [("VHACoding", "LSEPooling"), *UNFUSED])
def test_zero_vectors_and_empty_batches(flags):
    similarity = CHANSimilarity(*flags)
    regions, words, word_counts, region_counts = made()
    regions[0, 0], words[1] = 0, 0
    for found in sims_and_gradients(similarity, regions, words, word_counts, region_counts):
        assert found.isfinite().all()
    assert similarity(regions[:0], words, word_counts, region_counts[:0]).shape == (0, 4)
    assert similarity(regions, words[:0], word_counts[:0], region_counts).shape == (3, 0)


@pytest.mark.parametrize("flags", [("VHACoding", "LSEPooling"), ("VSACoding", "LSEPooling")])
@pytest.mark.parametrize(
    ("changed", "error", "fragment"),
    [
        ({"word_counts": torch.tensor([6, 0, 3, 2])}, ValueError, r"word_counts\[1\] is 0"),
        ({"region_counts": torch.tensor([2, 6, 1])}, ValueError, r"region_counts\[1\] is 6"),
        ({"region_counts": torch.tensor([2, 6])}, ValueError, r"region_counts must have shape \(3,\)"),
        ({"regions": torch.zeros(3, 0, 8).double(), "region_counts": None}, ValueError, "regions"),
        ({"words": torch.zeros(4, 6, 7).double()}, ValueError, "must have the same dim, got 8 and 7"),
        ({"words": torch.zeros(4, 6, 8)}, TypeError, "must have the same dtype"),
    ],
)
def test_bad_input_is_named(flags, changed, error, fragment):
    names = ("regions", "words", "word_counts", "region_counts")
    with pytest.raises(error, match=fragment):
        CHANSimilarity(*flags)(**{**dict(zip(names, made(), strict=True)), **changed})


@pytest.mark.parametrize(
    ("flags", "error", "fragment"),
    [
        (
            {"coding_type": "VHA"},
            ValueError,
            "coding_type must be one of 'THACoding', 'VHACoding', 'VSACoding', got 'VHA'; perhaps you meant VHACoding",
        ),
        ({"pooling_type": "LSE"}, ValueError, "pooling_type must be one of 'LSEPooling'"),
        ({"alpha": 0.0}, ValueError, "alpha must be a finite number above 0, got 0.0"),
        ({"belta": None}, TypeError, "belta must be a number, got NoneType"),
    ],
)
def test_bad_flags_are_named(flags, error, fragment):
    with pytest.raises(error, match=fragment):
        CHANSimilarity(**flags)


def test_prints_its_flags():
    assert repr(CHANSimilarity("VSACoding", belta=0.2)) == "CHANSimilarity(VSACoding, LSEPooling, alpha=0.1, belta=0.2)"
