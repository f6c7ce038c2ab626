"""NCS and Semantic Recall: the golden vectors of the original codes, a plain oracle, options, errors."""

import numpy as np
import pytest
import torch
from golden_files import golden
from hypothesis import given, settings
from hypothesis import strategies as st

from itm_fast import Cider
from itm_fast.metrics import ncs_at_k, nsum, recall_at_k, rsum, semantic_recall_at_k

FILES = ["ncs_N50_seed201.npz", "ncs_N200_seed202.npz"]
QUERY = {"i2t": "image", "t2i": "caption"}


def inputs(file):
    arrays = golden(file)
    sims, phi = arrays["sims"].astype(np.float64), arrays["phi_cap_img"].astype(np.float64).T
    return arrays, sims, phi, arrays["K"].tolist()


def compared(arrays, prefix, score):
    """Compares every array of that prefix; score(direction, remove_gt, the rest of its name) computes it."""
    names = [name for name in arrays.files if name.startswith(f"{prefix}_")]
    assert names
    for name in names:
        direction, gt, *rest = name.removeprefix(f"{prefix}_").split("_")
        found = score(QUERY[direction], gt == "noGT", rest)
        np.testing.assert_allclose(found.numpy(), arrays[name], rtol=0, atol=1e-9, err_msg=name)


@pytest.mark.all_backends(without=("emulated-races",))
@pytest.mark.parametrize("file", FILES)
def test_golden_ncs(file, backend):
    arrays, sims, phi, ks = inputs(file)
    # Both variants sum over the same lists: where ranking them takes 20 seconds, the kernels rank them once.
    once = backend == "emulated" and file != FILES[0]
    for prefix, variant in (("NCS", "released"), ("NCSorder", "order"))[: 1 if once else 2]:
        compared(
            arrays,
            prefix,
            lambda query, remove_gt, _, v=variant: ncs_at_k(sims, phi, ks, query=query, remove_gt=remove_gt, variant=v),
        )


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_golden_soft_scores(file):
    arrays, sims, phi, ks = inputs(file)

    def soft(query, remove_gt, rest):
        m = int(rest[0][1:])
        found = ncs_at_k(sims, phi, ks, query=query, remove_gt=remove_gt, variant="soft", m=m)
        undivided = ncs_at_k(sims, phi, ks, query=query, remove_gt=remove_gt, variant="eq5", m=m)
        torch.testing.assert_close(undivided, found * m * (5 if query == "image" else 1))
        return found

    compared(arrays, "soft", soft)


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_golden_semantic_recall(file):
    arrays, sims, phi, ks = inputs(file)

    def released(query, remove_gt, rest):
        positives = "any" if "vse" in rest else "all"
        options = {"m": int(rest[-1][1:]), "query": query, "remove_gt": remove_gt, "positives": positives}
        return semantic_recall_at_k(sims, phi, ks, variant="released", **options)

    def paper(query, remove_gt, rest):
        return semantic_recall_at_k(sims, phi, ks, m=int(rest[0][1:]), query=query, remove_gt=remove_gt)

    compared(arrays, "hard", released)
    compared(arrays, "own_SRpaper", paper)


@pytest.mark.parametrize("file", FILES)
def test_golden_sums(file):
    arrays, sims, phi, _ = inputs(file)
    ks = (1, 5, 10)
    for name, remove_gt in (("Nsum_GT", False), ("Nsum_noGT", True)):
        both = (ncs_at_k(sims, phi, ks, query=query, remove_gt=remove_gt) for query in ("image", "caption"))
        assert abs(nsum(*both) - arrays[name]) < 1e-9
    assert abs(rsum(*(recall_at_k(sims, ks, query=query) for query in ("image", "caption"))) - arrays["Rsum"]) < 1e-9


@pytest.mark.parametrize("uncut", [False, True])
def test_golden_first_fold(uncut):
    arrays, sims, phi, _ = inputs(FILES[1])

    def of_fold(query, remove_gt, _):
        cut = phi[:50] if uncut else phi[:50, :250]
        options = {"query": query, "remove_gt": remove_gt, "uncut_captions": uncut}
        return ncs_at_k(sims[:50, :250], cut, (1, 5, 10), **options)

    compared(arrays, f"fold50_{'rowsuncut' if uncut else 'cut'}_NCS", of_fold)


def plain_ncs(sims, phi, k, query, own):
    """Oracle: sort everything. own: (n_images, n_captions) bool of pairs to leave out, or None."""
    if query == "caption":
        sims, phi, own = sims.T, phi.T, None if own is None else own.T
    ratios = []
    for row in range(len(sims)):
        keep = np.ones(sims.shape[1], bool) if own is None else ~own[row]
        s, p = sims[row][keep], phi[row][keep]
        found = p[np.argsort(-s, kind="stable")][:k].sum()
        best = np.sort(p)[::-1][:k].sum()
        ratios.append(found / (best + 1e-10 * k))
    return 100 * np.mean(ratios)


@given(n=st.integers(2, 9), per_image=st.integers(1, 4), seed=st.integers(0, 999), levels=st.integers(2, 50))
@settings(max_examples=60, deadline=None)
def test_equals_a_sort_of_everything(n, per_image, seed, levels):
    rng = np.random.default_rng(seed)
    sims = rng.integers(0, levels, (n, n * per_image)) / 7  # with ties
    phi = rng.integers(0, 4, (n, n * per_image)) * rng.random()
    own = np.arange(n)[:, None] == np.arange(n * per_image) // per_image
    for query in ("image", "caption"):
        for remove_gt in (False, True):
            found = ncs_at_k(sims, phi, (1, 3), query=query, remove_gt=remove_gt, captions_per_image=per_image)
            gallery = n * per_image if query == "image" else n
            for k, score in zip((1, 3), found.tolist(), strict=True):
                if gallery - (per_image if query == "image" else 1) * remove_gt < k:
                    continue  # fewer items than k: 0 fills up, the oracle's mean does not
                assert abs(score - plain_ncs(sims, phi, k, query, own if remove_gt else None)) < 1e-7


