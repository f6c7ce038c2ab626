"""The similarities that the golden files of ECCV Caption were made of, from their seeds."""

import functools

import numpy as np
import pytest

from itm_fast.evaluation.protocols.eccv_caption import read_coco_test, read_truth


def installed():
    """Skip unless the package eccv_caption, which carries the ground truth, is installed."""
    pytest.importorskip("eccv_caption", reason="the package eccv_caption is not installed")


@functools.cache
def coco_test():
    """COCO's test images and captions, read once."""
    installed()
    return read_coco_test(None)


@functools.cache
def kinds():
    """Pairs that are positives anywhere, numbered row by row, and 1 original, 2 CxC's others, 3 ECCV Caption's others.

    (n,) int64 ascending and (n,) int8, which nobody may write to.
    """
    test = coco_test()
    row = {key: place for place, key in enumerate(test.image_ids)}
    column = {key: place for place, key in enumerate(test.caption_ids)}
    kind = np.zeros((len(row), len(column)), np.int8)
    for name, number in (("eccv", 3), ("cxc", 2), ("original", 1)):
        truth = read_truth(None, name)
        for image, captions in truth.image_to_captions.items():
            kind[row[image], [column[caption] for caption in captions if caption in column]] = number
        for caption, images in truth.caption_to_images.items():
            kind[[row[image] for image in images], column[caption]] = number
    places = np.flatnonzero(kind)
    found = places, kind.flat[places]
    for array in found:
        array.setflags(write=False)
    return found


def similarities(gold):
    """(5000, 25000) float32, bit for bit."""
    places, kind = kinds()
    rng = np.random.default_rng(gold["seed"])
    sims = rng.standard_normal((5000, 25_000), dtype=np.float32)
    of_rows, of_columns = (rng.standard_normal(n, dtype=np.float32) for n in sims.shape)
    sims.flat[places] += np.array([0, gold["a_original"], gold["b_cxc_only"], gold["e_eccv_only"]], np.float32)[kind]
    if gold.get("h_bias"):
        sims += (np.float32(gold["h_bias"]) * of_rows)[:, None]
        sims += (np.float32(gold["h_bias"]) * of_columns)[None, :]
    for place, value in gold["sample"].items():
        assert float(sims[tuple(int(x) for x in place[2:-1].split(","))]) == value
    return sims


def as_named_by_the_package(report):
    """A report's figures as eccv_caption names them, in 0 ... 1."""
    found = {}
    for direction in ("i2t", "t2i"):
        for prefix, section in (("coco_1k", "fold_mean"), ("coco_5k", "full"), ("cxc", "cxc"), ("eccv", "eccv")):
            figures = report[section][direction]
            for k in (1, 5, 10):
                found.setdefault(f"{prefix}_r{k}", {})[direction] = figures[f"R@{k}"] / 100
        found.setdefault("eccv_map_at_r", {})[direction] = report["eccv"][direction]["mAP@R"] / 100
        found.setdefault("eccv_rprecision", {})[direction] = report["eccv"][direction]["R-Precision"] / 100
    return found
