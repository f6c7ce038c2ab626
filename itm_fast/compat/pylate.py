"""Drop-in for lightonai/pylate's scores: same names and signatures, the fused operator behind them.

from pylate.scores import colbert_scores       ->  from itm_fast.compat.pylate import colbert_scores
losses.Contrastive(model)                      ->  losses.Contrastive(model, score_metric=ColBERTScores())
losses.CachedContrastive(model)                ->  losses.CachedContrastive(model, score_metric=ColBERTScores())
losses.Distillation(model)                     ->  losses.Distillation(model, score_metric=colbert_kd_scores)

As there, a mask is a factor: what it says 0 of has similarity 0 with everything, which can be a document's largest.
Scores are at least float32 (the original: in the dtype of the embeddings); no tensor of similarities is made. `backend`
names the original's kernels and is taken for the signature alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from itm_fast.ops.maxsim import maxsim

Embeddings: TypeAlias = Tensor | np.ndarray[Any, Any] | Sequence[Any]


def colbert_scores(
    queries_embeddings: Embeddings,
    documents_embeddings: Embeddings,
    queries_mask: Tensor | None = None,
    documents_mask: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """ColBERT scores of every query with every document.

    Args:
        queries_embeddings: (n_queries, n_tokens, dim), a tensor, an array or a list of what has one shape.
        documents_embeddings: (n_documents, n_tokens, dim), likewise.
        queries_mask: (n_queries, n_tokens), a factor of each token's similarities. None: 1.
        documents_mask: (n_documents, n_tokens), likewise.
        backend: Unused.

    Returns:
        (n_queries, n_documents), differentiable.

    Raises:
        ValueError: Shapes do not fit.

    Source:
        lightonai/pylate, pylate/scores/colbert.py.

    Example:
        >>> colbert_scores(torch.eye(2)[None], torch.tensor([[[10.0, 0.0], [0.0, 100.0]]]))
        tensor([[110.]])
    """
    queries, query_lengths = _masked("queries", _as_tensor(queries_embeddings), queries_mask)
    documents, document_lengths = _masked("documents", _as_tensor(documents_embeddings), documents_mask)
    return maxsim(queries, documents, query_lengths, document_lengths)


def colbert_scores_pairwise(
    queries_embeddings: Embeddings, documents_embeddings: Embeddings, backend: str | None = None
) -> Tensor:
    """ColBERT score of each query with the document in its place, (n,).

    Args:
        queries_embeddings: (n, n_tokens, dim), or a list of matrices of any lengths.
        documents_embeddings: Likewise.
        backend: Unused.

    Returns:
        (n,), differentiable; of the shorter of the two, as the original's.

    Source:
        lightonai/pylate, pylate/scores/colbert.py.
    """
    n = min(len(queries_embeddings), len(documents_embeddings))
    queries, documents = (
        [_as_tensor(matrix) for matrix in side[:n]] for side in (queries_embeddings, documents_embeddings)
    )
    return maxsim(queries, documents, candidates=torch.arange(n, device=documents[0].device)[:, None])[:, 0]


def colbert_kd_scores(
    queries_embeddings: Embeddings,
    documents_embeddings: Embeddings,
    queries_mask: Tensor | None = None,
    documents_mask: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """ColBERT scores of every query with documents of its own, for distillation.

    Args:
        queries_embeddings: (n_queries, n_tokens, dim), as in `colbert_scores`.
        documents_embeddings: (n_queries, n_candidates, n_tokens, dim), likewise.
        queries_mask: (n_queries, n_tokens), as in `colbert_scores`.
        documents_mask: (n_queries, n_candidates, n_tokens), likewise.
        backend: Unused.

    Returns:
        (n_queries, n_candidates), differentiable.

    Raises:
        ValueError: Shapes do not fit.

    Source:
        lightonai/pylate, pylate/scores/colbert.py.
    """
    documents = _as_tensor(documents_embeddings)
    _check_grouped(documents)
    queries, query_lengths = _masked("queries", _as_tensor(queries_embeddings), queries_mask)
    if len(queries) != len(documents):
        raise ValueError(
            f"queries_embeddings has {len(queries)} queries, but documents_embeddings candidates of {len(documents)}"
        )
    mask = None if documents_mask is None else _as_tensor(documents_mask).flatten(0, 1)
    flat, document_lengths = _masked("documents", documents.flatten(0, 1), mask)
    candidates = torch.arange(len(flat), device=flat.device).view(documents.shape[:2])
    return maxsim(queries, flat, query_lengths, document_lengths, candidates=candidates)


class ColBERTScores:
    """Scores of every query with every document of every group: what the contrastive losses score by."""

    def __call__(
        self,
        queries_embeddings: Embeddings,
        documents_embeddings: Embeddings,
        queries_mask: Tensor | None = None,
        documents_mask: Tensor | None = None,
        backend: str | None = None,
    ) -> Tensor:
        """All scores, the documents of a group side by side.

        Args:
            queries_embeddings: (n_queries, n_tokens, dim).
            documents_embeddings: (n_groups, n_each, n_tokens, dim).
            queries_mask: (n_queries, n_tokens), as in `colbert_scores`.
            documents_mask: (n_groups, n_each, n_tokens), likewise.
            backend: Unused.

        Returns:
            (n_queries, n_groups * n_each): document k of group j in column j * n_each + k.
        """
        documents = _as_tensor(documents_embeddings)
        _check_grouped(documents)
        mask = None if documents_mask is None else _as_tensor(documents_mask).flatten(0, 1)
        return colbert_scores(queries_embeddings, documents.flatten(0, 1), queries_mask, mask)


def _check_grouped(documents: Tensor) -> None:
    if documents.ndim != 4:
        raise ValueError(
            "documents_embeddings must have shape (n_groups, n_each, n_tokens, dim), got "
            f"{tuple(documents.shape)}; for (n_documents, n_tokens, dim) there is colbert_scores"
        )


def _as_tensor(given: Embeddings) -> Tensor:
    if isinstance(given, Tensor):
        return given
    if isinstance(given, np.ndarray):
        return torch.from_numpy(given)
    if not given or isinstance(given[0], (float, int)):
        return torch.tensor(given)
    return torch.stack([_as_tensor(one) for one in given])


def _masked(side: str, embeddings: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Embeddings times their mask, and how many of each are worth reading: the rest are more zeros of the same."""
    if mask is None:
        return embeddings, None
    factors = _as_tensor(mask)
    if factors.shape != embeddings.shape[:-1]:
        raise ValueError(
            f"{side}_mask must have shape {tuple(embeddings.shape[:-1])}, a factor for each token, got "
            f"{tuple(factors.shape)}"
        )
    n_tokens = factors.shape[1]
    numbers = torch.arange(1, n_tokens + 1, device=factors.device)
    last = torch.where(factors != 0, numbers, 0).amax(1) if n_tokens else numbers.new_zeros(len(factors))
    return embeddings * factors.unsqueeze(-1).to(embeddings), (last + 1).clamp(max=n_tokens)