def test_the_best_possible_ranking_scores_100():
    phi = torch.rand(20, 100, generator=torch.Generator().manual_seed(0))
    for query in ("image", "caption"):
        for remove_gt in (False, True):
            options = {"query": query, "remove_gt": remove_gt}
            hundred = torch.full((2,), 100.0).double()
            torch.testing.assert_close(ncs_at_k(phi, phi, (1, 7), **options), hundred)
            assert (semantic_recall_at_k(phi, phi, (7,), m=7, **options) == 100).all()
            torch.testing.assert_close(
                ncs_at_k(phi, phi, (7,), variant="eq5", **options), torch.full((1,), 100.0).double()
            )


def test_no_relevance_at_all_scores_0():
    assert (ncs_at_k(torch.rand(4, 20), torch.zeros(4, 20), (1, 5)) == 0).all()


def test_a_corpus_in_place_of_the_matrix():
    words = ["dog", "cat", "bus", "red", "runs", "on", "grass", "a"]
    rng = np.random.default_rng(0)
    references = [[" ".join(rng.choice(words, 6)) for _ in range(5)] for _ in range(12)]
    cider = Cider().fit(references)
    corpus = cider.encode(references)
    sims, phi = torch.rand(12, 60), corpus.relevance(dtype=torch.float64)
    for query in ("image", "caption"):
        torch.testing.assert_close(
            ncs_at_k(sims, corpus, (1, 5), query=query),
            ncs_at_k(sims, phi, (1, 5), query=query),
            rtol=1e-12,
            atol=1e-10,
        )


def test_a_varying_number_of_captions():
    owners = [0, 0, 1, 2, 2, 2, 3]
    generator = torch.Generator().manual_seed(3)
    sims, phi = (torch.rand(4, 7, generator=generator).double() for _ in range(2))
    own = np.arange(4)[:, None] == np.array(owners)
    for query in ("image", "caption"):
        found = ncs_at_k(sims, phi, (2,), query=query, remove_gt=True, caption_to_image=owners)
        assert abs(float(found) - plain_ncs(sims.numpy(), phi.numpy(), 2, query, own)) < 1e-7


@pytest.mark.all_backends(without=("emulated-races",))
def test_embeddings_and_cut_offs_beyond_the_gallery():
    images, captions = torch.randn(3, 8).double(), torch.randn(15, 8).double()
    phi = torch.rand(3, 15)
    torch.testing.assert_close(
        ncs_at_k((images, captions), phi, (1, 40)), ncs_at_k(images @ captions.T, phi, (1, 40)), rtol=1e-12, atol=1e-10
    )
    assert ncs_at_k(images @ captions.T, phi, (40,))[0] > 99.9  # everything is retrieved


SIMS, PHI = torch.rand(4, 20), torch.rand(4, 20)


@pytest.mark.parametrize(
    ("call", "exception", "fragment"),
    [
        (lambda: ncs_at_k(SIMS, PHI[:, :10], (1,)), ValueError, "relevance is 4 x 10, but sims is 4 x 20"),
        (lambda: ncs_at_k(SIMS, PHI.T, (1,)), ValueError, "looks transposed"),
        (lambda: ncs_at_k(SIMS, torch.rand(4, 30), (1,)), ValueError, "relevance is 4 x 30"),
        (lambda: ncs_at_k(SIMS, torch.rand(4, 10), (1,), uncut_captions=True), ValueError, "relevance is 4 x 10"),
        (lambda: ncs_at_k(SIMS, torch.rand(80), (1,)), ValueError, "relevance has shape (80,)"),
        (lambda: ncs_at_k(SIMS, None, (1,)), TypeError, "relevance is a NoneType"),
        (lambda: ncs_at_k(SIMS, lambda rows, columns: 0, (1,)), TypeError, "encoded by Cider.encode"),
        (lambda: ncs_at_k(SIMS[:, :18], PHI[:, :18], (1,)), ValueError, "expects 20 captions"),
        (lambda: ncs_at_k(SIMS, PHI.where(PHI.min() < PHI, torch.nan), (1,)), ValueError, "relevance is NaN at row"),
        (lambda: ncs_at_k(SIMS.where(SIMS.min() < SIMS, torch.nan), PHI, (1,)), ValueError, "sims is NaN at row"),
        (lambda: ncs_at_k(SIMS, PHI, ()), ValueError, "ks is empty"),
        (lambda: ncs_at_k(SIMS, PHI, (0,)), ValueError, "at least 1"),
        (lambda: ncs_at_k(SIMS, PHI, (1,), query="both"), ValueError, "query is 'both'"),
        (lambda: ncs_at_k(SIMS, PHI, (1,), variant="eq6"), ValueError, "variant is 'eq6'"),
        (lambda: ncs_at_k(SIMS, PHI, (1,), variant="soft"), ValueError, "needs m"),
        (lambda: ncs_at_k(SIMS, PHI, (1,), m=3), ValueError, "leave m out"),
        (lambda: semantic_recall_at_k(SIMS, PHI, (1,), m=0), ValueError, "m is 0"),
        (lambda: semantic_recall_at_k(SIMS, PHI, (1,), m=1, variant="x"), ValueError, "variant is 'x'"),
        (lambda: semantic_recall_at_k(SIMS, PHI, (1,), m=1, positives="x"), ValueError, "positives is 'x'"),
    ],
)
def test_errors(call, exception, fragment):
    with pytest.raises(exception) as raised:
        call()
    assert fragment in str(raised.value)
