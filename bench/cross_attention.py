"""Scoring with SCAN's cross attention: fused, reference, plain-torch closed form and the bare GEMM, in one run."""

import sys

import torch
from _cases import FLAGS, packed, scan_batch
from _interleaved import arguments, finish, report, timed

from itm_fast import cross_attention_similarity, reference


def assert_equal(regions, words, word_counts, flags):
    few = (regions[:3], words[:7], word_counts[:7])
    got = cross_attention_similarity(*few, **flags)
    want = reference.cross_attention_similarity(few[0].double(), few[1].double(), few[2], **flags)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=2e-6 if regions.dtype == torch.float32 else 1e-2)


def scoring(args):
    n_images, n_captions = max(int(100 * args.scale), 2), max(int(500 * args.scale), 2)
    regions, words, word_counts = scan_batch(n_images, n_captions)
    shape = f"{n_images} x {n_captions}, 36 regions, D = 1024, {int(word_counts.sum())} words"
    images, valid = regions.reshape(-1, 1024), packed(words, word_counts)
    low_regions, low_words, low_images, low_valid = (x.bfloat16() for x in (regions, words, images, valid))
    batch = (regions, words, word_counts)
    for flags in FLAGS.values():
        assert_equal(*batch, flags)
        assert_equal(low_regions, low_words, word_counts, flags)
    calls = {
        "fused t2i": lambda: cross_attention_similarity(*batch, **FLAGS["t2i"]),
        "fused i2t": lambda: cross_attention_similarity(*batch, **FLAGS["i2t"]),
        "fused t2i bfloat16": lambda: cross_attention_similarity(low_regions, low_words, word_counts, **FLAGS["t2i"]),
        "bare GEMM": lambda: images @ valid.T,
        "bare GEMM bfloat16": lambda: low_images @ low_valid.T,
        "closed form t2i": lambda: reference.cross_attention_closed_form(*batch, **FLAGS["t2i"]),
        "closed form i2t": lambda: reference.cross_attention_closed_form(*batch, **FLAGS["i2t"]),
        "reference t2i": lambda: reference.cross_attention_similarity(*batch, **FLAGS["t2i"]),
        "reference i2t": lambda: reference.cross_attention_similarity(*batch, **FLAGS["i2t"]),
    }
    with torch.inference_mode():
        ms = timed(calls, args.rounds, once=("reference t2i", "reference i2t"))
    fused = ms["fused t2i"]
    bars = [
        ("reference / fused", ms["reference t2i"] / fused, -15.0),
        ("closed form / fused", ms["closed form t2i"] / fused, -1.6),
        ("fused / bare GEMM", fused / ms["bare GEMM"], 1.1),
        ("float32 / bfloat16", fused / ms["fused t2i bfloat16"], -1.6),
        ("i2t / t2i", ms["fused i2t"] / fused, 1.3),
    ]
    return report(args, "scoring", shape, ms, bars)


def threads(args):
    batch = scan_batch(max(int(100 * args.scale), 2), max(int(500 * args.scale), 2))

    def with_threads(n):
        def call():
            torch.set_num_threads(n)
            cross_attention_similarity(*batch)
            torch.set_num_threads(args.threads)

        return call

    with torch.inference_mode():
        ms = timed({"2 threads": with_threads(2), "1 thread": with_threads(1)}, args.rounds)
    return report(args, "threads", "as scoring", ms, [("1 thread / 2 threads", ms["1 thread"] / ms["2 threads"], -1.8)])


def linearity(args):
    results, bars = {}, []
    with torch.inference_mode():
        calls, work = {}, {}
        for n_images, n_captions in ((50, 500), (100, 500), (200, 500), (100, 1000)):
            batch = scan_batch(max(int(n_images * args.scale), 2), max(int(n_captions * args.scale), 2))
            name = f"{n_images} x {n_captions}"
            calls[name] = lambda batch=batch: cross_attention_similarity(*batch)
            work[name] = batch[0].shape[0] * int(batch[2].sum())
        results = timed(calls, args.rounds)
    cost = {name: ms / work[name] for name, ms in results.items()}
    bars = [("largest / smallest cost of an image x word", max(cost.values()) / min(cost.values()), 1.15)]
    return report(args, "linearity", "images x captions", results, bars)


def many_tokens(args, n_tokens, direction):
    """Images of a vision transformer's tokens: forward and with gradients, beside S alone and its two gradients."""
    n, n_words, dim = max(int(64 * args.scale), 2), 40, 1024
    generator = torch.Generator().manual_seed(0)
    regions, words = (torch.randn(n, rows, dim, generator=generator) for rows in (n_tokens, n_words))
    regions, words = (torch.nn.functional.normalize(x, dim=-1) for x in (regions, words))

    def bare(regions, words):
        return regions.flatten(0, 1) @ words.flatten(0, 1).T

    def step(score):
        def call():
            sims = score(regions.requires_grad_(), words.requires_grad_())
            torch.autograd.grad(sims, (regions, words), torch.ones_like(sims))

        return call

    def forward(score):
        return torch.no_grad()(lambda: score(regions, words))

    def fused(regions, words):
        return cross_attention_similarity(regions, words, **FLAGS[direction])

    calls = {
        "forward": forward(fused),
        "forward + backward": step(fused),
        "bare product": forward(bare),
        "bare product + backward": step(bare),
    }
    ms = timed(calls, args.rounds)
    bars = [
        ("forward / bare product", ms["forward"] / ms["bare product"], 1.5),
        ("forward + backward / bare products", ms["forward + backward"] / ms["bare product + backward"], 4.0),
    ]
    shape = f"{n} x {n}, {n_tokens} tokens, {n_words} words, D = {dim}, {direction}, float32"
    return report(args, f"{n_tokens} tokens, {direction}", shape, ms, bars)


def main(argv=None):
    args = arguments(argv, __doc__)
    of_tokens = [many_tokens(args, n, direction) for n in (197, 577) for direction in FLAGS]
    return finish(args, [scoring(args), threads(args), linearity(args), *of_tokens])


if __name__ == "__main__":
    sys.exit(main())
