"""Protocol cxc: golden retrieval and correlations, thresholds, the query itself, what needs embeddings, files."""

import gzip
import hashlib
import math

import numpy as np
import pytest
import torch
from eccv_golden import installed
from golden_files import data_path, golden_json

from itm_fast.errors import DataError
from itm_fast.evaluation import Ids, evaluate
from itm_fast.evaluation.beside_recall import IntraModal
from itm_fast.evaluation.protocols import cxc
from itm_fast.evaluation.protocols.eccv_caption import read_coco_test, read_truth
from itm_fast.evaluation.sampled_correlation import sampled_spearman, spearman
from itm_fast.metrics.counting import RankCounter
from itm_fast.similarities.scorers import as_scorer
from itm_fast.similarities.tiles import CHUNK_BYTES, Tiles, everything
from itm_fast.sources.pairs import PairScores


@pytest.fixture(scope="module")
def folder():
    for task in cxc.COLUMNS:
        data_path(f"cxc/{task}_test.csv.gz")
    return data_path("cxc/sts_test.csv.gz").parent


@pytest.fixture(scope="module")
def rated(folder):
    return {task: cxc.read_rated(folder, task) for task in cxc.COLUMNS}


@pytest.mark.parametrize("task", list(cxc.COLUMNS))
def test_golden_correlations(folder, rated, task):
    gold = golden_json("cxc_spearman_411.json")
    expected = gold["tasks"][task]
    content = gzip.decompress((folder / f"{task}_test.csv.gz").read_bytes())
    assert hashlib.sha256(content).hexdigest() == expected["sha256_csv"]
    y = rated[task].scores
    m = y + gold["noise"] * np.random.default_rng(gold["seed"]).standard_normal(len(y))
    assert spearman(m, y) == pytest.approx(expected["spearman_all"], abs=1e-12)
    assert spearman(np.round(m), y) == pytest.approx(expected["spearman_all_model_rounded"], abs=1e-12)
    for column in (0, 1):
        values = expected[f"bootstrap_col{column}"]
        found = sampled_spearman(m, y, rated[task].queries(column), n_samples=5, seed=gold["seed"] + 1000)
        assert found["spearman"] == pytest.approx(100 * np.mean(values["first5"]), abs=1e-10)
        assert (found["n_queries"], found["n_sampled"]) == (values["queries"], values["per_sample"])
        if column == 0 or task == "sis":
            found = sampled_spearman(m, y, rated[task].queries(column), seed=gold["seed"] + 1000)
            assert found["spearman"] == pytest.approx(100 * values["mean"], abs=1e-10)
            assert found["std"] == pytest.approx(100 * values["std_ddof0"], abs=1e-10)
    # Trap 14: all rows at once is another number.
    assert abs(expected["spearman_all"] - expected["bootstrap_col0"]["mean"]) > 0.0005


def test_spearman_shares_ranks():
    assert spearman([1, 1, 2, 2], [1, 2, 3, 4]) == pytest.approx(4 / math.sqrt(20))
    assert math.isnan(spearman([1, 1], [1, 2]))
    assert math.isnan(spearman([1], [2]))


def test_positives_are_those_of_eccv_caption(rated):
    installed()
    ours, theirs = cxc.image_text_truth(rated["sits"]), read_truth(None, "cxc")
    for mine, other in (
        (ours.image_to_captions, theirs.image_to_captions),
        (ours.caption_to_images, theirs.caption_to_images),
    ):
        assert {key: set(items) for key, items in mine.items()} == {key: set(items) for key, items in other.items()}
        assert sum(map(len, mine.values())) == 35_585


@pytest.fixture(scope="module")
def siblings(rated):
    installed()
    return cxc.owners(rated["sits"], read_coco_test(None).caption_ids)


