"""Ensembles: the weighted mean of several sources of similarities as one more source, tile by tile."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from itm_fast.files.ids import IdsLike, as_spelt, read_ids
from itm_fast.runs.result import Report
from itm_fast.similarities.scorers import (
    DotProductScorer,
    IntArray,
    Sims,
    TileScorer,
    as_float_tensor,
    as_scorer,
    owners_of,
)
from itm_fast.similarities.selection import select
from itm_fast.similarities.tiles import CHUNK_BYTES, Progress, Tiles
from itm_fast.sources.agreement import agreement_notes, compared_tile
from itm_fast.sources.pairs import as_pair_scorer
from itm_fast.sources.scales import Normalisation, Normaliser, Scale, fit_normaliser

_UNLIKE = 4.0  # times the weighted spread of another member, from which a plain mean is hardly an ensemble
_SUM_TOLERANCE = 1e-6


@dataclass(eq=False)
class Member:
    """One source of an ensemble.

    Attributes:
        name: what reports and errors call it.
        tiles: its similarities, checked.
        normalise: makes them comparable with those of the others.
        scale: of the similarities as they are.
        compared: a tile that the members are compared by (``compared_tile``).
        seconds: spent on scoring, so far.
    """

    name: str
    tiles: Tiles
    normalise: Normaliser
    scale: Scale
    compared: Tensor
    seconds: float = 0.0

    def score(self, rows: slice, columns: slice) -> Tensor:
        """A tile, normalised, float64."""
        started = time.perf_counter()
        tile = self.tiles.score(rows, columns)
        self.seconds += time.perf_counter() - started
        return self.normalise(tile)

    def score_pairs(self, rows: IntArray, columns: IntArray, progress: Progress | None) -> Tensor:
        """Some pairs, normalised, (n,) float64."""
        started = time.perf_counter()
        scorer = self.tiles.scorer
        scores = as_float_tensor(
            as_pair_scorer(scorer, scorer.n_images, scorer.n_captions).score_pairs(rows, columns, progress)
        )
        self.seconds += time.perf_counter() - started
        if bool(scores.isnan().any()):
            first = int(scores.isnan().nonzero()[0])
            raise ValueError(f"{self.name} is NaN at row (image) {rows[first]}, column (caption) {columns[first]}")
        return self.normalise(scores.cpu())


class EnsembleScorer:
    """The weighted mean of several similarities of every image and caption, in float64: a source like any other.

    ``evaluate(EnsembleScorer([first, second]))`` ranks by the mean. That is not the mean of the recalls of the members,
    which is the figure of no model. Nothing of size n_images x n_captions is made.

    Example:
        >>> import torch
        >>> from itm_fast.evaluation import evaluate
        >>> first, second = torch.tensor([[0.9, 0.5], [0.8, 0.7]]), torch.tensor([[0.9, 0.1], [0.2, 0.3]])
        >>> ensemble = EnsembleScorer([first, second])
        >>> ensemble(slice(0, 1), slice(0, 2))
        tensor([[0.9000, 0.3000]], dtype=torch.float64)
        >>> evaluate(ensemble, captions_per_image=1)["t2i"]["R@1"]
        100.0
    """

    def __init__(
        self,
        members: Sequence[Sims],
        *,
        weights: Sequence[float] | None = None,
        normalise: Normalisation = "none",
        normalise_embeddings: bool = False,
        names: Sequence[str] | None = None,
        ids: Sequence[IdsLike | None] | None = None,
        chunk_bytes: int = CHUNK_BYTES,
        progress: Progress | None = None,
    ) -> None:
        """Check the members, and pass over each as often as ``normalise`` needs.

        Args:
            members: at least two, each whatever ``evaluate`` takes: matrices, pairs of embeddings, tile scorers.
            weights: one a member, at least 0, of sum 1; None: all alike.
            normalise: "none": the mean of the similarities as they are; they must be of one scale, such as all cosines,
                for a member with wider ones (logits) decides alone. "zscore": each less the mean of its matrix, over
                its standard deviation. "rank": each as the share of its matrix that is smaller, 0 to 1, from a
                histogram of 2^20 bins.
            normalise_embeddings: compare members that are embeddings by cosine.
            names: one a member, for reports and errors.
            ids: one a member: the ids of its rows and columns (``read_ids``), or None if it has none; they must agree.
            chunk_bytes: bound of a tile in these passes, counted as 8 bytes a similarity.
            progress: called with (pairs done, pairs in all) of each of these passes.

        Raises:
            ValueError: fewer than two members, members of other sizes or ids, weights that are negative or do not sum
                to 1, NaN in a member (which is named), a constant member where its spread is divided by,
                normalise_embeddings without embeddings.
            TypeError: members of an unsupported type.
        """
        scorers = [as_scorer(member) for member in members]
        if len(scorers) < 2:
            raise ValueError(f"an ensemble has at least two members, given {len(scorers)}")
        if normalise_embeddings:
            if not any(isinstance(scorer, DotProductScorer) for scorer in scorers):
                raise ValueError("normalise_embeddings is for members that are embeddings, but there are none")
            scorers = [one.normalised() if isinstance(one, DotProductScorer) else one for one in scorers]
        names = [f"member {number}" for number in range(1, len(scorers) + 1)] if names is None else list(names)
        for what, given in (("names", names), ("ids", ids)):
            if given is not None and len(given) != len(scorers):
                raise ValueError(f"{what} has {len(given)} entries, expected one a member: {len(scorers)}")
        self.weights = checked_weights(weights, len(scorers))
        _check_sizes(scorers, names)
        if ids is not None:
            check_ids(ids, names, scorers[0].n_images, scorers[0].n_captions)
        self.n_images, self.n_captions = scorers[0].n_images, scorers[0].n_captions
        self.normalisation: Normalisation = normalise
        self.members: tuple[Member, ...] = ()
        for name, scorer in zip(names, scorers, strict=True):
            started = time.perf_counter()
            tiles = Tiles(scorer, None, name)
            fitted = fit_normaliser(normalise, tiles, name, chunk_bytes=chunk_bytes, progress=progress)
            compared = compared_tile(scorer)
            self.members += (Member(name, tiles, *fitted, compared, time.perf_counter() - started),)

    @property
    def owners(self) -> IntArray | None:
        """(n_captions,) int64, the image of each caption, where a member's data set says it."""
        return next((found for m in self.members if (found := owners_of(m.tiles.scorer)) is not None), None)

    def __call__(self, rows: slice, columns: slice, /) -> Tensor:
        """The similarities of a tile, float64."""
        return weighted_sum([(w, m.score(rows, columns)) for w, m in zip(self.weights, self.members, strict=True) if w])

    def score_pairs(self, rows: IntArray, columns: IntArray, progress: Progress | None = None, /) -> Tensor:
        """(n,) similarities of the images ``rows`` with the captions ``columns``, so that an ensemble can re-rank."""
        asked = [(weight, member) for weight, member in zip(self.weights, self.members, strict=True) if weight]
        return weighted_sum([(weight, member.score_pairs(rows, columns, progress)) for weight, member in asked])

    @property
    def notes(self) -> list[str]:
        """What a reader of the figures should know: of all members first, then what is one's own under its name."""
        found = [(member.name, list(getattr(member.tiles.scorer, "notes", ()))) for member in self.members]
        common = [note for note in found[0][1] if all(note in notes for _, notes in found)]
        own = [f"{name}: {note}" for name, notes in found for note in notes if note not in common]
        weighed = [(m.name, m.compared) for w, m in zip(self.weights, self.members, strict=True) if w]
        return [*common, *own, *agreement_notes(weighed)]

    def select(self, rows: IntArray | None, columns: IntArray | None, /) -> EnsembleScorer:
        """The same ensemble of some images and captions, in the order given; normalised as the whole set is."""
        part = self.with_weights(self.weights)
        part.members = tuple(
            replace(member, tiles=Tiles(select(member.tiles.scorer, rows, columns), None, member.tiles.what))
            for member in self.members
        )
        scorer = part.members[0].tiles.scorer
        part.n_images, part.n_captions = scorer.n_images, scorer.n_captions
        return part

    def with_weights(self, weights: Sequence[float]) -> EnsembleScorer:
        """The same members with other weights."""
        other = object.__new__(EnsembleScorer)
        other.__dict__ |= self.__dict__
        other.weights = checked_weights(weights, len(self.members))
        return other

    def annotated(self, report: Report) -> Report:
        """A report of this ensemble that says what its members are, how wide they are, and what they cost.

        Args:
            report: what ``evaluate`` said of it.

        Returns:
            It with ``report["members"]``, a list of {"name", "weight", "min", "max", "mean", "std", "seconds"}, the
            normalisation among the conditions, and notes.
        """
        members = [
            {
                "name": member.name,
                "weight": weight,
                "min": member.scale.minimum,
                "max": member.scale.maximum,
                "mean": member.scale.mean,
                "std": member.scale.std,
                "seconds": member.seconds,
            }
            for weight, member in zip(self.weights, self.members, strict=True)
        ]
        conditions = {**report["conditions"], "normalise": self.normalisation}
        conditions["notes"] = [*conditions.get("notes", []), *self._notes()]
        return Report({**report, "members": members, "conditions": conditions})

    def _notes(self) -> list[str]:
        n_passes = {"none": 1, "zscore": 2, "rank": 3}[self.normalisation]
        passes = "once" if n_passes == 1 else f"{n_passes} times, {n_passes - 1} of them for {self.normalisation}"
        seen = self.members[0].scale.n
        of = "all pairs" if seen >= self.n_images * self.n_captions else "256 images"
        notes = [f"Ensemble: each member scored all pairs {passes}; min, max, mean and std are of {of}."]
        widths = [(w * m.scale.std, m.name) for w, m in zip(self.weights, self.members, strict=True) if w]
        (narrow, narrowest), (wide, widest) = min(widths), max(widths)
        if self.normalisation == "none" and wide > _UNLIKE * narrow:
            times = f"{wide / narrow:.0f} times as wide as" if narrow else "wide, unlike"
            notes.append(
                f"WARNING: the weighted similarities of {widest} are {times} those of {narrowest}, so that it decides "
                "almost alone; use zscore or rank, or other weights."
            )
        return notes


