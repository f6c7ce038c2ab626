"""LAPS's drop-ins against the original's golden scores, masks and similarities, and plain formulas."""

from argparse import Namespace

import pytest
import torch
from golden_files import golden
from torch.nn.functional import normalize

from itm_fast import reference
from itm_fast.compat import laps

OPT = Namespace(embed_size=48, num_patches=16, sparse_ratio=0.5, aggr_ratio=0.4)


def inputs(case="grid"):
    arrays = golden("laps.npz")
    images, captions = (torch.from_numpy(arrays[name]).double() for name in (f"{case}.images", "captions"))
    return arrays, images, captions, torch.from_numpy(arrays["lens"])


@pytest.mark.parametrize("case", ["grid", "cls"])
def test_similarity_and_mask_under_the_originals_names(case):
    arrays, images, captions, lens = inputs(case)
    module = laps.CrossSparseAggrNet_v2(OPT).double()
    names = [name for name in arrays.files if name.startswith(f"{case}.sd.")]
    weights = {name.removeprefix(f"{case}.sd."): torch.from_numpy(arrays[name]) for name in names}
    module.load_state_dict(weights, strict=True)
    want = torch.from_numpy(arrays[f"{case}.scores"])
    sims, mask = module(img_embs=images, cap_embs=captions, cap_lens=lens)
    torch.testing.assert_close(sims, want, rtol=0, atol=1e-12)
    assert torch.equal(mask, torch.from_numpy(arrays[f"{case}.mask"]).double())
    assert torch.equal(module.eval()(images, captions, lens.tolist()), sims)


@pytest.mark.parametrize("bi_norm", [False, True])
@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("i2t", [False, True])
def test_max_mean_with_every_switch(i2t, scan, bi_norm):
    arrays, images, captions, lens = inputs()
    want = torch.from_numpy(arrays[f"max_mean.i2t{i2t:d}.scan{scan:d}.binorm{bi_norm:d}"])
    captions[torch.arange(captions.shape[1]) >= lens[:, None]] = torch.nan
    switches = {"i2t": i2t, "scan": scan, "bi_norm": bi_norm}
    sims = laps.matching_max_mean(images, captions.requires_grad_(), lens.tolist(), **switches)
    assert (sims - want).abs().max() <= 1e-12
    sims.sum().backward()
    assert captions.grad[:, 0].any()
    if not bi_norm:
        named = laps.xattn_score(images, captions, lens, i2t=i2t, scan=scan)
        assert torch.equal(named, laps.matching_max_mean(images, captions, lens, i2t, scan))


def test_cross_attention_is_scans_of_unit_vectors():
    _, images, captions, lens = inputs()
    units = normalize(images, dim=2), normalize(captions, dim=2)
    flags = {"raw_feature_norm": "clipped_l2norm", "agg_func": "Mean"}
    of_words = reference.cross_attention_similarity(*units, lens, cross_attn="t2i", lambda_softmax=9.0, **flags)
    of_regions = reference.cross_attention_similarity(*units, lens, cross_attn="i2t", lambda_softmax=4.0, **flags)
    named = {"scan_t2i": of_words, "scan_i2t": of_regions, "scan_all": (of_words + of_regions) / 2}
    for xattn_type, want in named.items():
        torch.testing.assert_close(laps.xattn_score(images, captions, lens, xattn_type), want, rtol=0, atol=1e-12)
    half = laps.xattn_score_t2i(images, captions, lens, smooth=4.5)
    assert not torch.allclose(half, of_words, atol=1e-4)


def test_the_loss_leaves_out_pairs_of_the_same_image():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(6, 6, generator=generator, dtype=torch.float64)
    ids = torch.tensor([3, 3, 1, 2, 2, 5])
    same = ids[:, None] == ids
    positive = scores.diagonal()
    of_images = (0.2 + scores - positive[:, None]).clamp(min=0).masked_fill(same, 0)
    of_captions = (0.2 + scores - positive).clamp(min=0).masked_fill(same, 0)
    criterion = laps.ContrastiveLoss(OPT)
    assert criterion(None, None, ids, scores).item() == pytest.approx((of_images + of_captions).sum().item())
    criterion.max_violation_on()
    want = of_images.max(1).values.sum() + of_captions.max(0).values.sum()
    assert criterion(None, None, ids.tolist(), scores=scores).item() == pytest.approx(want.item())
    im, s = scores, scores.flip(0)
    assert criterion(im, s, ids) == criterion(None, None, ids, im @ s.T)
    criterion.max_violation_off()
    assert not criterion.max_violation


def test_what_is_no_batch_is_refused():
    with pytest.raises(ValueError, match=r"must have three dimensions, got \(2, 3, 4, 5\) and \(1, 2, 5\)"):
        laps.matching_max_mean(torch.ones(2, 3, 4, 5), torch.ones(1, 2, 5), [2], scan=True)
    with pytest.raises(ValueError, match=r"cap_len\[0\] is 3; expected 1 to 2"):
        laps.matching_max_mean(torch.ones(2, 3, 5), torch.ones(1, 2, 5), [3], bi_norm=True)
