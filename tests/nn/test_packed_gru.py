"""The packed GRU against torch's own: states and gradients, captions of any length, layers, directions."""

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

from itm_fast.nn.encoders.packed_gru import packed_states


def with_gradients(states_of, gru, vectors, counts):
    gru.zero_grad()
    x = vectors.clone().requires_grad_()
    packed = pack_padded_sequence(x, counts, batch_first=True, enforce_sorted=False)
    states = states_of(gru, packed)
    cotangent = torch.randn(states.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (states * cotangent.to(states.dtype)).sum().backward()
    return [states.detach(), x.grad, *(parameter.grad.clone() for parameter in gru.parameters())]


def made(counts, *, num_layers=1, bidirectional=False, dtype=torch.float64):
    torch.manual_seed(0)
    gru = torch.nn.GRU(5, 7, num_layers, batch_first=True, bidirectional=bidirectional, dtype=dtype)
    return gru, torch.randn(len(counts), max(counts), 5, dtype=dtype), torch.tensor(counts)


@pytest.mark.parametrize("counts", [[1], [6], [3, 3, 3], [1, 4, 2, 9, 2, 1]], ids=str)
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_states_and_gradients_are_torchs(counts, num_layers, bidirectional):
    inputs = made(counts, num_layers=num_layers, bidirectional=bidirectional)
    want = with_gradients(lambda gru, packed: gru(packed)[0].data, *inputs)
    for found, exact in zip(with_gradients(packed_states, *inputs), want, strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-13)


def test_error_in_float32_is_at_most_twice_torchs():
    counts = [3, 20, 7, 7, 12, 1, 16]
    given = made(counts, bidirectional=True, dtype=torch.float32)
    exact = with_gradients(packed_states, given[0].double(), given[1].double(), given[2])
    gru = given[0].float()
    plain = with_gradients(lambda gru, packed: gru(packed)[0].data, gru, *given[1:])
    for found, other, want in zip(with_gradients(packed_states, gru, *given[1:]), plain, exact, strict=True):
        bound = 2 * (other - want).abs().max() + torch.finfo(torch.float32).eps * want.abs().max()
        assert (found - want).abs().max() <= bound


def test_nothing_goes_back_to_inputs_that_need_nothing():
    gru, vectors, counts = made([2, 3])
    packed = pack_padded_sequence(vectors, counts, batch_first=True, enforce_sorted=False)
    packed_states(gru, packed).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in gru.parameters())


def test_twice_is_refused():
    gru, vectors, counts = made([2, 3])
    packed = pack_padded_sequence(vectors.requires_grad_(), counts, batch_first=True, enforce_sorted=False)
    (first,) = torch.autograd.grad(packed_states(gru, packed).square().sum(), vectors, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
