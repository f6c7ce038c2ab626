"""The bidirectional hinge of a matrix of scores, as the code bases after VSE++ switch and call it."""

from typing import Any

import torch
from torch import Tensor, nn

from itm_fast.ops.triplet import triplet_loss
from itm_fast.shown import named_options


class Hinge(nn.Module):
    """Margin and `max_violation`, with the switches of a warm-up epoch; what is called with what is its children's."""

    def __init__(self, margin: float = 0, max_violation: bool = False) -> None:
        """Keep the options.

        Args:
            margin: In units of the scores.
            max_violation: Only the hardest negative of each query counts.
        """
        super().__init__()
        self.margin, self.max_violation = margin, max_violation

    def max_violation_on(self) -> None:
        """From now on the hardest negatives only: after the warm-up epoch."""
        self.max_violation = True

    def max_violation_off(self) -> None:
        """From now on all negatives."""
        self.max_violation = False

    def of_scores(self, scores: Tensor, img_ids: Any = None) -> Tensor:
        """Scores (n, n), pair i on the diagonal, and the images' ids (n,), whose pairs are no negatives -> scalar."""
        ids = None if img_ids is None else torch.as_tensor(img_ids, device=scores.device)
        if ids is not None and not ids.is_floating_point():  # floats would lose what is behind the point: refused
            ids = ids.to(torch.int64)
        return triplet_loss(scores, margin=self.margin, max_violation=self.max_violation, image_ids=ids)

    def extra_repr(self) -> str:
        """The options, for print(model)."""
        return named_options(self, "margin", "max_violation")
