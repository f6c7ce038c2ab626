"""A GRU over packed captions, for training on the CPU: the products over all steps are made once.

torch's own goes back through every step alone there: each adds a gradient of all weights to the last one's, and one of
all inputs that is zero elsewhere. For 128 captions and 1024 numbers that costs as much as the products do.
"""

from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence


def packed_states(gru: nn.GRU, packed: PackedSequence) -> Tensor:
    """The states of the last layer after each token.

    Args:
        gru: One or two directions, any number of layers, no dropout between them.
        packed: data (n_tokens, input_size).

    Returns:
        (n_tokens, hidden_size), or twice as wide with two directions, in the order of `packed.data`. Differentiable
        once where this module's own steps are used: on the CPU, when gradients are wanted, outside of autocast.
    """
    device = packed.data.device.type
    if device != "cpu" or not torch.is_grad_enabled() or torch.is_autocast_enabled(device):
        states: Tensor = gru(packed)[0].data
        return states
    batch_sizes = packed.batch_sizes.tolist()
    states = packed.data
    for layer in range(gru.num_layers):
        ways = [""] if not gru.bidirectional else ["", "_reverse"]
        names = [[f"{kind}_l{layer}{way}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")] for way in ways]
        states = torch.cat(
            [
                _Direction.apply(states, *(getattr(gru, name) for name in way), batch_sizes, number == 1)  # type: ignore[no-untyped-call]
                for number, way in enumerate(names)
            ],
            dim=1,
        )
    return states


class _Steps:
    """Rows of the packed tokens that each step has, in the order of the steps."""

    def __init__(self, batch_sizes: list[int], is_reverse: bool) -> None:
        starts = [0, *accumulate(batch_sizes)]
        self.rows = [slice(start, start + n) for start, n in zip(starts, batch_sizes, strict=False)]
        if is_reverse:
            self.rows.reverse()

    def before(self, step: int) -> tuple[slice, int]:
        """Rows of the step before that go on in this one, and how many begin here."""
        here = self.rows[step].stop - self.rows[step].start
        if step == 0:
            return slice(0, 0), here
        last = self.rows[step - 1]
        n_on = min(here, last.stop - last.start)
        return slice(last.start, last.start + n_on), here - n_on


class _Direction(torch.autograd.Function):
    """One layer, one direction: tokens (n, in) -> states (n, hidden).

    r, z = sigmoid of their sums, n = tanh(W_in x + b_in + r (W_hn h + b_hn)), h = (1 - z) n + z h.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor,
        bias_hh: Tensor,
        batch_sizes: list[int],
        is_reverse: bool,
    ) -> Tensor:
        hidden, steps = weight_hh.shape[1], _Steps(batch_sizes, is_reverse)
        gates = torch.empty(len(x), 4 * hidden, dtype=x.dtype)  # r, z, W_hn h + b_hn, and n
        for weights, columns in _of_input(hidden):
            torch.addmm(bias_ih[weights], x, weight_ih[weights].T, out=gates[:, columns])
        states = x.new_empty(len(x), hidden)
        for step, rows in enumerate(steps.rows):
            last, n_new = steps.before(step)
            h = nn.functional.pad(states[last], (0, 0, 0, n_new))
            of_state = torch.addmm(bias_hh, h, weight_hh.T)
            here = gates[rows]
            here[:, : 2 * hidden].add_(of_state[:, : 2 * hidden]).sigmoid_()
            r, z, of_n, n = here.chunk(4, dim=1)
            of_n.copy_(of_state[:, 2 * hidden :])
            n.addcmul_(r, of_n).tanh_()
            torch.lerp(n, h, z, out=states[rows])
        ctx.save_for_backward(x, weight_ih, weight_hh, gates, states)
        ctx.steps = steps
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_ih, weight_hh, gates, states = ctx.saved_tensors
        steps, hidden = ctx.steps, weight_hh.shape[1]
        before = torch.zeros_like(states)
        for step, rows in enumerate(steps.rows):
            last, _ = steps.before(step)
            before[rows.start : rows.start + last.stop - last.start] = states[last]
        grad_gates = _gate_factors(gates, before)
        z = gates[:, hidden : 2 * hidden]
        carried: Tensor | None = None
        for step in reversed(range(len(steps.rows))):
            rows = steps.rows[step]
            of_state = grad[rows].clone()
            if carried is not None:
                of_state[: len(carried)] += carried[: len(of_state)]
            here = grad_gates[rows]
            here.view(len(of_state), 4, hidden).mul_(of_state[:, None])
            _, n_new = steps.before(step)
            carried = of_state.mul_(z[rows]).addmm_(here[:, : 3 * hidden], weight_hh)[: len(of_state) - n_new]
        of_states = grad_gates[:, : 3 * hidden]
        grad_ih, bias_ih = torch.empty_like(weight_ih), weight_ih.new_empty(3 * hidden)
        grad_x = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        for weights, columns in _of_input(hidden):
            of_input = grad_gates[:, columns]
            torch.mm(of_input.T, x, out=grad_ih[weights])
            torch.sum(of_input, 0, out=bias_ih[weights])
            if grad_x is not None:
                grad_x.addmm_(of_input, weight_ih[weights])
        return grad_x, grad_ih, of_states.T @ before, bias_ih, of_states.sum(0), None, None


def _of_input(hidden: int) -> list[tuple[slice, slice]]:
    """Rows of W_i and the columns of the gates that they make: r and z, then n, which stands behind W_hn h + b_hn."""
    return [(slice(0, 2 * hidden), slice(0, 2 * hidden)), (slice(2 * hidden, 3 * hidden), slice(3 * hidden, None))]


def _gate_factors(gates: Tensor, before: Tensor) -> Tensor:
    """What the gradient of a state is multiplied by to be that of the sums of r, z, of W_hn h + b_hn, of the sum of n.

    Of all tokens at once: they hang on no gradient.
    """
    factors = torch.empty_like(gates)
    (r, z, of_n, n), (to_r, to_z, to_of_n, to_n) = (of.chunk(4, dim=1) for of in (gates, factors))
    torch.mul(1 - z, 1 - n * n, out=to_n)
    torch.mul(before - n, z * (1 - z), out=to_z)
    torch.mul(to_n, r, out=to_of_n)
    torch.mul(to_of_n * of_n, 1 - r, out=to_r)
    return factors
