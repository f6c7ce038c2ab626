"""nDCG, MAP, MRR and recall of judged items: beside pytrec_eval's figures, frozen and live, and by hand."""

import json
import math

import numpy as np
import pytest
import torch
import trec_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from itm_fast.cli.main import main
from itm_fast.errors import DataError
from itm_fast.files.trec import read_qrels, read_trec_run, trec_id
from itm_fast.metrics import judged_ranks, judged_run, judgements_by_id
from itm_fast.metrics.judgements import as_judgements

NAMES = ("ndcg", "recall", "hits", "average_precision", "reciprocal_rank")
KS = trec_cases.KS


@pytest.mark.parametrize("seed", [0, 1])
def test_runs_as_pytrec_eval(tmp_path, seed):
    run, qrels = (read(path) for read, path in zip(
        (read_trec_run, read_qrels), trec_cases.write(tmp_path, *trec_cases.made(seed)), strict=True
    ))  # fmt: skip
    found = judged_run(run, qrels, KS, ties="trec")
    with np.load(trec_cases.GOLDEN) as golden:
        for name in NAMES:
            np.testing.assert_allclose(getattr(found, name), golden[f"{seed}_{name}"], rtol=1e-12, err_msg=name)
    other = judged_run(run, qrels, KS)
    assert not np.allclose(other.average_precision, found.average_precision)  # ties are what this is about


@pytest.mark.parametrize("query", ["image", "caption"])
def test_matrix_as_pytrec_eval(query):
    """The same runs as a matrix; what a run does not list is -inf."""
    run, qrels = trec_cases.made(0)
    items = sorted({item for of in run.values() for item in of})
    sims = np.array([[run[q].get(item, -np.inf) for item in items] for q in run])
    judged = judgements_by_id(qrels, list(run), items)
    sims = torch.from_numpy(sims if query == "image" else np.ascontiguousarray(sims.T))
    found = judged_ranks(sims, judged, KS, query=query, ties="trec", item_ids=items, chunk_bytes=200)
    with np.load(trec_cases.GOLDEN) as golden:
        for name in NAMES:
            np.testing.assert_allclose(getattr(found, name), golden[f"0_{name}"], rtol=1e-12, err_msg=name)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(2, 1000))
def test_random_runs_as_pytrec_eval(tmp_path_factory, seed):
    pytrec_eval = pytest.importorskip("pytrec_eval", reason="pytrec_eval is not installed")
    run, qrels = trec_cases.made(seed)
    wanted = {f"{name}.{','.join(map(str, KS))}" for name in ("ndcg_cut", "recall", "success")} | {"map", "recip_rank"}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, wanted).evaluate(run)
    paths = trec_cases.write(tmp_path_factory.mktemp("trec"), run, qrels)
    found = judged_run(read_trec_run(paths[0]), read_qrels(paths[1]), KS, ties="trec")
    for row, query in enumerate(qrels):
        ours = [*found.ndcg[row], *found.recall[row], *found.hits[row]]
        names = [f"{name}_{k}" for name in ("ndcg_cut", "recall", "success") for k in KS]
        np.testing.assert_allclose(ours, [theirs[query][name] for name in names], rtol=1e-12)
        np.testing.assert_allclose(found.average_precision[row], theirs[query]["map"], rtol=1e-12)
        np.testing.assert_allclose(found.reciprocal_rank[row], theirs[query]["recip_rank"], rtol=1e-12)


