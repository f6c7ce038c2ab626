"""Re-ranking against dense matrices with -inf outside of the candidates, and against X-VLM's own evaluation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import small_model

from itm_fast import cross_attention_similarity
from itm_fast.data import Vocabulary
from itm_fast.evaluation import RelevantPairs, evaluate, rerank, search_alpha
from itm_fast.evaluation.beside_recall import PlausibleMatches, RankedSets, RetrievedSets
from itm_fast.evaluation.list_sections import extra_sections
from itm_fast.evaluation.plan import Plan
from itm_fast.files.ids import Ids
from itm_fast.metrics.precision import map_at_r
from itm_fast.metrics.query_positives import positives_by_id
from itm_fast.metrics.ranks import stream_topk
from itm_fast.similarities.scorers import MatrixScorer
from itm_fast.sources.candidates import score_candidates
from itm_fast.sources.pairs import as_pair_scorer
from itm_fast.sources.trained_model import ModelScorer

GOLDEN = Path(__file__).parents[2] / "../shared/golden/evaluation/small_421.json"
KS = (1, 2, 3)


def dense(coarse, fine, k, alpha, beta):
    """The two final matrices, float64, by stable sorts: of image queries, and of caption queries (turned)."""
    finals = []
    for turned in (False, True):
        c, f = ((x.T if turned else x).astype(np.float64) for x in (coarse, fine))
        final = np.full(c.shape, -np.inf)
        for query, order in enumerate(np.argsort(-c, axis=1, kind="stable")[:, :k]):
            final[query, order] = (alpha * c[query, order] if alpha else 0) + beta * f[query, order]
        finals.append(final)
    return finals


def dense_recalls(final, positives, ks):
    """{k: (R@k, R_all@k)} of lists of positives."""
    found = {k: [] for k in ks}
    for row, own in zip(final, positives, strict=True):
        order = np.argsort(-row, kind="stable")
        for k in ks:
            hits = np.isin(order[:k], own).sum()
            found[k].append((hits > 0, hits / len(own)))
    return {k: 100 * np.mean(hits, axis=0) for k, hits in found.items()}


def check(report, coarse, fine, k, alpha, beta, owners, ks=KS):
    finals = dense(coarse, fine, k, alpha, beta)
    positives = ([np.flatnonzero(owners == i) for i in range(len(coarse))], owners[:, None])
    for way, final, own in zip(("i2t", "t2i"), finals, positives, strict=True):
        for cut, (any_of, all_of) in dense_recalls(final, own, ks).items():
            assert report[way][f"R@{cut}"] == pytest.approx(any_of, abs=1e-9)
            assert report[way][f"R_all@{cut}"] == pytest.approx(all_of, abs=1e-9)


def made(seed, n_images=9, levels=None):
    rng = np.random.default_rng(seed)
    coarse, fine = (rng.standard_normal((n_images, 5 * n_images), dtype=np.float32) for _ in range(2))
    if levels:
        coarse, fine = (np.round(x * levels) / levels for x in (coarse, fine))
    return coarse, fine


OWNERS = np.arange(45) // 5


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("levels", [None, 1, 2])
@pytest.mark.parametrize(("k", "alpha", "beta"), [(3, 0.0, 1.0), (4, 0.7, 0.3), (9, 2.0, -1.0), (60, 0.0, 1.0)])
def test_against_dense_matrices(seed, levels, k, alpha, beta):
    coarse, fine = made(seed, levels=levels)
    report = rerank(coarse, fine, k, alpha=alpha, beta=beta, ks=KS, chunk_bytes=8 * 70)
    check(report, coarse, fine, k, alpha, beta, OWNERS)
    assert ("rsum" in report) == (k >= 10)
    assert "medr" not in report["i2t"]


def test_ties_have_bounds():
    coarse, fine = made(0, levels=1)
    report = rerank(coarse, fine, 12, ks=(1, 5))
    for way, final in zip(("i2t", "t2i"), dense(coarse, fine, 12, 0, 1), strict=True):
        own = [np.flatnonzero(i == OWNERS) for i in range(9)] if way == "i2t" else OWNERS[:, None]
        for cut in (1, 5):
            best = [row[p].max() for row, p in zip(final, own, strict=True)]
            bounds = {"optimistic": [], "pessimistic": []}
            for row, p, b in zip(final, own, best, strict=True):
                found = np.isfinite(b)  # without a candidate among the positives there is no hit either way
                others = np.delete(row, p)
                bounds["optimistic"].append(found and (row > b).sum() < cut)
                bounds["pessimistic"].append(found and (others >= b).sum() < cut)
            for name, hits in bounds.items():
                assert report[way][name][f"R@{cut}"] == pytest.approx(100 * np.mean(hits))
        assert report[way]["n_tied"] > 0


def test_whole_lists_are_plain_evaluation():
    coarse, fine = made(5, levels=2)
    report, plain = rerank(coarse, fine, 45), evaluate(fine)
    for way in ("i2t", "t2i"):
        for name in ("R@1", "R@5", "R@10", "R_all@5", "optimistic", "pessimistic", "n_queries", "n_tied"):
            assert report[way][name] == pytest.approx(plain[way][name])
        assert report["coarse"][way]["R@45"] == 100
    assert report["rsum"] == pytest.approx(plain["rsum"])
    assert report["conditions"]["n_scored"] == fine.size


def test_the_hit_rate_of_the_coarse_stage_is_the_ceiling():
    coarse, fine = made(6)
    fine[np.arange(9)[:, None] == OWNERS] += 100  # a perfect fine model
    report, plain = rerank(coarse, fine, 7, ks=(1, 5)), evaluate(coarse, ks=(1, 5, 7))
    for way in ("i2t", "t2i"):
        assert report[way]["R@1"] == pytest.approx(plain[way]["R@7"])
        for cut in (1, 5, 7):
            assert report["coarse"][way][f"R@{cut}"] == pytest.approx(plain[way][f"R@{cut}"])


@pytest.mark.skipif(not GOLDEN.exists(), reason="no golden values beside this checkout")
def test_like_xvlm():
    gold = json.loads(GOLDEN.read_text())["rerank"]
    rng = np.random.default_rng(gold["seed"])
    own = (np.arange(1000) // 5 == np.arange(200)[:, None]).astype(np.float32)
    coarse = rng.standard_normal((200, 1000), dtype=np.float32) + np.float32(1.5) * own
    fine = rng.standard_normal((200, 1000), dtype=np.float32) + np.float32(2.5) * own
    assert float(coarse[0, 0]) == gold["C[0,0]"]
    for alpha, name in ((0.0, "reranked"), (1.0, "reranked_sum_of_coarse_and_itm")):
        report = rerank(coarse, fine, 16, alpha=alpha)
        for way, prefix in (("i2t", "txt"), ("t2i", "img")):
            for k in (1, 5, 10):
                assert report[way][f"R@{k}"] == pytest.approx(gold[name][f"{prefix}_r{k}"], abs=1e-9)
                assert report["coarse"][way][f"R@{k}"] == pytest.approx(gold["coarse_only"][f"{prefix}_r{k}"])
            assert report["coarse"][way]["R@16"] == pytest.approx(gold["recall_ceiling_k16"][way])


def test_folds_have_candidates_of_their_own():
    coarse, fine = made(7, n_images=12)
    report = rerank(coarse, fine, 4, ks=KS, folds=3)
    assert "full" not in report
    for fold, found in enumerate(report["folds"]):
        cut = slice(4 * fold, 4 * fold + 4), slice(20 * fold, 20 * fold + 20)
        check(found, coarse[cut], fine[cut], 4, 0, 1, np.arange(20) // 5)
    assert report["i2t"]["R@1"] == pytest.approx(np.mean([fold["i2t"]["R@1"] for fold in report["folds"]]))
    assert "fold 3 t2i" in str(report)
    # candidates deeper than a fold's gallery
    deep = rerank(coarse, fine, 30, folds=3)
    plain = evaluate(fine, folds=3)
    assert deep["rsum"] == pytest.approx(plain["rsum"])


def test_images_without_captions_and_uneven_numbers():
    coarse, fine = made(8)
    owners = np.sort(np.random.default_rng(0).integers(0, 8, 45))
    report = rerank(coarse, fine, 5, ks=KS, caption_to_image=owners)
    asking = np.unique(owners)
    finals = dense(coarse, fine, 5, 0, 1)
    own = [np.flatnonzero(owners == i) for i in asking]
    for cut, (any_of, _) in dense_recalls(finals[0][asking], own, KS).items():
        assert report["i2t"][f"R@{cut}"] == pytest.approx(any_of)
    assert report["i2t"]["n_queries"] == len(asking)


class Counted:
    """A pair scorer that remembers what it was asked."""

    def __init__(self, fine):
        self.fine, self.asked = fine, []

    def __call__(self, rows, columns):
        self.asked += list(zip(rows.tolist(), columns.tolist(), strict=True))
        return self.fine[rows, columns]


def test_every_pair_of_both_directions_is_scored_once():
    coarse, fine = made(9)
    counted = Counted(fine)
    report = rerank(coarse, counted, 3, ks=KS)
    wanted = {(i, c) for i, order in enumerate(np.argsort(-coarse, 1)[:, :3]) for c in order}
    wanted |= {(i, c) for c, order in enumerate(np.argsort(-coarse.T, 1)[:, :3]) for i in order}
    assert len(counted.asked) == len(set(counted.asked))
    assert set(counted.asked) == wanted
    conditions = report["conditions"]
    assert (conditions["n_scored"], conditions["n_candidate_pairs"], conditions["n_pairs"]) == (
        len(wanted),
        len(wanted),
        fine.size,
    )
    assert f"the fine stage scored {len(wanted):,} of 405 pairs" in str(report)


@pytest.mark.parametrize("kind", ["array", "tensor", "embeddings", "tiles", "callable"])
def test_kinds_of_fine_scores(kind):
    rng = np.random.default_rng(3)
    coarse, _ = made(3)
    images, captions = (torch.from_numpy(rng.standard_normal((n, 6))) for n in (9, 45))
    fine = images @ captions.T

    class Scorer:
        n_images, n_captions = 9, 45

        def __call__(self, rows, columns):
            return fine[rows, columns]

    given = {
        "array": fine.numpy(),
        "tensor": fine,
        "embeddings": (images, captions),
        "tiles": Scorer(),
        "callable": lambda rows, columns: fine.numpy()[rows, columns],
    }[kind]
    report = rerank(coarse, given, 5, ks=KS)
    check(report, coarse, fine.numpy(), 5, 0, 1, OWNERS)
    assert (report["conditions"]["n_scored"] == fine.numel()) == (kind == "tiles")


def test_infinite_scores():
    coarse, fine = made(10)
    coarse[:, ::3] = -np.inf
    fine[fine > 1] = -np.inf
    report = rerank(coarse, fine, 5, ks=KS)  # the coarse score has no part, infinite or not
    again = rerank(np.where(np.isinf(coarse), np.float32(-1e9), coarse), np.where(np.isinf(fine), -1e9, fine), 5, ks=KS)
    assert report["i2t"] == again["i2t"]
    assert report["t2i"] == again["t2i"]
    with pytest.raises(ValueError, match="infinite scores of the two stages cancel out"):
        rerank(np.full((9, 45), np.inf), np.full((9, 45), -np.inf), 5, alpha=1.0, ks=KS)


def test_positives_and_ids():
    coarse, fine = made(11)
    rows, columns = np.random.default_rng(1).permutation(9), np.random.default_rng(2).permutation(45)
    pairs = RelevantPairs(
        Ids(list(range(9)), list(range(45))),
        {i: [5 * i, (7 * i + 3) % 45, 99] for i in range(8)},
        {c: [c % 9, (c + 4) % 9] for c in range(0, 45, 2)},
    )
    plain = rerank(coarse, fine, 9, ks=KS, protocol="positives", annotations=pairs)
    moved = rerank(
        coarse[rows][:, columns],
        fine[rows][:, columns],
        9,
        ks=KS,
        protocol="positives",
        annotations=pairs,
        ids=Ids(rows.tolist(), columns.tolist()),
    )
    whole = rerank(fine, fine, 45, ks=KS, protocol="positives", annotations=pairs)
    expected = evaluate(fine, ks=KS, protocol="positives", annotations=pairs)
    for way in ("i2t", "t2i"):
        assert plain[way] == moved[way]
        for name in ("R@1", "R@3", "R_all@2", "mAP@R", "R-Precision", "n_queries", "n_pairs"):
            assert whole[way][name] == pytest.approx(expected[way][name])
    finals = dense(coarse, fine, 9, 0, 1)
    own = [pairs.image_to_captions[i] for i in range(8)]
    assert plain["i2t"]["R@3"] == pytest.approx(dense_recalls(finals[0][:8], own, (3,))[3][0])


@pytest.mark.parametrize("k", [12, 5])
def test_what_else_a_protocol_reports(k):
    """As of eccv: recall with other positives, mAP@R from lists as deep as the largest R, and what is left out."""
    coarse, fine = made(13)
    lists = {i: [(3 * i + j) % 45 for j in range(1 + i)] for i in range(8)}, {c: [c % 9, (c + 2) % 9] for c in range(9)}
    truths = (
        positives_by_id({**lists[0], 2: [*lists[0][2], 99]}, range(9), range(45)),
        positives_by_id(lists[1], range(45), range(9)),
    )
    everything = stream_topk(MatrixScorer(fine), 45)[0]
    extras = [
        RankedSets("cxc", *truths, KS),
        RetrievedSets("eccv", *truths, KS),
        PlausibleMatches(*truths, MatrixScorer(fine)),
    ]
    plan = Plan(MatrixScorer(fine), truths, extras=extras)
    whole = extra_sections(plan, (everything.image, everything.caption), KS, 45)[0]
    scored = score_candidates(
        MatrixScorer(coarse), as_pair_scorer(fine, 9, 45), k, None, (None, None), chunk_bytes=8 * 70
    )
    sections, left_out = extra_sections(plan, scored.galleries[0].lists(0, 1), KS, k)
    assert any("PMRP" in line for line in left_out)
    assert ("eccv" in sections) == (k == 12)
    assert any("which need k of at least 8" in line for line in left_out) == (k == 5)
    finals = dense(coarse, fine, k, 0, 1)
    own = [np.array(lists[0][i]) for i in range(8)]
    for cut, (any_of, _) in dense_recalls(finals[0][:8], own, KS).items():
        assert sections["cxc"]["i2t"][f"R@{cut}"] == pytest.approx(any_of)
        if k == 12:
            assert sections["eccv"]["i2t"][f"R@{cut}"] == pytest.approx(any_of)
    if k == 12:
        lists_of_all = [list(i) for i in (truths[0].padded()[q][truths[0].padded()[q] >= 0] for q in range(9))]
        precision = []
        for query in range(8):
            order, r = np.argsort(-finals[0][query], kind="stable"), len(lists[0][query]) + (query == 2)
            hits = np.isin(order[:r], lists_of_all[query])
            precision.append(hits.mean())
        assert sections["eccv"]["i2t"]["R-Precision"] == pytest.approx(100 * np.mean(precision))
    for name, figures in whole.items():  # lists of everything: as evaluate has them
        assert figures["t2i"]["n_queries"] == 9, name
    assert whole["eccv"]["t2i"]["mAP@R"] == pytest.approx(map_at_r(fine, truths[1], query="caption"))


def test_alpha_search():
    rng = np.random.default_rng(4)
    own = np.arange(9)[:, None] == OWNERS
    signal = 3.0 * own
    coarse, fine = (signal + rng.standard_normal((9, 45)) for _ in range(2))
    found = search_alpha(coarse, fine, 10, alphas=(0.0, 0.5, 1.0, 2.0))
    rsums = {alpha: rerank(coarse, fine, 10, alpha=alpha)["rsum"] for alpha in (0.0, 0.5, 1.0, 2.0)}
    assert dict(found.tried) == pytest.approx(rsums)
    assert rsums[found.alpha] == max(rsums.values())
    assert found.alpha > 0  # two independent witnesses are better than one
    useless = search_alpha(1e-3 * coarse, rng.standard_normal((9, 45)) * 100, 10)
    spread = useless.tried[4][0]  # once the ratio of the spreads
    assert 1e3 < spread < 1e6
    assert useless.alpha >= spread


GOOD = made(12)


@pytest.mark.parametrize(
    ("call", "error", "fragment"),
    [
        (lambda c, f: rerank(c, f, 4), ValueError, r"k is 4, but R@10 is asked for"),
        (lambda c, f: rerank(c, f, 4.0), TypeError, "k is 4.0, expected an integer"),
        (lambda c, f: rerank(c, f, 10, alpha=float("nan")), ValueError, "alpha is nan"),
        (lambda c, f: rerank(c, f, 10, beta="1"), TypeError, "beta is '1'"),
        (lambda c, f: rerank(c, f, 10, beta=0), ValueError, "alpha and beta are both 0"),
        (lambda c, f: rerank(c, f[:8], 10), ValueError, "of 8 images x 45 captions, but the coarse ones of 9 x 45"),
        (lambda c, f: rerank(c, f.T, 10), ValueError, "45 images x 9 captions"),
        (lambda c, f: rerank(c.T, f.T, 10), ValueError, "looks transposed"),
        (lambda c, f: rerank(c[:, :0], f[:, :0], 10), ValueError, "nothing to re-rank"),
        (lambda c, f: rerank(lambda r, s: c[r, s], f, 10), ValueError, "coarse is a callable without n_images"),
        (lambda c, f: rerank(c, lambda r, s: c[r, :3], 10), ValueError, "the scorer of pairs returned shape"),
        (lambda c, f: rerank(c, "fine", 10), TypeError, "is a str"),
        (lambda c, f: rerank(c, f, 10, protocol="cxc"), ValueError, "use protocol cxc-image-text"),
        (lambda c, f: rerank(c, f, 10, protocol="coco-1k"), ValueError, "coco-1k expects 5000 images"),
        (lambda c, f: rerank(np.where(c == c[3, 7], np.nan, c), f, 10), ValueError, "coarse is NaN at row"),
        (lambda c, f: rerank(c, np.where(c == c.max(), np.nan, f), 10), ValueError, "fine is NaN at row"),
        (lambda c, f: search_alpha(c, f, 10, alphas=()), ValueError, "alphas is empty"),
        (lambda c, f: search_alpha(c, f, 9), ValueError, r"R@10 is asked for"),
    ],
)
def test_errors(call, error, fragment):
    with pytest.raises(error, match=fragment):
        call(*GOOD)


CAPTIONS = [f"w{c % 7} w{c % 3}" + " w1" * (c % 4) for c in range(60)]
VOCABULARY = Vocabulary.build((caption.split() for caption in CAPTIONS), threshold=1)


class CrossAttention(torch.nn.Module):
    """SCAN's operator on a table of words."""

    def __init__(self):
        super().__init__()
        self.vocabulary = VOCABULARY
        self.table = torch.randn(len(VOCABULARY), 6, generator=torch.Generator().manual_seed(0))
        self.n_images = self.n_captions = self.n_pairs = 0
        self.eval()

    def encode_images(self, images):
        self.n_images += len(images)
        return images * 2

    def encode_captions(self, tokens, word_counts):
        self.n_captions += len(tokens)
        return self.table[tokens]  # also where there is no word: nothing may be read there

    def similarity(self, regions, words, word_counts):
        from itm_fast import cross_attention_similarity

        self.n_pairs += len(regions) * len(words)
        return cross_attention_similarity(regions, words, word_counts)


