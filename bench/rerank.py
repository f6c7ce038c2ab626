"""Given pairs against all pairs: what a pair costs at k candidates an image, of every similarity."""

import sys

import torch
from _cases import FLAGS, packed, scan_batch
from _interleaved import arguments, finish, report, timed

from itm_fast import attended_similarity, cross_attention_similarity, level_attention, max_similarity
from itm_fast.nn.similarity.laps import LAPSSimilarity
from itm_fast.ops.patch_word_similarity import patch_word_similarity

IMAGES, CAPTIONS = 1000, 5000
ATTENDED_IMAGES, ATTENDED_CAPTIONS = 40, 1000  # whose similarity vectors, 12 KB a pair, fit this machine
KS = (8, 32, 128, 512)
TILE_BAR, SPEED_BAR = 1.25, 5.0
BAR_AT = ("k = 32", "k = 128")


def similarities(regions, words, word_counts):
    temperature = torch.tensor(1 / 0.07)
    torch.manual_seed(0)
    laps = LAPSSimilarity(regions.shape[2], regions.shape[1])
    return {
        "cross attention t2i": lambda **given: cross_attention_similarity(
            regions, words, word_counts, **FLAGS["t2i"], **given
        ),
        "cross attention i2t": lambda **given: cross_attention_similarity(
            regions, words, word_counts, **FLAGS["i2t"], **given
        ),
        "max_similarity": lambda **given: max_similarity(regions, words, word_counts, **given),
        "level_attention": lambda **given: level_attention(regions, words, word_counts, temperature, **given),
        "LAPS": lambda **given: laps(regions, words, word_counts, **given),
        "LAPS, patches weighed and scored already": of_scored_patches(regions, words, word_counts, laps),
    }


def of_scored_patches(regions, words, word_counts, laps):
    """LAPS's operator alone: what its network makes of an image, and a pair's scores of patches, are given."""
    with torch.inference_mode():
        logits = laps.aggr_net(regions)
    scores = torch.randn(len(regions), len(words), regions.shape[1])
    of_lists = {}

    def similarity(candidates=None):
        if candidates is None:
            return patch_word_similarity(regions, words, scores, logits, word_counts)
        if id(candidates) not in of_lists:
            of_lists[id(candidates)] = scores.gather(1, candidates[:, :, None].expand(-1, -1, scores.shape[2]))
        return patch_word_similarity(
            regions, words, of_lists[id(candidates)], logits, word_counts, candidates=candidates
        )

    return similarity


def attended(regions, words, word_counts):
    """Calls whose similarity vectors come with the words of a pair one after another."""
    flat = packed(words, word_counts)
    torch.manual_seed(0)
    weight, bias = torch.randn(256, regions.shape[2]) / regions.shape[2] ** 0.5, torch.zeros(256)
    return lambda **given: attended_similarity(regions, flat, word_counts, weight, bias, **given)


def attended_scores(similarity, word_counts):
    """A number of each pair: its vectors' sum, in the shape that the other similarities' scores have."""

    def scores(candidates=None):
        given = {} if candidates is None else {"candidates": candidates}
        sums = similarity(**given).sum(2)
        counts = word_counts.expand(len(sums), -1) if candidates is None else word_counts[candidates]
        totals = torch.nn.functional.pad(sums.double().flatten().cumsum(0), (1, 0))
        return totals[torch.nn.functional.pad(counts.flatten().cumsum(0), (1, 0))].diff().view(counts.shape)

    return scores


def check(title, found, want):
    off = ~torch.isclose(found, want, rtol=1e-4, atol=1e-4)
    # LAPS: of patches that suit a caption equally but for rounding, another may be kept
    assert off.double().mean() <= (1e-3 if title == "LAPS" else 0), f"{title}: {int(off.sum())} scores are off"


def case(args, title, similarity, n_images, n_captions, scores=None):
    scores = scores or similarity
    generator = torch.Generator().manual_seed(0)
    order = torch.rand(n_images, n_captions, generator=generator).argsort(1)
    lists = {k: order[:, : min(k, n_captions)].contiguous() for k in KS}
    with torch.inference_mode():
        whole = scores()
        for candidates in lists.values():
            check(title, scores(candidates=candidates), whole.gather(1, candidates))
    calls = {"all pairs": similarity}
    calls |= {f"k = {k}": lambda some=candidates: similarity(candidates=some) for k, candidates in lists.items()}
    with torch.inference_mode():
        ms = timed(calls, args.rounds)
    of_pair = {
        name: value / n_images / (n_captions if name == "all pairs" else lists[int(name[4:])].shape[1])
        for name, value in ms.items()
    }
    bars = [(f"a pair at {name} / of all", of_pair[name] / of_pair["all pairs"], TILE_BAR) for name in BAR_AT]
    bars.append(("all pairs / k = 128", ms["all pairs"] / ms["k = 128"], -SPEED_BAR))
    shape = (
        f"{n_images} images x {n_captions} captions, 36 regions, D = 1024, {1e3 * of_pair['all pairs']:.1f} us a pair"
    )
    return report(args, title, shape, ms, bars)


def main(argv=None):
    args = arguments(argv, __doc__)
    n_images, n_captions = (max(int(n * args.scale), 4) for n in (IMAGES, CAPTIONS))
    calls = similarities(*scan_batch(n_images, n_captions))
    cases = [case(args, title, call, n_images, n_captions) for title, call in calls.items()]
    n_images, n_captions = (max(int(n * args.scale), 4) for n in (ATTENDED_IMAGES, ATTENDED_CAPTIONS))
    batch = scan_batch(n_images, n_captions)
    call = attended(*batch)
    scores = attended_scores(call, batch[2])
    return finish(args, [*cases, case(args, "attended_similarity", call, n_images, n_captions, scores)])


if __name__ == "__main__":
    sys.exit(main())
