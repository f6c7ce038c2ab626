"""Drop-in for CrossmodalGroup/LAPS's lib/cross_net.py, xttn.py, loss.py and evaluation.py: same names and signatures.

from lib.cross_net import CrossSparseAggrNet_v2   ->  from itm_fast.compat.laps import CrossSparseAggrNet_v2
from lib.xttn import xattn_score                  ->  from itm_fast.compat.laps import xattn_score
from lib.loss import ContrastiveLoss              ->  from itm_fast.compat.laps import ContrastiveLoss
from lib.evaluation import i2t, t2i               ->  from itm_fast.compat.laps import i2t, t2i
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu, normalize

from itm_fast.compat._hinge import Hinge
from itm_fast.compat.hat import mean_cosine
from itm_fast.compat.vse_infty import i2t, t2i
from itm_fast.nn.similarity.laps import LAPSSimilarity
from itm_fast.ops._blocks import padding, sims_in_blocks, valid_counts
from itm_fast.ops._counts import counted
from itm_fast.ops.max_similarity import max_similarity

__all__ = [
    "ContrastiveLoss",
    "CrossSparseAggrNet_v2",
    "i2t",
    "matching_max_mean",
    "t2i",
    "xattn_score",
    "xattn_score_i2t",
    "xattn_score_t2i",
    "xattn_score_two",
]

Lengths = Sequence[int] | Tensor

_NEGATIVE_SLOPE = 0.1


class CrossSparseAggrNet_v2(LAPSSimilarity):  # the original's name
    """LAPS's similarity with the original's state dict; see `LAPSSimilarity`.

    Source:
        CrossmodalGroup/LAPS, lib/cross_net.py, CrossSparseAggrNet_v2.
    """

    def __init__(self, opt: Any) -> None:
        """Initialise as the original does; `opt` has embed_size, num_patches, sparse_ratio and aggr_ratio."""
        super().__init__(opt.embed_size, opt.num_patches, opt.sparse_ratio, opt.aggr_ratio)

    def forward(  # type: ignore[override]  # the original's names and result
        self, img_embs: Tensor, cap_embs: Tensor, cap_lens: Lengths
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Similarities of all pairs; in training also which patches were kept.

        Args:
            img_embs: (n_images, n_tokens, embed_size); the first token is no patch where their number is no square.
            cap_embs: (n_captions, max_words, embed_size).
            cap_lens: Words of each caption: list or tensor.

        Returns:
            (n_images, n_captions); in training with the mask (n_captions, n_images, n_patches) of 0 and 1, in the dtype
            of the images.
        """
        sims = super().forward(img_embs, cap_embs, cap_lens)
        return (sims, self.kept(img_embs, cap_embs, cap_lens).to(img_embs.dtype)) if self.training else sims


class ContrastiveLoss(Hinge):
    """LAPS's loss: the bidirectional hinge of scores, summed; pairs of the same image are no negatives.

    Source:
        CrossmodalGroup/LAPS, lib/loss.py.
    """

    def __init__(self, opt: Any = None, margin: float = 0.2, max_violation: bool = False) -> None:
        """Keep the options; `opt` is not read, as in the original."""
        super().__init__(margin, max_violation)
        self.opt = opt

    def forward(self, im: Tensor, s: Tensor, img_ids: Lengths, scores: Tensor | None = None) -> Tensor:
        """The loss of scores (n, n), or of dot products of embeddings (n, dim).

        Args:
            im: (n, dim) embeddings of the images; not read where there are scores.
            s: (n, dim) embeddings of their captions, likewise.
            img_ids: (n,) ids of the images.
            scores: (n, n), pair i on the diagonal.

        Returns:
            Scalar.
        """
        return self.of_scores(im @ s.T if scores is None else scores, img_ids)


def xattn_score_t2i(images: Tensor, captions: Tensor, cap_lens: Lengths, smooth: float = 9.0) -> Tensor:
    """SCAN's text-to-image attention of vectors brought to unit length.

    Args:
        images: (n_images, n_regions, dim).
        captions: (n_captions, max_words, dim).
        cap_lens: Words of each caption: list or tensor.
        smooth: Inverse temperature of the attention.

    Returns:
        (n_images, n_captions).

    Source:
        CrossmodalGroup/LAPS, lib/xttn.py, xattn_score_t2i.
    """
    return mean_cosine(normalize(images, dim=2), normalize(captions, dim=2), cap_lens, smooth, "t2i")


def xattn_score_i2t(images: Tensor, captions: Tensor, cap_lens: Lengths, smooth: float = 4) -> Tensor:
    """Image-to-text; arguments and result as in `xattn_score_t2i`."""
    return mean_cosine(normalize(images, dim=2), normalize(captions, dim=2), cap_lens, smooth, "i2t")


