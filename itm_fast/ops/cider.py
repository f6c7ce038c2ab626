"""φ of encoded captions as operators: blocks of all pairs, and pairs; public front: itm_fast.relevance.Corpus."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from itm_fast.ops import _library

_library.load()


class EncodedText(NamedTuple):
    """Captions as sparse tf-idf vectors, and which of them are the references of which image.

    Attributes:
        offsets: (captions · n + 1,) int64; features of caption c, order k (from 0), begin at offsets[c · n + k].
        features: (features in all,) int32, ascending within a caption and an order.
        counts: (features in all,) int32, how often that n-gram occurs in its caption.
        idf_squared: (different features,) float64.
        inverse_norms: (captions, n) float64, 0 where the norm is 0.
        bigrams: (captions,) int32, the length that CIDEr-D's penalty compares.
        references: (n_images + 1,) int64; image i owns captions references[i] ... references[i + 1] - 1.
    """

    offsets: Tensor
    features: Tensor
    counts: Tensor
    idf_squared: Tensor
    inverse_norms: Tensor
    bigrams: Tensor
    references: Tensor


def cider_relevance(
    text: EncodedText, image_ids: Tensor, caption_ids: Tensor, *, unary: bool, sigma: float, dtype: torch.dtype
) -> Tensor:
    """φ of every image and every caption asked for; sums are float64.

    Args:
        text: encoded captions; its numbers are trusted, they come from the encoder.
        image_ids: (n,) int64 on the device of the text. Out of range: IndexError, on CUDA NaN in φ.
        caption_ids: (m,) int64; likewise.
        unary: whether counts are unary (CIDEr-D): an n-gram that occurs t times is t features.
        sigma: of the length penalty, in bigrams; 0: none.
        dtype: float32 or float64.

    Returns:
        (n, m). On CUDA float64 sums are in another order: all summands being positive, φ of a pair with k n-grams in
        the references differs by at most 2 (k + 8) roundings of its own value.
    """
    phi: Tensor = torch.ops.itm_fast.cider_relevance(*text, image_ids, caption_ids, unary, sigma, dtype)
    return phi


def cider_pairs(
    text: EncodedText, image_ids: Tensor, caption_ids: Tensor, *, unary: bool, sigma: float, dtype: torch.dtype
) -> Tensor:
    """φ of image image_ids[i] and caption caption_ids[i]: (n,); arguments as in ``cider_relevance``."""
    phi: Tensor = torch.ops.itm_fast.cider_pairs(*text, image_ids, caption_ids, unary, sigma, dtype)
    return phi


@torch.library.register_fake("itm_fast::cider_relevance")  # type: ignore[untyped-decorator]
def _fake_relevance(*arguments: Any) -> Tensor:
    idf_squared, image_ids, caption_ids, dtype = (arguments[i] for i in (3, 7, 8, 11))
    phi: Tensor = idf_squared.new_empty((image_ids.shape[0], caption_ids.shape[0]), dtype=dtype)
    return phi


@torch.library.register_fake("itm_fast::cider_pairs")  # type: ignore[untyped-decorator]
def _fake_pairs(*arguments: Any) -> Tensor:
    idf_squared, image_ids, dtype = (arguments[i] for i in (3, 7, 11))
    phi: Tensor = idf_squared.new_empty((image_ids.shape[0],), dtype=dtype)
    return phi
