"""evaluate: sources, folds, protocols, ties, memory, errors."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from itm_fast.evaluation import evaluate
from itm_fast.metrics import recall_at_k

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "recall.npz")
FIGURES = ("R@1", "R@5", "R@10", "medr", "meanr")


def noisy_pairs(n_images, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    sims = rng.standard_normal((n_images, 5 * n_images))
    sims[np.arange(5 * n_images) // 5, np.arange(5 * n_images)] += 1.5
    return sims.astype(dtype)


def figures(report, direction):
    return [report[direction][name] for name in FIGURES]


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_golden(direction):
    report = evaluate(GOLDEN["plain.sims"])
    np.testing.assert_allclose(figures(report, direction), GOLDEN[f"plain.{direction}.metrics"], rtol=1e-12)
    expected = sum(GOLDEN[f"plain.{d}.metrics"][:3].sum() for d in ("i2t", "t2i"))
    assert report["rsum"] == pytest.approx(expected)


def test_golden_ensemble_and_its_folds():
    # eval_ensemble of the original logs the whole gallery, each fold and the mean of the folds, one decimal each.
    log = GOLDEN["ens.log"].tolist()
    expected = [
        [float(number) for number in line.split(": ")[1].replace(",", " ").split()]
        for line in log
        if line.startswith(("Image to text", "Text to image"))
    ]
    report = evaluate((GOLDEN["ens.sims1"] + GOLDEN["ens.sims2"]) / 2, folds=5)
    sections = [report["full"], *report["folds"], report["fold_mean"]]
    found = [figures(section, direction) for section in sections for direction in ("i2t", "t2i")]
    np.testing.assert_allclose(found, expected, atol=0.0501)
    rsums = [float(line.split()[1]) for line in log if line.startswith("rsum")]
    np.testing.assert_allclose([section["rsum"] for section in sections], rsums, atol=0.0501)


def test_sources_agree():
    rng = np.random.default_rng(0)
    images, captions = (rng.integers(-3, 4, (n, 8)).astype(np.float32) for n in (20, 100))  # exact products
    sims = images @ captions.T
    expected = evaluate(sims)
    sources = {
        "tensor": evaluate(torch.from_numpy(sims)),
        "embeddings": evaluate((images, captions), chunk_bytes=500),
        "tensors": evaluate((torch.from_numpy(images), torch.from_numpy(captions))),
        "float16": evaluate((images.astype(np.float16), captions.astype(np.float16))),
        "callable": evaluate(lambda rows, columns: sims[rows, columns], n_images=20, n_captions=100),
    }
    for report in sources.values():
        for key in ("i2t", "t2i", "rsum", "full"):
            assert report[key] == expected[key]
    assert evaluate(sims.astype(np.float64))["conditions"]["dtype"] == "float64"
    assert sources["float16"]["conditions"]["dtype"] == "float32"


def test_r_all_is_recall_of_all_positives():
    sims = noisy_pairs(20)
    report = evaluate(sims, ks=(1, 7))
    for direction, query in (("i2t", "image"), ("t2i", "caption")):
        expected = recall_at_k(sims, (1, 7), query=query, positives="all").tolist()
        assert [report[direction][f"R_all@{k}"] for k in (1, 7)] == expected
    assert "R@5" not in report["i2t"]
    assert report["rsum"] == evaluate(sims)["rsum"]  # whatever ks


def test_fold_figures_are_means_of_blocks():
    sims = noisy_pairs(50)
    report = evaluate(sims, folds=5)
    blocks = [evaluate(sims[10 * f : 10 * f + 10, 50 * f : 50 * f + 50]) for f in range(5)]
    for fold, block in zip(report["folds"], blocks, strict=True):
        assert fold == block["full"]
    for direction in ("i2t", "t2i"):
        means = np.mean([figures(block, direction) for block in blocks], axis=0)
        np.testing.assert_allclose(figures(report, direction), means)
    assert report["rsum"] == pytest.approx(np.mean([block["rsum"] for block in blocks]))
    assert report["full"] == evaluate(sims)["full"]
    assert report["headline"] == "fold_mean"
    assert report["fold_mean"]["i2t"]["n_queries"] == 50


@pytest.mark.slow
def test_coco_protocols():
    scores = torch.randn(25000, generator=torch.Generator().manual_seed(0))

    def tile(rows, columns):  # any scores: a cheap hash of the pair
        return scores[
            (torch.arange(rows.start, rows.stop)[:, None] * 31 + torch.arange(columns.start, columns.stop)) % 25000
        ]

    five = evaluate(tile, protocol="coco-5k", n_images=5000, n_captions=25000)
    one = evaluate(tile, protocol="coco-1k", n_images=5000, n_captions=25000)
    assert len(five["folds"]) == 5
    assert five["i2t"] == five["full"]["i2t"]
    assert one["i2t"] == five["fold_mean"]["i2t"]
    assert five["folds"][0]["i2t"]["n_queries"] == 1000


def test_constant_scores_are_not_good_scores():
    report = evaluate(np.zeros((10, 50)))
    assert report["i2t"]["R@1"] == 10
    assert report["i2t"]["optimistic"]["R@1"] == 100
    assert report["i2t"]["pessimistic"]["R@1"] == 0
    assert report["i2t"]["n_tied"] == 10
    assert "WARNING: the order of equal scores decides" in str(report)


def test_repeated_images_tie():
    # Every image twice: each caption has a non-positive image of equal score.
    images = np.eye(4, dtype=np.float32).repeat(2, axis=0)
    report = evaluate((images, images.repeat(5, axis=0)))
    assert report["t2i"]["n_tied"] == 40
    assert report["t2i"]["R@1"] == 50


def test_ragged_map():
    report = evaluate(np.array([[0.5, 0.4], [0.9, 0.8], [0.1, 0.7]]), caption_to_image=np.array([0, 2]))
    assert report["i2t"]["n_queries"] == 2
    assert report["t2i"]["R@1"] == 0


def test_progress_reaches_the_end():
    calls = []
    evaluate(noisy_pairs(10), chunk_bytes=800, progress=lambda done, total: calls.append((done, total)))
    assert calls[0] == (0, 500)
    assert calls[-1] == (500, 500)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert len(calls) > 3


@pytest.mark.slow
def test_memory_does_not_grow_with_the_matrix():
    # 6000 x 30000 similarities would be 720 MB in float32; the tiles are 8 MiB.
    code = """
