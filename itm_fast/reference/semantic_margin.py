"""The semantic adaptive margin (SAM) loss over a batch's score matrix in plain torch."""

import torch
from torch import Tensor


def semantic_margin_loss(
    sims: Tensor,
    relevance: Tensor,
    *,
    temperature: float = 10.0,
    sampling: str = "hardest",
    variant: str = "fixed",
    margin_max: float | None = 1.0,
    margin_min: float | None = None,
    t2i_margin: str = "row",
    image_ids: Tensor | None = None,
    negatives: tuple[Tensor, Tensor] | None = None,
    generator: torch.Generator | None = None,
    reduction: str = "sum",
) -> Tensor:
    """SAM; arguments, and what the options mean, as in `itm_fast.semantic_margin_loss`, with relevance as a matrix.

    Args:
        sims: (n, n), pair i on the diagonal.
        relevance: (n, n) float32 or float64, [i, j] = phi(references of image i, caption j).
        temperature: The margin is the difference of relevance divided by it.
        sampling: "hardest", "easiest", "random", "all"; for variant "released" "soft", "hard", "random".
        variant: "fixed", "literal" or "released".
        margin_max: Upper bound of the margins, or None.
        margin_min: Lower bound of the margins, or None.
        t2i_margin: "row" or, for variant "fixed", "column".
        image_ids: (n,) int64 or None.
        negatives: (m, l), int64 (n,) each, -1 for none; None: chosen by `sampling`.
        generator: Of the random choices.
        reduction: "sum" or "mean" over the n queries.

    Returns:
        Scalar of the dtype of `sims`.

    Source:
        Biten et al., Is An Image Worth Five Sentences?, WACV 2022, equation 7; AndresPMD/semantic_adaptive_margin.
    """
    n = len(sims)
    phi, positive, own = relevance.double(), sims.diagonal(), torch.arange(n, device=sims.device)

    def margin(difference: Tensor) -> Tensor:
        if variant == "released":  # as the authors' code rounds it
            difference = difference.float()
        scaled = difference / temperature
        if margin_min is not None or margin_max is not None:
            scaled = scaled.clamp(margin_min, margin_max)
        return scaled.to(sims.dtype)

    if sampling == "all" and negatives is None:
        allowed = _allowed(n, image_ids, sims.device)
        of_columns = phi if t2i_margin == "column" else phi.T  # [i, j]: image i as negative of caption j
        i2t = (margin(phi.diagonal()[:, None] - phi) + sims - positive[:, None]).relu() * allowed
        t2i = (margin(phi.diagonal()[None, :] - of_columns) + sims - positive[None, :]).relu() * allowed
        loss = i2t.sum() + t2i.sum()
        return loss / n if reduction == "mean" and n > 0 else loss

    m, l = negatives or _choose(sims, sampling, variant, image_ids, generator)  # noqa: E741
    of_m = margin(phi.diagonal() - phi[own, m])
    of_l = margin(phi.diagonal() - (phi[l, own] if t2i_margin == "column" else phi[own, l]))
    if variant == "released":
        # Margins swapped and of the negative's row, both negatives along rows, a clamp whose gradient passes at 0.
        i2t = _hinge(sims[own, m] - positive + of_l[m]) * ((m >= 0) & (l[m] >= 0))
        t2i = _hinge(sims[own, l] - positive[l] + of_m[l]) * ((l >= 0) & (m[l] >= 0))
    else:
        if variant == "literal":
            of_m, of_l = of_l, of_m
        has_m, has_l = (m >= 0, l >= 0) if variant == "fixed" else ((m >= 0) & (l >= 0),) * 2
        i2t = (of_m + sims[own, m] - positive).relu() * has_m
        t2i = (of_l + sims[l, own] - positive).relu() * has_l
    loss = (i2t + t2i).sum()
    return loss / n if reduction == "mean" and n > 0 else loss


def _hinge(violations: Tensor) -> Tensor:
    """What ``clamp(min=0)`` was when the code was released: its gradient passes at 0, which ends with torch 2.14."""
    return torch.where(violations >= 0, violations, 0)


def _allowed(n: int, image_ids: Tensor | None, device: torch.device) -> Tensor:
    """(n, n) bool: which pairs are negatives of each other."""
    own = torch.eye(n, dtype=torch.bool, device=device)
    return ~own if image_ids is None else ~(own | (image_ids[:, None] == image_ids[None, :]))


def _choose(
    sims: Tensor, sampling: str, variant: str, image_ids: Tensor | None, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    n, positive = len(sims), sims.diagonal()
    if variant == "released" and sampling != "random":
        scores = torch.stack([sims - positive[:, None], sims - positive[None, :]])  # along rows, both
        if n < 2:
            none = torch.full((n,), -1, device=sims.device)
            return none, none
        order = scores.sort(dim=2, descending=sampling == "soft", stable=True).indices
        return order[0, :, 1], order[1, :, 1]
    allowed = _allowed(n, None if variant == "released" else image_ids, sims.device)
    if sampling == "random":
        count = allowed.sum(dim=1)
        which = (torch.rand(2, n, dtype=torch.float64, generator=generator) * count).long()
        # The number of allowed entries up to and including the wanted one is one more than the number before it.
        chosen = ((allowed.cumsum(dim=1) == which[:, :, None] + 1) & allowed).long()
        found = chosen.argmax(dim=2) if n > 0 else which
    else:
        sign = 1 if sampling == "hardest" else -1
        scores = torch.stack([sign * sims, sign * sims.T]).masked_fill(~allowed, -float("inf"))
        found = scores.argmax(dim=2) if n > 0 else torch.empty(2, 0, dtype=torch.int64, device=sims.device)
    found = found.masked_fill(~allowed.any(dim=1), -1)
    return found[0], found[1]
