"""The similarity of a training batch, forward and backward: fused, reference, closed form and three bare GEMMs."""

import sys

from _cases import FLAGS, packed, scan_batch
from _interleaved import apart, arguments, finish, report, timed

from itm_fast import cross_attention_similarity, reference
from itm_fast.benchmark.memory import extra_mb


def extra_memory(call, cross_attn, n):
    """MB above inputs and gradients of a step; None where the system does not say."""
    regions, words, word_counts = scan_batch(n, n, mean_words=14)
    regions.requires_grad_()
    words.requires_grad_()

    def step(*inputs):
        call(*inputs, **FLAGS[cross_attn]).sum().backward()

    step(regions[:2], words[:2], word_counts[:2])  # code and thread pools are loaded
    regions.grad = words.grad = None
    extra = extra_mb(lambda: step(regions, words, word_counts))
    return None if extra is None else extra - (regions.numel() + words.numel()) * 4 / 2**20


def training(args, cross_attn):
    n = max(int(128 * args.scale), 2)
    regions, words, word_counts = scan_batch(n, n, mean_words=14)
    images, valid = regions.reshape(-1, 1024), packed(words, word_counts)
    similarities = images @ valid.T
    shape = f"B = {n}, 36 regions, D = 1024, {int(word_counts.sum())} words, float32"

    def step(similarity):
        def call():
            inputs = regions.detach().requires_grad_(), words.detach().requires_grad_()
            similarity(*inputs, word_counts, **FLAGS[cross_attn]).sum().backward()

        return call

    def three_gemms():
        images @ valid.T, similarities @ valid, similarities.T @ images

    calls = {
        "fused": step(cross_attention_similarity),
        "three bare GEMMs": three_gemms,
        "closed form": step(reference.cross_attention_closed_form),
        "reference": step(reference.cross_attention_similarity),
    }
    ms = timed(calls, args.rounds, once=("closed form", "reference"))
    bars = [
        ("reference / fused", ms["reference"] / ms["fused"], -8.0),
        ("fused / three bare GEMMs", ms["fused"] / ms["three bare GEMMs"], 1.35),
    ]
    fused, plain = (
        apart(extra_memory, call, cross_attn, n)
        for call in (cross_attention_similarity, reference.cross_attention_similarity)
    )
    if plain is not None:
        print(f"Peak memory of the reference above inputs and gradients: {plain:.0f} MB")
        bars.append(("the same of fused, MB", fused, 150.0))
    return report(args, f"training {cross_attn}", shape, ms, bars)


def main(argv=None):
    args = arguments(argv, __doc__)
    return finish(args, [training(args, "t2i"), training(args, "i2t")])


if __name__ == "__main__":
    sys.exit(main())
