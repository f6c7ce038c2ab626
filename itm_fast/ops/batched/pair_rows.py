"""The words of given pairs as rows in lists, each of one image, so that products find both sides by number."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from itm_fast.ops._candidates import Candidates, Members, check_values
from itm_fast.ops._ragged import Batches
from itm_fast.ops.batched.listed import Lists
from itm_fast.ops.batched.products import Captions

PIECE = 16  # words of a caption that are a step of a sum, of which products have whole ones only


class Steps(NamedTuple):
    """Pairs in steps of `PIECE` rows, images ascending."""

    images: Tensor  # (n,) int64
    pieces: Tensor  # (n, 1) int64, of captions; -1: none
    rows: Tensor  # (n, PIECE) int64, of the lists'; -1: none

    def values_of(self, x: Tensor) -> Tensor:
        """Values (rows, regions) as of products (n, regions, 1, PIECE) with the pieces; 0 where there is no row."""
        found = x[self.rows].masked_fill_((self.rows < 0)[..., None], 0)
        return found.transpose(1, 2)[:, :, None]


class Rows(NamedTuple):
    """Words of some pairs: an image's one after another, from list to list; only its last list may have room left."""

    images: Tensor  # (n_lists,) int64, ascending
    words: Tensor  # (n_lists, length) int64; -1: none
    vectors: Tensor  # (n_lists, length) int64, numbers of the results, likewise
    pairs: Captions  # of rows; those that are none are the last ones of the pair before
    some: slice  # the pairs' places


def read(x: Tensor) -> list[int]:
    """What nobody can go on without; a device is waited for here, and nowhere else."""
    numbers: list[int] = x.tolist()
    return numbers


class PairRows:
    """The words of given pairs; how many there are is read on the host, once.

    Attributes:
        n: Words of all pairs.

    Raises:
        ValueError: An index is neither -1 nor a group.
    """

    def __init__(self, candidates: Candidates, batches: Batches, captions: Captions) -> None:
        """See above; batches: of padded regions and packed words, which the captions are of."""
        indices, of_captions = candidates
        members = Members(candidates, batches)
        own = torch.arange(indices.numel(), device=indices.device) // max(1, indices.shape[1])
        images, texts = (members.places.flatten(), own) if of_captions else (own, members.places.flatten())
        self._n_images, self.n, self._ends = len(batches.regions), 0, [0]
        if not len(captions.counts) or not self._n_images:
            check_values(candidates, batches)
            return
        if not indices.numel():
            return
        sizes = captions.counts[texts].masked_fill_(members.missing.flatten(), 0)
        first = sizes.cumsum(0) - sizes
        if of_captions:
            images, order = images.sort(stable=True)
            texts, sizes, first = texts[order], sizes[order], first[order]
        self._images, self._captions, self._sizes, self._first = images, texts, sizes, first
        told = read(torch.cat([sizes.cumsum(0), images, members.outside.any()[None].long()]))
        if told[-1]:
            check_values(candidates, batches)
        self._ends += told[: len(sizes)]
        self._numbers = told[len(sizes) : -1]
        self.n = self._ends[-1]

    def blocks(self, first_words: Tensor, n_rows: int, length: int) -> Iterator[Rows]:
        """All rows, in lists of a length, so many at a time; where words of a caption begin: (n_captions,)."""
        begin = 0
        while begin < len(self._ends) - 1:
            end = bisect.bisect_right(self._ends, self._ends[begin] + n_rows) - 1
            end = max(begin + 1, min(end, begin + n_rows // PIECE))
            if self._ends[end] > self._ends[begin]:
                n_images = min(end - begin, self._numbers[end - 1] - self._numbers[begin] + 1)
                n = self._ends[end] - self._ends[begin]
                yield self._rows(slice(begin, end), n, first_words, length, n_images)
            begin = end

    def _rows(self, some: slice, n: int, first_words: Tensor, length: int, n_images: int) -> Rows:
        images, sizes = self._images[some], self._sizes[some]
        upto = sizes.cumsum(0)
        numbers = torch.arange(n, device=images.device)
        of = torch.searchsorted(upto, numbers, right=True)
        within = numbers - (upto - sizes)[of]
        lists = Lists.of_runs(images[of], self._n_images, length, n_images)
        first = first_words[self._captions[some]]
        missing = lists.pairs < 0
        words, vectors = (
            (begins[of] + within)[lists.pairs].masked_fill_(missing, -1) for begins in (first, self._first[some])
        )
        places = lists.pairs.flatten().cummax(0).values  # of rows, those that are none as the one before
        begins = torch.searchsorted(places, upto - sizes)
        pairs = Captions(begins.diff(append=begins.new_full((1,), len(places))), len(places))
        return Rows(lists.owners, words, vectors, pairs, some)

    def steps(self, rows: Rows, first_words: Tensor) -> Steps:
        """The same rows in steps; words begin likewise, at a multiple of `PIECE`."""
        images, sizes, first = self._images[rows.some], self._sizes[rows.some], first_words[self._captions[rows.some]]
        device, n_pairs = images.device, len(images)
        n = self._ends[rows.some.stop] - self._ends[rows.some.start]
        n_steps = (sizes + PIECE - 1) // PIECE
        steps_upto = n_steps.cumsum(0)
        numbers = torch.arange(n // PIECE + n_pairs, device=device)  # that the host knows; more than needed
        of = torch.searchsorted(steps_upto, numbers, right=True).clamp_(max=n_pairs - 1)
        within = (numbers - (steps_upto - n_steps)[of])[:, None] * PIECE + torch.arange(PIECE, device=device)
        missing = within >= sizes[of][:, None]
        places = (rows.pairs.first[of][:, None] + within).masked_fill_(missing, -1)
        pieces = ((first[of][:, None] + within[:, :1]) // PIECE).masked_fill_(missing[:, :1], -1)
        return Steps(images[of], pieces, places)


class Pieces:
    """Captions' words in pieces of `PIECE`, the last one of a caption filled up with zeros.

    Attributes:
        vectors: (n, PIECE, dim).
        first: (n_captions,) int64, place of each caption's first word among the vectors of all pieces.
        places: (n_words,) int64, of all words.
    """

    def __init__(self, words: Tensor, captions: Captions) -> None:
        """See above."""
        n_pieces = (captions.counts + PIECE - 1) // PIECE
        self.first = (n_pieces.cumsum(0) - n_pieces) * PIECE
        places = torch.arange(len(words), device=words.device)
        self.places = places + captions.spread(self.first - captions.first)
        n = len(words) // PIECE + len(n_pieces)  # that the host knows; more than needed
        room = words.new_zeros(n * PIECE, words.shape[1])
        self.vectors = room.index_copy_(0, self.places, words).view(n, PIECE, words.shape[1])
