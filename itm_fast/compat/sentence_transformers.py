"""Drop-in for the late interaction of sentence-transformers (6.0 on): same names and signatures, the fused operator.

from sentence_transformers.util import maxsim  ->  from itm_fast.compat.sentence_transformers import maxsim

As there, tokens whose mask is 0 take no part, without a mask zero vectors of a padded tensor do not, and scores are
float32 on the documents' device. Nothing is padded and no tensor of similarities is made; `chunk_elements`, which
bounds these, is taken for the signature alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from itm_fast.ops import maxsim as operator
from itm_fast.ops._ragged import Groups, Packed

Embeddings: TypeAlias = Tensor | np.ndarray[Any, Any] | Sequence[Any]
Mask: TypeAlias = Tensor | np.ndarray[Any, Any] | Sequence[Any] | None

EMPTY_DOCUMENT_SCORE = -1e9
"""Of a document all of whose tokens are masked, as in the original: below every other."""


def maxsim(
    a: Embeddings,
    b: Embeddings,
    a_mask: Mask = None,
    b_mask: Mask = None,
    chunk_elements: int | None = None,
    length_normalize: bool = False,
    device: str | torch.device | None = None,
) -> Tensor:
    """Scores of every query with every document: the sum over query tokens of the largest similarity.

    Args:
        a: Queries: (n, n_tokens, dim), a list of matrices (n_tokens, dim), or one matrix, a batch of one.
        b: Documents, likewise.
        a_mask: (n, n_tokens), one of a matrix (n_tokens,), or a list of masks: 0 or False leaves a token out, another
            number is its weight in the sum.
        b_mask: Likewise: 0 or False leaves a token out.
        chunk_elements: Unused.
        length_normalize: Whether to divide by the number of the query's tokens.
        device: Where to score; None: where the documents are.

    Returns:
        (n_queries, n_documents) float32 where the documents are, differentiable. A document without any token scores
        `EMPTY_DOCUMENT_SCORE`.

    Raises:
        ValueError: Shapes do not fit.
        TypeError: A mask is no tensor, array or list.

    Source:
        sentence-transformers 6, sentence_transformers/util/similarity.py.

    Example:
        >>> maxsim([torch.eye(2)], [torch.tensor([[0.5, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 1.0]])])
        tensor([[2.5000, 4.0000]])
    """
    queries, documents = _sides(a, b, a_mask, b_mask, device)
    if not queries.n or not documents.n:
        return torch.zeros(queries.n, documents.n, device=documents.home)
    scores = operator.maxsim(queries.vectors, documents.vectors).float()
    scores = scores.masked_fill(documents.is_empty, EMPTY_DOCUMENT_SCORE)
    if length_normalize:
        scores = scores / queries.n_tokens[:, None]
    return scores.to(documents.home)


def maxsim_pairwise(
    a: Embeddings,
    b: Embeddings,
    a_mask: Mask = None,
    b_mask: Mask = None,
    chunk_elements: int | None = None,
    length_normalize: bool = False,
    device: str | torch.device | None = None,
) -> Tensor:
    """Score of each query with the document in its place, (n,) float32; arguments as in `maxsim`.

    Raises:
        ValueError: As in `maxsim`; or there are not as many queries as documents.
    """
    queries, documents = _sides(a, b, a_mask, b_mask, device)
    if queries.n != documents.n:
        raise ValueError(f"a and b must hold as many items, which are paired, got {queries.n} and {documents.n}")
    if not queries.n:
        return torch.zeros(0, device=documents.home)
    own = torch.arange(queries.n, device=documents.is_empty.device)[:, None]
    scores = operator.maxsim(queries.vectors, documents.vectors, candidates=own)[:, 0].float()
    scores = scores.masked_fill(documents.is_empty, EMPTY_DOCUMENT_SCORE)
    if length_normalize:
        scores = scores / queries.n_tokens
    return scores.to(documents.home)


def mean_maxsim(
    a: Embeddings,
    b: Embeddings,
    a_mask: Mask = None,
    b_mask: Mask = None,
    chunk_elements: int | None = None,
    length_normalize: bool = True,
    device: str | torch.device | None = None,
) -> Tensor:
    """`maxsim` divided by the number of the query's tokens."""
    return maxsim(a, b, a_mask, b_mask, chunk_elements, length_normalize, device)


def mean_maxsim_pairwise(
    a: Embeddings,
    b: Embeddings,
    a_mask: Mask = None,
    b_mask: Mask = None,
    chunk_elements: int | None = None,
    length_normalize: bool = True,
    device: str | torch.device | None = None,
) -> Tensor:
    """`maxsim_pairwise` divided by the number of the query's tokens."""
    return maxsim_pairwise(a, b, a_mask, b_mask, chunk_elements, length_normalize, device)


