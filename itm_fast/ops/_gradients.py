"""Gradients of the operators: registered with torch, usable under torch.func, and refused where there are none."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def differentiable(
    operator: str,
    backward: Callable[..., Any],
    setup_context: Callable[[Any, tuple[Any, ...], Any], None],
) -> Callable[..., Any]:
    """Registers an operator's gradients.

    Args:
        operator: Name under torch.ops.itm_fast.
        backward: (ctx, *grads) -> a gradient, or None, an input.
        setup_context: (ctx, inputs, output): keeps what `backward` needs.

    Returns:
        The operator, as Python is to call it: also under torch.func.grad, and with a message of ours under vmap.
    """
    torch.library.register_autograd(f"itm_fast::{operator}", backward, setup_context=setup_context)

    def forward(*arguments: Any) -> Any:
        return getattr(torch.ops.itm_fast, operator)(*arguments)

    def refuse_vmap(_info: Any, _in_dims: Any, *_arguments: Any) -> Any:
        raise RuntimeError(
            f"itm_fast's {operator} cannot be mapped by torch.vmap (which torch.func.jacrev uses too): it takes whole "
            "batches. Put what is mapped into the batch, or write a loop: torch.stack([f(x) for x in xs])"
        )

    # The autograd.Function that torch makes of what is registered is refused by the transforms of torch.func.
    methods = {"forward": forward, "setup_context": setup_context, "backward": backward, "vmap": refuse_vmap}
    function: Any = type(
        f"ItmFast_{operator}", (torch.autograd.Function,), {name: staticmethod(f) for name, f in methods.items()}
    )

    def call(*arguments: Any) -> Any:
        if torch._C._are_functorch_transforms_active():
            return function.apply(*arguments)
        return forward(*arguments)

    return call


def once_only(operator: str) -> Callable[..., Any]:
    """`differentiable` for an operator's gradients, "<operator>_backward", which have none themselves."""

    def refuse(_ctx: Any, *_grads: Tensor) -> None:
        of = operator.removesuffix("_backward")
        raise RuntimeError(f"{of} can be differentiated once only, and create_graph=True asks for more")

    def keep_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    return differentiable(operator, refuse, keep_nothing)