def weighted_sum(parts: Sequence[tuple[float, Tensor]]) -> Tensor:
    """Sum of weight · similarities, float64, in the order given."""
    (weight, first), *others = parts
    total = first * weight
    for weight, part in others:
        # Not add_(part, alpha=weight): fused or not, it may round equal similarities differently from place to place.
        total += part.to(total.device) * weight
    return total


def checked_weights(weights: Sequence[float] | None, n_members: int) -> tuple[float, ...]:
    """Weights as plain numbers, all alike if none are given.

    Raises:
        ValueError: not one a member, negative or not finite, a sum other than 1.

    Example:
        >>> checked_weights(None, 2)
        (0.5, 0.5)
    """
    if weights is None:
        return (1 / n_members,) * n_members
    if len(weights) != n_members:
        raise ValueError(f"weights has {len(weights)} numbers, expected one a member: {n_members}")
    plain = tuple(float(weight) for weight in weights)
    for number, weight in enumerate(plain):
        if not math.isfinite(weight) or weight < 0:
            raise ValueError(f"weights[{number}] is {weight}, expected at least 0")
    if abs(math.fsum(plain) - 1) > _SUM_TOLERANCE:
        raise ValueError(f"weights sum to {math.fsum(plain):g}, expected 1")
    return plain


def _check_sizes(scorers: Sequence[TileScorer], names: Sequence[str]) -> None:
    first, *others = scorers
    size = (first.n_images, first.n_captions)
    for name, scorer in zip(names[1:], others, strict=True):
        given = (scorer.n_images, scorer.n_captions)
        if given != size:
            turned = "; one of them looks transposed: rows are images, columns captions" if given == size[::-1] else ""
            raise ValueError(
                f"{names[0]} is of {size[0]} images x {size[1]} captions, but {name} of {given[0]} x {given[1]}{turned}"
            )