@pytest.mark.parametrize("name", ["i2i", "t2t"])
@pytest.mark.parametrize("kind", ["cxc_intra", "cxc_intra_no_signal"])
def test_golden_intra_modal(rated, siblings, name, kind):
    gold = golden_json("small_421.json")[kind]
    test = read_coco_test(None)
    task, ids, group = ("sis", test.image_ids, None) if name == "i2i" else ("sts", test.caption_ids, siblings)
    truth = cxc.intra_modal_positives(rated[task], cxc.THRESHOLDS[task], ids, group)
    expected = gold[name]
    assert (len(truth.queries), truth.n_pairs) == (expected["queries"], expected["positive_pairs"])
    noise = np.random.default_rng(gold["seed"]).standard_normal((len(ids), gold["d"]))
    sums = np.zeros_like(noise)
    np.add.at(sums, truth.owners(), noise[truth.items])
    embeddings = noise + gold["w"] * sums / np.sqrt(np.maximum(truth.n_relevant, 1))[:, None]
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    assert embeddings[0, 0] == pytest.approx(expected["E[0,0]"], rel=1e-12)
    found = {}
    for key, self_score in (("diagonal_-inf", -math.inf), ("diagonal_0", 0.0)):
        figures = IntraModal(name, embeddings, truth, (1, 5, 10), self_score).sections(CHUNK_BYTES, None)[name]
        found[key] = figures
        for k in (1, 5, 10):
            one_query = 100 / expected["queries"]
            assert figures[f"R@{k}"] == pytest.approx(expected[key][f"r{k}"], abs=1.01 * one_query)
        assert figures["n_queries"] == expected["queries"]
    # Trap 5: 0 is not the minimum of a cosine, so a query may come before its own positives.
    assert (found["diagonal_0"]["meanr"] > found["diagonal_-inf"]["meanr"]) == bool(
        expected["queries_whose_rank_differs"]
    )


def test_thresholds_are_inclusive_and_both_ways_round(tmp_path):
    rows = ((1, 2, 2.5), (2, 3, 2.49), (3, 2, 4), (4, 5, 1))
    text = "".join(f"v_{a}.jpg,v_{b}.jpg,{score},x\n" for a, b, score in rows)
    (tmp_path / "sis_test.csv").write_text(f"image1,image2,agg_score,sampling_method\n{text}")
    truth = cxc.intra_modal_positives(cxc.read_rated(tmp_path, "sis"), 2.5, [1, 2, 3, 4, 5], None)
    assert truth.padded().tolist() == [[1, -1], [0, 2], [1, -1], [-1, -1], [-1, -1]]


@pytest.fixture(scope="module")
def embeddings():
    rng = np.random.default_rng(1)
    images = rng.standard_normal((5000, 8), dtype=np.float32)
    return images, images.repeat(5, axis=0) + rng.standard_normal((25_000, 8), dtype=np.float32)


@pytest.fixture(scope="module")
def report(embeddings, folder):
    installed()
    calls = []
    made = evaluate(embeddings, protocol="cxc", annotations=folder, progress=lambda *at: calls.append(at))
    assert calls[-1][0] == calls[-1][1] == 5000 * 25_000 + 25_000**2 + 5000**2
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    return made


@pytest.fixture(scope="module")
def by_eccv(embeddings):
    installed()
    return evaluate(embeddings, protocol="eccv")


def test_all_of_it(embeddings, report, by_eccv):
    for direction in ("i2t", "t2i"):
        for k in (1, 5, 10):
            assert report[direction][f"R@{k}"] == pytest.approx(by_eccv["cxc"][direction][f"R@{k}"], abs=0.03)
    assert report["t2i"]["n_queries"] == 24_972
    assert (report["t2t"]["n_queries"], report["i2i"]["n_queries"]) == (25_000, 4791)
    assert report["sits"]["query_column"] == "caption"
    text = str(report)
    for fragment in (
        "CxC t2t",
        "CxC i2i",
        "STS",
        "caption1",
        "image1",
        "not added, 35585 pairs",
        "4791",
    ):
        assert fragment in text


def test_with_eccv_of_one_pass(embeddings, report, by_eccv, folder):
    """coco-all has to the last bit what cxc and eccv have."""
    both = evaluate(embeddings, protocol="coco-all", annotations=folder)
    assert [key for key in by_eccv if key != "conditions" and both[key] != by_eccv[key]] == []
    assert all(both[key] == report[key] for key in ("t2t", "i2i", "sts", "sis", "sits"))


def test_a_symmetric_pass_counts_as_a_whole_one():
    """Half of the tiles, each for both of its places: the ranks of every query, whatever the tiles."""
    rng = np.random.default_rng(4)
    vectors = torch.from_numpy(rng.integers(-3, 4, (41, 3)).astype(np.float32))  # whole numbers: exact, and they tie
    index = torch.from_numpy(np.sort(rng.choice(41, (41, 2)), axis=1))
    scorer = as_scorer((vectors, vectors))
    scores = (vectors @ vectors.T).gather(1, index)
    for n_sims in (1, 30, 300, 41 * 41):
        whole, half = (RankCounter("image", scores, index) for _ in range(2))
        Tiles(scorer).collect(everything(scorer), n_sims, [whole], ())
        seen = []
        Tiles(scorer, lambda *at, seen=seen: seen.append(at)).collect_symmetric(n_sims, [half])
        assert torch.equal(whole.ranks().positives, half.ranks().positives)
        assert torch.equal(whole.ranks().pessimistic, half.ranks().pessimistic)
        assert seen[-1] == (41 * 41, 41 * 41)


