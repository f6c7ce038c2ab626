"""Figures that mean nothing, or something else than they seem, say so: lengths of embeddings, ties, φ, candidates."""

import numpy as np
import pytest
import torch

from itm_fast import Cider, cross_attention_similarity, metrics
from itm_fast.data.readers.relevance_matrix import read_relevance
from itm_fast.errors import DataWarning
from itm_fast.evaluation import EnsembleScorer, Ids, RelevantPairs, evaluate, rerank, search_alpha
from itm_fast.evaluation.caveats import source_notes
from itm_fast.metrics import TwoWayScorer
from itm_fast.ops.max_similarity import max_similarity
from itm_fast.similarities.region_word_scorer import RegionWordScorer
from itm_fast.similarities.scorers import DotProductScorer, as_scorer

RNG = np.random.default_rng(5)
IMAGES = RNG.standard_normal((12, 6)).astype(np.float32)
CAPTIONS = (IMAGES.repeat(5, 0) + RNG.standard_normal((60, 6))).astype(np.float32)
LONG_IMAGES = IMAGES * np.linspace(3, 30, 12, dtype=np.float32)[:, None]
LONG_CAPTIONS = CAPTIONS * RNG.uniform(1, 9, (60, 1)).astype(np.float32)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


COSINE = unit(IMAGES.astype(np.float64)) @ unit(CAPTIONS.astype(np.float64)).T


def notes(report):
    return report["conditions"]["notes"]


def recalls(report):
    return {way: {k: v for k, v in report[way].items() if k.startswith("R@")} for way in ("i2t", "t2i")}


@pytest.mark.parametrize(
    ("images", "captions", "moved"),
    [
        (LONG_IMAGES, LONG_CAPTIONS, "so that image -> caption and caption -> image ranks by length"),
        (LONG_IMAGES, unit(CAPTIONS), "so that caption -> image ranks by length"),
        (unit(IMAGES), LONG_CAPTIONS, "so that image -> caption ranks by length"),
        (unit(IMAGES), unit(CAPTIONS), None),
        (10 * unit(IMAGES), 7 * unit(CAPTIONS), None),  # one length for all moves nothing
        (unit(IMAGES).astype(np.float16), torch.from_numpy(unit(CAPTIONS)).bfloat16(), None),  # rounding is no length
    ],
)
def test_lengths_are_said_where_they_move_a_figure(images, captions, moved):
    found = notes(evaluate((images, captions)))
    assert len(found) == (moved is not None)
    if moved:
        lengths = [np.linalg.norm(side, axis=1) for side in (images, captions)]
        assert moved in found[0]
        for name, side in zip(("images", "captions"), lengths, strict=True):
            assert f"{name} {side.min():.4g} to {side.max():.4g}, mean {side.mean():.4g}" in found[0]
        assert "normalise=True (--normalise" in found[0]
        assert found[0] in str(evaluate((images, captions)))


@pytest.mark.parametrize(
    "kind", ["array", "tensor", "memory map", "huge", "integers", "float16", "ensemble", "two ways", "scorer"]
)
def test_normalise_is_the_cosine_for_every_kind(kind, tmp_path):
    images, captions = LONG_IMAGES, LONG_CAPTIONS
    expected = COSINE
    if kind == "integers":
        images, captions = np.round(10 * images).astype(np.int16), np.round(10 * captions).astype(np.int16)
    if kind == "huge":
        images, captions = images * np.float32(1e25), captions * np.float32(1e25)  # their squares are beyond float32
    if kind == "float16":
        images, captions = (900 * images).astype(np.float16), (900 * captions).astype(np.float16)
        assert np.isfinite(images).all()  # but their squares are beyond float16
    if kind in ("integers", "float16"):
        expected = unit(images.astype(np.float64)) @ unit(captions.astype(np.float64)).T
    if kind == "memory map":
        np.save(tmp_path / "images.npy", images)
        images = np.load(tmp_path / "images.npy", mmap_mode="r")
    pair = (torch.from_numpy(images), torch.from_numpy(captions)) if kind == "tensor" else (images, captions)
    if kind == "scorer":
        pair = DotProductScorer(*pair)
    if kind == "two ways":
        sides = DotProductScorer(*pair), DotProductScorer(*pair)
        assert len(notes(evaluate(TwoWayScorer(*sides)))) == 2
        report = evaluate(TwoWayScorer(*(side.normalised() for side in sides)))
    elif kind == "ensemble":
        assert ["member 1" in note for note in notes(evaluate(EnsembleScorer([pair, COSINE])))] == [True]
        report = evaluate(EnsembleScorer([pair, COSINE], normalise_embeddings=True))
    else:
        report = evaluate(pair, normalise=True)
    assert notes(report) == []
    assert recalls(report) == recalls(evaluate(expected))
    assert recalls(report) != recalls(evaluate((LONG_IMAGES, LONG_CAPTIONS)))


