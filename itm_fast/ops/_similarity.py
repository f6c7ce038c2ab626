"""What all fused similarities share: fake kernels and gradients, of all pairs and of given ones, in every form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from itm_fast.ops import _ragged
from itm_fast.ops._candidates import Candidates, check_values, gathered, gradients_of_given, lists_fit_tiles
from itm_fast.ops._counts import may_be_read
from itm_fast.ops._gradients import differentiable, once_only
from itm_fast.ops._ragged import Batches

_PADDING = 8  # times the room of packed vectors that they may take padded, where kernels take lists of padded ones


class Scored:
    """An operator of all pairs, `name`, and that of given ones, `name`_candidates."""

    def __init__(
        self,
        name: str,
        *,
        is_learnt: bool = False,
        takes_lists: Callable[[Batches, Candidates], bool] = lists_fit_tiles,
    ) -> None:
        """Register both with torch.

        Args:
            name: Under torch.ops.itm_fast. Takes regions, words, word_counts, region_counts, then options; that of
                given pairs has candidates behind the counts, and of_captions before the options.
            is_learnt: The first option is a tensor with a gradient; it is before of_captions.
            takes_lists: Whether devices other than the CPU take lists of candidates in one call.
        """
        self._is_learnt, self._takes_lists = is_learnt, takes_lists
        self._all, self._given = (
            registered(of, n_tensors + is_learnt, (0, 1, n_tensors) if is_learnt else (0, 1), shape_of)
            for of, n_tensors, shape_of in ((name, 4, _shape_of_all), (f"{name}_candidates", 5, _shape_of_given))
        )

    def __call__(self, batches: Batches, candidates: Candidates | None, *options: Any) -> Tensor:
        """Scores of all pairs (n_images, n_captions), or of the candidates, in their shape."""
        scores: Tensor
        native = batches.regions.device.type in _ragged.PACKED_ON
        if candidates is None:
            if not native:
                return _ragged.in_padded_runs(lambda some: self._all(*some, *options), batches)
            scores = self._all(*batches, *options)
            return scores
        if not native:
            regions, region_counts = _ragged.padded(batches.regions, batches.region_counts, within=_PADDING)
            words, word_counts = _ragged.padded(batches.words, batches.word_counts, within=_PADDING)
            batches = Batches(regions, words, word_counts, region_counts)
        if not native and not self._takes_lists(batches, candidates):
            return gathered(lambda some: self._all(*some, *options), batches, candidates)
        if not native and may_be_read(candidates.indices):
            check_values(candidates, batches)
        learnt, names = options[: self._is_learnt], options[self._is_learnt :]
        scores = self._given(*batches, candidates.indices, *learnt, candidates.of_captions, *names)
        return scores


def _shape_of_all(*inputs: Any) -> tuple[int, ...]:
    return Batches(*inputs[:4]).shape


def _shape_of_given(*inputs: Any) -> tuple[int, ...]:
    candidates: Tensor = inputs[4]
    return tuple(candidates.shape)


def backward_of_given(name: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """The gradients of given pairs, by those of all, where kernels make the scores only."""

    def backward(grad: Tensor, *inputs: Any) -> tuple[Tensor, Tensor]:
        *batches, indices, of_captions = inputs[:6]
        options = inputs[6:]  # the last two: which gradients are needed
        of_all = getattr(torch.ops.itm_fast, f"{name}_backward")
        candidates = Candidates(indices, of_captions)
        return gradients_of_given(
            lambda part, some: of_all(part, *some, *options), grad, Batches(*batches), candidates, options[-2:]
        )

    return backward


def registered(
    name: str, n_tensors: int, differentiated: tuple[int, ...], shape_of: Callable[..., tuple[int, ...]]
) -> Callable[..., Any]:
    """An operator with a fake kernel of the shape given, and gradients.

    Args:
        name: Of the operator; its gradients are those of `{name}_backward`.
        n_tensors: How many of its inputs are tensors, or None; they come first.
        differentiated: Places of those that have gradients.
        shape_of: Of its result, by its inputs.
    """

    @torch.library.register_fake(f"itm_fast::{name}")  # type: ignore[untyped-decorator]
    def fake(*inputs: Any) -> Tensor:
        regions: Tensor = inputs[0]
        dtype = torch.float64 if regions.dtype == torch.float64 else torch.float32
        return regions.new_empty(shape_of(*inputs), dtype=dtype)

    @torch.library.register_fake(f"itm_fast::{name}_backward")  # type: ignore[untyped-decorator]
    def fake_backward(_grad: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
        needed = inputs[-len(differentiated) :]
        of = [inputs[place] for place in differentiated]
        return tuple(x.new_empty(x.shape if need else (0,)) for x, need in zip(of, needed, strict=True))

    gradients = once_only(f"{name}_backward")

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:n_tensors])
        ctx.options = inputs[n_tensors:]

    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        needed = [ctx.needs_input_grad[place] for place in differentiated]
        found = gradients(grad, *ctx.saved_tensors, *ctx.options, *needed)
        result: list[Any] = [None] * len(ctx.needs_input_grad)
        for place, need, gradient in zip(differentiated, needed, found, strict=True):
            result[place] = gradient if need else None
        return tuple(result)

    return differentiable(name, backward, setup_context)
