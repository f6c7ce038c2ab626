"""SCAN's similarity as a module: the flags in one place, the fused operator behind them."""

import torch
from torch import Tensor, nn

from itm_fast.choices import AggFunc, CrossAttn, RawFeatureNorm
from itm_fast.ops._counts import Counts
from itm_fast.ops._ragged import Groups
from itm_fast.ops.cross_attention import cross_attention_similarity
from itm_fast.reference.cross_attention import normalise_features
from itm_fast.shown import named_options


class CrossAttention(nn.Module):
    """`cross_attention_similarity` with fixed flags; see there for their meaning."""

    def __init__(
        self,
        cross_attn: CrossAttn = "t2i",
        raw_feature_norm: RawFeatureNorm = "clipped_l2norm",
        agg_func: AggFunc = "LogSumExp",
        lambda_softmax: float = 9.0,
        lambda_lse: float = 6.0,
    ) -> None:
        super().__init__()
        self.cross_attn: CrossAttn = cross_attn
        self.raw_feature_norm: RawFeatureNorm = raw_feature_norm
        self.agg_func: AggFunc = agg_func
        self.lambda_softmax = lambda_softmax
        self.lambda_lse = lambda_lse

    def forward(
        self,
        regions: Groups,
        words: Groups,
        word_counts: Counts = None,
        region_counts: Counts = None,
        candidates: Tensor | None = None,
    ) -> Tensor:
        """Regions (n, max_regions, dim), words (m, max_words, dim), their counts or masks -> sims (n, m).

        With candidates (n, k), captions of each image, (n, k).
        """
        return cross_attention_similarity(
            regions,
            words,
            word_counts,
            region_counts,
            cross_attn=self.cross_attn,
            raw_feature_norm=self.raw_feature_norm,
            agg_func=self.agg_func,
            lambda_softmax=self.lambda_softmax,
            lambda_lse=self.lambda_lse,
            candidates=candidates,
        )

    def attention(self, regions: Tensor, words: Tensor) -> Tensor:
        """What looks at what in one pair, in plain torch; the similarity itself never makes these weights.

        Args:
            regions: (n_regions, dim).
            words: (n_words, dim), without padding.

        Returns:
            (n_words, n_regions): of "t2i" each word's weights over the regions, a row sums to 1; of "i2t" each region's
            over the words, a column does.

        Source:
            Lee et al., ECCV 2018, equations 2 and 6.

        Example:
            >>> import torch
            >>> CrossAttention(lambda_softmax=1.0).attention(torch.eye(2), torch.eye(2))
            tensor([[0.7311, 0.2689],
                    [0.2689, 0.7311]])
        """
        query, context = (words, regions) if self.cross_attn == "t2i" else (regions, words)
        sims = normalise_features((context @ query.T)[None], self.raw_feature_norm)  # (1, n_context, n_query)
        weights = torch.softmax(self.lambda_softmax * sims[0], dim=0)
        return weights.T if self.cross_attn == "t2i" else weights

    def extra_repr(self) -> str:
        """The flags, for print(model)."""
        options = named_options(self, "lambda_softmax", "lambda_lse")
        return f"{self.cross_attn}, {self.raw_feature_norm}, {self.agg_func}, {options}"
