"""The images and captions that a protocol has, out of those given, in its order."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from itm_fast.files.ids import Ids, as_spelt
from itm_fast.metrics.query_positives import numbered
from itm_fast.similarities.scorers import IntArray, TileScorer
from itm_fast.similarities.selection import Order, select


@dataclass(frozen=True, eq=False)
class Arranged:
    """The images and captions of a protocol.

    Attributes:
        scorer: their similarities, in the order of the protocol.
        order: which of the given images and captions they are, (n_images,) and (n_captions,); None for all of them, in
            the order given.
        notes: what was left out.
    """

    scorer: TileScorer
    order: Order
    notes: list[str]

    @property
    def moved(self) -> bool:
        """Whether nothing else may be read by position."""
        return any(part is not None for part in self.order)


def arrange(
    scorer: TileScorer,
    ids: Ids,
    wanted: tuple[Sequence[Hashable], Sequence[Hashable] | None],
    protocol: str,
    plain: Callable[[Iterable[Hashable], str], Sequence[Hashable]] | None = None,
) -> Arranged:
    """The wanted images and captions of a scorer, in the wanted order.

    Args:
        scorer: similarities by tile.
        ids: the ids of its rows and columns.
        wanted: ids of images and of captions, in the order of the protocol; None: all captions as they are.
        protocol: its name, for errors.
        plain: the form in which ids are compared; None: as the protocol spells them (``as_spelt``).

    Returns:
        The scorer of these; ids that nobody wants are left out and noted.

    Raises:
        ValueError: not one id a row and a column, ids that are there twice, wanted ones that are not there.
    """
    sizes = {"image_ids": scorer.n_images, "caption_ids": scorer.n_captions}
    chosen: list[IntArray | None] = []
    notes = []
    for (name, n), given, ours in zip(sizes.items(), (ids.images, ids.captions), wanted, strict=True):
        if ours is None:
            chosen.append(None)
            continue
        if given is None:
            raise ValueError(f"protocol {protocol} needs caption_ids beside image_ids")
        if len(given) != n:
            other = next((size for other, size in sizes.items() if other != name))
            turned = "; sims looks transposed: rows are images, columns captions" if len(given) == other else ""
            raise ValueError(f"{name} has {len(given)} ids, but sims has {n} {name[:-4]}s{turned}")
        places = numbered(as_spelt(given, ours) if plain is None else plain(given, name), name)
        missing = [key for key in ours if key not in places]
        if missing:
            raise ValueError(
                f"{name} does not fit protocol {protocol}: {len(missing)} of its {len(ours)} {name[:-4]}s are not "
                f"among the ids given, such as {missing[0]!r}; the ids given are like {next(iter(places), None)!r}"
            )
        if len(given) > len(ours):
            notes.append(f"{len(given) - len(ours)} {name[:-4]}s that protocol {protocol} does not have were left out")
        chosen.append(np.array([places[key] for key in ours], dtype=np.int64))
    arranged = select(scorer, *chosen)
    rows, columns = chosen
    return Arranged(arranged, (None, None) if arranged is scorer else (rows, columns), notes)
