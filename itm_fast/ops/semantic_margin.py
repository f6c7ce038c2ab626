"""The semantic adaptive margin (SAM) loss as one operator: public function, fake kernels, autograd."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, overload

import torch
from torch import Tensor

from itm_fast.choices import in_order, perhaps
from itm_fast.ops import _checks, _library
from itm_fast.ops._gradients import differentiable
from itm_fast.ops.triplet import Reduction, fake_loss, scale_gradient, setup_gradient

_library.load()

Sampling = Literal["hardest", "easiest", "random", "all", "HN", "SN", "RS", "soft", "hard", "mixed"]
Variant = Literal["fixed", "literal", "released"]
T2IMargin = Literal["row", "column"]
Relevance: TypeAlias = Tensor | Callable[[Tensor, Tensor], Tensor]
Negatives: TypeAlias = tuple[Tensor, Tensor]

_PAPERS_NAMES = {"HN": "hardest", "SN": "easiest", "RS": "random"}
_RELEASED_NAMES = {"hardest": "soft", "HN": "soft", "easiest": "hard", "SN": "hard", "RS": "random"}
_SAMPLINGS = {
    "fixed": ("hardest", "easiest", "random", "all", *_PAPERS_NAMES),
    "literal": ("hardest", "easiest", "random", *_PAPERS_NAMES),
    "released": ("soft", "hard", "random", "mixed", *_RELEASED_NAMES),
}


@overload
def semantic_margin_loss(
    sims: Tensor,
    relevance: Relevance,
    *,
    temperature: float = 10.0,
    sampling: Sampling = "hardest",
    variant: Variant = "fixed",
    margin_max: float | None = 1.0,
    margin_min: float | None = None,
    t2i_margin: T2IMargin = "row",
    image_ids: Tensor | None = None,
    negatives: Negatives | None = None,
    generator: torch.Generator | None = None,
    reduction: Reduction = "sum",
    return_negatives: Literal[False] = False,
) -> Tensor: ...


@overload
def semantic_margin_loss(
    sims: Tensor,
    relevance: Relevance,
    *,
    temperature: float = 10.0,
    sampling: Sampling = "hardest",
    variant: Variant = "fixed",
    margin_max: float | None = 1.0,
    margin_min: float | None = None,
    t2i_margin: T2IMargin = "row",
    image_ids: Tensor | None = None,
    negatives: Negatives | None = None,
    generator: torch.Generator | None = None,
    reduction: Reduction = "sum",
    return_negatives: Literal[True],
) -> tuple[Tensor, Negatives]: ...


def semantic_margin_loss(
    sims: Tensor,
    relevance: Relevance,
    *,
    temperature: float = 10.0,
    sampling: Sampling = "hardest",
    variant: Variant = "fixed",
    margin_max: float | None = 1.0,
    margin_min: float | None = None,
    t2i_margin: T2IMargin = "row",
    image_ids: Tensor | None = None,
    negatives: Negatives | None = None,
    generator: torch.Generator | None = None,
    reduction: Reduction = "sum",
    return_negatives: bool = False,
) -> Tensor | tuple[Tensor, Negatives]:
    """SAM: a hinge whose margin is how much less relevant the negative is than the positive.

    sum_i [a_i + S[i,m_i] - S[i,i]]_+ + sum_i [b_i + S[l_i,i] - S[i,i]]_+ with a negative caption m_i for image i and a
    negative image l_i for caption i, a_i = (P[i,i] - P[i,m_i]) / temperature, b_i = (P[i,i] - P[i,l_i]) / temperature,
    both clamped. Selection, margins, loss and gradient are one pass.

    Args:
        sims: S, (n, n) float32, float64, bfloat16 or float16, pair i on the diagonal; any strides.
        relevance: P, (n, n) float32 or float64 on the device of `sims`: P[i, j] = phi(references of image i, caption
            j), a constant of the loss. Or a callable (rows, columns) -> phi of those pairs, (len(rows),): it is called
            once, with the 3n pairs (i, i), (i, m_i), (i, l_i) (n * n for "all"); where there is no negative, (i, i).
        temperature: The margin is the difference of relevance divided by it.
        sampling: How m and l are chosen where `negatives` isn't given. "hardest" (HN), "easiest" (SN): highest, lowest
            score of the row (m) and of the column (l), the first of equal ones; "random" (RS): uniform, m and l
            independently; "all" (variant "fixed" only): the hinge over every negative, summed. Variant "released"
            also takes its code's names, which mean the reverse: "soft" (= "hardest" there) takes the second highest
            along rows for both, "hard" (= "easiest") the second lowest; "mixed": "hard" or "random" by a coin a batch.
        variant: "fixed": as above, what the paper's text says. "literal": its equation 7 as printed, a and b swapped.
            "released": the authors' code, also swapped, margins in float32 and of row m_i (l_i) instead of i, m and l
            both captions of row i, nothing masked but the diagonal ("random" only); a hinge of exactly 0 passes its
            gradient.
        margin_max: Upper bound of the margins; None: none.
        margin_min: Lower bound of the margins; None: none, so that a more relevant negative may be closer.
        t2i_margin: "row": b_i as above; "column" (variant "fixed" only): b_i = (P[i,i] - P[l_i,i]) / temperature, the
            callable's third pair being (l_i, i).
        image_ids: (n,) int64; pairs of the same image are no negatives of each other. None: only the diagonal is none.
            Variant "released" doesn't look at it.
        negatives: (m, l), int64 (n,) each, -1 for none; `sampling` is then not used. On CUDA one that is out of range
            makes the loss NaN instead of an error, for which the host would have to wait.
        generator: Of the random choices; None: torch's own.
        reduction: "sum" over queries and directions, as the original has it, or "mean" over the n queries.
        return_negatives: Return m and l too.

    Returns:
        Scalar float32, or float64 for float64 `sims`, summed in float64; a query without negatives adds 0. With
        `return_negatives`: (loss, (m, l)), -1 where there is none. Differentiable in `sims`, whose gradient is
        piecewise constant. NaN that is chosen or in a positive ends in the loss, and "hardest" and "easiest" choose it.

    Raises:
        ValueError: Shapes, devices, values or options do not fit; the message names the argument.
        TypeError: An argument has the wrong type or dtype.

    Source:
        Biten et al., Is An Image Worth Five Sentences?, WACV 2022, equation 7; AndresPMD/semantic_adaptive_margin.

    Example:
        >>> sims = torch.tensor([[0.5, 0.75], [0.0, 0.5]])
        >>> semantic_margin_loss(sims, torch.tensor([[3.0, 0.5], [0.0, 2.5]]), return_negatives=True)
        (tensor(1.), (tensor([1, 0]), tensor([1, 0])))
    """
    _checks.check_sims(sims)
    n = sims.shape[0]
    if not isinstance(relevance, Tensor) and not callable(relevance):
        raise TypeError(f"relevance must be a torch.Tensor or a callable, got {type(relevance).__name__}")
    if not callable(relevance):
        _checks.check_relevance(relevance, (n, n), "relevance", sims)
    check_margins(temperature, margin_max, margin_min)
    check_options(sampling, variant, t2i_margin, sampled=negatives is None)
    _checks.check_choice("reduction", reduction, Reduction)
    if image_ids is not None:
        _checks.check_pair_indices("image_ids", image_ids, sims)
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {type(generator).__name__}")
    over_all = sampling == "all" and negatives is None
    if over_all and return_negatives:
        raise ValueError("return_negatives needs one negative per query, but sampling 'all' takes every one")
    _checks.check_device("semantic_margin_loss", sims.device)

    name = (_RELEASED_NAMES if variant == "released" else _PAPERS_NAMES).get(sampling, sampling)
    chosen = None if negatives is None else _stacked(negatives, sims)
    uniform = None
    if chosen is None and name in ("random", "mixed"):
        uniform = _uniform((2, n), generator, sims)
    if chosen is None and name == "mixed":
        by_code = _choose(sims, None, None, "hard", variant), _choose(sims, None, uniform, "random", variant)
        chosen = torch.where(_uniform((), generator, sims) < 0.5, *by_code)

    of_pairs = callable(relevance) and not over_all
    if callable(relevance):
        if chosen is None and not over_all:
            chosen = _choose(sims, image_ids, uniform, name, variant)
        phi = _called(relevance, chosen, t2i_margin == "column", sims)
    else:
        phi = relevance
    loss, chosen, _ = _loss(
        sims,
        phi,
        of_pairs,
        image_ids,
        chosen,
        uniform if chosen is None else None,
        temperature,
        # Not looked at where the negatives are known; "mixed" is no choice of the operator's.
        name if chosen is None else "random",
        variant,
        margin_max,
        margin_min,
        t2i_margin == "column",
        reduction == "mean",
    )
    return (loss, (chosen[0], chosen[1])) if return_negatives else loss


def check_margins(temperature: float, margin_max: float | None, margin_min: float | None) -> None:
    """Raises TypeError for what is no number, ValueError for one out of range or bounds in the wrong order."""
    _checks.check_finite("temperature", temperature, positive=True)
    for name, bound in (("margin_max", margin_max), ("margin_min", margin_min)):
        if bound is not None:
            _checks.check_finite(name, bound, positive=False)
    if margin_max is not None and margin_min is not None and margin_min > margin_max:
        raise ValueError(f"margin_min must be at most margin_max, got {margin_min} and {margin_max}")


def check_options(sampling: str, variant: str, t2i_margin: str, *, sampled: bool = True) -> None:
    """Raises ValueError unless the options are known and fit each other; `sampling` counts where it is used only."""
    _checks.check_choice("sampling", sampling, Sampling)
    _checks.check_choice("variant", variant, Variant)
    _checks.check_choice("t2i_margin", t2i_margin, T2IMargin)
    if sampled and sampling not in _SAMPLINGS[variant]:
        names, near = ", ".join(map(repr, in_order(_SAMPLINGS[variant]))), perhaps(sampling, _SAMPLINGS[variant])
        raise ValueError(f"sampling must be one of {names} for variant {variant!r}, got {sampling!r}{near}")
    if t2i_margin == "column" and variant != "fixed":
        raise ValueError(f"t2i_margin 'column' exists for variant 'fixed' only, got variant {variant!r}")


def _stacked(negatives: object, sims: Tensor) -> Tensor:
    if not isinstance(negatives, (tuple, list)) or len(negatives) != 2:
        raise TypeError(f"negatives must be a pair (m, l) of int64 tensors or None, got {type(negatives).__name__}")
    for number, given in enumerate(negatives):
        _checks.check_pair_indices(f"negatives[{number}]", given, sims)
    return torch.stack(tuple(negatives))


def _uniform(shape: tuple[int, ...], generator: torch.Generator | None, sims: Tensor) -> Tensor:
    if generator is None:  # not passed on: torch.compile would refuse it where shapes are symbols
        return torch.rand(shape, dtype=torch.float64, device=sims.device)
    return torch.rand(shape, dtype=torch.float64, generator=generator, device=generator.device).to(sims.device)


def _choose(sims: Tensor, image_ids: Tensor | None, uniform: Tensor | None, sampling: str, variant: str) -> Tensor:
    chosen: Tensor = torch.ops.itm_fast.semantic_negatives(sims.detach(), image_ids, uniform, sampling, variant)
    return chosen


def _called(relevance: Callable[[Tensor, Tensor], Tensor], chosen: Tensor | None, column: bool, sims: Tensor) -> Tensor:
    """(3, n): the callable's phi of the pairs (i, i), (i, m_i), (i, l_i); (n, n) where none are chosen."""
    n = sims.shape[0]
    own = torch.arange(n, device=sims.device)
    if chosen is None:
        rows, columns, shape = own.repeat_interleave(n), own.repeat(n), (n, n)
    else:
        # The operator refuses given negatives out of range, with the place; until then they only have to be harmless.
        captions, images = torch.where(chosen < 0, own, chosen.clamp(max=n - 1))
        rows = torch.cat([own, own, images if column else own])
        columns = torch.cat([own, captions, own if column else images])
        shape = (3, n)
    with torch.no_grad():
        phi = relevance(rows, columns)
    _checks.check_relevance(phi, (len(rows),), "what the callable relevance returns", sims)
    return phi.reshape(shape)


@torch.library.register_fake("itm_fast::semantic_negatives")  # type: ignore[untyped-decorator]
def _fake_negatives(sims: Tensor, *_: Any) -> Tensor:
    return sims.new_empty((2, sims.shape[0]), dtype=torch.int64)


@torch.library.register_fake("itm_fast::semantic_margin_loss")  # type: ignore[untyped-decorator]
def _fake(sims: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    negatives, sampling = rest[3], rest[6]
    n_chosen = 0 if sampling == "all" and negatives is None else sims.shape[0]
    return fake_loss(sims), sims.new_empty((2, n_chosen), dtype=torch.int64), sims.new_empty(sims.shape)


_loss = differentiable("semantic_margin_loss", scale_gradient, setup_gradient)
