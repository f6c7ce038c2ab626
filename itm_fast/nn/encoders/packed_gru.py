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
        gates = torch.empty(len(x), 4 * hidden, dtype=x.dtype)  # r, z, n, and W_hn h + b_hn
        torch.addmm(bias_ih, x, weight_ih.T, out=gates[:, : 3 * hidden])
        states = x.new_empty(len(x), hidden)
        for step, rows in enumerate(steps.rows):
            last, n_new = steps.before(step)
            h = nn.functional.pad(states[last], (0, 0, 0, n_new))
            of_state = torch.addmm(bias_hh, h, weight_hh.T)
            r, z, n, of_n = gates[rows].chunk(4, dim=1)
            r.add_(of_state[:, :hidden]).sigmoid_()
            z.add_(of_state[:, hidden : 2 * hidden]).sigmoid_()
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
        grad_gates = torch.empty_like(gates)  # of the sums of r, z and n, and of W_hn h + b_hn
        before = torch.empty_like(states)
        carried: Tensor | None = None
        for step in reversed(range(len(steps.rows))):
            rows = steps.rows[step]
            last, n_new = steps.before(step)
            h = nn.functional.pad(states[last], (0, 0, 0, n_new))
            before[rows] = h
            of_state = grad[rows].clone()
            if carried is not None:
                of_state[: len(carried)] += carried[: len(of_state)]
            r, z, n, of_n = gates[rows].chunk(4, dim=1)
            grad_r, grad_z, grad_n, grad_of_n = grad_gates[rows].chunk(4, dim=1)
            torch.mul(of_state * (1 - z), 1 - n * n, out=grad_n)
            torch.mul(of_state * (h - n), z * (1 - z), out=grad_z)
            torch.mul(grad_n * of_n, r * (1 - r), out=grad_r)
            torch.mul(grad_n, r, out=grad_of_n)
            of_state.mul_(z).addmm_(grad_gates[rows, : 2 * hidden], weight_hh[: 2 * hidden])
            carried = of_state.addmm_(grad_of_n, weight_hh[2 * hidden :])[: len(of_state) - n_new]
        of_input, of_n = grad_gates[:, : 3 * hidden], grad_gates[:, 3 * hidden :]
        grad_hh = torch.empty_like(weight_hh)
        torch.mm(grad_gates[:, : 2 * hidden].T, before, out=grad_hh[: 2 * hidden])
        torch.mm(of_n.T, before, out=grad_hh[2 * hidden :])
        bias_hh = torch.cat([grad_gates[:, : 2 * hidden].sum(0), of_n.sum(0)])
        grad_x = of_input @ weight_ih if ctx.needs_input_grad[0] else None
        return grad_x, of_input.T @ x, grad_hh, of_input.sum(0), bias_hh, None, None