import resource, numpy as np
from itm_fast.evaluation import evaluate
rng = np.random.default_rng(0)
images, captions = (rng.standard_normal((n, 4), dtype=np.float32) for n in (6000, 30000))
evaluate((images[:100], captions[:500]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
evaluate((images, captions), chunk_bytes=8 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    grown = int(done.stdout) * (1 if sys.platform == "darwin" else 1024)
    assert grown < 64 << 20


@pytest.mark.parametrize(
    ("call", "exception", "fragment"),
    [
        (lambda s: evaluate(s, protocol="coco-1k"), ValueError, "use the split `testall`"),
        (
            lambda s: evaluate(s, protocol="coco-5k"),
            ValueError,
            "expects 5000 images x 25000 captions, given 1000 x 5000",
        ),
        (lambda s: evaluate(s[:10, :50], protocol="flickr30k-1k"), ValueError, "given 10 x 50"),
        (
            lambda s: evaluate(s, protocol="flickr30k"),
            ValueError,
            "protocol is 'flickr30k'; perhaps you meant flickr30k-1k; expected one of",
        ),
        (lambda s: evaluate(s, protocol="flickr30k-1k", folds=5), ValueError, "has no folds"),
        (lambda s: evaluate(s, folds=3), ValueError, "n_images = 1000 is not a multiple"),
        (lambda s: evaluate(s, folds=0), ValueError, "folds is 0"),
        (lambda s: evaluate(s.T), ValueError, "looks transposed"),
        (lambda s: evaluate(s, ks=(5, 0)), ValueError, "ks holds 0"),
        (lambda s: evaluate(s[:0, :0]), ValueError, "nothing to evaluate"),
        (lambda s: evaluate("sims.npy"), TypeError, "sims is a str"),
    ],
)
def test_errors(call, exception, fragment):
    with pytest.raises(exception) as raised:
        call(np.zeros((1000, 5000), np.float32))
    assert fragment in str(raised.value)
