"""SCAN's cross attention as the paper writes it, and its closed form, in plain torch. Nobody optimises this file."""

import torch
from torch import Tensor


def cross_attention_similarity(
    regions: Tensor,
    words: Tensor,
    word_counts: Tensor | None = None,
    region_counts: Tensor | None = None,
    *,
    cross_attn: str = "t2i",
    raw_feature_norm: str = "clipped_l2norm",
    agg_func: str = "LogSumExp",
    lambda_softmax: float = 9.0,
    lambda_lse: float = 6.0,
) -> Tensor:
    """The operator of the same name, with attended contexts and a loop over captions, as kuanghuei/SCAN computes it.

    Args:
        regions: (n_images, max_regions, dim), any floating dtype.
        words: (n_captions, max_words, dim).
        word_counts: (n_captions,) int64 or None, all valid.
        region_counts: (n_images,) int64 or None, all valid.
        cross_attn: "t2i" or "i2t".
        raw_feature_norm: First normalisation, see `normalise_features`.
        agg_func: Aggregation over the queries, see `aggregate`.
        lambda_softmax: Inverse temperature of the attention.
        lambda_lse: Inverse temperature of LogSumExp.

    Returns:
        (n_images, n_captions), dtype of the inputs; differentiable by autograd, gradient 0 at rows that are all zero.

    Source:
        Lee et al., ECCV 2018, equations 1-9. Differences from kuanghuei/SCAN: captions of one word and single images
        work, l1norm is what its name says, LogSumExp subtracts the maximum.
    """

    def score(regions: Tensor, caption: Tensor) -> Tensor:
        captions = caption.repeat(regions.shape[0], 1, 1)  # (n, n_words, dim); SCAN copies it for every image too
        query, context = (captions, regions) if cross_attn == "t2i" else (regions, captions)
        cosines = _attended_cosines(query, context, raw_feature_norm, lambda_softmax)
        return aggregate(cosines, agg_func, lambda_lse)

    regions, words = flat_at_zero(regions, -1), flat_at_zero(words, -1)
    columns = [regions.new_zeros(regions.shape[0], 0)]
    for c in range(words.shape[0]):
        caption = words[c : c + 1, : None if word_counts is None else int(word_counts[c])]
        if region_counts is None:
            columns.append(score(regions, caption)[:, None])
        else:
            images = [score(regions[i : i + 1, : int(n)], caption) for i, n in enumerate(region_counts)]
            columns.append(torch.cat([regions.new_zeros(0), *images])[:, None])
    return torch.cat(columns, dim=1)


def _attended_cosines(query: Tensor, context: Tensor, raw_feature_norm: str, lambda_softmax: float) -> Tensor:
    """(n, n_query): cosine of each query with the context it attends to."""
    sims = context @ query.transpose(1, 2)  # (n, n_context, n_query)
    attention = torch.softmax(lambda_softmax * normalise_features(sims, raw_feature_norm), dim=1)
    attended = attention.transpose(1, 2) @ context  # (n, n_query, dim)
    norms = torch.linalg.vector_norm(query, dim=2) * torch.linalg.vector_norm(attended, dim=2)
    cosines: Tensor = (query * attended).sum(2) / norms.clamp(min=1e-8)
    return cosines


def normalise_features(sims: Tensor, raw_feature_norm: str) -> Tensor:
    """First normalisation of S (n, n_context, n_query): per context row, over the queries (SCAN's flag names).

    Raises:
        ValueError: `raw_feature_norm` is unknown.
    """
    kind = raw_feature_norm
    if kind == "softmax":
        return torch.softmax(sims, dim=2)
    if kind.startswith("clipped"):
        sims = torch.where(sims > 0, sims, 0.1 * sims)
    if kind in ("clipped", "no_norm"):
        return sims
    sims = flat_at_zero(sims, 2)
    if kind.endswith("l2norm"):
        size = torch.linalg.vector_norm(sims, dim=2, keepdim=True)
    elif kind.endswith("l1norm"):
        size = sims.abs().sum(dim=2, keepdim=True)
    else:
        raise ValueError(f"raw_feature_norm {raw_feature_norm!r} is unknown")
    normalised: Tensor = sims / (size + 1e-8)
    return normalised


def aggregate(cosines: Tensor, agg_func: str, lambda_lse: float) -> Tensor:
    """(n, n_query) to (n,).

    Raises:
        ValueError: `agg_func` is unknown.
    """
    if agg_func == "LogSumExp":
        return torch.logsumexp(lambda_lse * cosines, dim=1) / lambda_lse
    if agg_func == "Max":
        return cosines.max(dim=1).values
    if agg_func == "Sum":
        return cosines.sum(dim=1)
    if agg_func == "Mean":
        return cosines.mean(dim=1)
    raise ValueError(f"agg_func {agg_func!r} is unknown")


def cross_attention_closed_form(
    regions: Tensor,
    words: Tensor,
    word_counts: Tensor | None = None,
    *,
    cross_attn: str = "t2i",
    raw_feature_norm: str = "clipped_l2norm",
    agg_func: str = "LogSumExp",
    lambda_softmax: float = 9.0,
    lambda_lse: float = 6.0,
) -> Tensor:
    """The same scores without attended contexts: one GEMM for all pairs, Gram matrices, and an epilogue per caption.

    What a user can do in plain torch; the benches' second baseline. Arguments and result as above, all regions valid.
    """
    n_images, max_regions, dim = regions.shape
    counts = [words.shape[1]] * words.shape[0] if word_counts is None else word_counts.tolist()
    packed = torch.cat([words[c, :n] for c, n in enumerate(counts)])  # (n_words, dim), without padding
    all_sims = (regions.reshape(-1, dim) @ packed.T).reshape(n_images, max_regions, -1)
    region_norm, word_norm = torch.linalg.vector_norm(regions, dim=2), torch.linalg.vector_norm(packed, dim=1)
    region_gram = regions @ regions.transpose(1, 2) if cross_attn == "t2i" else None
    scores, start = [], 0
    for count in counts:
        sims = all_sims[:, :, start : start + count]  # (n_images, max_regions, count)
        if region_gram is not None:
            gram, query_norm = region_gram, word_norm[start : start + count]
        else:
            caption = packed[start : start + count]
            sims, gram, query_norm = sims.transpose(1, 2), caption @ caption.T, region_norm
        attention = torch.softmax(lambda_softmax * normalise_features(sims, raw_feature_norm), dim=1)
        squared = (attention * (gram @ attention)).sum(1)
        cosines = (attention * sims).sum(1) / (query_norm * squared.clamp(min=0).sqrt()).clamp(min=1e-8)
        scores.append(aggregate(cosines, agg_func, lambda_lse))
        start += count
    return torch.stack(scores, dim=1)


def flat_at_zero(x: Tensor, dim: int) -> Tensor:
    """X itself, with gradient 0 along `dim` where it is all zero: the originals give NaN there (a root at 0)."""
    return torch.where((x != 0).any(dim=dim, keepdim=True), x, x.detach())
