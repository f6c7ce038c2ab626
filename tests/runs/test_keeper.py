"""evaluate(keep=RunKeeper()): every tensor of a run against dense numpy, protocols, curves, attention."""

import json
from datetime import datetime
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from itm_fast import reference
from itm_fast.data import Vocabulary
from itm_fast.evaluation import Ids, RelevantPairs, RunKeeper, evaluate, load_run, save_run
from itm_fast.evaluation.beside_recall import RankedSets, RetrievedSets
from itm_fast.evaluation.plan import Plan
from itm_fast.evaluation.semantics import CURVE_MS
from itm_fast.metrics import TwoWayScorer, make_positives, ncs_at_k, query_positives, semantic_recall_at_k
from itm_fast.metrics.ranks import stream_ranks
from itm_fast.models import model_class
from itm_fast.nn.similarity.chan import CHANSimilarity
from itm_fast.nn.similarity.cross_attention import CrossAttention
from itm_fast.nn.similarity.sgraf import SGRAFSimilarity
from itm_fast.runs.attention import attention_maps, has_attention, shown_pairs
from itm_fast.runs.folder import QueryResults
from itm_fast.similarities.scorers import as_scorer
from itm_fast.sources.trained_model import ModelScorer

N_IMAGES, N_CAPTIONS = 12, 60


@pytest.fixture(scope="module")
def sims():
    # Few distinct values: ties are everywhere, and the lower index comes first.
    return np.random.default_rng(0).integers(0, 40, (N_IMAGES, N_CAPTIONS)).astype(np.float32)


@pytest.fixture(scope="module")
def phi():
    return np.random.default_rng(1).random((N_IMAGES, N_CAPTIONS))


def dense(scores, positives, depth):
    """Results of the rows of a matrix, by sorting: ranks, lists, sims, best positives and their sims."""
    order = np.argsort(-scores, axis=1, kind="stable")
    hits = np.take_along_axis(positives, order, 1)
    ranks = np.where(hits.any(1), hits.argmax(1), -1)
    best = np.where(ranks >= 0, order[np.arange(len(order)), ranks], -1)
    lists = np.full((len(order), depth), -1)
    width = min(depth, scores.shape[1])
    lists[:, :width] = order[:, :width]
    listed = np.where(lists >= 0, np.take_along_axis(scores, np.maximum(lists, 0), 1), 0)
    best_sims = np.where(best >= 0, scores[np.arange(len(order)), np.maximum(best, 0)], 0)
    return ranks, lists, listed, best, best_sims


def check(found: QueryResults, scores, positives, depth, phi=None):
    ranks, lists, listed, best, best_sims = dense(scores, positives, depth)
    expected = {
        "ranks": ranks,
        "retrieved": lists,
        "retrieved_sims": listed,
        "best_positive": best,
        "best_positive_sims": best_sims,
    }
    if phi is not None:
        expected["relevance"] = np.where(lists >= 0, np.take_along_axis(phi, np.maximum(lists, 0), 1), 0)
        of_best = phi[np.arange(len(phi)), np.maximum(best, 0)]
        expected["positive_relevance"] = np.where(best >= 0, of_best, 0)
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(found, name).numpy(), value, rtol=1e-7, err_msg=name)


def owned(caption_to_image, n_images=N_IMAGES):
    return np.arange(n_images)[:, None] == np.asarray(caption_to_image)[None]


