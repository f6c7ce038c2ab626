"""Inputs and float64 truth that the operator tests share."""

import contextlib

import torch

from itm_fast import reference

RAW_FEATURE_NORMS = ("clipped_l2norm", "l2norm", "clipped_l1norm", "l1norm", "clipped", "no_norm", "softmax")
AGG_FUNCS = ("LogSumExp", "Mean", "Sum", "Max")
LAMBDAS = {"t2i": {"lambda_softmax": 9.0, "lambda_lse": 6.0}, "i2t": {"lambda_softmax": 4.0, "lambda_lse": 5.0}}


def random_batch(
    n_images, max_regions, n_captions, max_words, dim, *, dtype=torch.float64, seed=0, ragged_regions=False
):
    """Unit rows with NaN beyond every count: whoever reads the padding is found out."""
    generator = torch.Generator().manual_seed(seed)

    def rows(n, longest):
        x = torch.randn(n, longest, dim, generator=generator, dtype=torch.float64)
        return torch.nn.functional.normalize(x, dim=-1).to(dtype)

    def counts(n, longest):
        return torch.randint(1, longest + 1, (n,), generator=generator)

    regions, words = rows(n_images, max_regions), rows(n_captions, max_words)
    word_counts = counts(n_captions, max_words)
    region_counts = counts(n_images, max_regions) if ragged_regions else None
    for x, n in ((words, word_counts), (regions, region_counts)):
        if n is not None:
            x[torch.arange(x.shape[1])[None, :] >= n[:, None]] = float("nan")
    return regions, words, word_counts, region_counts


def scores_and_gradients(similarity, regions, words, word_counts, region_counts, seed=1, **flags):
    """Scores, and the gradients of their sum under a fixed random cotangent."""
    regions, words = regions.clone().requires_grad_(), words.clone().requires_grad_()
    scores = similarity(regions, words, word_counts, region_counts, **flags)
    cotangent = torch.randn(scores.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    (scores * cotangent.to(scores.dtype)).sum().backward()
    return scores.detach(), regions.grad, words.grad


def truth(operator, regions, words, word_counts, region_counts, **flags):
    """The reference in float64 on the very numbers the operator gets; padding replaced by zeros."""
    regions, words = (torch.nan_to_num(x.double()) for x in (regions, words))
    return scores_and_gradients(getattr(reference, operator), regions, words, word_counts, region_counts, **flags)


@contextlib.contextmanager
def threads(n):
    """So many threads of torch, whatever the machine or OMP_NUM_THREADS says."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def on_three_threads_and_on_one(call):
    """Its results on either; for work that is large enough to be shared out (csrc/cpu/parallel.h)."""
    with threads(3):
        shared = call()
    with threads(1):
        return shared, call()


def relative_error(got, want):
    """Largest error relative to the largest entry."""
    if want.numel() == 0:
        return 0.0
    return float((got.double() - want.double()).abs().max() / want.double().abs().max().clamp(min=1e-3))
