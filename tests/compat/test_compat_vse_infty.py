"""VSE∞'s drop-in loss and evaluation against the originals' golden numbers."""

import numpy as np
import pytest
import torch
from golden_files import golden

from itm_fast.compat import vse_infty


@pytest.mark.parametrize(("kind", "max_violation"), [("max", True), ("sum", False)])
def test_golden_loss_and_the_switch_after_the_warm_up(kind, max_violation):
    arrays = golden("losses.npz")
    im, s = (torch.from_numpy(arrays[f"vse.{name}"]).double() for name in ("im", "s"))
    criterion = vse_infty.ContrastiveLoss(opt=None, margin=0.2, max_violation=not max_violation)
    criterion.max_violation_on() if max_violation else criterion.max_violation_off()
    assert criterion(im, s).item() == pytest.approx(float(arrays[f"vse.cosine.{kind}.loss"]), rel=1e-12)


@pytest.mark.parametrize(("function", "name"), [(vse_infty.i2t, "i2t"), (vse_infty.t2i, "t2i")])
def test_golden_recall(function, name):
    arrays = golden("recall.npz")
    sims = arrays["plain.sims"]
    recalls, (ranks, top1) = function(20, sims, return_ranks=True)
    assert recalls == pytest.approx(arrays[f"plain.{name}.metrics"].tolist())
    assert function(20, torch.from_numpy(sims)) == recalls
    assert np.array_equal(ranks, arrays[f"plain.{name}.ranks"])
    assert np.array_equal(top1, arrays[f"plain.{name}.top1"])
    _, (ranks, _) = function(4, sims, return_ranks=True)
    assert np.array_equal(ranks, arrays[f"plain.{name}.ranks"][: 4 if name == "i2t" else 20])


def test_one_caption_an_image():
    sims = np.random.default_rng(0).random((30, 30))
    for function, rows in ((vse_infty.i2t, sims), (vse_infty.t2i, sims.T)):
        _, (ranks, top1) = function(30, sims, return_ranks=True, mode="f30k")
        assert np.array_equal(ranks, (rows > rows.diagonal()[:, None]).sum(1))
        assert np.array_equal(top1, rows.argmax(1))


def test_similarities_and_wrong_shapes():
    images, captions = np.eye(3), np.arange(6.0).reshape(2, 3)
    assert np.array_equal(vse_infty.compute_sim(images, captions), captions.T)
    with pytest.raises(ValueError, match=r"sims must have 5 captions an image for mode 'coco', got shape \(4, 4\)"):
        vse_infty.i2t(4, np.ones((4, 4)))
