"""From a protocol's name to what is ranked: images and captions in its order, positives, folds, and what is extra."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from itm_fast.data.readers.fine_grained import FineGrained, read_fine_grained
from itm_fast.evaluation.arrangement import Arranged, arrange
from itm_fast.evaluation.beside_recall import (
    Correlation,
    Extra,
    IntraModal,
    PartRanks,
    PlausibleMatches,
    RankedSets,
    RetrievedSets,
)
from itm_fast.evaluation.plan import Plan, Request
from itm_fast.evaluation.protocols import Protocol, check_protocol, cxc, find_protocol
from itm_fast.evaluation.protocols._protocol import Headline
from itm_fast.evaluation.protocols.captioned_sets import SETS
from itm_fast.evaluation.protocols.eccv_caption import (
    CocoTest,
    Truth,
    has_plausible_matches,
    read_coco_test,
    read_truth,
)
from itm_fast.evaluation.protocols.pair_choices import CHOICES
from itm_fast.evaluation.protocols.relevant_pairs import graded_lists, read_relevant_pairs
from itm_fast.evaluation.set_plans import judged_pages, set_plan
from itm_fast.files.ids import Ids, coco_ids, read_ids
from itm_fast.files.owners import OwnersLike
from itm_fast.metrics.graded_ranks import SingleScores, trec_order
from itm_fast.metrics.judgements import judgements_by_id
from itm_fast.metrics.positives import Positives, first_five, make_positives
from itm_fast.metrics.query_positives import QueryPositives, positives_by_id
from itm_fast.similarities.scorers import DotProductScorer, IntArray, TileScorer, Vectors, owners_of
from itm_fast.similarities.selection import select
from itm_fast.similarities.two_way import TwoWayScorer

_BY_COCO_IDS = ("eccv", "coco-all", "cxc", "cxc-image-text")


def make_plan(scorer: TileScorer, request: Request, source: TileScorer | None = None) -> Plan:
    """The plan of an evaluation; reads the annotations and checks the sizes.

    Args:
        scorer: what is ranked.
        request: what the caller said.
        source: what knows whose captions they are and what is to be said of them; None: the scorer.

    Raises:
        ValueError: sizes, ids or options that do not fit the protocol.
        FileNotFoundError, DataError: files of annotations.
    """
    source = scorer if source is None else source
    if request.protocol is not None:
        check_protocol(request.protocol)
    if request.ties not in ("index", "trec"):
        raise ValueError(f'ties is {request.ties!r}, expected "index" or "trec"')
    if request.ties == "trec" and request.protocol not in ("positives", "vidore"):
        raise ValueError('ties="trec" orders equal scores by id, which protocols positives and vidore have')
    plan = _plan(scorer, _with_owners(request, source))
    return replace(plan, notes=[*plan.notes, *getattr(source, "notes", ())])


def _plan(scorer: TileScorer, request: Request) -> Plan:
    name = request.protocol
    if name in CHOICES:
        raise ValueError(f"protocol {name} compares pairs and ranks nothing: evaluate it by itself")
    if name in (None, "flickr30k-1k", "coco-1k", "coco-5k"):
        return _plain(scorer, request)
    if request.captions_per_image is not None:
        raise ValueError(f"captions_per_image has no use with protocol {name}, whose annotations say whose captions")
    if name in ("eccv", "coco-all"):
        return _eccv(scorer, request)
    if name in ("cxc", "cxc-image-text"):
        return _cxc(scorer, request)
    if request.caption_to_image is not None or request.folds is not None:
        given = "folds" if request.caption_to_image is None else "caption_to_image"
        raise ValueError(f"{given} has no use with protocol {name}, whose annotations say whose captions they are")
    if name in SETS:
        return set_plan(scorer, request)
    if name == "vidore":
        pages = replace(request, annotations=judged_pages(request), ids=request.ids)
        return _positives(scorer, pages)
    return _positives(scorer, request) if name == "positives" else _fine_grained(scorer, request)


def _with_owners(request: Request, scorer: TileScorer) -> Request:
    """The owners that a model's data set brings, where nothing else says whose captions they are."""
    given = (request.captions_per_image, request.caption_to_image, request.ids)
    names_them = request.protocol in (None, "flickr30k-1k", "coco-1k", "coco-5k", *_BY_COCO_IDS)
    if not names_them or any(one is not None for one in given):
        return request
    return replace(request, caption_to_image=owners_of(scorer))


