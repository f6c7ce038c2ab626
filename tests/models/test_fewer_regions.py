"""Images with fewer regions: every model scores and trains as if what is missing had never been there."""

import dataclasses

import pytest
import torch

from itm_fast.data.collate import Batch
from itm_fast.models import MODELS, model_class
from itm_fast.training.objective import Objective

R, DIM = 9, 10
SMALL = {
    "sgraf": {"n_regions": R, "sim_dim": 8, "dropout": 0.1},
    "vsrn": {"dim_hidden": 8, "dim_word": 6},
    "esl": {"embed_size": 256},
    "cvse": {"n_regions": R, "n_concepts": 12, "input_channel": 6, "dropout_rate": 0.1},
}
COUNTS = torch.tensor([R, 3, 1, 7, 3])
PRESENT = torch.arange(R) < COUNTS[:, None]
VARIANTS = [
    *((name, {}) for name in MODELS),
    ("scan", {"cross_attn": "i2t", "raw_feature_norm": "softmax"}),
    ("sgraf", {"module_name": "SAF"}),
    ("vsrn", {"encoder": "coco_precomp"}),
    ("chan", {"coding_type": "VSACoding", "pooling_type": "SoftmaxPooling"}),
    ("chan", {"coding_type": "THACoding", "pooling_type": "MeanPooling"}),
    ("esl", {"heuristic_strategy": True}),
    ("vsepp", {"measure": "order", "use_abs": True}),
]
EVERY = pytest.mark.parametrize(("name", "options"), VARIANTS)


def made(name, options, vocabulary):
    torch.manual_seed(0)
    sizes = {"img_dim": DIM, "word_dim": 8, "embed_size": 16, **SMALL.get(name, {})}
    model = model_class(name)(model_class(name).config_class(**{**sizes, **options}), vocabulary).double()
    torch.nn.init.normal_(model.img_enc.fc.bias)  # so that zeros are something
    return model


def batch():
    generator = torch.Generator().manual_seed(2)
    word_counts = torch.tensor([6, 3, 4, 3, 5])
    tokens = torch.randint(1, 7, (5, 6), generator=generator) * (torch.arange(6) < word_counts[:, None])
    regions = torch.randn(5, R, DIM, generator=generator)
    return Batch(regions, tokens, word_counts, torch.arange(5), 5 * torch.arange(5), torch.full((5,), R))


def filled(value):
    given = batch()
    return given.regions.double().masked_fill(~PRESENT[..., None], value)


def scored(model, regions, counts):
    given = batch()
    captions = model.encode_captions(given.tokens, given.word_counts)
    images = model.encode_images(regions, counts)
    return model.similarity(images, captions, given.word_counts, counts)


@EVERY
@torch.no_grad()
def test_an_image_scores_as_if_it_were_alone(name, options, vocabulary):
    """Alone it has no missing regions; models with a parameter a region are told how many there are."""
    model = made(name, options, vocabulary).eval()
    sims = scored(model, filled(torch.nan), COUNTS)
    for image, count in enumerate(COUNTS.tolist()):
        alone = batch().regions[image : image + 1, :count].double()
        counts = COUNTS[image : image + 1] if "n_regions" in SMALL.get(name, {}) else None
        torch.testing.assert_close(sims[image : image + 1], scored(model, alone, counts), rtol=1e-6, atol=1e-7)
    assert not torch.allclose(sims[1:], scored(model, filled(0.0), None)[1:])


@EVERY
def test_what_is_missing_is_never_read(name, options, vocabulary):
    """NaN there, and the loss, its gradients and the running statistics are those of zeros, bit by bit."""
    results = []
    for value in (0.0, torch.nan):
        model = made(name, options, vocabulary)
        given = dataclasses.replace(batch(), regions=filled(value), region_counts=COUNTS)
        torch.manual_seed(1)
        loss = Objective(model)(given)
        loss.backward()
        gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
        results.append({"loss": loss.detach(), **gradients, **dict(model.named_buffers())})
    assert all(tensor.isfinite().all() for tensor in results[1].values())
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@EVERY
@torch.no_grad()
def test_all_there_is_what_no_counts_are(name, options, vocabulary):
    model = made(name, options, vocabulary).eval()
    whole = batch().regions.double()
    torch.testing.assert_close(scored(model, whole, torch.full((5,), R)), scored(model, whole, None), rtol=0, atol=0)


@pytest.mark.parametrize("count", [0, R + 1])
@EVERY
def test_counts_out_of_range_are_refused(name, options, count, vocabulary):
    model = made(name, options, vocabulary).eval()
    counts = COUNTS.clone()
    counts[3] = count
    with pytest.raises(ValueError, match=rf"region_counts\[3\] is {count}; expected 1 to {R}"):
        model.encode_images(batch().regions.double(), counts)


@torch.no_grad()
@pytest.mark.parametrize("name", ["sgraf", "cvse"])
def test_channels_of_regions_that_nobody_has_keep_their_statistics(name, vocabulary):
    """And the others follow the numbers that are there, of each region over the images that have it."""
    model = made(name, {}, vocabulary)
    given = dataclasses.replace(batch(), regions=filled(0.0)[1:], region_counts=COUNTS[1:])
    given = dataclasses.replace(given, tokens=given.tokens[1:], word_counts=given.word_counts[1:])
    layer = model.sim_enc.v_global_w.embedding_local if name == "sgraf" else model.V_self_atten_enhance.embedding_1
    linear, norm = layer[0], layer[1]
    encoded = model.img_enc(given.regions)
    numbers = linear(encoded)
    if name == "sgraf":
        captions = model.encode_captions(given.tokens, given.word_counts)
        model.similarity(encoded, captions, given.word_counts, given.region_counts)
    else:
        model(dataclasses.replace(given, image_ids=given.image_ids[1:], caption_ids=given.caption_ids[1:]))
    for region in range(R):
        has_it = COUNTS[1:] > region
        there = numbers[has_it, region]
        mean = 0.1 * there.mean() if has_it.any() else torch.tensor(0.0)
        variance = 0.9 + 0.1 * there.var() if has_it.any() else torch.tensor(1.0)
        assert norm.running_mean[region].item() == pytest.approx(mean.item(), rel=1e-9)
        assert norm.running_var[region].item() == pytest.approx(variance.item(), rel=1e-9)
