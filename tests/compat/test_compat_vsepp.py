"""VSE++'s drop-in loss and evaluation against the original's golden numbers."""

import numpy as np
import pytest
import torch
from golden_files import golden

from itm_fast.compat import vsepp


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("kind", "max_violation"), [("max", True), ("sum", False)])
@pytest.mark.parametrize("measure", ["cosine", "order"])
def test_golden_loss(measure, kind, max_violation, dtype):
    arrays = golden("losses.npz")
    im, s = (torch.from_numpy(arrays[f"vse.{name}"]).to(dtype) for name in ("im", "s"))
    if measure == "order":
        im, s = im.abs(), s.abs()
    im, s = im.requires_grad_(), s.requires_grad_()
    criterion = vsepp.ContrastiveLoss(0.05 if measure == "order" else 0.2, measure, max_violation)
    loss = criterion(im, s)
    loss.backward()
    case, tolerance = f"vse.{measure}.{kind}", 1e-12 if dtype == torch.float64 else 1e-5
    assert loss.item() == pytest.approx(float(arrays[f"{case}.loss"]), rel=tolerance)
    gradients = (im.grad, s.grad)
    for found, name in zip(gradients, ("dim", "ds"), strict=True):
        want = arrays[f"{case}.{name}"]
        np.testing.assert_allclose(found, want, rtol=0, atol=10 * tolerance * np.abs(want).max())


@pytest.mark.parametrize(("function", "name"), [(vsepp.i2t, "i2t"), (vsepp.t2i, "t2i")])
def test_golden_recall(function, name):
    arrays = golden("recall.npz")
    images, captions = arrays["vsepp.images5"], arrays["vsepp.captions"]
    assert function(images, captions) == pytest.approx(arrays[f"vsepp.{name}.metrics"].tolist())
    recalls, (ranks, top1) = function(torch.from_numpy(images), torch.from_numpy(captions), return_ranks=True)
    assert recalls == pytest.approx(arrays[f"vsepp.{name}.metrics"].tolist())
    assert np.array_equal(ranks, arrays[f"vsepp.{name}.ranks"])
    assert np.array_equal(top1, arrays[f"vsepp.{name}.top1"])
    first = 7 if name == "i2t" else 35
    _, (ranks, top1) = function(images, captions, npts=7, return_ranks=True)
    assert np.array_equal(ranks, arrays[f"vsepp.{name}.ranks"][:first])
    assert len(top1) == first


@pytest.mark.parametrize(("function", "query"), [(vsepp.i2t, "image"), (vsepp.t2i, "caption")])
def test_order_embeddings_are_ranked_by_their_violation(function, query, monkeypatch):
    monkeypatch.setattr("itm_fast.nn.similarity.embeddings._TILE_BYTES", 300)  # several tiles, some of them narrower
    generator = np.random.default_rng(0)
    images, captions = generator.random((8, 6)).repeat(5, axis=0), generator.random((40, 6))
    violation = np.linalg.norm(np.maximum(captions[None] - images[::5, None], 0), axis=2)
    _, (ranks, top1) = function(images, captions, measure="order", return_ranks=True)
    rows = violation if query == "image" else violation.T
    assert np.array_equal(top1, rows.argmin(axis=1))
    own = [range(5 * i, 5 * i + 5) for i in range(8)] if query == "image" else [[j // 5] for j in range(40)]
    best = [min((row < row[item]).sum() for item in items) for row, items in zip(rows, own, strict=True)]
    assert np.array_equal(ranks, best)


def test_zero_violation_has_gradient_zero():
    im, s = torch.ones(2, 3, requires_grad=True), torch.zeros(2, 3, requires_grad=True)
    vsepp.ContrastiveLoss(0.1, "order")(im, s).backward()
    assert (im.grad == 0).all()
    assert (s.grad == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((5, 3)), np.ones((5, 4))), r"embeddings \(5 n, dim\), got \(5, 3\) and \(5, 4\)"),
        ((np.ones((2, 3)), np.ones((10, 3))), "every image five times, as many rows as captions, got 2 and 10"),
        ((np.ones((5, 3)), np.ones((5, 3)), None, "l2"), "measure must be 'cosine' or 'order', got 'l2'"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        vsepp.i2t(*arguments)


@pytest.mark.parametrize("return_ranks", [False, True])
@pytest.mark.parametrize("function", [vsepp.i2t, vsepp.t2i])
def test_order_embeddings_are_compared_once(function, return_ranks, monkeypatch):
    compared = []

    def counted(im, s):
        compared.append(len(im) * len(s))
        assert im.dtype == torch.float32  # as in the original, whatever is given
        return -(s[None] - im[:, None]).clamp(min=0).norm(dim=2)

    monkeypatch.setattr(vsepp, "order_sim", counted)
    embeddings = np.random.default_rng(0).random((40, 6))
    function(embeddings.copy(), embeddings, measure="order", return_ranks=return_ranks)
    assert sum(compared) == 8 * 40
