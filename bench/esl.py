"""ESL's similarity with its levels: fused; plain torch in the original's order, a caption projected for every image."""

import sys

import torch
from _cases import packed, scan_batch
from _interleaved import arguments, extra_mb, finish, report, timed

from itm_fast.nn.encoders.regions import l2_normalise
from itm_fast.nn.similarity.esl import ESLSimilarity
from itm_fast.ops.level_attention import level_attention


def as_in_the_original(module, regions, words, word_counts):
    image_levels = module.image_levels(regions)
    forms = module.sims.calculator_1.forms()
    widths = [len(form) for form in forms]
    images_of_level = [part.transpose(1, 2) for part in image_levels.split(widths, dim=2)]
    temperature = module.sims.calculator_1.temp_scale.weight[0, 0].exp()
    columns = []
    for caption, n_words in zip(words, word_counts, strict=True):
        levels = module.plus_encoder.encoders_1.text_levels(caption[None, :n_words], chain_normalised=False)
        levels = levels.repeat(len(regions), 1, 1).split(widths, dim=2)
        parts = zip(levels, forms, images_of_level, strict=True)
        affinities = sum(part @ form @ images for part, form, images in parts)  # (n_images, n_words, n_regions)
        h = torch.nn.functional.leaky_relu(affinities.tanh(), 0.1)
        over_words = l2_normalise(h.transpose(1, 2)).transpose(1, 2)
        of_words = (affinities * (temperature * over_words).softmax(2)).sum(2).mean(1)
        of_regions = (affinities * (temperature * l2_normalise(h)).softmax(1)).sum(1).mean(1)
        columns.append(of_words + of_regions)
    return torch.stack(columns, dim=1)


def case(args, title, n_images, n_captions, training):
    n_images, n_captions = (max(int(n * args.scale), 4) for n in (n_images, n_captions))
    regions, words, word_counts = scan_batch(n_images, n_captions, dim=512)
    module = ESLSimilarity(512)
    if training:
        regions.requires_grad_()
        words.requires_grad_()

    def call(similarity):
        with torch.set_grad_enabled(training):
            sims = similarity()
            if training:
                sims.sum().backward()
        return sims.detach()

    calls = {
        "fused": lambda: call(lambda: module(regions, words, word_counts)),
        "plain torch": lambda: call(lambda: as_in_the_original(module, regions, words, word_counts)),
    }
    first, second = (value() for value in calls.values())
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)
    memory = {name: extra_mb(value) for name, value in calls.items()}
    image_levels, caption_levels = (
        levels.detach().requires_grad_(training)
        for levels in (module.image_levels(regions), module.caption_levels(words, word_counts))
    )
    temperature = torch.tensor(1 / 0.07, requires_grad=training)
    flat, vectors = image_levels.detach().flatten(0, 1), packed(caption_levels.detach(), word_counts)
    cotangent = flat @ vectors.T
    gemms = [lambda: flat @ vectors.T]
    if training:  # sims and both gradients
        gemms += [lambda: cotangent @ vectors, lambda: cotangent.T @ flat]
    calls |= {
        "fused, of levels": lambda: call(
            lambda: level_attention(image_levels, caption_levels, word_counts, temperature)
        ),
        f"bare GEMM{'s (3)' if training else ''}": lambda: [gemm() for gemm in gemms],
    }
    ms = timed(calls, args.rounds)
    bars = [("plain torch / fused", ms["plain torch"] / ms["fused"], -4.0)]
    if memory["fused"]:
        print(f"extra memory: {', '.join(f'{name} {mb:.0f} MB' for name, mb in memory.items())}")
    shape = f"{n_images} x {n_captions}, 36 regions, {int(word_counts.sum())} words, D = 512, float32"
    return report(args, title, shape, ms, bars)


def main(argv=None):
    args = arguments(argv, __doc__)
    cases = [case(args, "ESL-A, scoring", 100, 500, False), case(args, "ESL-A, training step", 64, 64, True)]
    return finish(args, cases)


if __name__ == "__main__":
    sys.exit(main())
