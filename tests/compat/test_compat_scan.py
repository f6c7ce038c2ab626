"""SCAN's drop-in functions against the original's golden loss, its flags and its errors."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from itm_fast import reference
from itm_fast.compat import scan

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "losses.npz")
LAMBDAS = {"t2i": {"lambda_softmax": 9.0, "lambda_lse": 6.0}, "i2t": {"lambda_softmax": 4.0, "lambda_lse": 5.0}}
SCORES = {"t2i": scan.xattn_score_t2i, "i2t": scan.xattn_score_i2t}
DIRECTIONS = pytest.mark.parametrize("cross_attn", SCORES)


def flags(cross_attn="t2i", **changed):
    given = {"raw_feature_norm": "clipped_l2norm", "agg_func": "LogSumExp", "cross_attn": cross_attn}
    return Namespace(**{**given, **LAMBDAS[cross_attn], **changed})


def embeddings(dtype=torch.float64):
    images, captions = (torch.from_numpy(GOLDEN[f"scan.{name}"]).to(dtype) for name in ("images", "captions"))
    return images.requires_grad_(), captions.requires_grad_()


@DIRECTIONS
@pytest.mark.parametrize(("kind", "max_violation"), [("max", True), ("sum", False)])
@pytest.mark.parametrize(
    ("dtype", "tolerance", "gradient_tolerance"), [(torch.float64, 1e-12, 1e-7), (torch.float32, 2e-6, 1e-4)]
)
def test_golden_loss(cross_attn, kind, max_violation, dtype, tolerance, gradient_tolerance):
    images, captions = embeddings(dtype)
    criterion = scan.ContrastiveLoss(flags(cross_attn), margin=float(GOLDEN["margin"]), max_violation=max_violation)
    loss = criterion(images, captions, GOLDEN["scan.lens"].tolist())
    loss.backward()
    case = f"scan.{cross_attn}.{kind}"
    assert loss.item() == pytest.approx(float(GOLDEN[f"{case}.loss"]), rel=tolerance)
    for found, name in ((images.grad, "dimages"), (captions.grad, "dcaptions")):
        golden = GOLDEN[f"{case}.{name}"]
        np.testing.assert_allclose(found, golden, rtol=0, atol=gradient_tolerance * np.abs(golden).max())


@DIRECTIONS
@pytest.mark.parametrize("agg_func", ["LogSumExp", "Max", "Sum", "Mean"])
@pytest.mark.parametrize(
    "raw_feature_norm", ["clipped_l2norm", "l2norm", "clipped_l1norm", "l1norm", "clipped", "no_norm", "softmax"]
)
def test_every_flag_reaches_the_operator(cross_attn, agg_func, raw_feature_norm):
    images, captions = embeddings()
    lens = torch.from_numpy(GOLDEN["scan.lens"])
    opt = flags(cross_attn, agg_func=agg_func, raw_feature_norm=raw_feature_norm, lambda_softmax=3.0, lambda_lse=2.0)
    expected = reference.cross_attention_similarity(images, captions, lens, **vars(opt))
    torch.testing.assert_close(SCORES[cross_attn](images, captions, lens, opt), expected)


@pytest.mark.parametrize("kind", [list, tuple, torch.tensor, np.array])
def test_lengths_of_any_kind(kind):
    images, captions = embeddings()
    scores = scan.xattn_score_t2i(images, captions, kind(GOLDEN["scan.lens"].tolist()), flags())
    torch.testing.assert_close(
        scores, scan.xattn_score_t2i(images, captions, torch.from_numpy(GOLDEN["scan.lens"]), flags())
    )


def test_defaults_of_the_loss_are_those_of_scan():
    criterion = scan.ContrastiveLoss(flags())
    assert (criterion.margin, criterion.max_violation) == (0, False)


def test_lambda_lse_is_needed_for_logsumexp_only():
    images, captions = embeddings()
    opt = flags(agg_func="Mean")
    del opt.lambda_lse
    assert scan.xattn_score_t2i(images, captions, GOLDEN["scan.lens"], opt).shape == (8, 8)
    opt.agg_func = "LogSumExp"
    with pytest.raises(AttributeError, match="--lambda_lse"):
        scan.xattn_score_t2i(images, captions, GOLDEN["scan.lens"], opt)


@DIRECTIONS
@pytest.mark.parametrize("flag", ["raw_feature_norm", "agg_func", "lambda_softmax"])
def test_missing_flags_are_named(cross_attn, flag):
    opt = flags(cross_attn)
    delattr(opt, flag)
    with pytest.raises(AttributeError, match=f"opt has no {flag}; SCAN's train.py sets it with --{flag}"):
        SCORES[cross_attn](*embeddings(), GOLDEN["scan.lens"], opt)


@DIRECTIONS
@pytest.mark.parametrize(
    ("flag", "known"), [("raw_feature_norm", "'clipped_l2norm', 'l1norm'"), ("agg_func", "'Mean', 'Sum'")]
)
def test_unknown_values_list_the_known_ones(cross_attn, flag, known):
    with pytest.raises(ValueError, match=f"{flag} must be one of .*{known}.*, got 'median'"):
        SCORES[cross_attn](*embeddings(), GOLDEN["scan.lens"], flags(cross_attn, **{flag: "median"}))


def test_unknown_direction():
    with pytest.raises(ValueError, match=r"opt\.cross_attn must be one of 'i2t', 't2i', got 'both'"):
        scan.ContrastiveLoss(Namespace(cross_attn="both"))
    with pytest.raises(AttributeError, match="--cross_attn"):
        scan.ContrastiveLoss(Namespace())