def test_image_text_alone_and_the_query_column(embeddings, folder, report):
    normal = [torch.nn.functional.normalize(torch.from_numpy(side), dim=1) for side in embeddings]
    sims = (normal[0] @ normal[1].T).numpy()
    found = evaluate(sims, protocol="cxc-image-text", annotations=folder)
    assert found["sits"]["spearman"] == pytest.approx(report["sits"]["spearman"], abs=1e-3)  # cosines of float32
    assert "t2t" not in found
    other = evaluate(sims, protocol="cxc-image-text", annotations=folder, query_column=1)
    assert other["sits"]["query_column"] == "image"
    assert abs(other["sits"]["spearman"] - found["sits"]["spearman"]) > 0.5


def test_ids_instead_of_the_test_order(embeddings, folder, report):
    # Without folds no file with the test order is needed, and extra captions are left out.
    test = read_coco_test(None)
    rows, columns = np.argsort(test.image_ids), np.argsort(test.caption_ids)
    ids = Ids([test.image_ids[i] for i in rows], [*(test.caption_ids[c] for c in columns), 1])
    captions = np.concatenate([embeddings[1][columns], embeddings[1][:1]])
    found = evaluate((embeddings[0][rows], captions), protocol="cxc-image-text", annotations=folder, ids=ids)
    assert found["t2i"]["R@5"] == pytest.approx(report["t2i"]["R@5"], abs=0.03)
    assert "1 captions that protocol cxc-image-text does not have were left out" in found["conditions"]["notes"]
    bad = Ids([*ids.images[:-1], 7], ids.captions)
    with pytest.raises(ValueError, match="1 of its 5000 images are not among the ids given"):
        evaluate((embeddings[0], captions), protocol="cxc-image-text", annotations=folder, ids=bad)


def test_cross_attention_is_refused(folder):
    with pytest.raises(ValueError, match="models with cross-attention, which only score an image with a caption"):
        evaluate(np.zeros((5000, 25_000), np.float32), protocol="cxc", annotations=folder)


def test_pairs_are_collected_from_any_tiles():
    sims = torch.rand(20, 30, dtype=torch.float64)
    rows, columns = np.array([3, 0, 19, 3, 3]), np.array([29, 0, 5, 2, 29])
    pairs = PairScores(rows, columns)
    Tiles(as_scorer(sims)).collect(everything(as_scorer(sims)), 17, [pairs], ())
    np.testing.assert_array_equal(pairs.scores, sims.numpy()[rows, columns])


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        ("a,b\n", "begins with 'a,b', expected the columns caption1,caption2,agg_score,sampling_method"),
        ("caption1,caption2,agg_score,sampling_method\nc:1,c:2,x,m\n", "sts_test.csv:2"),
        ("caption1,caption2,agg_score,sampling_method\nc:1,c:2,3\n", "expected a caption, a caption, a number"),
        ("caption1,caption2,agg_score,sampling_method\nc:1,c:x,3,m\n", "caption2[0] is 'c:x'"),
    ],
)
def test_broken_files(tmp_path, content, fragment):
    (tmp_path / "sts_test.csv").write_text(content)
    with pytest.raises(DataError) as raised:
        cxc.read_rated(tmp_path, "sts")
    assert fragment in str(raised.value)


def test_cut_and_missing_files(tmp_path, folder):
    whole = (folder / "sits_test.csv.gz").read_bytes()
    (tmp_path / "sits_test.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cut short"):
        cxc.read_rated(tmp_path, "sits")
    with pytest.raises(FileNotFoundError, match=r"sis_test.csv is not in .*google-research-datasets/Crisscrossed"):
        cxc.read_rated(tmp_path, "sis")
    with pytest.raises(ValueError, match="needs annotations: the folder with the"):
        evaluate(np.zeros((5000, 25_000), np.float32), protocol="cxc-image-text")


@pytest.mark.parametrize(
    ("call", "fragment"),
    [
        (lambda: sampled_spearman([1.0], [1.0, 2.0], np.array([0, 1])), "expected one entry a rated pair"),
        (lambda: sampled_spearman([1.0] * 3, [1.0] * 3, np.arange(3)), "expected at least four"),
        (lambda: spearman([np.nan, 1], [1, 2]), "holds NaN"),
        (lambda: spearman([1], [1, 2]), "but y has"),
        (lambda: evaluate(np.zeros((1, 5)), query_column=2), "query_column is 2"),
    ],
)
def test_errors(call, fragment):
    with pytest.raises(ValueError, match=fragment):
        call()
