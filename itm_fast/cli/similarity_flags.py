"""The options of the similarities between regions and words, as flags."""

from __future__ import annotations

from dataclasses import dataclass

from itm_fast.choices import AggFunc, CrossAttn, RawFeatureNorm


@dataclass(frozen=True)
class SimilarityFlags:
    """Similarity of regions and words: SCAN's cross-attention, or late interaction (ColBERT, FILIP)."""

    cross_attn: CrossAttn | None = None
    """Who attends: words to regions (t2i), or regions to words (i2t); t2i unless given."""

    raw_feature_norm: RawFeatureNorm | None = None
    """Of cross-attention: normalisation before the attention; clipped_l2norm unless given."""

    agg_func: AggFunc | None = None
    """Aggregation over the attending side; LogSumExp for cross-attention, Sum for late interaction unless given."""

    lambda_softmax: float | None = None
    """Of cross-attention: inverse temperature of the attention; 9 unless given."""

    lambda_lse: float | None = None
    """Inverse temperature of LogSumExp; 6 for cross-attention, 10 for late interaction unless given."""
