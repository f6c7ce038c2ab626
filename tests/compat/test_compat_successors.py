"""The drop-ins for SCAN's and VSE++'s successors: losses, evaluations and similarities as each of them calls them."""

from argparse import Namespace

import numpy as np
import pytest
import torch
from golden_files import golden

from itm_fast import reference
from itm_fast.compat import chan, decl, dime, esl, hat, hrem, l2rm, ncr, rcar, scan, sgraf, vse_infty

OPT = Namespace(margin=0.2, max_violation=False, extra_stc=0, extra_img=0, mask_repeat=False, alpha=0.1, belta=0.1)


def golden_scores():
    arrays = golden("losses.npz")
    losses = {kind: float(arrays[f"scores.{kind}.loss"]) for kind in ("sum", "max")}
    return torch.from_numpy(arrays["scores.scores"]).double(), losses


@pytest.mark.parametrize(
    ("criterion", "switches"),
    [
        (sgraf.ContrastiveLoss(margin=0.2, max_violation=False), False),
        (esl.ContrastiveLoss(opt=OPT, margin=0.2, max_violation=False), True),
        (chan.ContrastiveLoss(OPT), True),
        (chan.ContrastiveLoss(), True),
        (rcar.ContrastiveLoss(opt=OPT, margin=0.2, max_violation=False), True),
        (dime.ContrastiveLoss(OPT, margin=0.2, measure="cosine", max_violation=False), False),
        (decl.ContrastiveLoss(margin=0.2), False),
    ],
    ids=lambda value: type(value).__module__.rpartition(".")[2] if isinstance(value, torch.nn.Module) else "",
)
def test_golden_losses_of_scores(criterion, switches):
    scores, want = golden_scores()
    assert criterion(scores).item() == pytest.approx(want["sum"], rel=1e-12)
    if switches:
        criterion.max_violation_on()
    criterion.max_violation = True
    assert criterion(scores).item() == pytest.approx(want["max"], rel=1e-12)
    if switches:
        criterion.max_violation_off()
        assert criterion(scores).item() == pytest.approx(want["sum"], rel=1e-12)


def test_chans_options_outrank_its_arguments():
    scores, want = golden_scores()
    opt = Namespace(margin=0.2, max_violation=True)
    assert chan.ContrastiveLoss(opt, margin=0.5, max_violation=False)(scores).item() == pytest.approx(want["max"])


def test_ids_of_images_count_where_hrem_asks_for_them():
    im, s = torch.rand(5, 3, dtype=torch.float64), torch.rand(5, 3, dtype=torch.float64)
    ids = torch.tensor([7, 7, 1, 2, 3])
    alone = hrem.ContrastiveLoss(OPT, 0.2, True)
    assert alone(im, s) == alone(im, s, ids) == vse_infty.ContrastiveLoss(None, 0.2, True)(im, s)
    repeated = hrem.ContrastiveLoss(Namespace(mask_repeat=True), 0.2, True)
    want = reference.triplet_loss(im @ s.T, margin=0.2, max_violation=True, image_ids=ids)
    assert repeated(im, s, ids).item() == pytest.approx(want.item(), rel=1e-12)
    with pytest.raises(ValueError, match=r"img_ids is None, but opt.mask_repeat is set"):
        repeated(im, s)


def test_more_negatives_than_pairs_are_refused():
    with pytest.raises(ValueError, match=r"opt.extra_img must be 0, got 4"):
        dime.ContrastiveLoss(Namespace(extra_stc=0, extra_img=4))


def hinges_by_hand(scores, margin):
    """Query by query: (n, n) hinges of images over captions and of captions over images."""
    n = len(scores)
    of_images, of_captions = torch.zeros(n, n, dtype=scores.dtype), torch.zeros(n, n, dtype=scores.dtype)
    for i in range(n):
        for j in range(n):
            if i != j:
                of_images[i, j] = max(0, margin[j] + scores[i, j] - scores[i, i])
                of_captions[i, j] = max(0, margin[j] + scores[i, j] - scores[j, j])
    return of_images, of_captions


