"""VSE++'s hinge as one operator: public function, fake kernel, autograd."""

from typing import Any, Literal

import torch
from torch import Tensor

from itm_fast.ops import _checks, _library
from itm_fast.ops._gradients import differentiable

_library.load()

Reduction = Literal["sum", "mean"]


def triplet_loss(
    sims: Tensor,
    *,
    margin: float = 0.2,
    max_violation: bool = True,
    image_ids: Tensor | None = None,
    reduction: Reduction = "sum",
) -> Tensor:
    """Bidirectional hinge: [margin + s_ij - s_ii]_+ over captions and [margin + s_ij - s_jj]_+ over images.

    Loss and gradient come from one pass over the scores.

    Args:
        sims: (n, n) float32, float64, bfloat16 or float16, pair i on the diagonal; any strides.
        margin: In units of `sims`.
        max_violation: Only the hardest negative of each query counts, the first of equal ones; otherwise all do.
        image_ids: (n,) int64; pairs of the same image are no negatives of each other. None: only the diagonal is none.
        reduction: "sum" over queries and directions, as the originals have it, or "mean" over the n queries.

    Returns:
        Scalar float32, or float64 for float64 `sims`, summed in float64; 0 where there are no negatives. Differentiable
        in `sims`, whose gradient is piecewise constant: a hinge of exactly 0 passes none. NaN of a negative or a
        positive ends in the loss. Deterministic.

    Raises:
        ValueError: Shapes, devices or options do not fit; the message names the argument.
        TypeError: An argument has the wrong type or dtype.

    Source:
        Faghri et al., VSE++, BMVC 2018, equations 4 and 5; fartashf/vsepp, model.py.

    Example:
        >>> triplet_loss(torch.tensor([[0.5, 0.75], [0.0, 0.5]]), margin=0.25)
        tensor(1.)
    """
    _checks.check_sims(sims)
    margin = _checks.check_finite("margin", margin, positive=False)
    if image_ids is not None:
        _checks.check_pair_indices("image_ids", image_ids, sims)
    _checks.check_choice("reduction", reduction, Reduction)
    _checks.check_device("triplet_loss", sims.device)
    hardest = _checks.check_switch("max_violation", max_violation)
    loss: Tensor = _loss(sims, image_ids, margin, hardest, reduction == "mean")[0]
    return loss


def fake_loss(sims: Tensor) -> Tensor:
    """The scalar that a loss over `sims` is, without a value."""
    return sims.new_empty((), dtype=torch.float64 if sims.dtype == torch.float64 else torch.float32)


@torch.library.register_fake("itm_fast::triplet_loss")  # type: ignore[untyped-decorator]
def _fake(sims: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return fake_loss(sims), sims.new_empty(sims.shape)


def setup_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Keeps the operator's last output, the gradient of its first one in `sims`."""
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[-1])
    ctx.n_inputs = len(inputs)


def scale_gradient(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    """Gradient of `sims`, the first input; the others have none."""
    (grad_sims,) = ctx.saved_tensors
    return None if grad is None else grad * grad_sims, *[None] * (ctx.n_inputs - 1)


_loss = differentiable("triplet_loss", scale_gradient, setup_gradient)
