"""The drop-in losses print with what they were made of."""

from argparse import Namespace

import pytest

from itm_fast.compat import scan, vse_infty, vsepp

OPT = Namespace(cross_attn="i2t", raw_feature_norm="l2norm", agg_func="Mean", lambda_softmax=4.0, other=1)
FLAGS = "cross_attn='i2t', raw_feature_norm='l2norm', agg_func='Mean', lambda_softmax=4.0"


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (vsepp.ContrastiveLoss(0.2, "order", True), "order, margin=0.2, max_violation=True"),
        (vsepp.ContrastiveLoss(), "cosine, margin=0, max_violation=False"),
        (vse_infty.ContrastiveLoss(None, 0.2), "margin=0.2, max_violation=False"),
        (scan.ContrastiveLoss(OPT, 0.1), f"{FLAGS}, margin=0.1, max_violation=False"),
    ],
)
def test_losses_print_their_options(loss, text):
    assert repr(loss) == f"ContrastiveLoss({text})"
