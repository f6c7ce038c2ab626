"""All figures of a COCO-5K evaluation from embeddings, protocol by protocol, beside the originals' ways to them."""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from _interleaved import arguments, extra_mb, finish, report, timed

from itm_fast import Cider, evaluate
from itm_fast.data.made.scenes import draw_scene, scene_captions
from itm_fast.evaluation import Ids, RelevantPairs
from itm_fast.files.reading import find_file


def add_flags(parser):
    parser.add_argument("--annotations", type=Path, help="folder of Crisscrossed Captions' .csv files: adds cxc")
    parser.add_argument("--dim", type=int, default=1024, help="numbers an embedding")
    parser.add_argument("--no-peers", action="store_true", help="leave out what runs beside (two minutes, 10 GB)")


def embeddings(args):
    n = 5000 if args.scale >= 1 else max(int(1000 * args.scale) // 5 * 5, 20)
    generator = torch.Generator().manual_seed(0)
    images = torch.nn.functional.normalize(torch.randn(n, args.dim, generator=generator), dim=1)
    noise = torch.randn(5 * n, args.dim, generator=generator) / 8
    return images, torch.nn.functional.normalize(images.repeat_interleave(5, 0) + noise, dim=1)


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def argsort_loops(sims):
    """Ranks as VSE++ and SCAN find them: each row and each column sorted, then searched for the positives."""
    ranks = np.zeros(len(sims)), np.zeros(sims.shape[1])
    for image, row in enumerate(sims):
        order = np.argsort(row)[::-1]
        ranks[0][image] = min(np.where(order == caption)[0][0] for caption in range(5 * image, 5 * image + 5))
    for caption, column in enumerate(sims.T):
        ranks[1][caption] = np.where(np.argsort(column)[::-1] == caption // 5)[0][0]
    return ranks


def by_the_package(sims):
    """eccv_caption's figures; the seconds of building the rankings, lists of ids, that it takes, and of itself."""
    import eccv_caption

    from itm_fast.evaluation.protocols.eccv_caption import read_coco_test

    test = read_coco_test(None)
    images, captions = np.array(test.image_ids), np.array(test.caption_ids)
    start = time.perf_counter()
    i2t = {
        key: captions[np.argsort(-row, kind="stable")].tolist() for key, row in zip(test.image_ids, sims, strict=True)
    }
    t2i = {
        key: images[np.argsort(-row, kind="stable")].tolist() for key, row in zip(test.caption_ids, sims.T, strict=True)
    }
    built = time.perf_counter()
    wanted = ["coco_1k_recalls", "coco_5k_recalls", "cxc_recalls", "eccv_map_at_r", "eccv_rprecision", "eccv_r1"]
    found = eccv_caption.Metrics().compute_all_metrics(i2t, t2i, target_metrics=wanted)
    return found, built - start, time.perf_counter() - built


def has_package():
    """Whether eccv_caption is installed."""
    try:
        find_file(None, ["coco_test_ids.npy"], "", "eccv_caption")
    except FileNotFoundError:
        return False
    return True


def relevance(n):
    rng = np.random.default_rng(0)
    references = [scene_captions(draw_scene(0, rng), rng) for _ in range(n)]
    return Cider().fit(references).encode(references)


def main(argv=None):
    args = arguments(argv, __doc__, add_flags)
    images, captions = embeddings(args)
    both, whole = (images, captions), args.scale >= 1
    corpus = relevance(len(images))
    groups = RelevantPairs(
        Ids(range(len(images)), range(len(captions))),
        {image: range(5 * image, 5 * image + 5) for image in range(len(images))},
        {caption: [caption // 5] for caption in range(len(captions))},
    )
    calls = {}
    if whole:
        calls["eccv: recall, folds, CxC image-text, ECCV"] = lambda: evaluate(both, protocol="eccv")
        calls["of it recall and folds (coco-5k)"] = lambda: evaluate(both, protocol="coco-5k")
    else:
        calls["recall, folds"] = lambda: evaluate(both, folds=5)
        calls["any positives"] = lambda: evaluate(both, protocol="positives", annotations=groups)
    calls["recall, folds, NCS of a Cider"] = lambda: evaluate(both, corpus, folds=5)
    if whole and args.annotations is not None:
        options = {"protocol": "cxc", "annotations": args.annotations}
        calls["cxc: image-text, t2t, i2i, correlations"] = lambda: evaluate(both, **options)
    calls["bare GEMM of the scores"] = lambda: images @ captions.T
    extra = [extra_mb(call) or 0.0 for name, call in calls.items() if not name.startswith("bare")]
    # Their first calls were those that memory was measured in.
    ms = timed(calls, max(2, args.rounds // 3), once=[name for name in calls if not name.startswith("bare")])
    first = next(iter(ms.values())) / 1e3
    bars = [("memory above the embeddings, MB", max(extra), 3000.0)]
    if whole:
        bars.append(("recall, folds, ECCV, CxC image-text: s", first, 10.0))
    if "cxc: image-text, t2t, i2i, correlations" in ms:
        rest = ms["cxc: image-text, t2t, i2i, correlations"] + ms["recall, folds, NCS of a Cider"]
        bars.append(("all of it with CxC t2t, i2i and NCS: s", first + rest / 1e3, 45.0))
    if not args.no_peers:
        sims = (images @ captions.T).numpy()
        given = {"recall": lambda: evaluate(torch.from_numpy(sims))}
        if whole and has_package():
            given["eccv"] = lambda: evaluate(torch.from_numpy(sims), protocol="eccv")
        spent = timed(given, args.rounds)
        ms |= {f"{name}, of given scores": value for name, value in spent.items()}
        loops = 1e3 * seconds(lambda: argsort_loops(sims))
        ms["argsort loops for recall, of given scores"] = loops
        bars.append(("argsort loops / recall, of given scores", loops / spent["recall"], -20.0))
        if "eccv" in given:
            theirs, of_lists, of_figures = by_the_package(sims)
            ms["eccv_caption's lists, of given scores"] = 1e3 * of_lists
            ms["eccv_caption, of its lists"] = 1e3 * of_figures
            with_lists = 1e3 * (of_lists + of_figures) / spent["eccv"]
            bars.append(("eccv_caption with its lists / eccv, of given scores", with_lists, -4.0))
            bars.append(("eccv_caption alone / eccv, of given scores", 1e3 * of_figures / spent["eccv"], -1.0))
            ours = given["eccv"]()
            for direction in ("i2t", "t2i"):
                assert abs(theirs["eccv_map_at_r"][direction] - ours["eccv"][direction]["mAP@R"] / 100) < 1e-9
                assert abs(theirs["coco_1k_r1"][direction] - ours["fold_mean"][direction]["R@1"] / 100) < 1e-9
    shape = f"{len(images)} images x {len(captions)} captions, D = {args.dim}, float32"
    return finish(args, [report(args, "evaluation from embeddings", shape, ms, bars)])


if __name__ == "__main__":
    sys.exit(main())