def test_normalise_with_ids_and_a_selection():
    rows, columns = RNG.permutation(12), RNG.permutation(60)
    pairs = RelevantPairs(Ids([*range(12)], [*range(60)]), {i: [5 * i, 5 * i + 3] for i in range(12)}, {7: [1]})
    options = {"protocol": "positives", "annotations": pairs}
    moved = Ids(rows.tolist(), columns.tolist())
    report = evaluate((LONG_IMAGES[rows], LONG_CAPTIONS[columns]), ids=moved, normalise=True, **options)
    assert recalls(report) == recalls(evaluate(COSINE, **options))


def test_regions_and_words():
    regions = RNG.standard_normal((4, 3, 6)).astype(np.float32) * RNG.uniform(1, 9, (4, 3, 1)).astype(np.float32)
    words = RNG.standard_normal((20, 5, 6)).astype(np.float32) * RNG.uniform(1, 9, (20, 5, 1)).astype(np.float32)
    words[:, 4] = 0  # padding is no length
    counts = np.full(20, 4)
    scorer = RegionWordScorer(regions, words, counts)
    assert "Regions and words are compared by dot product" in notes(evaluate(scorer))[0]
    expected = max_similarity(
        *(torch.from_numpy(unit(side)) for side in (regions, words[:, :4])), torch.from_numpy(counts)
    )
    report = evaluate(scorer, normalise=True)
    assert notes(report) == []
    assert recalls(report) == recalls(evaluate(expected))


@pytest.mark.parametrize("similarity", [max_similarity, cross_attention_similarity])
def test_padding_that_takes_part_is_said(similarity):
    regions, words = unit(RNG.standard_normal((4, 3, 6))), unit(RNG.standard_normal((20, 5, 6)))
    regions[[0, 2], 2] = words[:, 4] = 0
    found = notes(evaluate(RegionWordScorer(regions, words, np.full(20, 4), similarity=similarity)))
    assert found[0].startswith(
        "WARNING: 2 regions are all zeros, but take part as others do: if they are padding, region_"
    )
    found = notes(evaluate(RegionWordScorer(regions, words, None, [2, 3, 2, 3], similarity=similarity)))
    assert found[0].startswith("WARNING: 20 words are all zeros, but take part")
    scorer = RegionWordScorer(regions, words, np.full(20, 4), [2, 3, 2, 3], similarity=similarity)
    assert not any("zeros" in note for note in notes(evaluate(scorer)))


@pytest.mark.parametrize("normalise", [False, True])
def test_embeddings_of_zeros_are_named(normalise):
    images, captions = unit(IMAGES), unit(CAPTIONS)
    images[7] = captions[31] = captions[33] = 0
    found = notes(evaluate((images, captions), normalise=normalise))
    assert [note.partition(":")[2].partition(":")[0].strip() for note in found] == [
        "1 of 12 image embeddings are all zeros, the first at row 7",
        "2 of 60 caption embeddings are all zeros, the first at row 31",
    ]


def test_rerank_offers_the_cosine_of_either_stage():
    long = (LONG_IMAGES, LONG_CAPTIONS)
    report = rerank(long, COSINE, 10)
    assert any(note.startswith("coarse: WARNING: Embeddings are compared by dot product") for note in notes(report))
    for coarse, fine in ((long, -COSINE), (COSINE, long), (long, long)):
        report = rerank(coarse, fine, 10, normalise=True)
        plain = [COSINE if isinstance(stage, tuple) else stage for stage in (coarse, fine)]
        assert recalls(report) == recalls(rerank(*plain, 10))
        assert not any("length" in note for note in notes(report))
    found = search_alpha(long, -COSINE, 10, alphas=(0, 2), normalise=True)
    assert found == search_alpha(COSINE, -COSINE, 10, alphas=(0, 2))


