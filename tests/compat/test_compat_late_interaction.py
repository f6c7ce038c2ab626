"""The scoring of PyLate and sentence-transformers: plain formulas, and the packages themselves where they are."""

import importlib
import importlib.util
import inspect

import numpy as np
import pytest
import torch

from itm_fast.compat import pylate, sentence_transformers

GENERATOR = torch.Generator().manual_seed(0)
QUERIES = torch.randn(3, 4, 8, generator=GENERATOR, dtype=torch.float64)
DOCUMENTS = torch.randn(5, 6, 8, generator=GENERATOR, dtype=torch.float64)
GROUPS = torch.randn(3, 2, 6, 8, generator=GENERATOR, dtype=torch.float64)
QUERY_MASK = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [1, 1, 0, 0]], dtype=torch.bool)
DOCUMENT_MASK = torch.tensor(
    [[1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 1], [0, 0, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0]]
).bool()
GROUP_MASK = torch.randint(0, 2, (3, 2, 6), generator=GENERATOR).float()


def close(found, want):
    torch.testing.assert_close(found, want, rtol=1e-6, atol=1e-6, check_dtype=False)


def as_pylate(queries, documents, query_mask=None, document_mask=None):
    """A mask is a factor of similarities."""
    sims = torch.einsum("qsd,ptd->qpst", queries, documents)
    if query_mask is not None:
        sims = sims * query_mask[:, None, :, None]
    if document_mask is not None:
        sims = sims * document_mask[None, :, None, :]
    return sims.amax(-1).sum(-1)


def as_sentence_transformers(queries, documents, query_mask, document_mask):
    """What a mask leaves out takes no part."""
    sims = torch.einsum("qsd,ptd->qpst", queries, documents)
    sims = sims.masked_fill(~document_mask[None, :, None, :].bool(), -torch.inf)
    return (sims.amax(-1) * query_mask[:, None, :]).sum(-1)


@pytest.mark.parametrize("query_mask", [None, QUERY_MASK, QUERY_MASK * 0.5])
@pytest.mark.parametrize("document_mask", [None, DOCUMENT_MASK, DOCUMENT_MASK.double(), torch.zeros(5, 6)])
def test_pylate_masks_are_factors(query_mask, document_mask):
    queries, documents = QUERIES.clone().requires_grad_(), (DOCUMENTS - 1).requires_grad_()  # 0 is often the largest
    found = pylate.colbert_scores(queries, documents, query_mask, document_mask)
    want = as_pylate(queries, documents, query_mask, document_mask)
    close(found, want)
    pairs = zip(*(torch.autograd.grad(x.square().sum(), (queries, documents)) for x in (found, want)), strict=True)
    for got, wanted in pairs:
        close(got, wanted)


def test_pylate_distillation_and_contrastive_scores():
    found = pylate.colbert_kd_scores(QUERIES, GROUPS, QUERY_MASK, GROUP_MASK)
    want = torch.cat(
        [as_pylate(QUERIES[i : i + 1], GROUPS[i], QUERY_MASK[i : i + 1], GROUP_MASK[i]) for i in range(len(QUERIES))]
    )
    close(found, want)
    found = pylate.ColBERTScores()(QUERIES, GROUPS, QUERY_MASK, GROUP_MASK)
    close(found, as_pylate(QUERIES, GROUPS.flatten(0, 1), QUERY_MASK, GROUP_MASK.flatten(0, 1)))
    pairwise = pylate.colbert_scores_pairwise(QUERIES, [document[: 3 + i] for i, document in enumerate(DOCUMENTS[:3])])
    close(pairwise, torch.stack([as_pylate(QUERIES[i : i + 1], DOCUMENTS[i : i + 1, : 3 + i])[0, 0] for i in range(3)]))


def test_pylate_takes_arrays_and_lists():
    want = as_pylate(QUERIES, DOCUMENTS)
    close(pylate.colbert_scores(QUERIES.numpy(), DOCUMENTS.numpy()), want)
    close(pylate.colbert_scores(list(QUERIES), [document.numpy() for document in DOCUMENTS]), want)
    close(pylate.colbert_scores(QUERIES.tolist(), DOCUMENTS.double().tolist()), want)


