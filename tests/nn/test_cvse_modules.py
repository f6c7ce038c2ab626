"""CVSE's modules against its formulas, written out for one image, one caption, one concept at a time, in float64."""

import pytest
import torch

from itm_fast.nn.encoders.concept_graph import ConceptGraph
from itm_fast.nn.pooling.consensus import ConsensusAttention, divergence, fused
from itm_fast.nn.pooling.instance_attention import RegionAttention, WordAttention

B, R, L, D, Q = 5, 4, 6, 8, 7
# The original adds 1e-12 to a norm, where it is the least norm here: 1e-12 / |x| apart, and no |x| is below 0.1.
EXACT = {"rtol": 0, "atol": 1e-11}


def unit(*shape, seed=0):
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x / x.norm(dim=-1, keepdim=True)


def ready(module, training):
    """In float64, with parameters and statistics that matter."""
    generator = torch.Generator().manual_seed(1)
    module.double().train(training)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, dtype=torch.float64, generator=generator))
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return module


def batch_norm(x, state, name, training):
    """(rows, channels), by the textbook."""
    mean = x.mean(0) if training else state[f"{name}.running_mean"]
    variance = ((x - x.mean(0)) ** 2).mean(0) if training else state[f"{name}.running_var"]
    return (x - mean) / (variance + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def normalised(x):
    return x / ((x**2).sum(-1, keepdim=True).sqrt() + 1e-12)


def state_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("training", [False, True])
def test_region_attention(training):
    module, regions = ready(RegionAttention(D, R, 0.0), training), unit(B, R, D)
    state, found = state_of(module), module(regions)
    local = linear(regions, state, "embedding_1.0")  # its BatchNorm has a channel a region
    by_region = local.permute(0, 2, 1).reshape(B * D, R)
    local = batch_norm(by_region, state, "embedding_1.1", training).reshape(B, D, R).permute(0, 2, 1)
    whole = batch_norm(linear(regions.mean(1), state, "embedding_2.0"), state, "embedding_2.1", training)
    for b in range(B):
        a = [linear(local[b, r].tanh() * whole[b].tanh(), state, "embedding_3.0") for r in range(R)]
        weights = torch.stack(a)[:, 0].exp() / torch.stack(a)[:, 0].exp().sum()
        torch.testing.assert_close(found[b], normalised(weights @ regions[b]), **EXACT)


def test_word_attention_is_the_originals_over_the_padded_length():
    """There mean and softmax count the padding, whose words are 0: the norm takes it away again."""
    module, counts = ready(WordAttention(D, 0.0), True), torch.tensor([6, 3, 1, 4, 6])
    is_padding = torch.arange(L) >= counts[:, None]
    words = unit(B, L, D).masked_fill(is_padding[..., None], 0)
    found, state = module(words, is_padding), state_of(module)
    for b in range(B):
        whole = normalised(words[b].mean(0))
        local = linear(words[b], state, "embedding_1.0").tanh()
        a = linear(local * linear(whole, state, "embedding_2.0").tanh(), state, "embedding_3.0")[:, 0]
        torch.testing.assert_close(found[b], normalised(a.softmax(0) @ words[b]), **EXACT)


def test_word_attention_knows_no_other_caption():
    module, words = ready(WordAttention(D, 0.0), False), unit(2, L, D)
    words[1, 2:] = 0
    alone = module(words[1:, :2], torch.zeros(1, 2, dtype=torch.bool))
    beside = module(words, torch.arange(L) >= torch.tensor([[L], [2]]))
    torch.testing.assert_close(beside[1:], alone, **EXACT)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("ratio", [None, 0.35, 1.0])
def test_consensus_attention(training, ratio):
    module = ready(ConsensusAttention(D), training)
    instances, concepts = unit(B, D), unit(Q, D, seed=3)
    labels = (torch.rand(B, Q, generator=torch.Generator().manual_seed(4)) < 0.3).double()
    labels[0] = 0
    state = state_of(module)
    found = module(instances, concepts) if ratio is None else module(instances, concepts, labels, ratio)
    keys = batch_norm(linear(concepts, state, "embedding_1.0"), state, "embedding_1.1", training).tanh()
    queries = batch_norm(linear(instances, state, "embedding_2.0"), state, "embedding_2.1", training).tanh()
    for b in range(B):
        a = torch.stack([linear(keys[q] * queries[b], state, "embedding_3.0")[0] for q in range(Q)])
        p = (10 * a).softmax(0)
        if ratio is not None:
            y = (10 * labels[b]).exp() / (10 * labels[b]).exp().sum()
            p = ratio * y + (1 - ratio) * p
        torch.testing.assert_close(found.log_weights[b].exp(), p, **EXACT)
        torch.testing.assert_close(found.embeddings[b], normalised(p @ concepts), **EXACT)


def test_no_label_is_every_label_alike():
    module = ready(ConsensusAttention(D), False)
    instances, concepts = unit(B, D), unit(Q, D, seed=3)
    none, missing = (
        module(instances, concepts, torch.full((B, Q), value, dtype=torch.float64), 0.35) for value in (0, 1 / 300)
    )  # the original writes 1/300 each
    torch.testing.assert_close(none.embeddings, missing.embeddings, **EXACT)


def test_concept_graph():
    module = ready(ConceptGraph(Q, 5, D), True)
    generator = torch.Generator().manual_seed(6)
    edges = (torch.rand(Q, Q, generator=generator, dtype=torch.float64) < 0.3).double() * 0.1 + torch.eye(Q)
    module.adj_all.copy_(edges)
    vectors, state = torch.randn(Q, 5, generator=generator, dtype=torch.float64), state_of(module)
    degree = torch.diag(edges.sum(1) ** -0.5)
    normal = (edges @ degree).T @ degree
    hidden = normal @ (vectors @ state["gc1.weight"])
    hidden = torch.where(hidden > 0, hidden, 0.2 * hidden)
    want = normalised(normal @ (hidden @ state["gc2.weight"]))
    torch.testing.assert_close(module(vectors), want, **EXACT)
    assert set(state) == {"gc1.weight", "gc2.weight", "adj_all"}
    assert not module.adj_all.requires_grad


def test_fusion_and_divergence():
    a, b = unit(B, D), unit(B, D, seed=1)
    torch.testing.assert_close(fused(a, b, 0.75), normalised(0.75 * a + 0.25 * b), **EXACT)
    p, q = a.softmax(1), b.softmax(1)
    want = torch.stack([sum(p[i, k] * (p[i, k].log() - q[i, k].log()) for k in range(D)) for i in range(B)])
    torch.testing.assert_close(divergence(p.log(), q.log()), want, **EXACT)


def test_gradients_of_extreme_weights_are_finite():
    module = ready(ConsensusAttention(D), True).float()
    with torch.no_grad():
        module.embedding_3[0].weight.mul_(1e4)
    instances, concepts = unit(B, D).float().requires_grad_(), unit(Q, D, seed=3).float()
    captions, images = module(instances, concepts, torch.zeros(B, Q), 0.35), module(instances, concepts)
    (divergence(captions.log_weights, images.log_weights).sum() + captions.embeddings.sum()).backward()
    assert instances.grad.isfinite().all()