@pytest.mark.parametrize(
    "call",
    [
        lambda: evaluate(COSINE, normalise=True),
        lambda: rerank(COSINE, COSINE, 10, normalise=True),
        lambda: EnsembleScorer([COSINE, COSINE], normalise_embeddings=True),
    ],
)
def test_normalise_without_embeddings_is_refused(call):
    with pytest.raises(ValueError, match=r"normalise\w* is for (members that are )?embeddings"):
        call()


def test_similarities_that_order_nothing():
    (note, other) = notes(evaluate(np.full((3, 15), 0.25)))
    assert "every one of the 3 image queries has the same similarity with all 15 captions" in note
    assert "every one of the 15 caption queries has the same similarity with all 3 images" in other
    (note,) = notes(evaluate(np.arange(3.0).repeat(15).reshape(3, 15)))  # each image's are alike, a caption's are not
    assert "image queries" in note
    assert notes(evaluate(np.eye(3).repeat(5, 1))) == []


@pytest.mark.parametrize(
    ("phi", "fragment"),
    [
        (np.zeros((12, 60)), "no pair has φ above 0 (the largest is 0)"),
        (-np.eye(12).repeat(5, 1), "φ goes down to -1: NCS is a share of the largest sum of φ, which means nothing"),
        (np.eye(12).repeat(5, 1) - 0.25, "φ goes down to -0.25"),
        (np.full((12, 60), 2.5), "φ is 2.5 of every image and every caption: NCS is 100"),
        (np.where(np.arange(720).reshape(12, 60) == 719, 2.4, 2.5), None),
        (np.eye(12).repeat(5, 1), None),
    ],
)
def test_relevance_that_prefers_nothing(phi, fragment):
    found = notes(evaluate(COSINE, phi))
    assert len(found) == (fragment is not None)
    assert not fragment or fragment in found[0]


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinite_relevance_is_refused(value):
    phi = np.ones((12, 60))
    phi[7, 33] = value
    message = rf"relevance is {value} at row \(image\) 7, column \(caption\) 33; φ is finite"
    for call in (evaluate, lambda sims, phi: metrics.ncs_at_k(sims, phi, (1, 5))):
        with pytest.raises(ValueError, match=message):
            call(COSINE, phi)


def test_more_relevant_items_than_there_are():
    assert notes(evaluate(COSINE, np.eye(12).repeat(5, 1), m=12)) == []
    found = notes(evaluate(COSINE, np.eye(12).repeat(5, 1), m=15))
    assert found == ["SR@k, caption -> image: m is 15, but there are 12 items: at most 80.0 %."]
    assert len(notes(evaluate(COSINE, np.eye(12).repeat(5, 1), m=61))) == 2


def test_a_square_file_of_relevance_says_what_its_rows_are(tmp_path):
    np.save(tmp_path / "phi.npy", np.arange(6.0).reshape(2, 3))
    assert read_relevance(tmp_path / "phi.npy", 3, 2)[2, 1] == 5
    np.save(tmp_path / "phi.npy", np.arange(4.0).reshape(2, 2))
    with pytest.warns(DataWarning, match="as many images as captions: its rows are taken as images"):
        assert read_relevance(tmp_path / "phi.npy", 2, 2)[0, 1] == 1


def test_notes_of_a_corpus_reach_the_report():
    references = [["某人在海滩上放风筝"] * 5 for _ in range(12)]
    with pytest.warns(UserWarning, match="φ is 0 everywhere"), pytest.warns(UserWarning, match="without blanks"):
        corpus = Cider().fit(references).encode(references)
    found = notes(evaluate(COSINE, corpus))
    assert ["φ is 0 everywhere" in note for note in found] == [True, False]
    assert "60 of 60 captions are in a script without blanks" in found[1]


FEW = np.where(np.sort(COSINE, 1)[:, -7:-6] <= COSINE, COSINE, -np.inf)  # seven captions an image are candidates


