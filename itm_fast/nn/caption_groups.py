"""Captions whose words lie one after another: packed, cut into parts, and into neighbours of one length."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from itm_fast.ops._counts import Counts, as_counts, may_be_read, moved_to_front


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


def read_on_the_host(words: Tensor, word_counts: Counts) -> tuple[Tensor, list[int]]:
    """Words that come first in their rows, and the counts as a list, found to be inside 1 ... max_words."""
    n_captions, max_words, _ = words.shape
    on_a_device = isinstance(word_counts, Tensor) and not may_be_read(word_counts)
    device = words.device if on_a_device else torch.device("cpu")
    read, first = as_counts("word_counts", word_counts, "words", (n_captions, max_words), device)
    words = moved_to_front(words, None if first is None else on_device(first, words))
    counts: list[int] = [max_words] * n_captions if read is None else read.tolist()
    for caption, count in enumerate(counts):
        if not 1 <= count <= max_words:
            raise ValueError(f"word_counts[{caption}] is {count}; expected 1 to {max_words}")
    return words, counts


def parts_of_captions(word_counts: list[int], most_words: int, *, is_padded: bool) -> Iterator[list[int]]:
    """Runs of captions of at most `most_words` words, but at least one caption.

    `word_counts` increase; where captions are padded, none of a run is longer than twice the first.
    """
    part: list[int] = []
    for n_words in word_counts:
        if part and (sum(part) + n_words > most_words or (is_padded and n_words > 2 * part[0])):
            yield part
            part = []
        part.append(n_words)
    yield part


def without_padding(words: Tensor, order: list[int], word_counts: list[int]) -> Tensor:
    """Words (n_captions, max_words, dim) -> (n_words, dim), captions in this order; word_counts are in it already."""
    max_words = words.shape[1]
    places = torch.tensor(order)[:, None] * max_words
    position = torch.arange(max_words)
    rows = (places + position)[position < torch.tensor(word_counts)[:, None]]  # on the host: nobody waits
    return words.flatten(0, 1).index_select(0, on_device(rows, words))


def on_device(small: Tensor, like: Tensor) -> Tensor:
    """A small tensor of the CPU where `like` is; the host does not wait for what that device has still to do."""
    return small.to(like.device, non_blocking=True)