def xattn_score_two(
    images: Tensor, captions: Tensor, cap_lens: Lengths, smooth_t2i: float = 9, smooth_i2t: float = 4
) -> Tensor:
    """The mean of both directions; arguments and result as in `xattn_score_t2i`."""
    of_words = xattn_score_t2i(images, captions, cap_lens, smooth_t2i)
    return (of_words + xattn_score_i2t(images, captions, cap_lens, smooth_i2t)) * 0.5


def matching_max_mean(
    img_regions: Tensor,
    cap_words: Tensor,
    cap_len: Lengths,
    i2t: bool = False,
    scan: bool = False,
    bi_norm: bool = False,
) -> Tensor:
    """Mean over words of the largest cosine with a region; with `i2t` half of that and of the other way round.

    Without `scan` and `bi_norm` the fused `max_similarity`; otherwise plain torch on blocks of pairs, which reads the
    lengths on the host.

    Args:
        img_regions: (n_images, n_regions, dim) of any length.
        cap_words: (n_captions, max_words, dim) of any length.
        cap_len: Words of each caption: list or tensor.
        i2t: Both directions.
        scan: Leaky ReLU of slope 0.1 on the cosines.
        bi_norm: Cosines are first divided by their norm over the side that is averaged.

    Returns:
        (n_images, n_captions).

    Raises:
        ValueError: Shapes or lengths do not fit. A fourth dimension of the regions, which the original names but cannot
            run, is refused.

    Source:
        CrossmodalGroup/LAPS, lib/xttn.py, matching_max_mean.
    """
    regions, words = normalize(img_regions, dim=-1), normalize(cap_words, dim=-1)
    if not scan and not bi_norm:
        sims = max_similarity(regions, words, cap_len, agg_func="Mean")
        return (sims + max_similarity(regions, words, cap_len, cross_attn="i2t", agg_func="Mean")) / 2 if i2t else sims
    if regions.ndim != 3 or words.ndim != 3:
        shapes = f"{tuple(regions.shape)} and {tuple(words.shape)}"
        raise ValueError(f"img_regions and cap_words must have three dimensions, got {shapes}")
    words, given = counted("cap_len", cap_len, "cap_words", words)
    counts = valid_counts("cap_len", given, words)
    words = words.masked_fill(padding(counts, words.shape[1])[:, :, None], 0)

    def sims_of(regions: Tensor, _: Tensor, words: Tensor, counts: Tensor) -> Tensor:
        cosines = words @ regions.flatten(0, 1).T  # (n_captions, n_words, n_images * n_regions)
        cosines = cosines.view(*words.shape[:2], *regions.shape[:2]).transpose(1, 2)
        cosines = leaky_relu(cosines, _NEGATIVE_SLOPE) if scan else cosines
        no_word = padding(counts, words.shape[1])[:, None]
        best = (normalize(cosines, dim=2) if bi_norm else cosines).max(3).values.masked_fill(no_word, 0)
        of_words: Tensor = best.sum(2) / counts[:, None]
        if not i2t:
            return of_words.T
        scaled = normalize(cosines, dim=3) if bi_norm else cosines
        of_regions = scaled.masked_fill(no_word[..., None], -torch.inf).max(2).values.mean(2)
        return (of_words + of_regions).T / 2

    return sims_in_blocks(sims_of, regions, valid_counts("img_regions", None, regions), words, counts)


def xattn_score(
    img_cross: Tensor,
    cap_cross: Tensor,
    cap_len: Lengths,
    xattn_type: str = "max_mean",
    i2t: bool = True,
    scan: bool = True,
) -> Tensor:
    """One of the similarities by its name.

    Args:
        img_cross: (n_images, n_regions, dim).
        cap_cross: (n_captions, max_words, dim).
        cap_len: Words of each caption: list or tensor.
        xattn_type: "scan_t2i", "scan_i2t", "scan_all"; anything else is `matching_max_mean`, as in the original.
        i2t: Of `matching_max_mean`.
        scan: Of `matching_max_mean`.

    Returns:
        (n_images, n_captions).

    Source:
        CrossmodalGroup/LAPS, lib/xttn.py, xattn_score.
    """
    if xattn_type == "scan_t2i":
        return xattn_score_t2i(img_cross, cap_cross, cap_len)
    if xattn_type == "scan_i2t":
        return xattn_score_i2t(img_cross, cap_cross, cap_len)
    if xattn_type == "scan_all":
        return xattn_score_two(img_cross, cap_cross, cap_len)
    return matching_max_mean(img_cross, cap_cross, cap_len, i2t=i2t, scan=scan)