class _Side(NamedTuple):
    """Embeddings of one side without what is masked.

    Attributes:
        n: items there are.
        vectors: of them; of an item without any token one that is zero.
        n_tokens: (n,) tokens of each, at least 1.
        is_empty: (n,) whether an item has none.
        home: where the embeddings were.
    """

    n: int
    vectors: Groups
    n_tokens: Tensor
    is_empty: Tensor
    home: torch.device


def _sides(
    a: Embeddings, b: Embeddings, a_mask: Mask, b_mask: Mask, device: str | torch.device | None
) -> tuple[_Side, _Side]:
    given = [_as_tensors(x) for x in (a, b)]
    homes = [x.device if isinstance(x, Tensor) else x[0].device if x else None for x in given]
    # Arrays have no device of their own, and go where the other side is.
    home = homes[0] if isinstance(b, np.ndarray) and homes[0] is not None else homes[1] or homes[0]
    where = torch.device(device) if device is not None else home or torch.device("cpu")
    queries, documents = (
        _side(x, mask, name, where, home or where)
        for x, mask, name in zip(given, (a_mask, b_mask), ("a_mask", "b_mask"), strict=True)
    )
    return queries, documents


def _side(given: Tensor | list[Tensor], mask: Mask, name: str, where: torch.device, home: torch.device) -> _Side:
    n = len(given)
    nothing = torch.zeros(0, device=where)
    if not n:
        return _Side(0, nothing, nothing, nothing, home)
    widths = [len(matrix) for matrix in given]
    factors = _as_mask(mask, name, n, max(widths))
    if isinstance(given, list):
        counts = torch.tensor(widths)
        flat = torch.cat(given).to(where)
        inside = torch.arange(max(widths)) < counts[:, None]
        of_tokens = None if factors is None else factors[inside.to(factors.device)].to(where)
    else:
        flat = given.to(where).flatten(0, 1)
        if factors is None:
            factors = given.any(dim=-1)
        of_tokens = factors.to(where).flatten()
        counts = torch.full((n,), widths[0])
    counts = counts.to(where)
    if of_tokens is not None:
        is_kept = of_tokens != 0
        owner = torch.arange(n, device=where).repeat_interleave(counts)
        counts = torch.zeros_like(counts).index_add(0, owner, is_kept.to(counts.dtype))
        flat, of_tokens = flat[is_kept], of_tokens[is_kept]
        if name == "a_mask" and of_tokens.is_floating_point():  # a positive factor goes through the maximum
            flat = flat * of_tokens[:, None].to(flat.dtype)
    is_empty, n_tokens = counts == 0, counts.clamp(min=1)
    if bool(is_empty.any()):
        filled = flat.new_zeros(int(n_tokens.sum()), flat.shape[1])
        is_real = ~is_empty.repeat_interleave(n_tokens)
        flat = filled.masked_scatter(is_real[:, None], flat)
    offsets = torch.nn.functional.pad(n_tokens.cumsum(0), (1, 0))
    return _Side(n, Packed(flat, offsets), n_tokens, is_empty, home)


def _as_tensors(given: Embeddings) -> Tensor | list[Tensor]:
    """(n, n_tokens, dim), or matrices, of floating numbers."""
    if isinstance(given, (Tensor, np.ndarray)):
        tensor = _floating(given)
        return tensor[None] if tensor.ndim == 2 else tensor
    return [_floating(matrix) for matrix in given]


def _floating(given: Any) -> Tensor:
    tensor = torch.as_tensor(given)
    return tensor if tensor.is_floating_point() else tensor.float()


def _as_mask(mask: Mask, name: str, n: int, width: int) -> Tensor | None:
    if mask is None:
        return None
    if isinstance(mask, (list, tuple)):
        factors = pad_sequence([torch.as_tensor(one) for one in mask], batch_first=True)
    elif isinstance(mask, (Tensor, np.ndarray)):
        factors = torch.as_tensor(mask)
    else:
        raise TypeError(f"{name} must be a tensor, an array or a list of masks, got {type(mask).__name__}")
    factors = factors[None] if factors.ndim == 1 else factors
    if factors.ndim != 2 or factors.shape[1] != width or factors.shape[0] not in (1, n):
        raise ValueError(f"{name} must have shape ({n}, {width}), an entry for each token, got {tuple(factors.shape)}")
    return factors.expand(n, -1)