def _plain(scorer: TileScorer, request: Request) -> Plan:
    for option in ("annotations", "ids"):
        if getattr(request, option) is not None:
            what = "without a protocol" if request.protocol is None else f"with protocol {request.protocol}"
            raise ValueError(f"{option} has no use {what}; protocols that read it: eccv, cxc, coco-fg, positives, ...")
    folds, arranged = request.folds, Arranged(scorer, (None, None), [])
    headline: Headline = "full" if folds is None else "fold_mean"
    if request.protocol is not None:
        rules = find_protocol(request.protocol)
        _check_folds(request, rules.folds)
        folds, headline = rules.folds, rules.headline
        too_many = request.protocol != "flickr30k-1k" and scorer.n_captions > rules.n_captions
        if request.caption_to_image is not None and too_many:
            arranged = _five_an_image(scorer, request.caption_to_image, rules)
        rules.check(arranged.scorer.n_images, arranged.scorer.n_captions)
    positives = make_positives(
        arranged.scorer.n_images,
        arranged.scorer.n_captions,
        captions_per_image=request.captions_per_image,
        caption_to_image=None if arranged.moved else request.caption_to_image,
    )
    return Plan(arranged.scorer, positives, folds, headline, order=arranged.order, notes=arranged.notes)


def _check_folds(request: Request, folds: int | None) -> None:
    if request.folds not in (None, folds):
        raise ValueError(
            f"folds is {request.folds}, but protocol {request.protocol} has {folds or 'no'} folds; leave folds out"
        )


def _eccv(scorer: TileScorer, request: Request) -> Plan:
    _check_folds(request, 5)
    whole = request.protocol == "coco-all"
    if whole:
        scorer = _embeddings(scorer)
    test = read_coco_test(request.annotations_folder())
    arranged = _coco_test(scorer, request, test)
    folder = request.annotations_folder()
    extras: list[Extra] = [
        RankedSets("cxc", *_by_id(read_truth(folder, "cxc"), test, "cxc"), request.ks),
        RetrievedSets("eccv", *_by_id(read_truth(folder, "eccv"), test, "eccv"), request.ks),
    ]
    notes = list(arranged.notes)
    if whole:
        rated = _rated(request, cxc.COLUMNS)
        extras += [*_intra_modal(arranged.scorer, rated, test, request), _sits(arranged.scorer, rated, test, request)]
        notes.append(cxc.INTRA_MODAL)
    if has_plausible_matches(folder) and isinstance(scorer, TwoWayScorer):
        notes.append("PMRP was left out: it ranks thousands of items, where two-way similarities have few candidates")
    elif has_plausible_matches(folder):
        extras.append(PlausibleMatches(*_by_id(read_truth(folder, "pm"), test, "pm"), arranged.scorer))
    positives = make_positives(len(test.image_ids), len(test.caption_ids))
    return Plan(arranged.scorer, positives, 5, "full", extras, order=arranged.order, notes=notes)


def _coco_test(scorer: TileScorer, request: Request, test: CocoTest) -> Arranged:
    """COCO's test images and captions in Karpathy's order."""
    if request.ids is not None:
        if request.caption_to_image is not None:
            raise ValueError("caption_to_image and ids exclude each other: the annotations say whose captions they are")
        return arrange(
            scorer, read_ids(request.ids), (test.image_ids, test.caption_ids), str(request.protocol), coco_ids
        )
    rules = find_protocol(str(request.protocol))
    if request.caption_to_image is None:
        rules.check(scorer.n_images, scorer.n_captions)
        return Arranged(scorer, (None, None), [])
    return _five_an_image(scorer, request.caption_to_image, rules)


def _five_an_image(scorer: TileScorer, caption_to_image: OwnersLike, rules: Protocol) -> Arranged:
    """The first five captions of every image, image by image."""
    owners = make_positives(scorer.n_images, scorer.n_captions, caption_to_image=caption_to_image)
    rules.check(scorer.n_images, rules.n_captions)
    columns = first_five(owners.caption_to_image, scorer.n_images)
    kept = select(scorer, None, columns)
    n_left_out = scorer.n_captions - kept.n_captions
    notes = [f"{n_left_out} captions beyond the first five of an image were left out"] if n_left_out else []
    return Arranged(kept, (None, None if kept is scorer else columns), notes)