@pytest.mark.parametrize("folds", [None, 2])
@pytest.mark.parametrize("positives", [False, True])
def test_few_candidates_give_the_cut_offs_that_were_asked_for(folds, positives):
    both = TwoWayScorer(FEW, COSINE)
    options = {}
    if positives and folds is None:
        pairs = RelevantPairs(Ids([*range(12)], [*range(60)]), {i: [5 * i, 5 * i + 3] for i in range(12)}, {7: [1]})
        options = {"protocol": "positives", "annotations": pairs}
    if folds:
        inside = np.where(np.arange(60) // 30 == np.arange(12)[:, None] // 6, COSINE, -np.inf)
        both = TwoWayScorer(np.where(inside >= np.sort(inside, 1)[:, -7:-6], inside, -np.inf), COSINE)
        options = {"folds": 2}
    report = evaluate(both, ks=(1, 5), **options)
    whole = evaluate(COSINE, ks=(1, 5), **options)
    assert report["i2t"]["R@5"] == whole["i2t"]["R@5"]
    assert report["t2i"]["R@1"] == whole["t2i"]["R@1"]
    assert "rsum" in whole
    assert "rsum" not in report
    assert all("rsum" not in scope for scope in (report["full"], *report.get("folds", [])))
    (note,) = [note for note in notes(report) if "rsum" in note]
    assert note.startswith("rsum was left out: it needs 10 candidates a query, but image ")
    assert note.endswith("has 7 (similarities above -inf)")
    assert "rsum was left out" in str(report)
    assert "R@5" in str(report)
    with pytest.raises(ValueError, match="R@10 is undefined: image"):
        evaluate(both, ks=(1, 10), **options)


def test_a_sum_that_a_fold_lacks_is_in_no_scope():
    inside = np.arange(60) // 30 == np.arange(12)[:, None] // 6
    of_fold = np.where(inside, COSINE, -np.inf)
    sims = np.where(~inside | (of_fold >= np.sort(of_fold, 1)[:, -7:-6]), COSINE, -np.inf)
    both = TwoWayScorer(sims, COSINE)  # 37 candidates in the whole gallery, seven of them in the fold
    assert "rsum" in evaluate(both)
    report = evaluate(both, ks=(1, 5), folds=2)
    assert all("rsum" not in scope for scope in (report, report["full"], report["fold_mean"], *report["folds"]))
    assert str(report).count("rsum was left out") == 1


def test_few_candidates_leave_out_nsum_too():
    both = TwoWayScorer(np.where(np.sort(COSINE, 1)[:, -12:-11] <= COSINE, COSINE, -np.inf), COSINE)
    phi = np.eye(12).repeat(5, 1) + COSINE.clip(0)
    report, whole = evaluate(both, phi, ks=(1, 5)), evaluate(COSINE, phi, ks=(1, 5))
    assert "rsum" in report  # twelve candidates do for it, but not when the query's own five are left out
    assert "nsum" not in report
    assert "nsum(N)" not in report
    assert report["i2t"]["NCS@5"] == pytest.approx(whole["i2t"]["NCS@5"])
    assert report["i2t"]["NCS(N)@5"] == pytest.approx(whole["i2t"]["NCS(N)@5"])
    (note,) = notes(report)
    assert note == "nsum was left out: it needs 15 candidates a query, but image 0 has 12 (similarities above -inf)"
    assert "NCS(N)@5" in str(report)


def test_rerank_with_few_candidates_says_that_rsum_is_left_out():
    report = rerank(COSINE, COSINE, 5, ks=(1, 5))
    assert "rsum" not in report
    assert "rsum was left out: it needs k of at least 10, given 5" in notes(report)
    assert not any("rsum" in note for note in notes(rerank(COSINE, COSINE, 10)))


@pytest.mark.parametrize("kind", ["matrix", "one caption an image", "two ways", "positives"])
def test_distances_and_rows_in_another_order_are_noticed(kind):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((60, 8))
    captions = images.repeat(5, 0) + 2 * rng.standard_normal((300, 8))
    sims = images @ captions.T
    options = {}
    if kind == "one caption an image":
        sims, options = sims[:, ::5], {"captions_per_image": 1}
    if kind == "positives":
        pairs = {i: [5 * i, 5 * i + 1, (5 * i + 7) % 300] for i in range(60)}
        turned = {c: [i for i in pairs if c in pairs[i]] for c in range(300)}
        pairs = RelevantPairs(Ids([*range(60)], [*range(300)]), pairs, turned)
        options = {"protocol": "positives", "annotations": pairs}

    def said(sims):
        return notes(evaluate(TwoWayScorer(sims, sims) if kind == "two ways" else sims, **options))

    assert said(sims) == []
    assert [note[:26] for note in said(-sims)] == ["WARNING: far worse than a "]
    assert [note[:26] for note in said(sims[rng.permutation(60)])] == ["WARNING: no better than a "]


def test_embeddings_of_infinities_are_named():
    images, captions = unit(IMAGES), unit(CAPTIONS)
    captions[[17, 40], 2] = np.inf
    found = notes(evaluate((images, captions), ks=(1, 2)))
    assert "2 of 60 caption embeddings are infinite, the first at row 17: " in found[0]
    assert not any("lengths differ" in note for note in found)


@pytest.mark.parametrize("kind", [np.float16, np.float64, torch.bfloat16])
def test_infinite_similarities_are_said(kind):
    sims = COSINE.astype(kind) if isinstance(kind, type) else torch.from_numpy(COSINE).to(kind)
    sims[3, 17] = sims[5, 2] = np.inf
    said = "2 of 720 similarities{} are +inf, the first at row 3, column 17, and come first whatever"
    assert said.format("") in notes(evaluate(sims, ks=(1, 2)))[0]
    both = TwoWayScorer(COSINE, sims)
    assert any(said.format(" of caption queries") in note for note in notes(evaluate(both, ks=(1, 2))))
    member = evaluate(EnsembleScorer([COSINE, sims], names=["a", "b"]), ks=(1, 2))
    assert any(said.format(" of b") in note for note in notes(member))
    again = rerank(COSINE, sims, 2, ks=(1, 2))
    assert any(note.startswith(f"fine: WARNING: {said.format('')}") for note in notes(again))
    sims[3, 17] = sims[5, 2] = -np.inf  # no candidates
    assert not any("inf" in note for note in notes(evaluate(sims, ks=(1, 2))))


@pytest.mark.parametrize("lowest", [-100, 0, -1])
def test_a_score_for_no_candidate_that_is_not_said(lowest):
    sims = np.where(np.quantile(COSINE, 0.9) < COSINE, np.exp(COSINE), lowest)
    (note,) = source_notes(as_scorer(sims))
    assert note.startswith(f"WARNING: 90 % of similarities are {lowest}, the lowest")
    assert f"--no-candidate {lowest} " in note
    for fine in (COSINE, np.where(sims == lowest, -np.inf, sims), np.eye(12).repeat(5, 1), (4 * COSINE).round()):
        assert source_notes(as_scorer(fine)) == []


def test_captions_that_stand_lines_off_are_said():
    rng = np.random.default_rng(0)
    images = rng.standard_normal((60, 16))
    captions = images.repeat(5, 0) + rng.standard_normal((300, 16))
    sims = images @ captions.T
    for lines, lost in ((1, "1"), (-1, "5"), (2, "1, 2"), (3, "1, 2, 3")):
        found = [note for note in notes(evaluate(np.roll(sims, lines, 1))) if "some lines off" in note]
        assert len(found) == 1
        assert f"of the 5 captions of every image, number {lost} finds its image no better" in found[0]
    weak = images @ (images.repeat(5, 0) + 4 * rng.standard_normal((300, 16))).T
    for fine in (sims, weak, np.roll(sims, 5, 1), sims[:40, :200], rng.random((60, 300))):
        assert not any("some lines off" in note for note in notes(evaluate(fine)))
    off = np.roll(sims, 1, 1)
    assert notes(evaluate(off, caption_to_image=(np.arange(300) - 1) % 300 // 5)) == []


def test_directions_of_another_order_are_said():
    rng = np.random.default_rng(0)
    images = rng.standard_normal((40, 16))
    captions = images.repeat(5, 0) + rng.standard_normal((200, 16))
    sims = images @ captions.T

    def said(turned):
        return [note for note in source_notes(TwoWayScorer(sims, turned)) if "agrees with" in note]

    (note,) = said(sims[:, rng.permutation(200)])
    assert "the matrix of image queries agrees with the matrix of caption queries no more than" in note
    few = np.where(sims < np.quantile(sims, 0.95, axis=1, keepdims=True), -np.inf, sims)  # too few to tell
    assert said(sims + 0.1) == said(np.where(sims < np.quantile(sims, 0.2), -np.inf, sims)) == said(few) == []


def test_few_queries_say_nothing_of_their_order():
    rng = np.random.default_rng(0)
    assert all(notes(evaluate(rng.random((49, 245)))) == [] for _ in range(5))
    assert notes(evaluate(-np.eye(9).repeat(5, 1))) == []
    assert notes(evaluate(-np.eye(10).repeat(5, 1))) != []
    own = np.eye(60).repeat(5, 1) > 0
    assert notes(evaluate(np.where(own, -np.inf, rng.random((60, 300))))) != []  # all last, whatever their order
    own |= rng.random((60, 300)) < 0.5  # their places among others that were no candidates are not known
    assert notes(evaluate(np.where(own, -np.inf, rng.random((60, 300))), ks=(1, 2))) == []
