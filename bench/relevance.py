"""CIDEr-D: a small set beside plain Python, MSCOCO's 5K x 25K from text to matrix, and what training asks for."""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from _interleaved import arguments, extra_mb, finish, report, timed

from itm_fast import Cider, reference, semantic_margin_loss
from itm_fast.data.made.scenes import draw_scene, scene_captions
from itm_fast.data.readers.reference_captions import read_references


def add_captions(parser):
    parser.add_argument(
        "--captions",
        type=Path,
        help="captions of the images (JSON, or text of five lines an image); generated if not given",
    )


def captions(args, n_images):
    """Captions of n_images images, five each."""
    if args.captions is not None:
        return read_references(args.captions)[:n_images]
    rng = np.random.default_rng(0)
    return [scene_captions(draw_scene(0, rng), rng) for _ in range(n_images)]


def small(args):
    n = max(int(100 * args.scale), 4)
    references = [[" ".join(text.lower().split()) for text in image] for image in captions(args, n)]
    candidates = [caption for image in references for caption in image]
    corpus = Cider().fit(references).encode(references)
    expected = reference.cider(references, candidates)
    torch.testing.assert_close(corpus.relevance(dtype=torch.float64), expected, rtol=0, atol=1e-9)
    calls = {
        "fused, encoded": corpus.relevance,
        "fused, from text": lambda: Cider().fit(references).relevance(references, candidates),
        "plain Python": lambda: reference.cider(references, candidates),
    }
    ms = timed(calls, args.rounds, once=("plain Python",))
    bars = [
        ("plain Python / fused, encoded", ms["plain Python"] / ms["fused, encoded"], -500.0),
        ("plain Python / fused, from text", ms["plain Python"] / ms["fused, from text"], -500.0),
    ]
    return report(args, "CIDEr-D, all pairs", f"{n} images x {5 * n} captions, numbers equal", ms, bars)


def whole(args):
    references = captions(args, max(int(5000 * args.scale), 4))
    texts = [caption for image in references for caption in image]
    shape = f"{len(references)} images x {len(texts)} captions"
    found = {}

    def from_text():
        found["phi"] = Cider().fit(references).relevance(references, texts)

    extra = extra_mb(from_text)
    cider = Cider().fit(references)
    corpus = cider.encode(references)
    calls = {
        "text to matrix": from_text,
        "fit": lambda: Cider().fit(references),
        "encode": lambda: cider.encode(references),
        "phi of encoded captions": corpus.relevance,
    }
    ms = timed(calls, max(2, args.rounds // 2))
    bars = [("text to matrix, s", ms["text to matrix"] / 1e3, 10.0), ("encode, s", ms["encode"] / 1e3, 2.0)]
    if extra is not None:
        matrix = len(references) * len(texts) * 4 / 2**20
        bars.append(("memory above the matrix, MB", extra - matrix, 2000.0))
    if len(references) >= 8:
        half = range(len(references) // 2)
        start = time.perf_counter()
        corpus.relevance(half)
        share = (time.perf_counter() - start) / (ms["phi of encoded captions"] / 1e3)
        bars.append(("half the images / all, time", share, 0.7))
    return report(args, "CIDEr-D, a test set", shape, ms, bars), corpus


def training(args, corpus):
    n = min(max(int(128 * args.scale), 4), corpus.n_images)
    generator = torch.Generator().manual_seed(0)
    caption_ids = torch.randperm(corpus.n_captions, generator=generator)[:n]
    image_ids = caption_ids // 5
    sims = torch.randn(n, n, generator=generator).requires_grad_()

    def on_demand(rows, columns):
        return corpus.pairs(image_ids[rows], caption_ids[columns])

    def step(loss):
        sims.grad = None
        loss().backward()

    calls = {
        "SAM loss, sampled pairs on demand": lambda: step(
            lambda: semantic_margin_loss(sims, on_demand, image_ids=image_ids)
        ),
        "SAM loss, whole block": lambda: step(
            lambda: semantic_margin_loss(sims, corpus.relevance(image_ids, caption_ids), image_ids=image_ids)
        ),
        "plain triplet, eager torch": lambda: step(lambda: reference.triplet_loss(sims)),
        "phi of the whole block": lambda: corpus.relevance(image_ids, caption_ids),
        "phi of 3 B pairs": lambda: corpus.pairs(image_ids.repeat(3), caption_ids.repeat(3)),
    }
    calls = {name: (lambda call=call: [call() for _ in range(100)]) for name, call in calls.items()}
    ms = {name: value / 100 for name, value in timed(calls, args.rounds).items()}
    plain = ms["plain triplet, eager torch"]
    bars = [
        ("SAM loss / plain triplet", ms["SAM loss, sampled pairs on demand"] / plain, 3.0),
        ("phi of the whole block, ms", ms["phi of the whole block"], 15.0),
    ]
    return report(args, "a training batch", f"B = {n}, forward + backward, float32", ms, bars)


def main(argv=None):
    args = arguments(argv, __doc__, add_captions)
    first = small(args)
    second, corpus = whole(args)
    return finish(args, [first, second, training(args, corpus)])


if __name__ == "__main__":
    sys.exit(main())
