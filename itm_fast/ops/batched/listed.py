"""Products of the vectors of lists' owners with those of their members, and the vectors' gradients.

Where a device has kernels for them (csrc/cuda/listed_products.cu) both are found by number where they lie; elsewhere
those of some lists at a time are gathered.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from itm_fast.ops import _library
from itm_fast.ops.batched.products import ALIGNMENT, aligned, gradient_product, has_tile_kernels, product, rounded, wide

_library.load()

_GATHERED_NUMBERS = 1 << 26  # of the vectors of lists, at a time


class Lists(NamedTuple):
    """Pairs as lists of one owner each."""

    owners: Tensor  # (n_lists,) int64, ascending
    pairs: Tensor  # (n_lists, length) int64, numbers of the pairs; -1: none

    @classmethod
    def in_rows(cls, places: Tensor) -> Lists:
        """Pairs (n, k), numbered row by row, as the rows that they are in."""
        owners, pairs = (torch.arange(n, device=places.device) for n in (len(places), places.numel()))
        return cls(owners, pairs.view(places.shape))

    @classmethod
    def by_place(cls, places: Tensor, n_owners: int) -> Lists:
        """Pairs likewise, as lists of those that have an owner at their place, of which one may have several lists."""
        owners, pairs = places.flatten().sort(stable=True)
        length = max(1, len(pairs) // (2 * n_owners))
        of, runs = cls.of_runs(owners, n_owners, length, min(len(pairs), n_owners))
        return cls(of, pairs[runs].masked_fill_(runs < 0, -1))

    @classmethod
    def of_runs(cls, owners: Tensor, n_owners: int, length: int, n_named: int) -> Lists:
        """Pairs of ascending owners (n,), at most so many of which are named, as lists of at most so many pairs.

        Only the last list of an owner has room left.
        """
        begins, ends = torch.searchsorted(owners, torch.arange(n_owners + 1, device=owners.device)).unfold(0, 2, 1).T
        n_lists = (ends - begins + length - 1) // length
        upto = n_lists.cumsum(0)
        n = len(owners)
        most = n if length == 1 else n // length + n_named  # that the host knows; more than needed
        numbers = torch.arange(most, device=owners.device)
        of = torch.searchsorted(upto, numbers, right=True).clamp_(max=n_owners - 1)
        first = begins[of] + (numbers - (upto - n_lists)[of]) * length
        at = first[:, None] + torch.arange(length, device=owners.device)
        return cls(of, at.masked_fill_(at >= ends[of][:, None], -1))

    def blocks(self, n_pairs: int) -> Iterator[Lists]:
        """The same in parts of so many pairs."""
        n_lists, length = self.pairs.shape
        width = max(1, min(length, n_pairs))
        height = max(1, n_pairs // width)
        for first in range(0, n_lists if length else 0, height):
            for start in range(0, length, width):
                rows = slice(first, first + height)
                yield Lists(self.owners[rows], self.pairs[rows, start : start + width])


class ListedProducts:
    """Owners' vectors (n, a, dim), and those of the groups (m, b, dim) that lists name; zeros where there are none."""

    def __init__(self, owners: Tensor, members: Tensor) -> None:
        """See above."""
        self._owners, self._members = owners, members
        self._has_kernels = owners.dtype != torch.float64 and has_tile_kernels(owners.device)
        if self._has_kernels:
            self._owner_rows, self._member_rows = _as_rows(owners), _as_rows(members)

    def most_pairs(self, n_numbers: int) -> int:
        """Pairs at a time of which so many numbers are made, as long as there is room for what is gathered."""
        n_pairs = n_numbers // (self._owners.shape[1] * self._members.shape[1])
        if self._has_kernels:
            return n_pairs
        return min(n_pairs, _GATHERED_NUMBERS // max(1, self._owners[:1].numel() + self._members[:1].numel()))

    def most_lists(self, length: int) -> int:
        """Lists at a time of so many single vectors, likewise."""
        if self._has_kernels:
            return sys.maxsize
        return max(1, _GATHERED_NUMBERS // max(1, (self._owners.shape[1] + length) * self._owners.shape[2]))

    def of(self, owners: Tensor, members: Tensor) -> Tensor:
        """Products (n_lists, a, k, b), in `wide`, of owners (n_lists,) with members (n_lists, k); -1: none."""
        if self._has_kernels:
            return _products(self._owner_rows, self._member_rows, owners, members)
        some, others = self._owners[owners], self._members[members]
        return product(some, others.flatten(1, 2).mT).view(*some.shape[:2], *others.shape[1:3])

    def of_vectors(self, owners: Tensor, vectors: Tensor) -> Tensor:
        """Products (n_lists, a, k), in `wide`, of owners with single vectors of all members, by number; -1: none."""
        if self._has_kernels:
            rows = self._member_rows.flatten(0, 1)[:, None]
            return _products(self._owner_rows, rows, owners, vectors).squeeze(3)
        some = self._members.flatten(0, 1)[vectors].masked_fill_((vectors < 0)[..., None], 0)
        return product(self._owners[owners], some.mT)

    def with_own(self, owners: Tensor, vectors: Tensor) -> Tensor:
        """Products (n_lists, a, k), in `wide`, of owners with vectors (n_lists, k, dim) that each list has."""
        if self._has_kernels:
            numbers = torch.arange(len(vectors), device=vectors.device)[:, None]
            return _products(self._owner_rows, _as_rows(vectors), owners, numbers).squeeze(2)
        return product(self._owners[owners], vectors.mT)

    def add_weighted(self, weights: Tensor, owners: Tensor, sums: Tensor) -> None:
        """Adds sums of the owners' vectors by weights (n_lists, k, a) to `sums` (n_lists, k, dim), in `wide`."""
        if self._has_kernels:
            bounds = torch.arange(len(owners) + 1, device=owners.device)
            _add(sums, weights, self._turned_owners, None, owners, bounds, None)
            return
        sums += product(weights, self._owners[owners])

    def grams(self, owners: Tensor) -> Tensor:
        """Gram matrices (n_lists, a, a), in `wide`, of owners."""
        if self._has_kernels:
            return _products(self._owner_rows, self._owner_rows, owners, owners[:, None]).squeeze(2)
        some = self._owners[owners]
        return product(some, some.mT)

    def add_to_owners(self, of_products: Tensor, owners: Tensor, members: Tensor, sums: Tensor) -> None:
        """Adds the gradient of the owners' vectors by that of `of(owners, members)`, owners ascending."""
        if self._has_kernels:
            bounds = torch.searchsorted(owners, _numbers_of(self._owners)) * members.shape[1]
            operand, scale = rounded(of_products, self._owners.dtype)
            of_pairs = operand.transpose(1, 2).flatten(0, 1)
            _add(sums, of_pairs, self._turned_members, None, members.flatten(), bounds, scale)
            return
        found = gradient_product(of_products.flatten(2), self._members[members].flatten(1, 2))
        sums.index_put_((owners,), found, accumulate=True)

    def add_to_members(self, of_products: Tensor, owners: Tensor, members: Tensor, sums: Tensor) -> None:
        """Adds the gradient of the members' vectors likewise."""
        if self._has_kernels:
            by_member, order = members.flatten().sort(stable=True)  # each member's pairs in their order
            bounds = torch.searchsorted(by_member, _numbers_of(self._members))
            operand, scale = rounded(of_products, self._members.dtype)
            of_pairs = operand.permute(0, 2, 3, 1).flatten(0, 1)
            _add(sums, of_pairs, self._turned_owners, order, owners[order // members.shape[1]], bounds, scale)
            return
        found = gradient_product(of_products.flatten(2).mT, self._owners[owners])
        # sorted first, on a device: sums have an order
        sums.index_put_((members,), found.view(*members.shape, *sums.shape[1:]), accumulate=True)

    def add_by_grams(self, of_grams: Tensor, owners: Tensor, sums: Tensor) -> None:
        """Adds the gradient of the owners' vectors by that of `grams(owners)`, a symmetric one, owners ascending."""
        if self._has_kernels:
            bounds = torch.searchsorted(owners, _numbers_of(self._owners))
            operand, scale = rounded(2 * of_grams, self._owners.dtype)
            _add(sums, operand, self._turned_owners, None, owners, bounds, scale)
            return
        some = self._owners[owners]
        sums.index_put_((owners,), 2 * (of_grams @ some.to(wide(some.dtype))), accumulate=True)

    @functools.cached_property
    def _turned_owners(self) -> Tensor:
        return _as_rows(self._owners.mT)

    @functools.cached_property
    def _turned_members(self) -> Tensor:
        return _as_rows(self._members.mT)


def _numbers_of(groups: Tensor) -> Tensor:
    """0 ... the number of groups: where their runs among ascending numbers begin and end is searched for by these."""
    return torch.arange(len(groups) + 1, device=groups.device)


def _as_rows(matrices: Tensor) -> Tensor:
    """Matrices (n, rows, dim) as the kernels read them."""
    room = -matrices.shape[2] % (ALIGNMENT // matrices.element_size())
    return aligned(pad(matrices, (0, room)) if room else matrices)


def _products(owners: Tensor, members: Tensor, owner_numbers: Tensor, member_numbers: Tensor) -> Tensor:
    numbers = owner_numbers.contiguous(), member_numbers.contiguous()
    found: Tensor = torch.ops.itm_fast.listed_products(owners, members, *numbers)
    return found


def _add(
    sums: Tensor,
    left: Tensor,
    right: Tensor,
    left_numbers: Tensor | None,
    right_numbers: Tensor,
    bounds: Tensor,
    scale: Tensor | None,
) -> None:
    """Adds left @ right^T of the steps bounds[i] ... bounds[i + 1] - 1 to sums[i]; left (n, a, b), right as rows."""
    torch.ops.itm_fast.listed_sums_(sums, _as_rows(left), right, left_numbers, right_numbers, bounds, scale)


@torch.library.register_fake("itm_fast::listed_products")  # type: ignore[untyped-decorator]
def _fake_products(owners: Tensor, members: Tensor, _owner_numbers: Tensor, member_numbers: Tensor) -> Tensor:
    n_lists, length = member_numbers.shape
    return owners.new_empty((n_lists, owners.shape[1], length, members.shape[1]), dtype=torch.float32)


@torch.library.register_fake("itm_fast::listed_sums_")  # type: ignore[untyped-decorator]
def _fake_sums(*_: Tensor) -> None:
    pass
