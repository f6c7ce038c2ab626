"""What users get wrong, where no other test of this folder has it; the others are named here.

1 folds: test_evaluate, test_eccv_caption (golden folds).  2, 3, 6, 12, 13 sizes, order: test_eccv_caption.
4 ties: test_eccv_caption (quantised).  5 the query itself, 14 all rows: test_cxc.
7 hit rate, 8 positives outside, 9 cut lists: test_precision, test_eccv_caption.
"""

import numpy as np
import pytest
from eccv_golden import coco_test, installed, kinds

from itm_fast.config import DataConfig
from itm_fast.evaluation import evaluate
from itm_fast.evaluation.protocols.eccv_caption import read_truth


def test_one_unit_percent():
    # Trap 10: perfect similarities are 100 everywhere, never 1; what can not be reached is not 100.
    installed()
    test, perfect = coco_test(), np.zeros((5000, 25_000), np.float32)
    perfect.flat[kinds()[0]] = 1
    report = evaluate(perfect, protocol="eccv", ks=(1, 10))
    for section in ("full", "fold_mean", "cxc"):
        for direction in ("i2t", "t2i"):
            assert report[section][direction]["optimistic"]["R@10"] == 100
    column = {key: place for place, key in enumerate(test.caption_ids)}
    row = {key: place for place, key in enumerate(test.image_ids)}
    only = np.zeros_like(perfect)
    for image, captions in read_truth(None, "eccv").image_to_captions.items():
        only[row[image], [column[caption] for caption in captions if caption in column]] = 1
    figures = evaluate(only, protocol="eccv")["eccv"]["i2t"]
    assert figures["R@1"] == 100
    assert 99.9 < figures["R-Precision"] < 100  # two positives are not in the gallery
    assert 99.9 < figures["mAP@R"] < 100


def test_a_mean_of_folds_is_no_rank_divided_by_five():
    # Trap 1: medians are averaged too, so that 1.2 is possible.
    rng = np.random.default_rng(0)
    sims = rng.standard_normal((10, 50))
    sims[np.arange(50) // 5, np.arange(50)] += 1.2
    report = evaluate(sims, folds=5)
    assert report["i2t"]["medr"] == np.mean([fold["i2t"]["medr"] for fold in report["folds"]])
    assert report["t2i"]["meanr"] != report["full"]["t2i"]["meanr"] / 5


def test_checkpoints_are_chosen_on_the_validation_split():
    # Trap 11: figures of a checkpoint chosen on test do not compare with others.
    assert DataConfig.val_split == "dev"


def test_a_square_hides_the_orientation():
    # Trap 6.
    with pytest.raises(ValueError, match="as many images as captions"):
        evaluate(np.zeros((20, 20)))
    with pytest.raises(ValueError, match="looks transposed"):
        evaluate(np.zeros((50, 10)))