@pytest.mark.parametrize("chunk_bytes", [8 * 50, 64 << 20])
@pytest.mark.parametrize("depth", [1, 7, 15])
def test_against_dense_numpy(sims, phi, depth, chunk_bytes):
    keep = RunKeeper(depth)
    report = evaluate(sims, phi, keep=keep, chunk_bytes=chunk_bytes, folds=3)
    run = keep.run(report, name="dense")
    positives = owned(np.arange(N_CAPTIONS) // 5)
    check(run.i2t, sims, positives, depth, phi)
    check(run.t2i, sims.T, positives.T, depth, phi.T)
    for fold in range(3):
        rows, columns = slice(4 * fold, 4 * fold + 4), slice(20 * fold, 20 * fold + 20)
        part, owners = sims[rows, columns], positives[rows, columns]
        np.testing.assert_array_equal(run.i2t.fold_ranks[rows], dense(part, owners, 1)[0])
        np.testing.assert_array_equal(run.t2i.fold_ranks[columns], dense(part.T, owners.T, 1)[0])
    assert run.i2t.annotated is None
    assert run.attention == ()
    assert run.caption_to_image.tolist() == [c // 5 for c in range(N_CAPTIONS)]


def of_every_query(scores, phi, positives, ks):
    """NCS and NCS(N) of the rows of a matrix, percent, by sorting; and φ of what is not their own, descending."""
    kept = []
    for own in (np.zeros_like(positives), positives):
        found = np.zeros((len(scores), len(ks)))
        for query in range(len(scores)):
            others = np.flatnonzero(~own[query])
            listed = phi[query, others[np.argsort(-scores[query, others], kind="stable")]]
            best = np.sort(phi[query, others])[::-1]
            found[query] = [100 * listed[:k].sum() / best[:k].sum() for k in ks]
        kept.append(found)
    others = np.where(positives, 0, phi)
    return (*kept, -np.sort(-others, axis=1)[:, :10])


@pytest.mark.parametrize("folds", [None, 2])
def test_ncs_of_every_query(sims, phi, folds):
    keep = RunKeeper()
    report = evaluate(sims, phi, ks=(1, 5), folds=folds, keep=keep)
    run = keep.run(report, name="ncs")
    positives = owned(np.arange(N_CAPTIONS) // 5)
    for direction, turn in (("i2t", lambda matrix: matrix), ("t2i", np.transpose)):
        found, scores, truth, relevance = getattr(run, direction), turn(sims), turn(positives), turn(phi)
        parts = np.array_split(np.arange(len(scores)), folds or 1)
        columns = np.array_split(np.arange(scores.shape[1]), folds or 1)
        expected = [
            of_every_query(*(matrix[np.ix_(rows, items)] for matrix in (scores, relevance, truth)), (1, 5))
            for rows, items in zip(parts, columns, strict=True)
        ]
        np.testing.assert_allclose(found.ncs, np.concatenate([one[0] for one in expected]), rtol=1e-5)
        np.testing.assert_allclose(found.ncs_own_left_out, np.concatenate([one[1] for one in expected]), rtol=1e-5)
        others = of_every_query(scores, relevance, truth, (1,))[2]
        np.testing.assert_allclose(found.others_relevance[:, : others.shape[1]], others, rtol=1e-6)
        for name, kept in (("NCS", found.ncs), ("NCS(N)", found.ncs_own_left_out)):
            assert kept.mean(0).tolist() == pytest.approx([report[direction][f"{name}@{k}"] for k in (1, 5)], rel=1e-5)


def test_without_relevance_there_is_no_ncs_of_queries(sims):
    keep = RunKeeper()
    run = keep.run(evaluate(sims, keep=keep), name="plain")
    assert run.i2t.ncs is run.t2i.ncs_own_left_out is run.t2i.others_relevance is None


def test_the_date_is_that_of_the_evaluation(sims):
    before = datetime.now().astimezone().replace(microsecond=0)
    keep = RunKeeper(2)
    report = evaluate(sims, keep=keep)
    after = datetime.now().astimezone()
    assert before <= datetime.fromisoformat(keep.run(report, name="now").date) <= after


def test_curves_go_to_the_largest_cut_off(sims, phi):
    keep = RunKeeper(3)
    run = keep.run(evaluate(sims, phi, ks=(1, 11), keep=keep), name="deep")
    assert run.i2t.retrieved.shape == (N_IMAGES, 3)
    assert run.curves["ks"] == list(range(1, 12))
    assert run.curves["ncs"]["i2t"][-1] == pytest.approx(run.report["i2t"]["NCS@11"])


def test_keeping_changes_no_figure(sims, phi):
    for options in ({}, {"relevance": phi, "m": 7}, {"relevance": phi, "folds": 3}):
        plain, kept = evaluate(sims, **options).to_dict(), evaluate(sims, keep=RunKeeper(), **options).to_dict()
        del plain["conditions"], kept["conditions"]
        assert plain == kept


def test_images_without_captions_are_no_queries(sims):
    owners = np.arange(N_CAPTIONS) % 11  # image 11 has none
    keep = RunKeeper(5)
    run = keep.run(evaluate(sims, caption_to_image=owners, keep=keep), name="uneven")
    check(run.i2t, sims, owned(owners), 5)
    assert run.i2t.ranks[11] == run.i2t.best_positive[11] == -1
    assert run.i2t.fold_ranks is run.i2t.relevance is run.i2t.positive_relevance is None
    assert run.curves == {}


def test_curves(sims, phi):
    keep = RunKeeper(15)  # more than there are images
    run = keep.run(evaluate(sims, phi, keep=keep), name="curves")
    curves = run.curves
    assert curves["ks"] == list(range(1, 16))
    assert curves["semantic_recall"]["m"] == [m for m in CURVE_MS if m <= N_IMAGES]
    for direction, query in (("i2t", "image"), ("t2i", "caption")):
        expected = ncs_at_k(sims, phi, range(1, 16), query=query)
        np.testing.assert_allclose(curves["ncs"][direction], expected, rtol=1e-12)
        for place, m in enumerate(curves["semantic_recall"]["m"]):
            expected = semantic_recall_at_k(sims, phi, curves["semantic_recall"]["k"], m=m, query=query)
            found = [of_ms[place] for of_ms in curves["semantic_recall"][direction]]
            np.testing.assert_allclose(found, expected, rtol=1e-12)
    json.dumps(curves)


def test_what_was_no_candidate_is_not_retrieved(sims):
    images = torch.from_numpy(sims.copy())
    images[:, 30:] = -torch.inf
    images[torch.arange(60) // 5, torch.arange(60)] = 99  # a positive of every image is a candidate
    keep = RunKeeper(40)
    run = keep.run(evaluate(TwoWayScorer(images, torch.from_numpy(sims)), keep=keep), name="candidates")
    n_candidates = (images > -torch.inf).sum(1)
    assert n_candidates.min() < 40
    assert ((run.i2t.retrieved >= 0).sum(1) == n_candidates.clamp(max=40)).all()
    assert (run.i2t.retrieved_sims[run.i2t.retrieved < 0] == 0).all()
    check(run.t2i, sims.T, owned(np.arange(N_CAPTIONS) // 5).T, 40)


def test_curves_end_with_the_candidates(sims, phi):
    masked = torch.from_numpy(sims.copy())
    masked[:, 30:] = -torch.inf
    masked[torch.arange(60) // 5, torch.arange(60)] = 99
    keep = RunKeeper(50)
    evaluate(TwoWayScorer(masked, torch.from_numpy(sims)), phi, keep=keep)
    n_candidates = int((masked > -torch.inf).sum(1).min())
    assert n_candidates < 50
    assert keep.curves["ks"] == list(range(1, n_candidates + 1))


def pairs():
    """Positives of their own for either direction, one of them outside the gallery, and queries without."""
    images, captions = [f"i{i}" for i in range(N_IMAGES)], [f"c{c}" for c in range(N_CAPTIONS)]
    of_images = {"i0": ["c3", "c50"], "i1": ["c7", "c99"], "i2": ["c98"]}
    of_captions = {"c3": ["i0", "i4"], "c59": ["i11"]}
    return RelevantPairs(Ids(images, captions), of_images, of_captions)


def test_any_positives(sims):
    keep = RunKeeper(6)
    report = evaluate(sims, protocol="positives", annotations=pairs(), keep=keep)
    run = keep.run(report, name="positives")
    of_images, of_captions = np.zeros((2, N_IMAGES, N_CAPTIONS), bool)
    of_images[0, [3, 50]] = of_images[1, 7] = True
    of_captions[[0, 4], 3] = of_captions[11, 59] = True
    for results, truth in ((run.i2t, of_images), (run.t2i, of_captions.T)):
        annotated = np.take_along_axis(truth, results.retrieved.numpy(), 1)
        np.testing.assert_array_equal(results.annotated, annotated)
    # Image 2 has a positive, but outside the gallery: its rank lies behind the last caption.
    assert run.i2t.ranks[2] == N_CAPTIONS
    assert run.i2t.best_positive[2] == -1
    kept = torch.arange(N_IMAGES) != 2
    ranks = dense(sims, of_images, 6)[0]
    np.testing.assert_array_equal(run.i2t.ranks[kept], ranks[kept.numpy()])
    check(run.t2i, sims.T, of_captions.T, 6)
    assert run.caption_to_image[[3, 59, 0]].tolist() == [0, 11, -1]


def test_annotations_beside_the_images_own_captions(sims):
    rng = np.random.default_rng(5)
    truths = [rng.random((N_IMAGES, N_CAPTIONS)) < share for share in (0.1, 0.2)]
    sets = [
        tuple(
            query_positives([np.flatnonzero(row) for row in side], len(side), side.shape[1])
            for side in (truth, truth.T)
        )
        for truth in truths
    ]
    extras = [RankedSets("cxc", *sets[0], (1,)), RetrievedSets("eccv", *sets[1], (1,))]
    positives = make_positives(N_IMAGES, N_CAPTIONS)
    plan = Plan(as_scorer(sims), positives, extras=extras)
    keep = RunKeeper(20)
    both = stream_ranks(plan.scorer, positives, k=20)
    keep.take(positives, (both.image, both.caption), both.top, annotated=plan.annotated)
    run = keep.run(evaluate(sims), name="annotated")
    either = truths[0] | truths[1]
    for results, truth in ((run.i2t, either), (run.t2i, either.T)):
        lists = results.retrieved.numpy()
        expected = np.take_along_axis(truth, np.maximum(lists, 0), 1) & (lists >= 0)
        np.testing.assert_array_equal(results.annotated, expected)
        assert 0 < expected.sum() < expected.size


def test_texts_follow_the_order_of_the_protocol(sims, tmp_path):
    truth = pairs()
    rows, columns = np.random.default_rng(2).permutation(N_IMAGES), np.random.default_rng(3).permutation(N_CAPTIONS)
    given = Ids([truth.ids.images[i] for i in rows], [truth.ids.captions[c] for c in columns])
    keep = RunKeeper(3)
    report = evaluate(sims[rows][:, columns], protocol="positives", annotations=truth, ids=given, keep=keep)
    run = keep.run(report, name="ids", captions=given.captions, image_names=given.images)
    assert (list(run.captions), list(run.image_names)) == (truth.ids.captions, truth.ids.images)
    positives = np.zeros((N_CAPTIONS, N_IMAGES), bool)
    positives[3, [0, 4]] = positives[59, 11] = True
    check(run.t2i, sims.T, positives, 3)
    save_run(run, tmp_path / "run")
    assert load_run(tmp_path / "run").captions == run.captions
    with pytest.raises(ValueError, match="59 texts were given, but sims has 60"):
        keep.run(report, name="ids", captions=given.captions[:-1])


@pytest.mark.parametrize("depth", [0, -1, 2.0, True, None])
def test_bad_depth(depth):
    with pytest.raises(ValueError, match="depth is"):
        RunKeeper(depth)


def test_nothing_kept(sims):
    with pytest.raises(ValueError, match="nothing kept yet"):
        RunKeeper().run(evaluate(sims), name="none")
    keep = RunKeeper()
    with pytest.raises(ValueError, match="captions has 1 entries, expected 60"):
        keep.run(evaluate(sims, keep=keep), name="none", captions=["one"])


def query_results(ranks, first, best):
    n = len(ranks)
    lists = torch.tensor(first)[:, None]
    return QueryResults(
        torch.tensor(ranks), None, lists, torch.zeros(n, 1), torch.tensor(best), torch.zeros(n), None, None, None
    )


def test_shown_pairs():
    i2t = query_results([0, 2, 9, -1, 7], [0, 5, 6, 1, 3], [0, 2, 4, -1, -1])
    t2i = query_results([0, 1], [0, 2], [0, 0])
    # Worst first: image 2 (rank 9), image 4 (its positive is nowhere), image 1; then caption 1; then the successes.
    assert shown_pairs(i2t, t2i) == [(2, 6), (2, 4), (4, 3), (1, 5), (1, 2), (2, 1), (0, 1), (0, 0)]


def test_at_most_60_pairs():
    n = 500
    many = query_results(list(range(n)), [0] * n, [1] * n)
    some = query_results([0] * n, list(range(n)), list(range(n)))
    assert len(shown_pairs(many, many)) <= 60
    assert len(shown_pairs(some, some)) == 6  # the same six of both directions
    assert shown_pairs(some, some)[-1][0] > 400  # taken from all of them


# --- attention

VOCABULARY = Vocabulary.build([["a", "dog", "runs"], ["a", "cat", "sleeps"]], threshold=1)
CAPTIONS = ["a dog runs", "a cat", "dog", "cat sleeps a dog", "a unicorn"] * 4


class Data:
    """Four images with five captions each."""

    captions, captions_per_image = CAPTIONS, 5
    n_images, n_captions = 4, len(CAPTIONS)
    features = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(0))

    def regions(self, indices):
        return self.features[list(indices)]


def model_scorer(name, **options):
    torch.manual_seed(0)
    kind = model_class(name)
    model = kind(kind.config_class(img_dim=6, word_dim=5, embed_size=8, **options), VOCABULARY).eval()
    return ModelScorer(model, Data(), tokenizer="split", batch_size=3)


@pytest.mark.parametrize("raw_feature_norm", ["clipped_l2norm", "softmax", "no_norm", "l1norm"])
@pytest.mark.parametrize("cross_attn", ["t2i", "i2t"])
def test_attention_gives_the_similarity(cross_attn, raw_feature_norm):
    options = {"cross_attn": cross_attn, "raw_feature_norm": raw_feature_norm, "lambda_softmax": 4.0}
    scorer = model_scorer("scan", **options)
    pairs = [(0, 0), (3, 19), (2, 3), (1, 11)]
    for (image, caption), one in zip(pairs, attention_maps(scorer, pairs), strict=True):
        regions, words, tokens = scorer.pair(image, caption)
        assert (one.image, one.caption, one.words) == (image, caption, tokens)
        sums = one.weights.sum(1 if cross_attn == "t2i" else 0)
        torch.testing.assert_close(sums, torch.ones_like(sums))
        # The attended context and its cosine, by hand, come to the model's similarity.
        query, context, weights = (
            (words, regions, one.weights) if cross_attn == "t2i" else (regions, words, one.weights.T)
        )
        cosines = torch.nn.functional.cosine_similarity(query, weights @ context, dim=1)
        sim = reference.cross_attention.aggregate(cosines[None], "LogSumExp", 6.0)
        expected = scorer(slice(image, image + 1), slice(caption, caption + 1))[0]
        torch.testing.assert_close(sim, expected, rtol=1e-4, atol=1e-5)


def test_tokens_are_those_the_model_read():
    (one,) = attention_maps(model_scorer("scan"), [(0, 4)])
    assert one.words == ("<start>", "a", "<unk>", "<end>")
    assert one.weights.shape == (4, 3)
    (one,) = attention_maps(model_scorer("scan"), [(0, 4)], numbers=[(7, 8)])
    assert (one.image, one.caption) == (7, 8)


def test_sgraf_and_chan():
    generator = torch.Generator().manual_seed(0)
    regions, words = (torch.nn.functional.normalize(torch.randn(n, 8, generator=generator), dim=1) for n in (5, 3))
    found = SGRAFSimilarity(8, 4, n_regions=5).attention(regions, words)
    torch.testing.assert_close(
        found, CrossAttention("t2i", "clipped_l2norm", lambda_softmax=9.0).attention(regions, words)
    )
    dots = words @ regions.T
    of_words = CHANSimilarity("VHACoding").attention(regions, words)
    torch.testing.assert_close((of_words * dots).sum(1), dots.max(1).values)
    of_regions = CHANSimilarity("THACoding").attention(regions, words)
    torch.testing.assert_close((of_regions * dots).sum(0), dots.max(0).values)
    soft = CHANSimilarity("VSACoding", "MeanPooling").attention(regions, words)
    context = torch.nn.functional.normalize(soft.T @ words, dim=1)
    expected = CHANSimilarity("VSACoding", "MeanPooling")(regions[None], words[None])[0, 0]
    torch.testing.assert_close((context * regions).sum(1).mean(), expected)


def test_which_models_have_attention():
    for scorer in (
        model_scorer("scan"),
        model_scorer("sgraf", n_regions=3, sim_dim=4),
        model_scorer("chan", coding_type="VHACoding"),
    ):
        assert has_attention(scorer)
        (one,) = attention_maps(scorer, [(2, 3)])
        torch.testing.assert_close(one.weights.sum(1), torch.ones(len(one.words)))
    assert not has_attention(model_scorer("vsepp"))
    with pytest.raises(ValueError, match="VSEPP has no attention between regions and words"):
        attention_maps(model_scorer("vsepp"), [(0, 0)])
    with pytest.raises(IndexError):
        attention_maps(model_scorer("scan"), [(0, 99)])
    assert attention_maps(model_scorer("vsepp"), []) == ()


def test_a_run_with_attention(tmp_path):
    scorer = model_scorer("scan")
    keep = RunKeeper(4)
    run = keep.run(evaluate(scorer, keep=keep), name="scan", captions=CAPTIONS, scorer=scorer)
    assert [(one.image, one.caption) for one in run.attention] == shown_pairs(run.i2t, run.t2i)
    assert 0 < len(run.attention) <= 60
    save_run(run, tmp_path / "run")
    read = load_run(tmp_path / "run")
    assert all(torch.equal(a.weights, b.weights) for a, b in zip(read.attention, run.attention, strict=True))
    plain = model_scorer("vsepp")
    assert keep.run(evaluate(plain, keep=keep), name="vsepp", scorer=plain).attention == ()
    assert keep.run(evaluate(plain, keep=keep), name="sims", scorer=SimpleNamespace()).attention == ()