def by_hand(scores, grades, k):
    """(nDCG@k, AP, RR) of one query from its whole sorted list; unreached grades come last in ``grades``."""
    order = sorted(range(len(scores)), key=lambda item: (-scores[item], item))
    gains = [max(0, grades[item]) for item in order]
    dcg, ideal = (
        sum(gain / math.log2(rank + 2) for rank, gain in enumerate(of[:k]))
        for of in (gains, sorted((max(0, g) for g in grades), reverse=True))
    )
    places = [rank for rank, gain in enumerate(gains) if gain > 0]
    precision = sum((hit + 1) / (rank + 1) for hit, rank in enumerate(places))
    n_relevant = sum(grade > 0 for grade in grades)
    return dcg / ideal, precision / n_relevant, 1 / (places[0] + 1) if places else 0


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 12)),
    n_outside=st.integers(0, 2),
    query=st.sampled_from(["image", "caption"]),
    k=st.integers(1, 14),
    chunk_bytes=st.integers(8, 400),
)
def test_matrix_by_hand(seed, shape, n_outside, query, k, chunk_bytes):
    rng = np.random.default_rng(seed)
    n_queries, n_items = shape
    sims = rng.integers(0, 4, shape).astype(np.float64)
    ids = [f"i{n}" for n in range(n_items + n_outside)]
    grades = rng.integers(-1, 4, (n_queries, len(ids)))
    grades[:, 0] = 1  # or there would be queries to leave out
    qrels = {q: dict(zip(ids, of.tolist(), strict=True)) for q, of in enumerate(grades)}
    judged = judgements_by_id(qrels, list(range(n_queries)), ids[:n_items])
    turned = sims if query == "image" else np.ascontiguousarray(sims.T)
    found = judged_ranks(turned, judged, (k,), query=query, chunk_bytes=chunk_bytes)
    for row in range(n_queries):
        scores = [*sims[row], *[-1.0] * n_outside]
        ndcg, precision, reciprocal = by_hand(scores, grades[row].tolist(), k)
        if n_outside:  # what is outside the gallery is not retrieved, but wanted
            inside = by_hand(scores[:n_items], grades[row, :n_items].tolist(), n_items)
            precision = inside[1] * (grades[row, :n_items] > 0).sum() / (grades[row] > 0).sum()
            order = sorted(range(n_items), key=lambda item: (-scores[item], item))[:k]
            ideal = sorted(grades[row].clip(0), reverse=True)[:k]
            dcg, best = (
                sum(g / math.log2(r + 2) for r, g in enumerate(of))
                for of in ([max(0, grades[row, item]) for item in order], ideal)
            )
            ndcg = dcg / best
        np.testing.assert_allclose(
            [found.ndcg[row, 0], found.average_precision[row], found.reciprocal_rank[row]],
            [ndcg, precision, reciprocal],
            rtol=1e-12,
        )


def test_binary_is_grade_one_and_empty_queries_are_left_out():
    sims = torch.tensor([[0.9, 0.2, 0.4], [0.1, 0.2, 0.3]])
    graded, plain = (judged_ranks(sims, of, (1, 2)) for of in ([{1: 1, 2: 1}, {}], [[1, 2], []]))
    assert graded.queries.tolist() == [0]
    np.testing.assert_array_equal(graded.ndcg, plain.ndcg)
    figures = graded.figures()
    assert figures["n_queries"] == 1
    assert figures["MRR"] == 50
    assert judged_ranks(sims, [[], []], (1,)).figures() == dict.fromkeys(("nDCG@1", "R@1", "R_all@1", "MAP", "MRR")) | {
        "n_queries": 0
    }


def test_missing_queries_count_as_zero(tmp_path):
    run, qrels = trec_cases.made(0)
    del run["q0"]
    paths = trec_cases.write(tmp_path, run, qrels)
    found = judged_run(read_trec_run(paths[0]), read_qrels(paths[1]), KS)
    assert found.queries.tolist() == list(range(8))
    assert not found.ndcg[0].any()
    assert found.reciprocal_rank[0] == 0


@pytest.mark.parametrize(
    ("call", "error", "fragment"),
    [
        (lambda s: judged_ranks(s, [[0]], (0,)), ValueError, "at least 1"),
        (lambda s: judged_ranks(s, [[0], [1]]), ValueError, "one a query: 1"),
        (lambda s: judged_ranks(s, [{5: 1}]), ValueError, "0 ... 2"),
        (lambda s: judged_ranks(s, [[0]], ties="trec"), ValueError, "item_ids: missing"),
        (lambda s: judged_ranks(s, [[0]], ties="trec", item_ids=["a", "a", "b"]), ValueError, "there twice"),
        (lambda s: judged_ranks(s, [[0]], ties="other"), ValueError, '"index" or "trec"'),
        (lambda s: judged_ranks(s * float("nan"), [[0]]), ValueError, "NaN"),
        (lambda s: judged_ranks(s, as_judgements([[0]], 1, 4)), ValueError, "4 items"),
    ],
)
def test_faults(call, error, fragment):
    with pytest.raises(error, match=fragment):
        call(torch.rand(1, 3))