class Pooled(CrossAttention):
    """One vector a caption."""

    def encode_captions(self, tokens, word_counts):
        valid = torch.arange(tokens.shape[1]) < word_counts[:, None]
        return (super().encode_captions(tokens, word_counts) * valid[:, :, None]).sum(1)

    def similarity(self, regions, words, word_counts):
        self.n_pairs += len(regions) * len(words)
        return regions.mean(1) @ words.T


class TinyData:
    """The part of PrecompDataset that a scorer uses."""

    captions, captions_per_image = CAPTIONS, 5
    n_images, n_captions = 12, len(CAPTIONS)
    features = torch.randn(12, 3, 6, generator=torch.Generator().manual_seed(1))

    def regions(self, indices):
        return self.features[list(indices)]


@pytest.mark.parametrize("model_class", [CrossAttention, Pooled])
@pytest.mark.parametrize(("batch_size", "cache_bytes"), [(5, 2 << 30), (8, 2000), (64, 1)])
def test_pairs_of_a_model(model_class, batch_size, cache_bytes):
    model = model_class()
    scorer = ModelScorer(model, TinyData(), tokenizer="split", batch_size=batch_size, cache_bytes=cache_bytes)
    full = scorer(slice(0, 12), slice(0, 60))
    rng = np.random.default_rng(0)
    rows, columns = np.divmod(np.sort(rng.choice(720, 200, replace=False)), 60)
    model.n_images = model.n_captions = model.n_pairs = 0
    steps = []
    scores = scorer.score_pairs(rows, columns, lambda done, total: steps.append((done, total)))
    torch.testing.assert_close(scores, full[rows, columns])
    assert model.n_pairs == 200
    assert model.n_captions == len(np.unique(columns))
    assert steps[-1] == (200, 200)
    assert scorer.score_pairs(rows[:0], columns[:0]).shape == (0,)


