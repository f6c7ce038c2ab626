"""Plans of the protocols that are one public release each: what is ranked is what its files hold, in their order."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from itm_fast.data.readers.beir_folder import read_judged_folder
from itm_fast.evaluation.arrangement import Arranged, arrange
from itm_fast.evaluation.beside_recall import AlteredFirst, Extra, Languages, PartRanks
from itm_fast.evaluation.plan import Plan, Request
from itm_fast.evaluation.protocols.captioned_sets import CaptionedSet, annotations_place, read_captioned_set
from itm_fast.evaluation.protocols.relevant_pairs import RelevantPairs
from itm_fast.files.ids import Ids, read_ids, stem
from itm_fast.metrics.positives import make_positives
from itm_fast.metrics.query_positives import QueryPositives
from itm_fast.similarities.scorers import IntArray, TileScorer

_PAGES = "queries, corpus (the pages) and qrels, as parquet, .jsonl or .tsv"
_VIDORE = "https://huggingface.co/vidore (the collections with BEIR's layout)"


def set_plan(scorer: TileScorer, request: Request) -> Plan:
    """The plan of a protocol of ``SETS``; raises as ``make_plan``."""
    name = str(request.protocol)
    found = read_captioned_set(request.annotations_folder(), name)
    if found.rules.scored == "altered images":
        return _with_altered_images(scorer, request, found)
    arranged = in_order(scorer, request, found.ids)
    owners, n_images = found.items.caption_to_image, len(found.items.image_names)
    notes = [*arranged.notes, *found.notes]
    if found.rules.scored == "altered captions":
        return _with_altered_captions(arranged, found, request, notes)
    if found.rules.scored == "recall":
        positives = make_positives(n_images, len(owners), caption_to_image=owners)
        return Plan(arranged.scorer, positives, order=arranged.order, notes=notes, says_chance=True)
    languages = np.array(found.items.languages or [])
    parts = []
    for language in dict.fromkeys(languages.tolist()):
        columns = np.flatnonzero(languages == language)
        parts.append(PartRanks(language, None, columns, *both_ways(owners[columns], n_images), request.ks))
    truths = both_ways(owners, n_images)
    extras = [Languages(parts)]
    return Plan(
        arranged.scorer, truths, None, "language_mean", extras, order=arranged.order, notes=notes, says_chance=True
    )


def in_order(scorer: TileScorer, request: Request, ids: Ids) -> Arranged:
    """The images and captions of a set in its order: by ids, or as they are, where there are as many."""
    wanted = len(ids.images), len(ids.captions or ())
    if request.ids is not None:
        return arrange(scorer, read_ids(request.ids), (ids.images, ids.captions), str(request.protocol))
    given = scorer.n_images, scorer.n_captions
    if given == wanted:
        return Arranged(scorer, (None, None), [])
    reason = ""
    if given == wanted[::-1]:
        reason = ": it looks transposed; rows are images and columns captions, so pass sims.T (--transposed)"
    elif given[0] == given[1] == wanted[1]:
        reason = ": an image a caption; pass every image of the files once, in the order in which they first come"
    elif given[0] >= wanted[0] and given[1] >= wanted[1]:
        reason = ": give ids (--ids) to take these from more"
    raise ValueError(
        f"protocol {request.protocol} has {wanted[0]} images x {wanted[1]} captions in these annotations, given "
        f"{given[0]} x {given[1]}{reason}"
    )


def both_ways(owners: IntArray, n_images: int) -> tuple[QueryPositives, QueryPositives]:
    """Positives of image and of caption queries from the image of each caption; -1: it is nobody's."""
    owned = np.flatnonzero(owners >= 0)
    order = owned[np.argsort(owners[owned], kind="stable")]
    offsets = np.zeros(n_images + 1, np.int64)
    np.cumsum(np.bincount(owners[owned], minlength=n_images), out=offsets[1:])
    images = QueryPositives(order, offsets, np.zeros(n_images, np.int64), len(owners))
    has_one = np.zeros(len(owners) + 1, np.int64)
    np.cumsum(owners >= 0, out=has_one[1:])
    captions = QueryPositives(owners[owned], has_one, np.zeros(len(owners), np.int64), n_images)
    return images, captions


