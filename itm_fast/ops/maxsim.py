"""Late interaction as the field of text and page retrieval writes it: queries first."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from itm_fast.ops import _checks
from itm_fast.ops._blocks import check_counts, padding
from itm_fast.ops._candidates import as_candidates
from itm_fast.ops._counts import Counts
from itm_fast.ops._ragged import Groups, Names, as_batches
from itm_fast.ops.max_similarity import scored

Reduction: TypeAlias = Literal["sum", "mean"]

_QUERIES = Names("queries", "query_lengths", "(n_queries, max_length, dim)")
_DOCUMENTS = Names("documents", "document_lengths", "(n_documents, max_length, dim)")


def maxsim(
    queries: Groups,
    documents: Groups,
    query_lengths: Counts = None,
    document_lengths: Counts = None,
    *,
    normalize: bool = False,
    reduction: Reduction = "sum",
    candidates: Tensor | None = None,
) -> Tensor:
    """Late interaction of every query with every document: `max_similarity` with the queries first.

    score = sum over the query's vectors of the largest dot product with a vector of the document. A score has the same
    bits whatever else is in the batch, however it is padded and for any number of threads. float16 and bfloat16 are
    read as they are: no wider copy of a whole side is made for scores.

    Args:
        queries: (n_queries, max_length, dim) float32, float64, bfloat16 or float16; or `Packed`, or a list of matrices
            (length, dim), without lengths.
        documents: (n_documents, max_length, dim) or likewise, dtype and device of `queries`.
        query_lengths: (n_queries,) integers, 1 ... max_length, or a boolean mask (n_queries, max_length), padded on
            either side: nothing else is read. None: all are valid.
        document_lengths: (n_documents,) or (n_documents, max_length), likewise.
        normalize: Whether to take the query vectors at length 1. Documents are as they are stored: a stored vector is
            normalised once, when it is made.
        reduction: "sum" (ColBERT), or "mean" over the query's vectors, for queries of unlike lengths.
        candidates: (n_queries, k) int64, documents of each query: score these pairs only; -1: none. None: all pairs.

    Returns:
        (n_queries, n_documents), or (n_queries, k) with -inf where there is no candidate; float32, or float64 for
        float64 inputs. Differentiable once in `queries` and `documents`.

    Raises:
        ValueError: Shapes, devices, lengths or options do not fit; the message names the argument.
        TypeError: A dtype is not supported, or the two differ.

    Source:
        Khattab & Zaharia, ColBERT, SIGIR 2020, equation 3; Faysse et al., ColPali, ICLR 2025.

    Example:
        >>> queries, documents = torch.eye(3).reshape(1, 3, 3), torch.tensor([[[0.5, 2.0, 0.0]]])
        >>> maxsim(queries, documents)
        tensor([[2.5000]])
    """
    _checks.check_choice("reduction", reduction, Reduction)
    batches = as_batches(documents, queries, query_lengths, document_lengths, (_DOCUMENTS, _QUERIES))
    check_counts(_DOCUMENTS.counts, batches.region_counts, batches.regions)
    check_counts(_QUERIES.counts, batches.word_counts, batches.words)
    given = as_candidates(candidates, "captions", batches, ("n_documents", "n_queries"))
    _checks.check_device("maxsim", batches.regions.device)
    if normalize:
        batches = batches._replace(words=_unit(batches.words, batches.word_counts))
    scores = scored(batches, given, "t2i", "Sum" if reduction == "sum" else "Mean", 1.0)
    return scores.T if given is None else scores


def _unit(queries: Tensor, lengths: Tensor | None) -> Tensor:
    if queries.ndim == 3 and lengths is not None:  # the padding may hold anything, and has a gradient of 0
        queries = queries.masked_fill(padding(lengths, queries.shape[1])[:, :, None], 0)
    return torch.nn.functional.normalize(queries, dim=-1)