@pytest.mark.parametrize("regions_missing", [False, True])
@pytest.mark.parametrize("cache_bytes", [2 << 30, 3000])
def test_a_model_of_an_operator_that_walks_lists_is_given_lists(cache_bytes, regions_missing):
    class Lists(CrossAttention):
        def similarity(self, regions, words, word_counts, region_counts=None):
            return cross_attention_similarity(regions, words, word_counts, region_counts)

        def encode_images(self, images, region_counts=None):
            return super().encode_images(images)

        def similarity_of_candidates(self, regions, captions, candidates, region_counts=None):
            self.n_lists += len(candidates)
            return cross_attention_similarity(regions, captions, None, region_counts, candidates=candidates)

    class Fewer(TinyData):
        def counted_regions(self, indices):
            return self.regions(indices), torch.tensor([1 + index % 3 for index in indices])

    model = Lists()
    model.n_lists = 0
    data = Fewer() if regions_missing else TinyData()
    scorer = ModelScorer(model, data, tokenizer="split", batch_size=5, cache_bytes=cache_bytes)
    full = scorer(slice(0, 12), slice(0, 60))
    rows, columns = np.divmod(np.sort(np.random.default_rng(0).choice(720, 100, replace=False)), 60)
    steps = []
    scores = scorer.score_pairs(rows, columns, lambda done, total: steps.append((done, total)))
    torch.testing.assert_close(scores, full[rows, columns])
    assert steps[-1] == (100, 100)
    assert model.n_lists >= 12
    assert scorer.score_pairs(rows[:0], columns[:0]).shape == (0,)


