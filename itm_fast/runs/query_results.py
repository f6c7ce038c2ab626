"""What every query of one direction retrieved, as tensors that are checked against each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_ONE, _DEPTH, _ANY = "one a query", "depth a query", "any number a query"
TENSORS = (
    ("ranks", torch.int64, _ONE),
    ("fold_ranks", torch.int64, _ONE),
    ("retrieved", torch.int64, _DEPTH),
    ("retrieved_sims", torch.float32, _DEPTH),
    ("best_positive", torch.int64, _ONE),
    ("best_positive_sims", torch.float32, _ONE),
    ("relevance", torch.float32, _DEPTH),
    ("positive_relevance", torch.float32, _ONE),
    ("annotated", torch.bool, _DEPTH),
    ("ncs", torch.float32, _ANY),
    ("ncs_own_left_out", torch.float32, _ANY),
    ("others_relevance", torch.float32, _ANY),
)
OPTIONAL = (
    "fold_ranks",
    "relevance",
    "positive_relevance",
    "annotated",
    "ncs",
    "ncs_own_left_out",
    "others_relevance",
)


@dataclass(frozen=True, eq=False)
class QueryResults:
    """What every query of one direction retrieved; n queries, `depth` items each.

    Attributes:
        ranks: (n,) int64, 0-based rank of the best positive in the whole gallery; -1: not a query; the number of items
            of the gallery: all its positives are outside.
        fold_ranks: (n,) int64, the same inside the query's fold, or None without folds.
        retrieved: (n, depth) int64, items of the whole gallery, best first; -1 where the gallery has fewer.
        retrieved_sims: (n, depth) float32, their similarities; 0 where there is none.
        best_positive: (n,) int64, the positive of that rank; -1: not a query, or none in the gallery.
        best_positive_sims: (n,) float32, its similarity; 0 where there is none.
        relevance: (n, depth) float32, φ of the retrieved, or None without φ; 0 where there is none.
        positive_relevance: (n,) float32, φ of the best positive, likewise.
        annotated: (n, depth) bool, which of the retrieved further annotations (ECCV Caption, CxC) call positive, or
            None without such.
        ncs: (n, n_ks) float32, percent, NCS at every cut-off of the report, inside the query's fold where the headline
            is the mean of folds: its mean over the queries is the report's figure. None without φ.
        ncs_own_left_out: (n, n_ks) float32, NCS(N) likewise.
        others_relevance: (n, m) float32, the m largest φ, descending, of items of the whole gallery that do not belong
            to the query: captions of other images, or other images; or None without φ.

    Raises:
        ValueError: A tensor has another shape, or holds numbers that it cannot hold.
        TypeError: A tensor has another dtype.
    """

    ranks: Tensor
    fold_ranks: Tensor | None
    retrieved: Tensor
    retrieved_sims: Tensor
    best_positive: Tensor
    best_positive_sims: Tensor
    relevance: Tensor | None
    positive_relevance: Tensor | None
    annotated: Tensor | None
    ncs: Tensor | None = None
    ncs_own_left_out: Tensor | None = None
    others_relevance: Tensor | None = None

    def __post_init__(self) -> None:
        """Check shapes and dtypes."""
        if self.retrieved.ndim != 2:
            raise ValueError(f"retrieved has shape {tuple(self.retrieved.shape)}, expected (n_queries, depth)")
        listed = tuple(self.retrieved.shape)
        if (self.relevance is None) != (self.positive_relevance is None):
            raise ValueError("relevance and positive_relevance go together: one of them is missing")
        for name, dtype, width in TENSORS:
            tensor = getattr(self, name)
            if tensor is None and name in OPTIONAL:
                continue
            if not isinstance(tensor, Tensor) or tensor.dtype != dtype:
                given = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
                raise TypeError(f"{name} is {given}, expected a tensor of {dtype}")
            columns = {_ONE: (), _DEPTH: listed[1:], _ANY: (tensor.shape[1] if tensor.ndim > 1 else 1,)}[width]
            shape = (*listed[:1], *columns)
            if tuple(tensor.shape) != shape:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}, as retrieved has them")