def _by_id(truth: Truth, test: CocoTest, name: str) -> tuple[QueryPositives, QueryPositives]:
    return (
        positives_by_id(
            truth.image_to_captions, test.image_ids, test.caption_ids, source=f"{name}_image_to_caption.json"
        ),
        positives_by_id(
            truth.caption_to_images, test.caption_ids, test.image_ids, source=f"{name}_caption_to_image.json"
        ),
    )


def _cxc(scorer: TileScorer, request: Request) -> Plan:
    _check_folds(request, None)
    whole = request.protocol == "cxc"
    if whole:
        scorer = _embeddings(scorer)
    rated = _rated(request, cxc.COLUMNS if whole else ("sits",))
    folder = request.annotations_folder()
    test = read_coco_test(folder) if request.ids is None else _given_test(rated["sits"], read_ids(request.ids))
    arranged = _coco_test(scorer, request, test)
    truths = _by_id(cxc.image_text_truth(rated["sits"]), test, "sits")
    intra = _intra_modal(arranged.scorer, rated, test, request) if whole else []
    extras = [*intra, _sits(arranged.scorer, rated, test, request)]
    notes = [*arranged.notes, cxc.rules_in_words(truths[0], whole)]
    return Plan(arranged.scorer, truths, None, "full", extras, order=arranged.order, notes=notes)


def _rated(request: Request, tasks: Iterable[str]) -> dict[str, cxc.Rated]:
    """The rated pairs of every task."""
    folder = request.annotations_folder()
    if folder is None:
        raise ValueError(
            f"protocol {request.protocol} needs annotations: the folder with the .csv files of {cxc.PUBLISHED}"
        )
    return {task: cxc.read_rated(folder, task) for task in tasks}


def _intra_modal(scorer: TileScorer, rated: dict[str, cxc.Rated], test: CocoTest, request: Request) -> list[Extra]:
    """Text-text and image-image retrieval of embeddings, and their correlations."""
    embeddings = _embeddings(scorer)
    owners = cxc.owners(rated["sits"], test.caption_ids)
    extras: list[Extra] = []
    for name, task, side, ids, siblings in (
        ("t2t", "sts", embeddings.captions, test.caption_ids, owners),
        ("i2i", "sis", embeddings.images, test.image_ids, None),
    ):
        related = cxc.intra_modal_positives(rated[task], cxc.THRESHOLDS[task], ids, siblings)
        extras.append(IntraModal(name, side, related, request.ks, request.self_score))
        extras.append(_correlation(task, rated[task], rated[task].places(ids, ids), request, (side, side)))
    return extras


def _sits(scorer: TileScorer, rated: dict[str, cxc.Rated], test: CocoTest, request: Request) -> Correlation:
    """The correlation of captions with images; of embeddings, where intra-modal retrieval is, by cosine."""
    whole = len(rated) > 1
    embeddings = (scorer.captions, scorer.images) if whole and isinstance(scorer, DotProductScorer) else None
    places = rated["sits"].places(test.caption_ids, test.image_ids)
    return _correlation("sits", rated["sits"], places, request, embeddings)


def _given_test(sits: cxc.Rated, ids: Ids) -> CocoTest:
    """The rated images and captions in the order of the user's ids: without folds the order matters to ties only."""
    if ids.captions is None:
        raise ValueError("protocol cxc needs caption_ids beside image_ids")
    sides = []
    for given, name, rated in ((ids.images, "image_ids", sits.right), (ids.captions, "caption_ids", sits.left)):
        missing = dict.fromkeys(rated)
        mine = [key for key in coco_ids(given, name) if key in missing]
        for key in mine:
            missing.pop(key, None)
        sides.append([*dict.fromkeys(mine), *missing])  # `arrange` names those that are missing
    return CocoTest(*sides)


def _correlation(
    task: str,
    rated: cxc.Rated,
    places: tuple[IntArray, IntArray],
    request: Request,
    embeddings: tuple[Vectors, Vectors] | None,
) -> Correlation:
    column = request.query_column
    return Correlation(task, places, rated.scores, rated.queries(column), cxc.COLUMNS[task][column], embeddings)