def test_models_of_both_stages():
    coarse = ModelScorer(Pooled(), TinyData(), tokenizer="split", batch_size=7)
    model = CrossAttention()
    fine = ModelScorer(model, TinyData(), tokenizer="split", batch_size=7)
    report = rerank(coarse, fine, 4, ks=KS)
    assert model.n_pairs == report["conditions"]["n_scored"] < 720
    assert (model.n_images, model.n_captions) == (12, 60)
    matrices = [scorer(slice(0, 12), slice(0, 60)).numpy() for scorer in (coarse, fine)]
    check(report, *matrices, 4, 0, 1, np.arange(60) // 5)


@pytest.mark.parametrize("name", ["scan", "esl", "chan", "laps"])
def test_models_that_walk_lists_rank_as_by_all_pairs(name, monkeypatch):
    model = small_model(name, VOCABULARY, 6).eval()
    coarse, fine = (ModelScorer(some, TinyData(), tokenizer="split", batch_size=7) for some in (Pooled(), model))
    matrices = [scorer(slice(0, 12), slice(0, 60)).numpy() for scorer in (coarse, fine)]
    monkeypatch.setattr(model, "similarity", None)  # of all pairs
    rows, columns = np.divmod(np.arange(0, 720, 5), 60)
    np.testing.assert_allclose(fine.score_pairs(rows, columns), matrices[1][rows, columns], rtol=1e-4, atol=1e-5)
    check(rerank(coarse, fine, 4, ks=KS), *matrices, 4, 0, 1, np.arange(60) // 5)
