"""What a reader of figures should know before trusting them, a line each: the figure that shows it, and the way out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from itm_fast.metrics.counting import ALL_CANDIDATES, Ranks
from itm_fast.metrics.positives import Positives
from itm_fast.metrics.ranks import BothTopK
from itm_fast.metrics.semantic_lists import RelevanceSource
from itm_fast.ops.max_similarity import max_similarity
from itm_fast.similarities.ragged import RaggedScorer
from itm_fast.similarities.region_word_scorer import RegionWordScorer
from itm_fast.similarities.scorers import DotProductScorer, MatrixScorer, TileScorer, Vectors, as_float_tensor
from itm_fast.similarities.two_way import TwoWayScorer
from itm_fast.sources.agreement import agreement_notes, compared_tile
from itm_fast.sources.ensemble import EnsembleScorer

_BLOCK_BYTES = 64 << 20  # of vectors whose lengths are taken at a time, as float64
_ROUNDING = 0.01  # of the mean length: what 16 bits leave of unit vectors is far less
_FEWEST_TURNED, _FEWEST_BY_CHANCE = 10, 50  # queries of a direction from which such is said
_SPREADS_TURNED, _SPREADS_BY_CHANCE = (
    4,
    3,
)  # standard deviations of a random order's mean place that are no sign of such
_SAMPLED = 1 << 16  # similarities that are looked at for one that many pairs have
_OFTEN, _DISTINCT = 0.02, 0.5  # shares of pairs that have it, and of distinct ones among the others
_FOUND = 0.3  # mean place of captions that find their images
_TURNED = 0.6  # mean place from which scores may be distances
_WAY_OUT = (
    "normalise=True (--normalise; --normalise-embeddings of itm-fast ensemble) compares by cosine instead, as models "
    "like CLIP are trained"
)


@dataclass(frozen=True)
class _Lengths:
    """Lengths of vectors that are neither zeros nor infinite, and how many are."""

    shortest: float
    mean: float
    longest: float
    n_zero: int
    first_zero: int
    n_infinite: int
    first_infinite: int

    @property
    def differ(self) -> bool:
        return self.longest - self.shortest > _ROUNDING * self.mean

    def __str__(self) -> str:
        return f"{self.shortest:.4g} to {self.longest:.4g}, mean {self.mean:.4g}"


def source_notes(scorer: TileScorer) -> list[str]:
    """What is odd about embeddings or the matrix that similarities come from; nothing where they come from elsewhere.

    Lengths that differ are said where they move a figure: those of captions the order of captions for an image, those
    of images the order of images for a caption. One length for all, whichever, moves nothing.

    Args:
        scorer: the similarities as they were handed in.
    """
    notes = []
    for name, one in _parts(scorer):
        of = f" of {name}" if name else ""
        if isinstance(one, DotProductScorer):
            images, captions = _lengths(one.images), _lengths(one.captions)
            notes += _length_notes(of, "Embeddings", images, captions)
            for side, lengths, n in (("image", images, one.n_images), ("caption", captions, one.n_captions)):
                if lengths.n_zero:
                    notes.append(
                        f"WARNING: {lengths.n_zero} of {n} {side} embeddings{of} are all zeros, the first at row "
                        f"{lengths.first_zero}: their similarities are 0 with everything; look for items that were not "
                        "encoded."
                    )
                if lengths.n_infinite:
                    notes.append(
                        f"WARNING: {lengths.n_infinite} of {n} {side} embeddings{of} are infinite, the first at row "
                        f"{lengths.first_infinite}: what their similarities put in order means nothing; float16 "
                        "overflows so."
                    )
        elif isinstance(one, RegionWordScorer):
            both = _lengths(one.regions), _lengths(one.words)
            if getattr(one.similarity, "func", one.similarity) is max_similarity:
                notes += _length_notes(of, "Regions and words", *both)
            for side, found, n_padding in zip(("region", "word"), both, one.padding, strict=True):
                if found.n_zero > n_padding:
                    notes.append(
                        f"WARNING: {found.n_zero - n_padding} {side}s{of} are all zeros, but take part as others do: "
                        f"if they are padding, {side}_counts (--{side}-counts) leaves it out."
                    )
        elif isinstance(one, RaggedScorer):
            notes += _length_notes(of, "Vectors", _lengths(one.regions.vectors), _lengths(one.words.vectors))
            notes += _sum_notes(of, one)
        elif isinstance(one, MatrixScorer):
            notes += [*_infinite_note(of, one), *_lowest_note(of, one)]
    if isinstance(scorer, TwoWayScorer):
        notes += agreement_notes([(f"the matrix of {name}", compared_tile(one)) for name, one in _parts(scorer)])
    return notes


def has_embeddings(scorer: object) -> bool:
    """Whether similarities come from embeddings that can be normalised."""
    return isinstance(scorer, (DotProductScorer, RegionWordScorer, RaggedScorer))


def normalised(scorer: TileScorer) -> TileScorer:
    """The same embeddings at length 1.

    Args:
        scorer: the similarities as they were handed in.

    Raises:
        ValueError: they do not come from embeddings.
    """
    if isinstance(scorer, (DotProductScorer, RegionWordScorer, RaggedScorer)):
        return scorer.normalised()
    raise ValueError(
        "normalise is for embeddings, a pair (images, captions), which have lengths; similarities and models have "
        "none: leave normalise out"
    )


def rank_notes(
    image: Ranks, caption: Ranks, n_images: int, n_captions: int, *, beside_chance: bool = False
) -> list[str]:
    """Said of similarities that put nothing in order, or put it the other way round.

    Args:
        image: ranks of image queries in the whole gallery.
        caption: ranks of caption queries, likewise.
        n_images: images of the gallery.
        n_captions: captions of the gallery.
        beside_chance: figures no better than chance are said elsewhere.
    """
    notes = []
    for ranks, query, item, n_items in (
        (image, "image", "captions", n_captions),
        (caption, "caption", "images", n_images),
    ):
        asking = ranks.n_positives > 0
        others = n_items - ranks.n_positives[asking]
        alike = (ranks.optimistic[asking] == 0) & (ranks.pessimistic[asking] == others) & (others > 0)
        if len(alike) and bool(alike.all()):
            notes.append(
                f"WARNING: every one of the {len(alike)} {query} queries has the same similarity with all {n_items} "
                f"{item}: its figures come from the order of the {item} in the file alone; look at what was scored."
            )
    return notes or _order_notes([_places(image, n_captions), _places(caption, n_images)], beside_chance)


def _places(ranks: Ranks, n_items: int) -> Tensor:
    """Where the positives of each query stand among its other items, on the mean: 0, before all, to 1; float64."""
    known = (ranks.n_candidates == ALL_CANDIDATES) & (ranks.best >= 0)
    positives = ranks.positives[known]
    there = positives >= 0
    n_found = there.sum(1)
    others = n_items - n_found
    before = positives - torch.arange(there.shape[1], device=there.device)  # what is positive itself is no other
    places = before.double().masked_fill(~there, 0).sum(1) / (n_found * others)
    return places[others > 0]


def _order_notes(places: list[Tensor], beside_chance: bool) -> list[str]:
    """In a random order places are uniform: 1/2 on the mean, with variance 1/12 (less, where positives are many)."""
    n_fewest = min(map(len, places))
    if n_fewest < _FEWEST_TURNED:
        return []
    found = [(float(some.mean()), math.sqrt(1 / 12 / len(some))) for some in places]
    if all(mean > max(_TURNED, 0.5 + _SPREADS_TURNED * spread) for mean, spread in found):
        return [
            "WARNING: far worse than a random order of the gallery, in both directions: are these distances? The higher"
            " comes first here: negate them."
        ]
    at_chance = all(mean > 0.5 - _SPREADS_BY_CHANCE * spread for mean, spread in found)
    if at_chance and n_fewest >= _FEWEST_BY_CHANCE and not beside_chance:
        return [
            "WARNING: no better than a random order of the gallery, in either direction: are rows (images) and columns "
            "(captions) in the same order?"
        ]
    return []


def shift_notes(caption: Ranks, positives: Positives) -> list[str]:
    """Said of captions of one place among those of each image that are found by chance alone, while others are not.

    Where lines stand one off, each image has four of its five captions, and figures look like those of a weaker model.

    Args:
        caption: ranks of caption queries in the whole gallery.
        positives: whose captions they are.
    """
    counts, places = positives.captions_of_image, _places(caption, positives.n_images)
    per_image = int(counts.max(initial=0))
    if positives.n_images < _FEWEST_BY_CHANCE or counts.min() < per_image or len(places) < positives.n_captions:
        return []
    means = places[torch.from_numpy(positives.by_image)].view(-1, per_image).mean(0)
    by_chance = means > 0.5 - _SPREADS_BY_CHANCE * math.sqrt(1 / 12 / positives.n_images)
    if bool(by_chance.all()) or not bool(by_chance.any()) or float(means[~by_chance].max()) > _FOUND:
        return []
    lost = ", ".join(str(1 + place) for place in by_chance.nonzero()[:, 0].tolist())
    return [
        f"WARNING: of the {per_image} captions of every image, number {lost} finds its image no better than a random "
        "order would, the others do: do the captions, or their owners, stand some lines off?"
    ]


def relevance_notes(source: RelevanceSource, ideal: BothTopK) -> list[str]:
    """Said of φ that prefers nothing.

    Args:
        source: φ.
        ideal: the items of most φ of every query, of the whole gallery.
    """
    notes = [f"WARNING: {note}." for note in getattr(source, "notes", ())]
    best = ideal.image.values[:, :1]
    if not best.numel():
        return notes
    most = float(best.max())
    smallest = getattr(source, "smallest", 0)
    if smallest < 0:
        notes.append(
            f"WARNING: φ goes down to {smallest:g}: NCS is a share of the largest sum of φ, which means nothing where "
            "what is retrieved may count below 0; look at where φ comes from."
        )
    elif most <= 0 and not getattr(source, "is_zero", False):
        notes.append(
            f"WARNING: no pair has φ above 0 (the largest is {most:g}): NCS is 0 whatever is retrieved; look at where "
            "φ comes from."
        )
    elif most > 0 and bool((ideal.image.values == most).all()) and _is_constant(source, most):
        notes.append(
            f"WARNING: φ is {most:g} of every image and every caption: NCS is 100 whatever is retrieved; look at where "
            "φ comes from."
        )
    return notes


def _parts(scorer: TileScorer) -> Iterator[tuple[str, TileScorer]]:
    """Scorers that a scorer is made of, by name."""
    if isinstance(scorer, EnsembleScorer):
        for member in scorer.members:
            yield member.name, member.tiles.scorer
    elif isinstance(scorer, TwoWayScorer):
        yield "image queries", scorer.images_to_captions
        yield "caption queries", scorer.captions_to_images
    else:
        yield "", scorer


def _length_notes(of: str, what: str, images: _Lengths, captions: _Lengths) -> list[str]:
    moved = [way for way, side in (("image -> caption", captions), ("caption -> image", images)) if side.differ]
    if not moved:
        return []
    return [
        f"WARNING: {what}{of} are compared by dot product, but their lengths differ (images {images}; captions "
        f"{captions}), so that {' and '.join(moved)} ranks by length too; {_WAY_OUT}."
    ]


def _sum_notes(of: str, scorer: RaggedScorer) -> list[str]:
    options = getattr(scorer.similarity, "keywords", {})
    queries = scorer.regions if options.get("cross_attn") == "i2t" else scorer.words
    side, way = ("images", "caption -> image") if queries is scorer.regions else ("captions", "image -> caption")
    fewest, most = (int(n) for n in (queries.counts.min(), queries.counts.max())) if len(queries) else (0, 0)
    if fewest == most or options.get("agg_func", "Sum") != "Sum":
        return []
    return [
        f"Similarities{of} are sums over the vectors of {side}, of which there are {fewest} to {most}: {way} prefers "
        f"those that have many; agg_func Mean (--agg-func Mean) does not."
    ]


def _infinite_note(of: str, matrix: MatrixScorer) -> list[str]:
    """Said of similarities that nothing can be above."""
    n_infinite, first = 0, (-1, -1)
    step = max(1, _BLOCK_BYTES // (8 * max(1, matrix.n_captions)))
    for start in range(0, matrix.n_images, step):
        some = as_float_tensor(matrix(slice(start, start + step), slice(0, matrix.n_captions)))
        if not some.numel() or float(some.max()) < math.inf:  # which is cheaper than to look for them
            continue
        places = (some == math.inf).nonzero()
        if len(places) and not n_infinite:
            first = start + int(places[0, 0]), int(places[0, 1])
        n_infinite += len(places)
    if not n_infinite:
        return []
    return [
        f"WARNING: {n_infinite} of {matrix.n_images * matrix.n_captions} similarities{of} are +inf, the first at row "
        f"{first[0]}, column {first[1]}, and come first whatever the others are; float16 overflows so, and a division "
        "by a distance of 0."
    ]


def _lowest_note(of: str, matrix: MatrixScorer) -> list[str]:
    """Said of one lowest similarity that many pairs have while the others differ: it may stand for no similarity."""
    step = max(1, _SAMPLED // max(1, matrix.n_captions))
    some = as_float_tensor(matrix(slice(0, min(step, matrix.n_images)), slice(0, matrix.n_captions))).flatten()
    some = some[some.isfinite()]
    if not len(some):
        return []
    lowest = float(some.min())
    others = some[some > lowest]
    share = 1 - len(others) / len(some)
    if (
        share < _OFTEN
        or int(others.sort().values.diff().count_nonzero()) < _DISTINCT * len(others)
        or len(others) < _FEWEST_BY_CHANCE
    ):
        return []
    return [
        f"WARNING: {100 * share:.0f} % of similarities{of} are {lowest:g}, the lowest, and hardly two others are "
        f"equal: if it stands for pairs that were no candidates, ranks among them mean nothing: --no-candidate "
        f"{lowest:g} (-inf)."
    ]


def _lengths(vectors: Vectors) -> _Lengths:
    """Block by block; NaN, which the pass over the similarities refuses, is no length."""
    width = math.prod(vectors.shape[1:])
    step = max(1, _BLOCK_BYTES // (8 * max(1, width)))
    shortest, longest, total, n = math.inf, 0.0, 0.0, 0
    zero, infinite = [0, -1], [0, -1]  # how many, and the first
    for start in range(0, vectors.shape[0], step):
        some = as_float_tensor(vectors[start : start + step])
        lengths = torch.linalg.vector_norm(some, dim=-1, dtype=torch.float64).flatten().cpu()
        are_zero, are_infinite = lengths == 0, lengths == math.inf
        for odd, those in ((zero, are_zero), (infinite, are_infinite)):
            if bool(those.any()):
                odd[:] = odd[0] + int(those.sum()), odd[1] if odd[0] else start + int(those.int().argmax())
        lengths = lengths[~(are_zero | are_infinite)]
        if len(lengths):
            shortest, longest = min(shortest, float(lengths.min())), max(longest, float(lengths.max()))
            total, n = total + float(lengths.sum()), n + len(lengths)
    return _Lengths(shortest if n else 0.0, total / n if n else 0.0, longest, *zero, *infinite)


def _is_constant(source: TileScorer, value: float) -> bool:
    """Whether all tiles hold one value; the first tile with another ends it."""
    step = max(1, _BLOCK_BYTES // (8 * max(1, source.n_captions)))
    for start in range(0, source.n_images, step):
        tile = source(slice(start, min(start + step, source.n_images)), slice(0, source.n_captions))
        if bool((as_float_tensor(tile) != value).any()):
            return False
    return True