def check_ids(ids: Sequence[IdsLike | None], names: Sequence[str], n_images: int, n_captions: int) -> None:
    """Raise ValueError unless all members that have ids have the same, in the same order, one a row and column."""
    first: tuple[str, dict[str, list[Any]]] | None = None
    for name, given in zip(names, ids, strict=True):
        if given is None:
            continue
        read = read_ids(given)
        sides = {"image_ids": list(read.images)}
        if read.captions is not None:
            sides["caption_ids"] = list(read.captions)
        for side, n in (("image_ids", n_images), ("caption_ids", n_captions)):
            if side in sides and len(sides[side]) != n:
                raise ValueError(f"{side} of {name} has {len(sides[side])} ids, but it has {n} {side[:-4]}s")
        if first is None:
            first = name, sides
            continue
        for side in sides.keys() & first[1].keys():
            ours, theirs = first[1][side], as_spelt(sides[side], first[1][side])
            if ours != theirs:
                place = next(i for i, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
                order = " (the same ids in another order)" if sorted(map(str, ours)) == sorted(map(str, theirs)) else ""
                raise ValueError(
                    f"{side} of {first[0]} and {name} differ{order}, first at {place}: {ours[place]!r} and "
                    f"{theirs[place]!r}; the members must be of the same images and captions, in the same order"
                )