def _embeddings(scorer: TileScorer) -> DotProductScorer:
    """The scorer as embeddings, which intra-modal similarities need."""
    if isinstance(scorer, DotProductScorer):
        return scorer
    as_embeddings = getattr(scorer, "as_embeddings", None)
    if as_embeddings is None:
        raise ValueError(
            "protocol cxc compares captions with captions and images with images, which needs embeddings: pass a pair "
            "(images, captions). Similarities alone, and models with cross-attention, which only score an image with a "
            "caption, have no such similarity; protocol cxc-image-text does what they can"
        )
    found: DotProductScorer = as_embeddings()
    return found


def _fine_grained(scorer: TileScorer, request: Request) -> Plan:
    name = str(request.protocol)
    base = name.removesuffix("-originals")
    fine = read_fine_grained(request.annotations_folder(), base)
    names = fine.pool if name == base else fine.originals
    if request.ids is not None:
        arranged = arrange(scorer, read_ids(request.ids), (names, None), name)
    else:
        arranged = Arranged(scorer, (None, None), [])
    _check_fine_grained(arranged.scorer, fine, name, len(names))
    positives = make_positives(len(names), len(fine.captions), caption_to_image=fine.caption_to_image(names))
    extras = [_originals_only(positives, request.ks)] if name == base else []
    return Plan(arranged.scorer, positives, None, "full", extras, order=arranged.order, notes=arranged.notes)


def _originals_only(positives: Positives, ks: Sequence[int]) -> PartRanks:
    """Caption queries against the images that have captions, without the distractors."""
    originals, n_captions = np.flatnonzero(positives.captions_of_image), positives.n_captions
    places = np.searchsorted(originals, positives.caption_to_image)
    truth = QueryPositives(places, np.arange(n_captions + 1), np.zeros(n_captions, np.int64), len(originals))
    return PartRanks("originals", originals, None, None, truth, ks)


def _check_fine_grained(scorer: TileScorer, fine: FineGrained, name: str, n_images: int) -> None:
    given, wanted = (scorer.n_images, scorer.n_captions), (n_images, len(fine.captions))
    if given == wanted:
        return
    reason = ""
    if given == wanted[::-1]:
        reason = ": it looks transposed; rows are images and columns captions, so pass sims.T (--transposed)"
    elif given == (len(fine.originals), len(fine.captions)):
        reason = f": without the distractors it is another, easier test: protocol {name}-originals"
    elif given == (len(fine.pool), len(fine.captions)):
        reason = f": with the distractors it is protocol {name.removesuffix('-originals')}"
    raise ValueError(
        f"protocol {name} expects {wanted[0]} images x {wanted[1]} captions, given {given[0]} x {given[1]}{reason}"
    )


def _positives(scorer: TileScorer, request: Request) -> Plan:
    pairs = read_relevant_pairs(request.annotations, request.ids)
    images, captions = list(pairs.ids.images), list(pairs.ids.captions or ())
    if request.ties == "trec":  # the higher id comes first, so that the lower index is trec_eval's choice
        images, captions = ([ids[place] for place in trec_order(list(map(str, ids)))] for ids in (images, captions))
    given = pairs.ids if request.ids is None else read_ids(request.ids)
    arranged = arrange(scorer, given, (images, captions), str(request.protocol))
    of = SingleScores(arranged.scorer) if request.ties == "trec" else arranged.scorer
    of_images, of_captions = map(graded_lists, pairs.both())
    judged = (
        judgements_by_id(of_images, images, captions, source="image_to_captions"),
        judgements_by_id(of_captions, captions, images, source="caption_to_images"),
    )
    truths = (judged[0].positives, judged[1].positives)
    if not any(len(truth.queries) for truth in truths):
        raise ValueError("no query has a positive: there is nothing to rank for (grades of 0 and below are none)")
    notes = [
        f"{n_missing} of {n_missing + truth.n_pairs} positives of {query} queries are not in the gallery: each is a "
        "miss of mAP@R, R-Precision, nDCG and MAP; are these the annotations of this set?"
        for query, truth in zip(("image", "caption"), truths, strict=True)
        if (n_missing := int(truth.n_unreachable.sum()))
    ]
    says_chance = request.protocol == "vidore"
    return Plan(of, truths, None, "full", (), judged, arranged.order, [*arranged.notes, *notes], says_chance)
