"""Late interaction with the queries first: its values, and the same bits whatever else is in the batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs_truth import forms, picked, random_candidates

from itm_fast import max_similarity, maxsim

pytestmark = pytest.mark.all_backends(without=("emulated-races",))  # slow there


def made(n, most, dim, *, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed + 31 * n + most)
    counts = torch.randint(1, most + 1, (n,), generator=generator)
    vectors = torch.randn(n, most, dim, generator=generator, dtype=torch.float64)
    return vectors.masked_fill((torch.arange(most) >= counts[:, None])[..., None], torch.nan).to(dtype), counts


def plain(queries, documents, query_lengths, document_lengths, reduce=torch.sum):
    """The formula, pair by pair."""
    return torch.stack(
        [
            torch.stack(
                [reduce((q[:n] @ d[:k].T).amax(1), 0) for d, k in zip(documents, document_lengths, strict=True)]
            )
            for q, n in zip(queries, query_lengths, strict=True)
        ]
    )


def test_is_the_formula_with_queries_as_rows():
    (queries, query_lengths), (documents, document_lengths) = made(3, 7, 8), made(5, 11, 8)
    want = plain(queries, documents, query_lengths, document_lengths)
    found = maxsim(queries, documents, query_lengths, document_lengths)
    torch.testing.assert_close(found, want, rtol=1e-13, atol=1e-13)
    mean = maxsim(queries, documents, query_lengths, document_lengths, reduction="mean")
    torch.testing.assert_close(mean, want / query_lengths[:, None], rtol=1e-13, atol=1e-13)
    unit = torch.nn.functional.normalize(queries, dim=-1)
    want = plain(unit, documents, query_lengths, document_lengths, torch.mean)
    both = maxsim(queries, documents, query_lengths, document_lengths, reduction="mean", normalize=True)
    torch.testing.assert_close(both, want, rtol=1e-13, atol=1e-13)


def test_gradients_of_normalised_queries_and_none_of_padding():
    (queries, query_lengths), (documents, document_lengths) = made(3, 4, 5), made(2, 6, 5)
    queries.requires_grad_()
    maxsim(queries, documents, query_lengths, document_lengths, normalize=True).sum().backward()
    is_padding = torch.arange(4) >= query_lengths[:, None]
    assert not queries.grad[is_padding].any()
    leaves = queries.detach().nan_to_num().requires_grad_()
    unit = torch.nn.functional.normalize(leaves, dim=-1)
    plain(unit, documents, query_lengths, document_lengths).sum().backward()
    torch.testing.assert_close(queries.grad, leaves.grad, rtol=1e-12, atol=1e-12)


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 40), st.integers(1, 9), st.integers(1, 70))
@settings(max_examples=15, deadline=None)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_score_has_the_same_bits_whatever_the_batch_and_the_padding(dtype, backend, seed, n, most_q, m, most_d):
    if backend != "cpu":
        return  # promised of the CPU
    dim = 1 + seed % 40
    queries, query_lengths = made(n, most_q, dim, seed=seed, dtype=dtype)
    documents, document_lengths = made(m, most_d, dim, seed=seed + 1, dtype=dtype)
    whole = maxsim(queries, documents, query_lengths, document_lengths)
    i, j = seed % n, seed % m
    one = maxsim(queries[i : i + 1, : query_lengths[i]].clone(), documents[j : j + 1, : document_lengths[j]].clone())
    assert one.item() == whole[i, j].item()
    for key in ("mask before", "wider", "packed", "list"):
        (q, q_lengths), (d, d_lengths) = forms(queries, query_lengths)[key], forms(documents, document_lengths)[key]
        assert torch.equal(maxsim(q, d, q_lengths, d_lengths), whole), key
    if dtype == torch.float64:
        candidates = random_candidates(n, 3, m, seed)
        found = maxsim(queries, documents, query_lengths, document_lengths, candidates=candidates)
        assert torch.equal(found, picked(whole, candidates, "images"))


@pytest.mark.compiled
def test_is_max_similarity_turned_and_compiled_whole():
    (queries, query_lengths), (documents, document_lengths) = made(3, 7, 8), made(5, 11, 8)
    want = max_similarity(documents, queries, query_lengths, document_lengths).T
    compiled = torch.compile(maxsim, fullgraph=True, backend="eager")
    assert torch.equal(compiled(queries, documents, query_lengths, document_lengths), want)
    assert maxsim(queries[:0], documents).shape == (0, 5)


Q, D = torch.randn(2, 3, 8), torch.randn(4, 5, 8)


@pytest.mark.parametrize(
    ("arguments", "options", "exception", "fragment"),
    [
        ((Q, D[:, :, :4]), {}, ValueError, "documents and queries must have the same dim, got 4 and 8"),
        ((Q[0], D), {}, ValueError, r"queries must have shape \(n_queries, max_length, dim\), got \(3, 8\)"),
        ((Q, D, [3, 4]), {}, ValueError, r"query_lengths\[1\] is 4; expected 1 to 3"),
        ((Q, D, None, [5, 0, 1, 1]), {}, ValueError, r"document_lengths\[1\] is 0; expected 1 to 5"),
        ((Q, D, [3]), {}, ValueError, "query_lengths must have shape"),
        ((Q, D.double()), {}, TypeError, "documents and queries must have the same dtype"),
        ((Q, D), {"reduction": "max"}, ValueError, "reduction must be one of 'mean', 'sum', got 'max'"),
        (
            (Q, D),
            {"candidates": torch.zeros(4, 1, dtype=torch.int64)},
            ValueError,
            r"candidates must have shape \(n_queries, k\) with n_queries = 2, got \(4, 1\)",
        ),
        (
            (Q, D),
            {"candidates": torch.tensor([[0, 4], [0, 0]])},
            ValueError,
            r"candidates\[0, 1\] is 4; expected -1 for none, or 0 to 3",
        ),
    ],
)
def test_what_does_not_fit_is_named_as_the_caller_names_it(arguments, options, exception, fragment):
    with pytest.raises(exception, match=fragment):
        maxsim(*arguments, **options)
