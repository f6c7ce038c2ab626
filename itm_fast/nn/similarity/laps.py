"""LAPS's similarity: patches chosen by each caption, aggregated to few tokens, compared with its words both ways."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from itm_fast.nn.linear import TileLinear
from itm_fast.ops import _checks
from itm_fast.ops._blocks import padding, valid_counts
from itm_fast.ops._candidates import as_candidates, check_values
from itm_fast.ops._counts import Counts, counted
from itm_fast.ops._ragged import REGIONS, WORDS, Batches, Groups, Packed, packed_words, to_device, where_read
from itm_fast.ops.patch_word_similarity import patch_word_similarity
from itm_fast.ops.ranking import dot_products_of_candidates
from itm_fast.shown import named_options

_HIDDEN_RATIO = 0.2  # of the map that makes the logits
_PATCH_SCORES = 1 << 24  # of given pairs at a time


class _Captions(NamedTuple):
    words: Groups
    word_counts: Tensor | None
    means: Tensor  # (n_captions, embed_size), of unit length


class _Aggregation(nn.Module):
    """Logits of every patch in every aggregated token; state dict `weight.{0,1,3}.{weight,bias}`, `scale`."""

    def __init__(self, embed_size: int, n_aggregated: int) -> None:
        super().__init__()
        hidden = int(embed_size * _HIDDEN_RATIO)
        self.weight = nn.Sequential(
            nn.LayerNorm(embed_size), TileLinear(embed_size, hidden), nn.GELU(), nn.Linear(hidden, n_aggregated)
        )
        self.scale = nn.Parameter(torch.ones(1, 1, 1))

    def forward(self, patches: Tensor) -> Tensor:
        """(n_images, n_patches, embed_size) -> (n_images, n_patches, n_aggregated)."""
        logits: Tensor = self.weight(patches) * self.scale
        return logits


class LAPSSimilarity(nn.Module):
    """Cosines of words and tokens that are made of the patches which suit the caption.

    Of an image's patches the share `sparse_ratio` is kept that is most like the image's and the caption's mean; they
    are aggregated to `n_aggregated` tokens, those left out to one more; a class token is one as it is.
    sim = mean over words of the largest cosine with a token + mean over tokens of the largest with a word, after a
    leaky ReLU of slope 0.1. The choice of patches has no gradient.

    State dict: `aggr_net.weight.{0,1,3}.{weight,bias}`, `aggr_net.scale`: the original's, under its `cross_net`.

    Source:
        Fu et al., Linguistic-Aware Patch Slimming Framework for Fine-grained Cross-Modal Alignment, CVPR 2024;
        CrossmodalGroup/LAPS, lib/cross_net.py, CrossSparseAggrNet_v2.
    """

    def __init__(
        self,
        embed_size: int = 512,
        num_patches: int = 196,
        sparse_ratio: float = 0.5,
        aggr_ratio: float = 0.4,
        *,
        class_token: bool | None = None,
    ) -> None:
        """Initialise as torch does, like the original.

        Args:
            embed_size: Numbers per patch and word.
            num_patches: Patches of an image as the encoder is named for (ViT: 196, Swin: 49); it only sets the number
                of aggregated tokens, images may have any number.
            sparse_ratio: Share of the patches that is kept, above 0, at most 1. ViT: 0.5, Swin: 0.8.
            aggr_ratio: Aggregated tokens per kept patch, above 0, at most 1. ViT: 0.4, Swin: 0.6.
            class_token: Whether an image's first token is no patch. None, as in the original: whether its number of
                tokens is no square.

        Raises:
            ValueError: A size or ratio is out of range, or no aggregated token would be left.
            TypeError: A ratio is no number.
        """
        super().__init__()
        self.embed_size, self.num_patches, self.class_token = embed_size, num_patches, class_token
        self.sparse_ratio = _share("sparse_ratio", sparse_ratio)
        self.aggr_ratio = _share("aggr_ratio", aggr_ratio)
        if embed_size * _HIDDEN_RATIO < 1:
            raise ValueError(f"embed_size must be at least 5, got {embed_size}")
        n_aggregated = int(num_patches * self.aggr_ratio * self.sparse_ratio)
        if n_aggregated < 1:
            raise ValueError(
                f"num_patches * aggr_ratio * sparse_ratio must be at least 1, got {num_patches} * {aggr_ratio} * "
                f"{sparse_ratio}"
            )
        self.aggr_net = _Aggregation(embed_size, n_aggregated)

    def n_kept(self, n_patches: int) -> int:
        """How many of an image's patches are kept."""
        return math.ceil(n_patches * self.sparse_ratio)

    def has_class_token(self, n_tokens: int) -> bool:
        """Whether the first of so many tokens is taken for the class token."""
        return math.isqrt(n_tokens) ** 2 != n_tokens if self.class_token is None else self.class_token

    def forward(
        self,
        regions: Tensor,
        words: Groups,
        word_counts: Counts = None,
        region_counts: Counts = None,
        candidates: Tensor | None = None,
    ) -> Tensor:
        """Similarities of all pairs, or of given ones.

        Args:
            regions: (n_images, max_tokens, embed_size) floating, of any length: the patches, after the class token
                where there is one.
            words: (n_captions, max_words, embed_size), dtype and device of `regions`, of any length; or `Packed`, or a
                list of matrices, without counts.
            word_counts: (n_captions,) integers, 1 ... max_words, or a mask (n_captions, max_words), as
                `itm_fast.cross_attention_similarity` takes them; None: all valid. Nothing beyond a count is read.
            region_counts: (n_images,) or (n_images, max_tokens), likewise for the tokens, the class token counted.
                Images of one count are scored together, for which the counts are read on the host.
            candidates: (n_images, k) int64, captions of each image: score these pairs only; -1: none. None: all pairs.
                They are read on the host. A pair's score is that of all pairs but for the rounding of a product by
                which patches are chosen, whose shape is another.

        Returns:
            (n_images, n_captions), or (n_images, k) with -inf where there is none; at least float32; differentiable.

        Raises:
            ValueError: Shapes, devices or counts do not fit, or an image has no patch.
            TypeError: An argument has the wrong type or dtype.
        """
        captions = self._captions(regions, words, word_counts)
        regions, region_counts = counted("region_counts", region_counts, "regions", regions)
        _check_candidates(candidates, regions, captions)
        if region_counts is None:
            return self._sims(regions, captions, candidates)
        region_counts = valid_counts("region_counts", region_counts, regions)
        order = region_counts.argsort(stable=True)
        sizes, n_images = torch.unique_consecutive(region_counts[order], return_counts=True)
        groups = torch.split(order, n_images.tolist())
        sims = [
            self._sims(regions[images, :size], captions, None if candidates is None else candidates[images])
            for images, size in zip(groups, sizes.tolist(), strict=True)
        ]
        return torch.cat(sims)[order.argsort()] if sims else self._sims(regions, captions, candidates)

    def kept(self, regions: Tensor, words: Groups, word_counts: Counts = None) -> Tensor:
        """Which patches each caption keeps of each image; arguments as in `forward`.

        Returns:
            (n_captions, n_images, n_patches), True at `n_kept(n_patches)` patches; the original's score_mask.
        """
        means = self._captions(regions, words, word_counts).means
        patches = regions[:, int(self.has_class_token(regions.shape[1])) :]
        scores = _patch_scores(patches, means).transpose(0, 1)
        best = scores.argsort(dim=2, descending=True, stable=True)[:, :, : self.n_kept(patches.shape[1])]
        return torch.zeros_like(scores, dtype=torch.bool).scatter_(2, best, True)

    def attention(self, regions: Tensor, words: Tensor) -> Tensor:
        """Of what patches the token is made that suits each word best, in one pair.

        Args:
            regions: (n_tokens, embed_size), of any length.
            words: (n_words, embed_size), without padding, of any length.

        Returns:
            (n_words, n_tokens): a row sums to 1, unless every patch is kept and the empty rest suits the word best.
        """
        n_own = int(self.has_class_token(len(regions)))
        patches = regions[n_own:]
        scores = _patch_scores(patches[None], _means(words[None], None))[0, 0]
        kept = self.kept(regions[None], words[None])[0, 0]
        of_rest = scores.masked_fill(kept, -torch.inf).softmax(0).nan_to_num(0.0)
        logits = self.aggr_net(patches[None])[0].masked_fill(~kept[:, None], -torch.inf)
        weights = nn.functional.pad(torch.cat([logits.softmax(0).T, of_rest[None]]), (n_own, 0))
        weights = torch.cat([torch.eye(len(regions)).to(weights)[:n_own], weights])  # a row is a token of the pair
        cosines = normalize(words, dim=1) @ normalize(weights @ regions, dim=1).T
        return weights[cosines.argmax(1)]

    def _captions(self, regions: Tensor, words: Groups, word_counts: Counts) -> _Captions:
        vectors, counts = packed_words(words, word_counts)
        is_packed = vectors is not words
        _checks.check_vectors(regions, vectors, shapes=(REGIONS.shape, "(total, dim)" if is_packed else WORDS.shape))
        if regions.shape[2] != self.embed_size:
            raise ValueError(f"regions and words must have dim {self.embed_size}, got {regions.shape[2]}")
        if not is_packed:
            vectors, counts = counted("word_counts", counts, "words", vectors)
            return _Captions(vectors, counts, _means(vectors, counts))
        assert isinstance(counts, Tensor)
        counts = where_read(vectors, counts)
        return _Captions(Packed(vectors, nn.functional.pad(counts.cumsum(0), (1, 0))), None, _means(vectors, counts))

    def _sims(self, regions: Tensor, captions: _Captions, candidates: Tensor | None) -> Tensor:
        """Of images with all their tokens."""
        if candidates is None:
            return self._compared(regions, captions, None)
        n_images = max(1, _PATCH_SCORES // max(1, candidates.shape[1] * regions.shape[1]))
        parts = zip(torch.split(regions, n_images), torch.split(candidates, n_images), strict=True)
        return torch.cat([self._compared(some, captions, lists) for some, lists in parts])

    def _compared(self, regions: Tensor, captions: _Captions, candidates: Tensor | None) -> Tensor:
        class_token = self.has_class_token(regions.shape[1])
        patches = regions[:, int(class_token) :]
        return patch_word_similarity(
            regions,
            captions.words,
            _patch_scores(patches, captions.means, candidates),
            self.aggr_net(patches),
            captions.word_counts,
            sparse_ratio=self.sparse_ratio,
            class_token=class_token,
            candidates=candidates,
        )

    def extra_repr(self) -> str:
        """The options, for print(model)."""
        return named_options(self, "embed_size", "num_patches", "sparse_ratio", "aggr_ratio", "class_token")


def _share(name: str, value: float) -> float:
    share = _checks.check_finite(name, value, positive=True)
    if share > 1:
        raise ValueError(f"{name} must be at most 1, got {value}")
    return share


def _check_candidates(candidates: Tensor | None, regions: Tensor, captions: _Captions) -> None:
    batches = Batches(regions, captions.means, None, None)  # of which the numbers of images and captions count
    given = as_candidates(candidates, "images", batches)
    if given is not None:
        check_values(given, batches)


@torch.no_grad()
def _means(words: Tensor, word_counts: Tensor | None) -> Tensor:
    """Mean word of each caption, of unit length; words (n_captions, max_words, dim), or packed (total, dim)."""
    if word_counts is None:
        means = words.mean(1)
    elif words.ndim == 2 and bool((word_counts < 1).any()):
        raise ValueError(f"words are Packed with counts {word_counts.tolist()}; every caption needs a word")
    elif words.device.type == "cpu":  # caption by caption: nothing of the padding is read, nothing copied
        counts: list[int] = word_counts.tolist()
        captions = torch.split(words, counts) if words.ndim == 2 else words.unbind()
        means = words.new_empty(len(counts), words.shape[-1])
        for caption, n_words, mean in zip(captions, counts, means, strict=True):
            torch.sum(caption[:n_words], 0, out=mean)
        means /= word_counts[:, None]
    elif words.ndim == 3:
        means = words.masked_fill(padding(word_counts, words.shape[1])[:, :, None], 0).sum(1) / word_counts[:, None]
    else:
        wide = words.to(torch.promote_types(words.dtype, torch.float32))
        means = torch.segment_reduce(wide, "mean", lengths=to_device(word_counts, words)).to(words.dtype)
    return normalize(means, dim=1)


@torch.no_grad()
def _patch_scores(patches: Tensor, means: Tensor, candidates: Tensor | None = None) -> Tensor:
    """(n_images, n_captions, n_patches): cosine of each patch with its image's mean, plus that with the caption's.

    With candidates (n_images, k), (n_images, k, n_patches).
    """
    of_images = normalize(patches.mean(1), dim=1)
    if candidates is None:
        units = normalize(patches, dim=2)
        of_pairs = (units @ means.T).transpose(1, 2)
        return (of_images[:, None] * units).sum(2)[:, None] + of_pairs
    # an image's mean is one more vector on its list; products are divided by lengths, of which there are fewer
    own = len(means) + torch.arange(len(patches), device=patches.device)[:, None]
    products = dot_products_of_candidates(patches, torch.cat([means, of_images]), torch.cat([candidates, own], 1))
    lengths = torch.linalg.vector_norm(patches, dim=2).clamp_min(1e-12)
    return (products[:, :-1] + products[:, -1:]).div_(lengths[:, None])
