"""The calls that are timed beside each other: fused, plain torch, the reference, the bare GEMM of the same batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from itm_fast import reference
from itm_fast.benchmark.inputs import packed, scan_batch
from itm_fast.benchmark.settings import BenchSettings
from itm_fast.benchmark.timing import Call
from itm_fast.ops.cross_attention import cross_attention_similarity
from itm_fast.ops.max_similarity import max_similarity
from itm_fast.ops.semantic_margin import semantic_margin_loss
from itm_fast.ops.triplet import triplet_loss

FUSED, PLAIN, REFERENCE, GEMM, GEMMS = "fused", "plain torch", "reference", "bare GEMM", "three bare GEMMs"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_BYTES_OF_PAIR = 4096  # of a pair's nodes in autograd's graph
Similarity = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class Case:
    """What is timed.

    Attributes:
        shape: in words.
        calls: by name, FUSED first.
        differences: computes the fused call's largest difference from float64, relative to the largest value, by what
            is compared; on a part of the batch.
        needed_mb: about what a call takes beside the batch, for those that may take much.
    """

    shape: str
    calls: dict[str, Call]
    differences: Callable[[], dict[str, float]]
    needed_mb: dict[str, float]


def build_case(settings: BenchSettings) -> Case:
    """The case of an operator and a shape.

    Args:
        settings: what to time.

    Returns:
        Its calls; the batch is made here.
    """
    if settings.operator in ("cross-attention", "late-interaction"):
        return _similarity_case(settings)
    if settings.operator == "ranking":
        return _ranking_case(settings)
    return _loss_case(settings)


def _similarity_case(settings: BenchSettings) -> Case:
    assert settings.max_regions is not None
    assert settings.max_words is not None
    assert settings.mean_words is not None
    regions, words, word_counts = scan_batch(
        settings.n_images,
        settings.captions,
        mean_words=settings.mean_words,
        max_words=settings.max_words,
        max_regions=settings.max_regions,
        dim=settings.dim,
        dtype=_DTYPES[settings.dtype],
        seed=settings.seed,
    )
    regions, words, word_counts = (x.to(settings.device) for x in (regions, words, word_counts))
    fused, plain, slow = _SIMILARITIES[settings.operator]
    options = settings.options("cross_attn", "raw_feature_norm", "agg_func", "lambda_softmax", "lambda_lse")

    def call(similarity: Similarity) -> Call:
        return _call(lambda r, w: similarity(r, w, word_counts, **options), (regions, words), settings.backward)

    def differences() -> dict[str, float]:
        few = regions[:3], words[:7]
        got, want = (
            _with_gradients(lambda r, w, s=similarity: s(r, w, word_counts[:7], **options), inputs, settings.backward)
            for similarity, inputs in ((fused, few), (slow, (few[0].double(), few[1].double())))
        )
        return _relative(("scores", "gradient of regions", "gradient of words"), got, want)

    n_words = int(word_counts.sum())
    flat = regions.reshape(-1, settings.dim), packed(words, word_counts)
    calls = {FUSED: call(fused), **_gemm(*flat, settings.backward), PLAIN: call(plain), REFERENCE: call(slow)}
    shape = (
        f"{settings.n_images} images x {settings.captions} captions, {settings.max_regions} regions, {n_words} words, "
        f"D = {settings.dim}"
    )
    needed = (_attention_mb if settings.operator == "cross-attention" else _interaction_mb)(
        settings, n_words, words.shape[1], regions.itemsize
    )
    return Case(shape, calls, differences, needed)


# From the tensors that a call has at a time, their number fitted to measured peaks (tests/benchmark keeps them near).
def _attention_mb(settings: BenchSettings, n_words: int, longest: int, itemsize: int) -> dict[str, float]:
    n_regions = settings.max_regions or 0
    n_sims = settings.n_images * n_regions * n_words
    by_region = settings.cross_attn == "i2t"
    if settings.backward:  # autograd keeps what every caption's pass has made
        n_vectors = n_words + 2 * (settings.captions * n_regions if by_region else n_words)
        plain = 15 * n_sims
    else:
        n_vectors = longest + 2 * (n_regions if by_region else longest)
        plain = n_sims + 8 * settings.n_images * n_regions * longest
    slow = settings.n_images * settings.dim * (n_vectors + 4 * n_regions)
    return {PLAIN: plain * itemsize / 2**20, REFERENCE: slow * itemsize / 2**20}


def _interaction_mb(settings: BenchSettings, n_words: int, longest: int, itemsize: int) -> dict[str, float]:
    n_pairs = settings.n_images * settings.captions
    one_tensor = n_pairs * (settings.max_regions or 0) * longest * itemsize
    tensors = 6 if settings.backward else 1 + (settings.cross_attn == "i2t")
    graph = n_pairs * _BYTES_OF_PAIR if settings.backward else 0
    return {PLAIN: tensors * one_tensor / 2**20, REFERENCE: graph / 2**20}


def _loss_case(settings: BenchSettings) -> Case:
    n = settings.n_images
    generator = torch.Generator().manual_seed(settings.seed)
    images, captions = (
        torch.nn.functional.normalize(torch.randn(n, settings.dim, generator=generator), dim=1) for _ in range(2)
    )
    images, captions = (x.to(settings.device, _DTYPES[settings.dtype]) for x in (images, captions))
    sims = torch.randn(n, n, generator=generator).to(settings.device, _DTYPES[settings.dtype])
    phi = 10 * torch.rand(n, n, generator=generator).to(settings.device)
    options = settings.options("margin", "temperature", "sampling", "variant")
    is_triplet = settings.operator == "triplet"
    fused: Similarity = triplet_loss if is_triplet else semantic_margin_loss
    plain: Similarity = reference.triplet_loss if is_triplet else reference.semantic_margin_loss

    def loss(function: Similarity, rows: int, phi: Tensor, *, seeded: bool = False) -> Similarity:
        more = () if is_triplet else (phi[:rows, :rows],)

        def computed(sims: Tensor) -> Tensor:
            drawn = {"generator": torch.Generator(sims.device).manual_seed(0)} if seeded else {}
            return function(sims, *more, **options, **drawn)

        return computed

    def differences() -> dict[str, float]:
        rows = min(n, 64)
        some = sims[:rows, :rows]
        seeded = not is_triplet and settings.sampling in ("random", "RS", "mixed")
        got, want = (
            _with_gradients(loss(function, rows, of, seeded=seeded), (inputs,), settings.backward)
            for function, inputs, of in ((fused, some, phi), (plain, some.double(), phi.double()))
        )
        return _relative(("loss", "gradient of sims"), got, want)

    calls = {
        FUSED: _call(loss(fused, n, phi), (sims,), settings.backward),
        **_gemm(images, captions, settings.backward),
        PLAIN: _call(loss(plain, n, phi), (sims,), settings.backward),
    }
    shape = f"{n} x {n} similarities; GEMM of {n} x {settings.dim} embeddings"
    return Case(shape, calls, differences, {PLAIN: 50.0 * n * n / 2**20})


def _ranking_case(settings: BenchSettings) -> Case:
    from itm_fast.metrics import make_positives
    from itm_fast.metrics.ranks import stream_ranks
    from itm_fast.similarities.scorers import as_scorer

    assert settings.k is not None
    k, per_image = settings.k, settings.captions // settings.n_images
    generator = torch.Generator().manual_seed(settings.seed)
    images = torch.nn.functional.normalize(torch.randn(settings.n_images, settings.dim, generator=generator), dim=1)
    noise = torch.randn(settings.captions, settings.dim, generator=generator) / 8
    captions = torch.nn.functional.normalize(images.repeat_interleave(per_image, 0) + noise, dim=1)
    images, captions = (x.to(settings.device, _DTYPES[settings.dtype]) for x in (images, captions))
    positives = make_positives(settings.n_images, settings.captions, captions_per_image=per_image)

    def fused() -> Any:
        return stream_ranks(as_scorer((images, captions)), positives, k=k)

    def plain() -> None:
        sims = images @ captions.T
        for dim in (0, 1):
            sims.topk(k, dim=dim)

    def sorted_out() -> None:
        sims = images @ captions.T
        for dim in (0, 1):
            sims.argsort(dim=dim, descending=True)

    def differences() -> dict[str, float]:
        found = fused().top
        best = images[:100].double() @ captions.double().T, captions[:100].double() @ images.double().T
        got = [top.values[:100] for top in (found.image, found.caption)]
        want = [sims.topk(k, dim=1).values for sims in best]
        return _relative(("best captions", "best images"), got, want)

    calls = {FUSED: fused, **_gemm(images, captions, False), PLAIN: plain, REFERENCE: sorted_out}
    shape = f"{settings.n_images} images x {settings.captions} captions, top {k} and ranks, D = {settings.dim}"
    matrix_mb = settings.n_images * settings.captions / 2**20
    return Case(shape, calls, differences, {PLAIN: 4 * matrix_mb, REFERENCE: 16 * matrix_mb})


def _call(function: Similarity, inputs: tuple[Tensor, ...], backward: bool) -> Call:
    if not backward:
        return lambda: function(*inputs)

    def step() -> None:
        function(*(x.detach().requires_grad_() for x in inputs)).sum().backward()  # type: ignore[no-untyped-call]

    return step


def _gemm(images: Tensor, captions: Tensor, backward: bool) -> dict[str, Call]:
    """The products that any implementation needs: one forward, two more for the gradients."""
    if not backward:
        return {GEMM: lambda: images @ captions.T}
    grad = images @ captions.T
    return {GEMMS: lambda: (images @ captions.T, grad @ captions, grad.T @ images)}


def _with_gradients(function: Similarity, inputs: tuple[Tensor, ...], backward: bool) -> list[Tensor]:
    if not backward:
        return [function(*inputs)]
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    result = function(*leaves)
    return [result.detach(), *torch.autograd.grad(result.sum(), leaves)]


def _relative(names: tuple[str, ...], got: list[Tensor], want: list[Tensor]) -> dict[str, float]:
    pairs = zip(names, got, want, strict=False)  # without gradients the first name only
    return {
        name: float((g.double().cpu() - w.cpu()).abs().max() / w.abs().max().cpu().clamp(min=1e-30))
        for name, g, w in pairs
    }


def _plain_max_similarity(
    regions: Tensor, words: Tensor, word_counts: Tensor, *, cross_attn: str, agg_func: str, lambda_lse: float
) -> Tensor:
    """All pairs in one product over the padded words."""
    sims = torch.einsum("ird,cwd->ircw", regions, words)
    is_word = torch.arange(words.shape[1], device=words.device) < word_counts[:, None]
    if cross_attn == "i2t":
        best = sims.masked_fill(~is_word, float("-inf")).amax(dim=3).transpose(1, 2)  # (images, captions, regions)
        is_query = torch.ones_like(best, dtype=torch.bool)
    else:
        best, is_query = sims.amax(dim=1), is_word.expand(sims.shape[0], -1, -1)
    if agg_func == "Sum":
        return best.masked_fill(~is_query, 0).sum(dim=2)
    if agg_func == "Mean":
        return best.masked_fill(~is_query, 0).sum(dim=2) / is_query.sum(dim=2)
    best = best.masked_fill(~is_query, float("-inf"))
    return best.amax(dim=2) if agg_func == "Max" else (lambda_lse * best).logsumexp(dim=2) / lambda_lse


_SIMILARITIES: dict[str, tuple[Similarity, Similarity, Similarity]] = {
    "cross-attention": (
        cross_attention_similarity,
        reference.cross_attention_closed_form,
        reference.cross_attention_similarity,
    ),
    "late-interaction": (max_similarity, _plain_max_similarity, reference.max_similarity),
}