@pytest.mark.parametrize("normalised", [False, True])
def test_sentence_transformers_leaves_masked_tokens_out(normalised):
    mask = QUERY_MASK.float()
    want = as_sentence_transformers(QUERIES, DOCUMENTS, mask, DOCUMENT_MASK)
    want = want / mask.sum(1, keepdim=True) if normalised else want
    call = sentence_transformers.mean_maxsim if normalised else sentence_transformers.maxsim
    documents = DOCUMENTS.clone().requires_grad_()
    found = call(QUERIES, documents, mask, DOCUMENT_MASK)
    assert found.dtype == torch.float32
    close(found, want)
    found.sum().backward()
    assert not documents.grad[~DOCUMENT_MASK].any()
    listed = [query[keep] for query, keep in zip(QUERIES, QUERY_MASK, strict=True)]
    matrices = [document[keep] for document, keep in zip(DOCUMENTS, DOCUMENT_MASK, strict=True)]
    close(call(listed, matrices), want)
    zeros = DOCUMENTS.masked_fill(~DOCUMENT_MASK[..., None], 0)
    close(call(QUERIES.masked_fill(~QUERY_MASK[..., None], 0).numpy(), zeros), want)
    call = sentence_transformers.mean_maxsim_pairwise if normalised else sentence_transformers.maxsim_pairwise
    close(call(QUERIES, DOCUMENTS[:3], mask, DOCUMENT_MASK[:3]), want[:, :3].diagonal())
    close(call(listed, matrices[:3]), want[:, :3].diagonal())


def test_sentence_transformers_edges():
    maxsim = sentence_transformers.maxsim
    one = maxsim(QUERIES[0], DOCUMENTS[0].numpy())
    close(one, as_pylate(QUERIES[:1], DOCUMENTS[:1]))
    nothing = DOCUMENT_MASK.clone()
    nothing[1] = False
    scores = maxsim(QUERIES, DOCUMENTS, b_mask=nothing)
    assert (scores[:, 1] == sentence_transformers.EMPTY_DOCUMENT_SCORE).all()
    close(scores[:, 2:], as_sentence_transformers(QUERIES, DOCUMENTS, torch.ones(3, 4), DOCUMENT_MASK)[:, 2:])
    assert not maxsim(QUERIES, DOCUMENTS, a_mask=torch.zeros(3, 4)).any()
    assert maxsim([], DOCUMENTS).shape == (0, 5)
    assert sentence_transformers.maxsim_pairwise([], []).shape == (0,)
    empty = [DOCUMENTS[0], DOCUMENTS[1][:0]]
    assert maxsim(QUERIES, empty)[0, 1] == sentence_transformers.EMPTY_DOCUMENT_SCORE
    weights = torch.rand(3, 4, generator=GENERATOR, dtype=torch.float64)
    close(maxsim(QUERIES, DOCUMENTS, a_mask=weights), (as_max(QUERIES, DOCUMENTS) * weights[:, None]).sum(-1))


def as_max(queries, documents):
    return torch.einsum("qsd,ptd->qpst", queries, documents).amax(-1)


@pytest.mark.parametrize(
    ("call", "exception", "fragment"),
    [
        (lambda: pylate.colbert_scores(QUERIES, DOCUMENTS, DOCUMENT_MASK), ValueError, "queries_mask must have shape"),
        (lambda: pylate.colbert_kd_scores(QUERIES, DOCUMENTS), ValueError, "there is colbert_scores"),
        (lambda: pylate.colbert_kd_scores(QUERIES[:2], GROUPS), ValueError, "has 2 queries, but .* candidates of 3"),
        (lambda: sentence_transformers.maxsim(QUERIES, DOCUMENTS, QUERY_MASK[:, :3]), ValueError, r"\(3, 4\)"),
        (lambda: sentence_transformers.maxsim(QUERIES, DOCUMENTS, 1.0), TypeError, "a_mask must be a tensor"),
        (lambda: sentence_transformers.maxsim_pairwise(QUERIES, DOCUMENTS), ValueError, "got 3 and 5"),
    ],
)
def test_what_does_not_fit_is_named(call, exception, fragment):
    with pytest.raises(exception, match=fragment):
        call()