@pytest.mark.parametrize("soft_margin", ["linear", "exponential", "sin"])
def test_margins_of_pairs_in_every_mode(soft_margin):
    generator = torch.Generator().manual_seed(3)
    scores, labels = (torch.rand(*shape, generator=generator, dtype=torch.float64) for shape in ((12, 12), (12,)))
    factors = {
        "linear": labels,
        "exponential": (10**labels - 1) / 9,
        "sin": (1 - torch.cos(torch.pi * labels)) / 2,
    }
    criterion = ncr.ContrastiveLoss(margin=0.3)
    of_images, of_captions = hinges_by_hand(scores, 0.3 * factors[soft_margin])
    options = {"labels": labels, "soft_margin": soft_margin}
    hardest = of_images.max(1).values.sum() + of_captions.max(0).values.sum()
    of_pairs = of_images.mean(1) + of_captions.mean(0)
    assert criterion(scores, **options).item() == pytest.approx(hardest.item(), rel=1e-12)
    assert criterion(scores, False, **options).item() == pytest.approx(of_pairs.sum().item(), rel=1e-12)
    torch.testing.assert_close(criterion(scores, mode="eval_loss", **options), of_pairs, rtol=1e-12, atol=1e-12)


def test_modes_of_ncr_without_labels():
    scores, want = golden_scores()
    criterion = ncr.ContrastiveLoss(0.2)
    assert criterion(scores).item() == pytest.approx(want["max"], rel=1e-12)
    mean = want["sum"] / len(scores)
    assert criterion(scores, mode="warmup").item() == pytest.approx(mean, rel=1e-12)
    assert criterion(scores, hard_negative=False).item() == pytest.approx(mean, rel=1e-12)
    of_pairs = criterion(scores, mode="eval_loss")
    assert of_pairs.sum().item() == pytest.approx(mean, rel=1e-12)
    clean = (0.2 - of_pairs / 2).clamp(min=0)
    top = clean.sort().values[-(len(scores) // 10 + 1) :]
    torch.testing.assert_close(criterion(scores, mode="predict"), clean / top.mean(), rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match="mode must be one of"):
        criterion(scores, mode="test")
    assert repr(criterion) == "ContrastiveLoss(margin=0.2)"


@pytest.mark.parametrize("name", ["i2t", "t2i"])
def test_golden_recall_as_each_of_them_calls_it(name):
    arrays = golden("recall.npz")
    sims, metrics = arrays["plain.sims"], pytest.approx(arrays[f"plain.{name}.metrics"].tolist())
    ranks, top1 = arrays[f"plain.{name}.ranks"], arrays[f"plain.{name}.top1"]
    images, captions, caplens = np.zeros((20, 36, 4)), np.zeros((100, 7, 4)), [7] * 100
    for home in (scan, sgraf):
        function = getattr(home, name)
        assert function(images, captions, caplens, sims) == metrics
        _, found = function(images, captions, caplens, sims, return_ranks=True)
        assert all(map(np.array_equal, found, (ranks, top1)))
    for home in (esl, chan, rcar, hrem):
        assert getattr(home, name)(20, sims) == metrics
    for home in (ncr, decl, l2rm):
        found_metrics, found = getattr(home, name)(20, sims, per_captions=5, return_ranks=True)
        assert found_metrics == getattr(home, name)(20, sims, 5) == metrics
        of_queries = sims if name == "i2t" else sims.T
        order = np.argsort(-of_queries, axis=1, kind="stable")
        assert all(map(np.array_equal, found[:3], (ranks, top1, order[:, :5])))
        assert np.array_equal(np.stack(found[3]), order)


def test_only_the_queries_of_a_list_count():
    sims = golden("recall.npz")["plain.sims"]
    some = [3, 5, 8]
    for name in ("i2t", "t2i"):
        _, (ranks, top1) = getattr(hrem, name)(20, sims, return_ranks=True)
        metrics, (of_some, still_all) = getattr(hrem, name)(20, sims, return_ranks=True, special_list=some)
        assert np.array_equal(of_some, ranks[some])
        assert np.array_equal(still_all, top1)
        assert metrics[0] == pytest.approx(100 * np.mean(ranks[some] < 1))
        assert metrics[3:] == (np.floor(np.median(ranks[some])) + 1, np.mean(ranks[some]) + 1)
    with pytest.raises(ValueError, match=r"sims must have 1 captions an image, got shape \(20, 100\)"):
        ncr.i2t(20, sims)


@pytest.mark.parametrize("kind", ["SGR", "SAF"])
def test_sgrafs_similarity_as_logits_and_as_a_pair(kind):
    arrays = golden("sgraf_sim.npz")
    prefix = f"{kind}.sd."
    names = (name for name in arrays.files if name.startswith(prefix))
    weights = {name.removeprefix(prefix): torch.from_numpy(arrays[name]) for name in names}
    images, captions = (torch.from_numpy(arrays[name]).double() for name in ("images", "captions"))
    want, lens = torch.from_numpy(arrays[f"{kind}.eval.scores"]), arrays["lens"].tolist()
    modules = {}
    for home in (decl, l2rm, ncr):
        modules[home] = home.EncoderSimilarity(96, 32, kind, int(arrays["sgr_step"])).eval()
        modules[home].load_state_dict(weights, strict=True)
        modules[home].double()
    torch.testing.assert_close(modules[decl](images, captions, lens).sigmoid(), want, rtol=0, atol=1e-13)
    torch.testing.assert_close(modules[ncr](images, captions, lens), want, rtol=0, atol=1e-13)
    sims, pairs = modules[l2rm](images, captions, lens)
    torch.testing.assert_close(sims, want, rtol=0, atol=1e-13)
    assert torch.equal(pairs, sims.diagonal())
    assert sims.requires_grad
    assert not pairs.requires_grad


@pytest.mark.parametrize("kind", ["H", "A"])
def test_esls_similarity_under_its_names(kind):
    arrays = golden("esl_sim.npz")
    size = int(arrays["embed_size"])
    module = esl.Sim_vec(size, Namespace(kernel_size=2), heuristic_strategy=kind == "H").double()
    weights = {}
    for prefix in ("sd.", f"{kind}.sd."):
        names = (name for name in arrays.files if name.startswith(prefix))
        weights |= {name.removeprefix(prefix): torch.from_numpy(arrays[name]).double() for name in names}
    module.load_state_dict(weights, strict=True)
    images, captions = (torch.from_numpy(arrays[name]).double() for name in ("images", "captions"))
    sims, again = module(images, captions, arrays["lens"].tolist(), True)
    torch.testing.assert_close(sims, torch.from_numpy(arrays[f"{kind}.scores"]), rtol=1e-12, atol=1e-13)
    assert again is sims
    with pytest.raises(ValueError, match=r"opt.kernel_size must be 2, got 4"):
        esl.Sim_vec(size, Namespace(kernel_size=4))


@pytest.mark.parametrize("coding", ["VHACoding", "THACoding", "VSACoding"])
@pytest.mark.parametrize("pooling", ["MaxPooling", "MeanPooling", "SumPooling", "LSEPooling"])
def test_chans_similarity_under_its_names(coding, pooling):
    arrays = golden("chan.npz")
    images, captions = (torch.from_numpy(arrays[name]).double() for name in ("images", "captions"))
    encoder = chan.SimsEncoder(coding, pooling, opt=OPT)
    sims = encoder(images, captions, torch.from_numpy(arrays["img_lens"]), arrays["lens"].tolist())
    want = torch.from_numpy(arrays[f"{coding}.{pooling}.scores"])
    torch.testing.assert_close(sims, want, rtol=1e-12, atol=1e-12)


def test_hats_cross_attention_is_scans():
    generator = torch.Generator().manual_seed(0)
    images, captions = (torch.randn(*shape, generator=generator) for shape in ((3, 9, 16), (4, 7, 16)))
    lens = torch.tensor([7, 1, 3, 5])
    flags = {"raw_feature_norm": "clipped_l2norm", "agg_func": "Mean", "lambda_softmax": 4.0}
    for function, cross_attn in ((hat.xattn_score_t2i, "t2i"), (hat.xattn_score_i2t, "i2t")):
        want = reference.cross_attention_similarity(
            images.double(), captions.double(), lens, cross_attn=cross_attn, **flags
        )
        found = function(images, captions, lens.tolist(), lambda_softmax=4.0)
        torch.testing.assert_close(found.double(), want, rtol=0, atol=2e-6)