def _with_altered_captions(arranged: Arranged, found: CaptionedSet, request: Request, notes: list[str]) -> Plan:
    """Altered captions are in the gallery and nobody's; beside it the figures without them."""
    owners, altered = found.items.caption_to_image, found.altered
    n_images = len(found.items.image_names)
    originals = np.flatnonzero(~altered)
    extras: list[Extra] = [
        AlteredFirst("image", altered),
        PartRanks("originals", None, originals, *both_ways(owners[originals], n_images), request.ks),
    ]
    notes.append(
        f"{int(altered.sum())} altered captions are in the gallery of image queries and ask nothing: caption queries "
        "are the originals, and their figures are those without altered captions"
    )
    truths = both_ways(np.where(altered, -1, owners), n_images)
    return Plan(arranged.scorer, truths, None, "full", extras, order=arranged.order, notes=notes, says_chance=True)


def _with_altered_images(scorer: TileScorer, request: Request, found: CaptionedSet) -> Plan:
    """An altered image beside each is in the gallery and nobody's; beside it the figures without them."""
    owners, own = found.items.caption_to_image, found.ids
    n_images = len(own.images)
    names = list(own.images)
    if request.ids is not None:
        names += _altered_names(own.images, read_ids(request.ids).images, str(request.protocol))
    else:
        names += [f"altered/{name}" for name in own.images]
    arranged = in_order(scorer, request, Ids(names, own.captions))
    altered = np.arange(2 * n_images) >= n_images
    extras: list[Extra] = [
        AlteredFirst("caption", altered),
        PartRanks("originals", np.flatnonzero(~altered), None, *both_ways(owners, n_images), request.ks),
    ]
    notes = [
        *arranged.notes,
        *found.notes,
        f"{n_images} altered images are in the gallery of caption queries and ask nothing: image queries are the "
        "originals, and their figures are those without altered images",
    ]
    truths = both_ways(owners, 2 * n_images)
    return Plan(arranged.scorer, truths, None, "full", extras, order=arranged.order, notes=notes, says_chance=True)


def _altered_names(originals: Sequence[Hashable], given: Sequence[Hashable], protocol: str) -> list[Hashable]:
    """Of each original the given id of the same file name in another folder."""
    known = set(originals)
    others: dict[str, Hashable] = {}
    for key in given:
        if key not in known and others.setdefault(stem(str(key)), key) != key:
            raise ValueError(
                f"image_ids has {others[stem(str(key))]!r} and {key!r}; protocol {protocol} has one altered image of a "
                "name: evaluate each lot of altered images by itself"
            )
    missing = [key for key in originals if stem(str(key)) not in others]
    if missing:
        raise ValueError(
            f"image_ids has no altered image of {len(missing)} of the {len(originals)} images, such as {missing[0]!r}; "
            f"protocol {protocol} expects one of the same file name in another folder, such as mix_0.9/"
        )
    return [others[stem(str(key))] for key in originals]


def judged_pages(request: Request) -> RelevantPairs:
    """Pages and queries of a folder in BEIR's layout, and which page answers which query, with grades.

    With ids queries that nothing answers are not wanted: `embed` leaves them out.
    """
    place = annotations_place(request.annotations_folder(), "vidore", _PAGES, _VIDORE)
    images, texts, grades = read_judged_folder(place, "test")
    texts = texts if request.ids is None else [text for text in texts if text in grades]
    turned: dict[str, dict[str, float]] = {}
    for text, of in grades.items():
        for image, grade in of.items():
            turned.setdefault(image, {})[text] = grade
    return RelevantPairs(Ids(images, texts), turned, grades)  # type: ignore[arg-type]  # strings are hashable
