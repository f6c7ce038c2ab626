"""Whether several similarities are of the same images and captions in the same order, by how alike they are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from itm_fast.similarities.scorers import TileScorer, as_float_tensor

_ROWS, _COLUMNS = 128, 1024  # of the tile that is compared
_FEWEST = 20  # rows, below which chance has too few orders
_COMMON = 0.5  # share of pairs with a similarity in both
_SPREADS = 4.5  # standard deviations of what rows in other orders have in common


def compared_tile(scorer: TileScorer) -> Tensor:
    """The similarities of the first images and captions, float64, each less what its row and its column have alike.

    Those of an image with what would be its own captions, n_captions / n_images in order, are 0: they are high in any
    two sets, as long as each has its captions in the order of its images.
    """
    n_images, n_captions = scorer.n_images, scorer.n_captions
    n_rows = min(_ROWS, n_images)
    n_columns = min(_COLUMNS, math.ceil(n_captions * n_rows / max(1, n_images)))
    tile = as_float_tensor(scorer(slice(0, n_rows), slice(0, n_columns))).double().cpu()
    own = torch.arange(n_columns) * n_images // max(1, n_captions) == torch.arange(n_rows)[:, None]
    tile = tile.masked_fill(own | ~tile.isfinite(), math.nan)
    tile = tile - tile.nanmean(0)
    return (tile - tile.nanmean(1, keepdim=True)).nan_to_num()


def agreement_notes(members: Sequence[tuple[str, Tensor]]) -> list[str]:
    """Said of members that agree with no other, as those of rows in another order, or of distances.

    Args:
        members: the name of each, and its ``compared_tile``.
    """
    notes = []
    for place, (name, tile) in enumerate(members):
        others = [member for number, member in enumerate(members) if number != place]
        agreed = [_agreement(tile, theirs) for _, theirs in others]
        if len(tile) < _FEWEST or not agreed or not max(agreed) < _SPREADS:
            continue
        among = others[0][0] if len(others) == 1 else "every other member"
        if min(agreed) < -_SPREADS:
            notes.append(
                f"WARNING: {name} orders pairs the other way round than {among}: is one of them distances? The higher "
                "is the better here: negate them."
            )
        else:
            notes.append(
                f"WARNING: {name} agrees with {among} no more than with its rows in any order: are their rows (images)"
                " and columns (captions) in the same order?"
            )
        if len(others) == 1:
            break  # the other one would say the same
    return notes


def _agreement(first: Tensor, second: Tensor) -> float:
    """How far the correlation of two tiles lies above that with rows moved on, in its standard deviations.

    Infinity where too few pairs have a similarity in both, or one is constant: that they disagree is not known.
    """
    if int(((first != 0) & (second != 0)).sum()) < _COMMON * first.numel():
        return math.inf
    products = first @ second.T
    moved = torch.stack([products.roll(-step, 1).diagonal().sum() for step in range(len(products))])
    return float((moved[0] - moved[1:].mean()) / moved[1:].std())
