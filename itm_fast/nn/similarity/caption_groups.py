"""Captions whose words lie one after another, cut into neighbours of one length."""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor


class CaptionGroup(NamedTuple):
    """Neighbouring captions of one length."""

    n_captions: int
    n_words: int  # of each caption


def caption_groups(word_counts: list[int], most_words: int) -> list[CaptionGroup]:
    """Cuts captions into groups of one length and at most `most_words` words, but at least one caption."""
    groups = []
    for n_words, run in itertools.groupby(word_counts):
        left = len(list(run))
        while left:
            n_captions = min(left, max(1, most_words // n_words))
            groups.append(CaptionGroup(n_captions, n_words))
            left -= n_captions
    return groups


def split_captions(x: Tensor, groups: list[CaptionGroup], dim: int = 0) -> list[Tensor]:
    """(..., all captions, ...) -> for each group (..., n_captions, ...)."""
    return list(torch.split(x, [group.n_captions for group in groups], dim=dim))


def split_words(x: Tensor, groups: list[CaptionGroup], dim: int = 0) -> list[Tensor]:
    """(..., all words, ...) -> for each group (..., n_captions, n_words, ...)."""
    # torch.split: its backward pass is one concatenation, where that of as many slices adds as many whole tensors.
    parts = torch.split(x, [group.n_captions * group.n_words for group in groups], dim=dim)
    shapes = ((*x.shape[:dim], *group, *x.shape[dim + 1 :]) for group in groups)
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