def original(name):
    """A module of one of the packages, or a skip; importing them takes seconds."""
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        pytest.skip(f"{name.partition('.')[0]} is not installed")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{name} cannot be imported: {error}")


def same_signature(ours, theirs):
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)
    defaults = ([p.default for p in inspect.signature(f).parameters.values()] for f in (ours, theirs))
    assert next(defaults) == next(defaults)


@pytest.mark.slow
def test_against_pylate():
    scores = original("pylate.scores")
    for name in ("colbert_scores", "colbert_scores_pairwise", "colbert_kd_scores"):
        same_signature(getattr(pylate, name), getattr(scores, name))
    for masks in ((None, None), (QUERY_MASK, DOCUMENT_MASK)):
        close(pylate.colbert_scores(QUERIES, DOCUMENTS, *masks), scores.colbert_scores(QUERIES, DOCUMENTS, *masks))
    for masks in ((None, None), (QUERY_MASK, GROUP_MASK)):
        close(pylate.colbert_kd_scores(QUERIES, GROUPS, *masks), scores.colbert_kd_scores(QUERIES, GROUPS, *masks))
        close(pylate.ColBERTScores()(QUERIES, GROUPS, *masks), scores.ColBERTScores()(QUERIES, GROUPS, *masks))
    arguments = QUERIES, list(DOCUMENTS[:3])
    close(pylate.colbert_scores_pairwise(*arguments), scores.colbert_scores_pairwise(*arguments))


class Encoded(torch.nn.Module):
    """What PyLate's losses ask of a model: vectors of tokens, by themselves."""

    skiplist, do_query_expansion = (0,), False

    def forward(self, features):
        return {"token_embeddings": features["vectors"]}


def features(vectors, mask):
    leaf = vectors.float().clone().requires_grad_()
    return {"input_ids": mask.long() * 7, "attention_mask": mask.long(), "vectors": leaf}


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["Contrastive", "Distillation"])
def test_in_the_losses_of_pylate(loss):
    losses = original("pylate.losses")
    results = []
    for score_metric in (None, pylate.ColBERTScores() if loss == "Contrastive" else pylate.colbert_kd_scores):
        more = {} if score_metric is None else {"score_metric": score_metric}
        if loss == "Contrastive":
            documents = [features(DOCUMENTS[:3], DOCUMENT_MASK[:3]), features(DOCUMENTS[2:], DOCUMENT_MASK[2:])]
            labels = None
        else:
            documents = [features(GROUPS.flatten(0, 1), GROUP_MASK.flatten(0, 1))]
            labels = torch.arange(3.0 * GROUPS.shape[1]).view(3, -1).sin()
        batch = [features(QUERIES, QUERY_MASK), *documents]
        value = getattr(losses, loss)(Encoded(), **more)(batch, labels)
        value.backward()
        results.append((value.detach(), *(side["vectors"].grad for side in batch)))
    for plain, ours in zip(*results, strict=True):
        close(ours, plain)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["maxsim", "maxsim_pairwise", "mean_maxsim", "mean_maxsim_pairwise"])
def test_against_sentence_transformers(name):
    theirs = getattr(original("sentence_transformers.util.similarity"), name, None)
    if theirs is None:
        pytest.skip(f"this sentence-transformers has no {name}")
    ours = getattr(sentence_transformers, name)
    same_signature(ours, theirs)
    documents = DOCUMENTS[:3]
    masks = QUERY_MASK.float(), DOCUMENT_MASK[:3]
    zeros = documents.masked_fill(~DOCUMENT_MASK[:3, :, None], 0)
    lists = list(QUERIES), [document[: 2 + i] for i, document in enumerate(documents)]
    for arguments in ((QUERIES, documents), (QUERIES, documents, *masks), (QUERIES, zeros), lists):
        close(ours(*arguments), theirs(*arguments))
    arguments = np.float32(QUERIES.numpy()), np.float32(documents.numpy())
    close(ours(*arguments), theirs(*arguments))
