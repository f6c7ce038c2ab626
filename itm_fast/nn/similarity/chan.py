"""CHAN's similarity: each word or region coded by its counterparts in the other modality, then pooled."""

from typing import Literal

import torch
from torch import Tensor, nn

from itm_fast.choices import AggFunc
from itm_fast.ops import _checks
from itm_fast.ops._blocks import padding, sims_in_blocks, valid_counts
from itm_fast.ops._candidates import as_candidates, gathered
from itm_fast.ops._counts import Counts
from itm_fast.ops._ragged import Batches, Groups, as_batches, in_padded_runs
from itm_fast.ops.max_similarity import max_similarity
from itm_fast.shown import named_options

CodingType = Literal["VHACoding", "THACoding", "VSACoding"]
PoolingType = Literal["LSEPooling", "MaxPooling", "MeanPooling", "SumPooling", "SoftmaxPooling"]

_FUSED: dict[PoolingType, AggFunc] = {
    "LSEPooling": "LogSumExp",
    "MaxPooling": "Max",
    "MeanPooling": "Mean",
    "SumPooling": "Sum",
}


class CHANSimilarity(nn.Module):
    """Hard or soft assignment between words and regions, pooled over the side that is left.

    Coding, with S = <region, word> of unit vectors: "VHACoding": of each word its largest S over the regions;
    "THACoding": of each region its largest over the words; "VSACoding": of each region <region, context> / |context|,
    where the context is the sum of the words weighted by softmax(S / alpha).
    Pooling of these values r: "LSEPooling" = log(sum exp(r / belta)), not multiplied back by belta; "MaxPooling",
    "MeanPooling", "SumPooling"; "SoftmaxPooling": their sum weighted by softmax(r / belta).

    Hard assignment runs as one fused operator, but for SoftmaxPooling; the rest is plain torch on blocks of pairs. No
    parameters. Unlike in the original, a similarity of exactly -1 isn't taken for
    padding, and SoftmaxPooling isn't NaN where there is padding.

    Source:
        Pan et al., Fine-Grained Image-Text Matching by Cross-Modal Hard Aligning Network, CVPR 2023; ppanzx/CHAN.
    """

    def __init__(
        self,
        coding_type: CodingType = "VHACoding",
        pooling_type: PoolingType = "LSEPooling",
        alpha: float = 0.1,
        belta: float = 0.1,
    ) -> None:
        """Keep the flags, which are spelled as CHAN's.

        Args:
            coding_type: "VHACoding", "THACoding" or "VSACoding".
            pooling_type: "LSEPooling", "MaxPooling", "MeanPooling", "SumPooling" or "SoftmaxPooling".
            alpha: Temperature of VSACoding, above 0.
            belta: Temperature of LSEPooling and SoftmaxPooling, above 0.

        Raises:
            ValueError: A flag is unknown or a temperature is not above 0.
            TypeError: A temperature is no number.
        """
        super().__init__()
        _checks.check_choice("coding_type", coding_type, CodingType)
        _checks.check_choice("pooling_type", pooling_type, PoolingType)
        self.coding_type: CodingType = coding_type
        self.pooling_type: PoolingType = pooling_type
        self.alpha = _checks.check_finite("alpha", alpha, positive=True)
        self.belta = _checks.check_finite("belta", belta, positive=True)

    def forward(
        self,
        regions: Groups,
        words: Groups,
        word_counts: Counts = None,
        region_counts: Counts = None,
        candidates: Tensor | None = None,
    ) -> Tensor:
        """Similarities of all pairs, or of given ones.

        Args:
            regions: (n_images, max_regions, dim) floating, unit vectors; or `Packed`, or a list of matrices, without
                counts.
            words: (n_captions, max_words, dim), or likewise, dtype and device of `regions`.
            word_counts: (n_captions,) integers, 1 ... max_words, or a mask (n_captions, max_words), as
                `itm_fast.cross_attention_similarity` takes them; None: all valid. Nothing beyond a count is read.
            region_counts: (n_images,) or (n_images, max_regions), likewise for the regions.
            candidates: (n_images, k) int64, captions of each image: score these pairs only; -1: none. None: all pairs.
                In plain torch those of an image at a time are gathered.

        Returns:
            (n_images, n_captions), or (n_images, k) with -inf where there is none; at least float32; differentiable.

        Raises:
            ValueError: Shapes, devices or counts do not fit.
            TypeError: An argument has the wrong type or dtype.
        """
        if self.coding_type == "VSACoding" or self.pooling_type not in _FUSED:
            batches = as_batches(regions, words, word_counts, region_counts)
            given = as_candidates(candidates, "images", batches)
            if given is None:
                return in_padded_runs(self._unfused, batches)
            return gathered(self._unfused, batches, given)
        sims = max_similarity(
            regions,
            words,
            word_counts,
            region_counts,
            cross_attn="t2i" if self.coding_type == "VHACoding" else "i2t",
            agg_func=_FUSED[self.pooling_type],
            lambda_lse=1 / self.belta,
            candidates=candidates,
        )
        return sims / self.belta if self.pooling_type == "LSEPooling" else sims

    def attention(self, regions: Tensor, words: Tensor) -> Tensor:
        """What is assigned to what in one pair.

        Args:
            regions: (n_regions, dim), unit vectors.
            words: (n_words, dim), without padding.

        Returns:
            (n_words, n_regions): of "VHACoding" 1 at each word's region, a row sums to 1; of "THACoding" 1 at each
            region's word, and of "VSACoding" each region's weights over the words, a column sums to 1.
        """
        dots = words @ regions.T
        if self.coding_type == "VSACoding":
            return (dots / self.alpha).softmax(0)
        dim = 1 if self.coding_type == "VHACoding" else 0
        return torch.zeros_like(dots).scatter_(dim, dots.argmax(dim, keepdim=True), 1.0)

    def _unfused(self, batches: Batches) -> Tensor:
        """By blocks of pairs, padded. On CUDA nobody waits to look at counts: one out of range gives NaN."""
        regions, words, word_counts, region_counts = batches
        if regions.shape[1] == 0 or words.shape[1] == 0:
            raise ValueError(f"regions and words must have rows, got {tuple(regions.shape)} and {tuple(words.shape)}")
        word_counts = valid_counts("word_counts", word_counts, words)
        region_counts = valid_counts("region_counts", region_counts, regions)
        # Zeros in place of the padding: masking the similarities alone would leave its NaN in the gradients.
        regions = regions.masked_fill(padding(region_counts, regions.shape[1])[:, :, None], 0)
        words = words.masked_fill(padding(word_counts, words.shape[1])[:, :, None], 0)
        return sims_in_blocks(self._sims_of_block, regions, region_counts, words, word_counts)

    def _sims_of_block(self, regions: Tensor, region_counts: Tensor, words: Tensor, word_counts: Tensor) -> Tensor:
        no_region, no_word = padding(region_counts, regions.shape[1]), padding(word_counts, words.shape[1])
        dots = words.flatten(0, 1) @ regions.flatten(0, 1).T
        dots = dots.to(torch.promote_types(dots.dtype, torch.float32)).view(*no_word.shape, *no_region.shape)
        if self.coding_type == "VHACoding":
            of_words = dots.masked_fill(no_region, -torch.inf).max(3).values  # (n_captions, n_words, n_images)
            return self._pooled(of_words.transpose(1, 2), no_word[:, None]).T
        if self.coding_type == "THACoding":
            of_regions = dots.masked_fill(no_word[:, :, None, None], -torch.inf).max(1).values
        else:
            of_regions = self._attended(dots, words, no_word)
        return self._pooled(of_regions, no_region).T  # of (n_captions, n_images, n_regions)

    def _attended(self, dots: Tensor, words: Tensor, no_word: Tensor) -> Tensor:
        """<region, context> / |context| from |context|^2 = a^T G a, G the words' Gram matrix: no context is made."""
        attention = (dots / self.alpha).masked_fill(no_word[:, :, None, None], -torch.inf).softmax(1)
        gram = (words @ words.transpose(1, 2)).to(dots.dtype)
        squared = (attention * (gram @ attention.flatten(2)).view_as(attention)).sum(1)
        length = squared.clamp(min=torch.finfo(dots.dtype).tiny).sqrt()  # the root has no slope at 0
        dot: Tensor = (attention * dots).sum(1)
        return dot / (length + 1e-8)

    def _pooled(self, values: Tensor, missing: Tensor) -> Tensor:
        """(n_captions, n_images, n_queries) -> (n_captions, n_images); `missing` is broadcast to the values."""
        if self.pooling_type == "MaxPooling":
            return values.masked_fill(missing, -torch.inf).max(2).values
        if self.pooling_type in ("SumPooling", "MeanPooling"):
            total = values.sum(2)  # only VSACoding comes here: 0 where there is no region
            return total if self.pooling_type == "SumPooling" else total / (~missing).sum(-1)
        logits = (values / self.belta).masked_fill(missing, -torch.inf)
        if self.pooling_type == "LSEPooling":
            return logits.logsumexp(2)
        return (logits.softmax(2) * values).sum(2)

    def extra_repr(self) -> str:
        """The flags, for print(model)."""
        return f"{self.coding_type}, {self.pooling_type}, {named_options(self, 'alpha', 'belta')}"
