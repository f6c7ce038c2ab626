"""Every kernel by dtype and path against float64 on the CPU: the cases of gpu_check's step "kernels"."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import itm_fast
from itm_fast import Cider, reference
from itm_fast.metrics.ranks import ranks

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
FORWARD = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-6, torch.float16: 2e-6}  # of what is summed
NORMS = ("clipped_l2norm", "l2norm", "clipped_l1norm", "l1norm", "clipped", "no_norm", "softmax")
AGGREGATIONS = ("LogSumExp", "Mean", "Sum", "Max")


@dataclass(frozen=True)
class Case:
    """Name; what was computed, what it should be, as pairs; how far they may be apart, relative to the largest."""

    name: str
    pairs: Callable[[], list[tuple[Tensor, Tensor, float]]]

    def worst(self) -> tuple[float, bool]:
        """The largest error in units of what is allowed, and whether all of it is allowed; NaN is not."""
        of_bound = [error(got, want) / bound for got, want, bound in self.pairs()]
        return max(of_bound, default=0.0), all(x <= 1 for x in of_bound)


def error(got: Tensor, want: Tensor) -> float:
    """Largest difference, relative to the largest number that is wanted; infinite where shapes differ."""
    if got.shape != want.shape:
        return float("inf")
    if got.numel() == 0:
        return 0.0
    difference = (got.detach().double().cpu() - want.detach().double().cpu()).abs().max()
    return float(difference / want.detach().double().abs().max().clamp(min=1e-30).cpu())


def batch(n_images: int, max_regions: int, n_captions: int, max_words: int, dim: int, dtype: torch.dtype) -> Any:
    """Unit vectors of that dtype, NaN beyond the counts of captions and regions."""
    generator = torch.Generator().manual_seed(n_images + 7 * max_regions + 31 * max_words)

    def side(n: int, most: int) -> tuple[Tensor, Tensor]:
        vectors = torch.nn.functional.normalize(torch.randn(n, most, dim, generator=generator), dim=-1)
        counts = torch.randint(1, most + 1, (n,), generator=generator)
        counts[0] = most
        vectors[torch.arange(most) >= counts[:, None]] = torch.nan
        return vectors.to(dtype), counts

    regions, region_counts = side(n_images, max_regions)
    words, word_counts = side(n_captions, max_words)
    return regions, words, word_counts, region_counts


def similarity_case(
    name: str,
    operator: str,
    given: Any,
    device: str,
    view: Callable[[Tensor], Tensor],
    candidates: Tensor | None = None,
    **flags: Any,
) -> Case:
    """Scores and gradients of a similarity, of all pairs or of captions of each image.

    `view` changes how its vectors lie in the device's memory.
    """

    def pairs() -> list[tuple[Tensor, Tensor, float]]:
        regions, words, word_counts, region_counts = given
        leaves = [view(x.to(device)).detach().requires_grad_() for x in (regions, words)]
        counts = word_counts.to(device), region_counts.to(device)
        listed = {} if candidates is None else {"candidates": candidates.to(device)}
        scores = getattr(itm_fast, operator)(*leaves, *counts, **flags, **listed)
        with torch.no_grad():  # late interaction takes other kernels then
            alone = getattr(itm_fast, operator)(*leaves, *counts, **flags, **listed)
        exact = [x.double().nan_to_num().requires_grad_() for x in (regions, words)]
        want = getattr(reference, operator)(*exact, word_counts, region_counts, **flags)
        want = want if candidates is None else want.gather(1, candidates)
        cotangent = torch.randn(want.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        if want.numel():  # an empty reference has no gradient; the operator's is 0
            want.backward(cotangent)
        scores.backward(cotangent.to(scores))
        bound = FORWARD[regions.dtype] * (100 if "l1norm" in flags.get("raw_feature_norm", "") else 1)
        of_gradient = torch.finfo(regions.dtype).eps + 50 * bound
        found = [(scores, want, bound), (alone, want, bound)]
        for got, exact_side in zip(leaves, exact, strict=True):
            exact_gradient = exact_side.grad if exact_side.grad is not None else torch.zeros_like(exact_side)
            found.append((got.grad, exact_gradient, of_gradient))
        return found

    return Case(name, pairs)


def strided(x: Tensor) -> Tensor:
    """The same numbers, every other one of a wider tensor: made on the device, so that they stay where they lie."""
    return torch.stack([x, torch.full_like(x, torch.nan)], dim=-1).flatten(-2)[..., ::2]


def misaligned(x: Tensor) -> Tensor:
    """The same numbers one place further: not at an address of 16 bytes."""
    room = torch.full((x.numel() + 1,), torch.nan, dtype=x.dtype, device=x.device)
    room[1:] = x.flatten()
    return room[1:].view(x.shape)


def as_it_is(x: Tensor) -> Tensor:
    """The tensor itself."""
    return x


def similarities(device: str) -> Iterator[Case]:
    """Both similarities by dtype, direction and path, then every option, layout and edge."""
    shapes = {"tiles": (3, 36, 4, 12, 40), "one vector": (2, 1, 2, 1, 8), "beyond 128": (2, 140, 2, 9, 24)}
    for operator in ("cross_attention_similarity", "max_similarity"):
        for path, shape in shapes.items():
            for dtype in DTYPES:
                for cross_attn in ("t2i", "i2t"):
                    name = f"{operator}, {path}, {str(dtype)[6:]}, {cross_attn}"
                    yield similarity_case(name, operator, batch(*shape, dtype), device, as_it_is, cross_attn=cross_attn)
    lists = torch.randint(4, (3, 40), generator=torch.Generator().manual_seed(7))
    for operator in ("cross_attention_similarity", "max_similarity"):
        for dtype in DTYPES:
            for cross_attn in ("t2i", "i2t"):
                name = f"{operator} of lists, {str(dtype)[6:]}, {cross_attn}"
                given = batch(*shapes["tiles"], dtype)
                yield similarity_case(name, operator, given, device, as_it_is, lists, cross_attn=cross_attn)
    few = torch.randint(2, (2, 10), generator=torch.Generator().manual_seed(8))
    for dtype in DTYPES:
        for cross_attn in ("t2i", "i2t"):
            name = f"max_similarity of lists, beyond 128, {str(dtype)[6:]}, {cross_attn}"
            given = batch(*shapes["beyond 128"], dtype)
            yield similarity_case(name, "max_similarity", given, device, as_it_is, few, cross_attn=cross_attn)
    for agg_func in AGGREGATIONS:
        given = batch(2, 140, 3, 7, 16, torch.float32)
        yield similarity_case(
            f"max_similarity, {agg_func}", "max_similarity", given, device, as_it_is, agg_func=agg_func
        )
    for norm in NORMS:
        for agg_func in AGGREGATIONS:
            flags = {"raw_feature_norm": norm, "agg_func": agg_func}
            given = batch(2, 9, 3, 7, 16, torch.float32)
            name = f"cross_attention_similarity, {norm}, {agg_func}"
            yield similarity_case(name, "cross_attention_similarity", given, device, as_it_is, **flags)
    for operator in ("cross_attention_similarity", "max_similarity"):
        for view in (strided, misaligned):
            for dtype in DTYPES:
                name = f"{operator}, {view.__name__}, {str(dtype)[6:]}"
                yield similarity_case(name, operator, batch(3, 17, 4, 9, 24, dtype), device, view)
        for n_images, n_captions in ((0, 3), (3, 0)):
            regions, words, word_counts, region_counts = batch(3, 5, 3, 4, 8, torch.float32)
            given = (regions[:n_images], words[:n_captions], word_counts[:n_captions], region_counts[:n_images])
            name = f"{operator}, {n_images} images and {n_captions} captions"
            yield similarity_case(name, operator, given, device, as_it_is)


def attended_lists(device: str) -> Iterator[Case]:
    """SGR's and SAF's vectors of captions of each image, whose vectors are found by number."""
    regions, words, word_counts, _ = batch(3, 36, 4, 12, 40, torch.float32)
    flat = words[torch.arange(words.shape[1]) < word_counts[:, None]]
    candidates = torch.randint(4, (3, 40), generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(3)
    weight, bias = torch.randn(16, 40, generator=generator), torch.randn(16, generator=generator) / 10

    def pairs(dtype: torch.dtype) -> list[tuple[Tensor, Tensor, float]]:
        given = [x.nan_to_num().to(dtype) for x in (regions, flat, weight, bias)]
        leaves = [x.to(device, copy=True).requires_grad_() for x in given]
        exact = [x.to(torch.float64, copy=True).requires_grad_() for x in given]
        found = itm_fast.attended_similarity(
            leaves[0], leaves[1], word_counts.to(device), leaves[2], leaves[3], candidates=candidates.to(device)
        )
        everything = reference.attended_similarity(exact[0], exact[1], word_counts, exact[2], exact[3])
        captions = everything.split(word_counts.tolist(), dim=1)
        want = torch.cat([captions[c][i] for i, row in enumerate(candidates.tolist()) for c in row])[None]
        cotangent = torch.randn(want.shape, generator=generator, dtype=torch.float64)
        found.backward(cotangent.to(found))
        want.backward(cotangent)
        bound = 12 * torch.finfo(dtype).eps + 50 * FORWARD[dtype]
        results = [(found, want, bound)]
        for got, exact_side in zip(leaves, exact, strict=True):
            assert got.grad is not None
            assert exact_side.grad is not None
            results.append((got.grad, exact_side.grad, bound))
        return results

    for dtype in DTYPES:
        yield Case(f"attended_similarity of lists, {str(dtype)[6:]}", lambda dtype=dtype: pairs(dtype))


def listed_products(device: str) -> Iterator[Case]:
    """ESL's similarity of captions of each image, whose products are found by number."""
    regions, words, word_counts, _ = batch(3, 36, 4, 12, 40, torch.float32)
    candidates = torch.randint(4, (3, 40), generator=torch.Generator().manual_seed(7))
    cotangent = torch.randn(3, 40, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def pairs(dtype: torch.dtype) -> list[tuple[Tensor, Tensor, float]]:
        given = [x.nan_to_num().to(dtype) for x in (regions, words)]
        leaves = [x.to(device, copy=True).requires_grad_() for x in given]
        exact = [x.to(torch.float64, copy=True).requires_grad_() for x in given]
        listed = {"candidates": candidates.to(device)}
        scores = itm_fast.level_attention(*leaves, word_counts.to(device), torch.tensor(9.0, device=device), **listed)
        tau = torch.tensor(9.0, dtype=torch.float64)
        want = reference.level_attention(*exact, word_counts, tau).gather(1, candidates)
        scores.backward(cotangent.to(scores))
        want.backward(cotangent)
        bound = 10 * FORWARD[dtype]
        found = [(scores, want, bound)]
        for got, exact_side in zip(leaves, exact, strict=True):
            assert got.grad is not None
            assert exact_side.grad is not None
            found.append((got.grad, exact_side.grad, 12 * torch.finfo(dtype).eps + 50 * bound))
        return found

    for dtype in DTYPES:
        yield Case(f"level_attention of lists, {str(dtype)[6:]}", lambda dtype=dtype: pairs(dtype))


def losses(device: str) -> Iterator[Case]:
    """The triplet loss and the semantic margin loss, value and gradient."""
    for n in (2, 40, 300):
        for dtype in DTYPES:
            generator = torch.Generator().manual_seed(n)
            sims = torch.randn(n, n, generator=generator).to(dtype)
            relevance = 10 * torch.rand(n, n, generator=generator, dtype=torch.float64)

            def of_loss(
                loss: Callable[..., Tensor], exact: Callable[..., Tensor], *given: Tensor, sims: Tensor = sims
            ) -> list[tuple[Tensor, Tensor, float]]:
                leaf = sims.to(device, copy=True).requires_grad_()
                wide = sims.to(torch.float64, copy=True).requires_grad_()
                got, want = loss(leaf, *(x.to(device) for x in given)), exact(wide, *given)
                got.backward()
                want.backward()
                eps = torch.finfo(sims.dtype).eps
                # The sum may be added in another order than the reference's: a rounding for each doubling of n.
                return [
                    (got, want, 40 * max(eps if sims.dtype == torch.float64 else 1.2e-7, 1e-15)),
                    (leaf.grad, wide.grad, 4 * eps),
                ]

            for hardest in (True, False):
                yield Case(
                    f"triplet_loss, n = {n}, {str(dtype)[6:]}, {'hardest' if hardest else 'all'} negatives",
                    lambda of_loss=of_loss, hardest=hardest: of_loss(
                        lambda s: itm_fast.triplet_loss(s, max_violation=hardest),
                        lambda s: reference.triplet_loss(s, max_violation=hardest),
                    ),
                )
            for sampling in ("hardest", "easiest"):
                yield Case(
                    f"semantic_margin_loss, n = {n}, {str(dtype)[6:]}, {sampling}",
                    lambda of_loss=of_loss, relevance=relevance, sampling=sampling: of_loss(
                        lambda s, r: itm_fast.semantic_margin_loss(s, r, sampling=sampling),
                        lambda s, r: reference.semantic_margin_loss(s, r, sampling=sampling),
                        relevance,
                    ),
                )


def ranking(device: str) -> Iterator[Case]:
    """Ranks and the k best, with ties, from matrices and from embeddings."""
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        for n, m in ((7, 65), (40, 2000)):
            sims = torch.randint(0, 50, (n, m), generator=generator).to(dtype)
            order = torch.sort(sims, dim=1, descending=True, stable=True)

            def best(k: int, sims: Tensor = sims, order: Any = order) -> list[tuple[Tensor, Tensor, float]]:
                values, indices = itm_fast.topk(sims.to(device), k)
                return [(values, order.values[:, :k], 1e-30), (indices, order.indices[:, :k], 1e-30)]

            for k in (1, 10, 50):
                yield Case(f"topk, {n} x {m}, {str(dtype)[6:]}, k = {k}", lambda k=k, best=best: best(k))

    for n in (7, 60):
        sims = torch.randint(0, 50, (n, 5 * n), generator=generator).to(torch.float32)

        def counted(sims: Tensor = sims, n: int = n) -> list[tuple[Tensor, Tensor, float]]:
            place = torch.sort(sims, dim=1, descending=True, stable=True).indices.argsort(1)  # of every caption
            best = torch.stack([place[i, 5 * i : 5 * i + 5].min() for i in range(n)])
            return [(ranks(sims.to(device)).best, best, 1e-30)]

        yield Case(f"ranks, {n} x {5 * n}, with ties", counted)


def relevance(device: str) -> Iterator[Case]:
    """CIDEr of all pairs and of pairs, beside the CPU's."""
    words = [f"w{i}" for i in range(40)]
    generator = torch.Generator().manual_seed(1)

    def caption() -> str:
        return " ".join(words[i] for i in torch.randint(0, 40, (9,), generator=generator).tolist())

    references = [[caption() for _ in range(5)] for _ in range(20)]
    corpus = Cider().fit(references).encode(references)
    ids = torch.arange(20), torch.arange(100)

    def of_device() -> list[tuple[Tensor, Tensor, float]]:
        there = corpus.to(device)
        pairs = torch.arange(20), torch.arange(0, 100, 5)
        return [
            (
                there.relevance(*(i.to(device) for i in ids), dtype=torch.float64),
                corpus.relevance(*ids, dtype=torch.float64),
                1e-12,
            ),
            (
                there.pairs(*(i.to(device) for i in pairs), dtype=torch.float64),
                corpus.pairs(*pairs, dtype=torch.float64),
                1e-12,
            ),
        ]

    yield Case("cider, all pairs and pairs", of_device)


def all_cases(device: str) -> Iterator[Case]:
    """In the order of what matters most."""
    yield from similarities(device)
    yield from listed_products(device)
    yield from attended_lists(device)
    yield from losses(device)
    yield from ranking(device)
    yield from relevance(device)
