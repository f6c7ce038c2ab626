"""The batches that are timed."""

from __future__ import annotations

import torch
from torch import Tensor

_SHORTEST = 3  # words


def scan_batch(
    n_images: int,
    n_captions: int,
    *,
    mean_words: float = 12,
    max_words: int = 50,
    max_regions: int = 36,
    dim: int = 1024,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Random unit vectors in the layout of SCAN's features, with captions about as long as MSCOCO's.

    Args:
        n_images: images.
        n_captions: captions.
        mean_words: mean of the drawn lengths (gamma-shaped), before they are cut to ``max_words``.
        max_words: longest caption.
        max_regions: regions of every image.
        dim: of a vector.
        dtype: of the vectors; drawn as float32 and rounded.
        seed: of everything drawn.

    Returns:
        regions (n_images, max_regions, dim), words (n_captions, longest drawn, dim), word_counts (n_captions,) int64.

    Example:
        >>> regions, words, word_counts = scan_batch(2, 5, max_words=8, dim=16)
        >>> regions.shape, words.shape[1] == word_counts.max() <= 8
        (torch.Size([2, 36, 16]), tensor(True))
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # distributions take no generator
        lengths = torch.distributions.Gamma(6.0, 6.0 / mean_words).sample((n_captions,))
    word_counts = lengths.round().clamp(min(_SHORTEST, max_words), max_words).long()

    def rows(n: int, longest: int) -> Tensor:
        x = torch.randn(n, longest, dim, generator=generator)
        return torch.nn.functional.normalize(x, dim=-1).to(dtype)

    return rows(n_images, max_regions), rows(n_captions, int(word_counts.max())), word_counts


def packed(words: Tensor, word_counts: Tensor) -> Tensor:
    """(n_words, dim): the valid words of all captions, one after another."""
    return torch.cat([caption[:n] for caption, n in zip(words, word_counts.tolist(), strict=True)])