@pytest.mark.parametrize(
    ("read", "text", "fragment"),
    [
        (read_trec_run, "", "empty"),
        (read_trec_run, "q Q0 d 1 0.5 me\nq Q0 d 2 0.4 me\n", r":2: item 'd' is there twice for query 'q'"),
        (read_trec_run, "q Q0 d 1 0.5 me\np Q0 d 1 1 me\n\nq Q0 d 2 0.4 me\n", r":4: item 'd' is there twice"),
        (read_trec_run, "q Q0 d 1 high me\n", ":1: the score is 'high'"),
        (read_trec_run, "q Q0 d 1 nan me\n", ":1: the score is NaN"),
        (read_trec_run, "q 0 d 1\n", "look like qrels"),
        (read_trec_run, "q Q0 d 1 0.5 me\nq Q0 e 2 0.4", ":2: 5 columns, expected 6"),
        (read_trec_run, "\0\0\0", "NUL"),
        (read_qrels, "q 0 d 1\nq 0 d 0\n", ":2: item 'd' is judged twice"),
        (read_qrels, "q 0 d much\n", ":1: the grade is 'much'"),
        (read_qrels, "q 0 d 0.5\n", ":1: the grade is '0.5'"),
        (read_qrels, "q Q0 d 1 0.5 me\n", "looks like a run"),
        (read_qrels, "query-id\tcorpus-id\tscore\n", "a heading and no judgements"),
        (read_qrels, "one\n", ":1: 1 columns, expected 3 or 4"),
    ],
)
def test_faults_of_files(tmp_path, read, text, fragment):
    path = tmp_path / "file.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=fragment):
        read(path)


def test_other_queries(tmp_path):
    run, qrels = trec_cases.write(tmp_path, {"a": {"d": 1.0}}, {"b": {"d": 1}})
    with pytest.raises(ValueError, match="no query of the run, such as 'a'"):
        judged_run(read_trec_run(run), read_qrels(qrels))


def test_beir_heading_and_ids(tmp_path):
    path = tmp_path / "qrels.tsv"
    path.write_text("query-id\tcorpus-id\tscore\nq\td\t2\n")
    assert read_qrels(path) == {"q": {"d": 2}}
    assert [trec_id(key) for key in (7, "a dog.jpg", "a\u00a0b")] == ["7", "a%20dog.jpg", "a%C2%A0b"]


def test_scores_that_rise_with_the_ranks_are_noticed(tmp_path):
    path = tmp_path / "run.trec"

    def said(score, rank=str, n_turned=6):
        lines = []
        for query in range(6):
            sign = 1 if query < n_turned else -1
            lines += [f"q{query} Q0 d{item} {rank(item + 1)} {score(sign * item)} me\n" for item in range(4)]
        path.write_text("".join(np.random.default_rng(0).permutation(lines)))
        return read_trec_run(path).notes

    (note,) = said(lambda item: 10 + item)
    assert note.startswith("the scores of 6 of 6 queries rise with the ranks of the file")
    assert "of 4 of 6 queries" in said(lambda item: item, n_turned=4)[0]
    assert said(lambda item: item, n_turned=3) == ()
    assert said(lambda item: -item) == ()
    assert said(lambda item: item, rank=lambda _: 0) == said(lambda item: item, rank=lambda n: f"n{n}") == ()
    assert said(lambda item: 0.5) == said(lambda item: "inf" if item == 3 else item) == ()


@pytest.mark.parametrize("grade", [np.nan, np.inf, -np.inf])
def test_grades_that_are_not_finite_are_refused(grade):
    with pytest.raises(ValueError, match=rf"relevant\[1\] has the grade {grade} of item 2, expected finite numbers"):
        judged_ranks(np.eye(3), [{0: 1}, {0: 2, 2: grade}, [1]], (1,))
    with pytest.raises(ValueError, match=rf"qrels\['q'\] has the grade {grade} of item 'b'"):
        judgements_by_id({"q": {"a": 1, "b": grade}}, ["q"], ["a", "b"])


def test_the_command_says_so(tmp_path, capsys):
    run, qrels = tmp_path / "run.trec", tmp_path / "qrels.txt"
    run.write_text("".join(f"q Q0 d{item} {item + 1} {item} me\n" for item in range(4)))
    qrels.write_text("q 0 d0 1\n")
    assert main(["evaluate", "--trec-run", str(run), "--qrels", str(qrels), "--json"]) == 0
    (note,) = json.loads(capsys.readouterr().out)["conditions"]["notes"]
    assert "of 1 of 1 queries rise with the ranks of the file" in note
