"""VSE++'s hinge over a batch's score matrix in plain torch."""

import torch
from torch import Tensor


def triplet_loss(
    sims: Tensor,
    *,
    margin: float = 0.2,
    max_violation: bool = True,
    image_ids: Tensor | None = None,
    reduction: str = "sum",
) -> Tensor:
    """Bidirectional hinge: [margin + s_ij - s_ii]_+ over captions and [margin + s_ij - s_jj]_+ over images.

    Args:
        sims: (n, n), pair i on the diagonal.
        margin: In units of `sims`.
        max_violation: Only the hardest negative of each query counts; otherwise all do.
        image_ids: (n,) int64; pairs of the same image are no negatives of each other. None: only the diagonal is none.
        reduction: "sum" over queries and directions, as the originals have it, or "mean" over the n queries.

    Returns:
        Scalar of the dtype of `sims`.

    Raises:
        ValueError: `sims` is not square, `image_ids` does not fit, or `reduction` is unknown.

    Source:
        Faghri et al., VSE++, BMVC 2018, equations 4 and 5; fartashf/vsepp, model.py.
    """
    if sims.ndim != 2 or sims.shape[0] != sims.shape[1]:
        raise ValueError(f"sims must be a square matrix (n, n) with the pairs on its diagonal, got {tuple(sims.shape)}")
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction must be 'sum' or 'mean', got {reduction!r}")
    n = sims.shape[0]
    if image_ids is not None and image_ids.shape != (n,):
        raise ValueError(f"image_ids must have shape ({n},), one per pair, got {tuple(image_ids.shape)}")
    own = torch.eye(n, dtype=torch.bool, device=sims.device)
    if image_ids is not None:
        own = own | (image_ids[:, None] == image_ids[None, :])
    positive = sims.diagonal()
    cost_captions = (margin + sims - positive[:, None]).relu().masked_fill(own, 0)
    cost_images = (margin + sims - positive[None, :]).relu().masked_fill(own, 0)
    if max_violation and n > 0:
        loss = cost_captions.max(dim=1).values.sum() + cost_images.max(dim=0).values.sum()
    else:
        loss = cost_captions.sum() + cost_images.sum()
    return loss / n if reduction == "mean" and n > 0 else loss
